"""Parts of a checkpoint that are damaged, odd or cannot be written: a word, and no error."""

import errno
import os
import subprocess
import sys
import textwrap
import warnings

import numpy as np
import pytest
from helpers import problem_of, stack
from problems import SMALL, planted

import jaxqsdp as qs
from jaxqsdp._batch.checkpoint import Checkpoint

LEAVES = [np.arange(6.0).reshape(3, 2), np.arange(3, dtype=np.int32)]
PLACES = np.array([4, 0, 2])
KEY = "some problems"


def likes():
    """Return what the results of two buckets look like, five of one and two of the other."""
    return [
        lambda count=count: [np.zeros((count, 2)), np.zeros(count, np.int32)] for count in (5, 2)
    ]


def written(folder):
    """Write a part and return its path."""
    store = Checkpoint(folder, KEY)
    store.add(0, PLACES, LEAVES)
    store.flush()
    (part,) = folder.iterdir()
    return part


def assert_read(folder):
    (part,) = Checkpoint(folder, KEY).load(likes())
    assert part.bucket == 0
    np.testing.assert_array_equal(part.places, PLACES)
    for leaf, expected in zip(part.leaves, LEAVES, strict=True):
        np.testing.assert_array_equal(leaf, expected)
        assert leaf.dtype == expected.dtype


def test_parts_are_read_as_written(tmp_path):
    written(tmp_path)
    assert_read(tmp_path)


def test_mutations_of_a_part_are_noticed_or_do_not_matter(tmp_path):
    """1,500 of them, of one to three bytes each; none raises, none changes what is read."""
    part = written(tmp_path)
    content, rng, noticed = part.read_bytes(), np.random.default_rng(0), 0
    for _ in range(1500):
        spoiled = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            spoiled[place] ^= rng.integers(1, 256)
        part.write_bytes(spoiled)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            parts = list(Checkpoint(tmp_path, KEY).load(likes()))
        if parts:
            assert not caught
            assert_read(tmp_path)
        else:
            noticed += 1
            assert "solved again" in str(caught[0].message)
            assert len(caught) == 1
    assert 700 < noticed < 1500


def _members(part):
    with np.load(part) as file:
        return {name: file[name] for name in file.files}


ODD = {
    "a leaf is missing": {"leaf1": None},
    "a leaf too many": {"leaf2": np.zeros(3)},
    "another name": {"leaf1": None, "leaf9": LEAVES[1]},
    "another shape": {"leaf0": np.zeros((3, 3))},
    "another length": {"leaf1": np.zeros(4, np.int32)},
    "another dtype": {"leaf0": LEAVES[0].astype(np.float32)},
    "no axis": {"leaf1": np.int32(3)},
    "objects": {"leaf0": np.array([[None] * 2] * 3)},
    "places beyond": {"places": np.array([4, 0, 5])},
    "places below": {"places": np.array([4, 0, -1])},
    "places twice": {"places": np.array([4, 0, 0])},
    "places as floats": {"places": PLACES.astype(float)},
    "places in a table": {"places": PLACES[:, None]},
    "no places": {"places": None},
    "no bucket": {"bucket": None},
    "a bucket beyond": {"bucket": np.asarray(2)},
    "a bucket below": {"bucket": np.asarray(-1)},
    "another bucket": {"bucket": np.asarray(1)},
    "buckets": {"bucket": np.zeros(2, int)},
    "no fingerprint": {"fingerprint": None},
    "a number as fingerprint": {"fingerprint": np.asarray(3.0)},
}


@pytest.mark.parametrize("name", ODD)
def test_odd_parts_count_as_not_there(name, tmp_path):
    part = written(tmp_path)
    members = {**_members(part), **ODD[name]}
    np.savez(part, **{name: array for name, array in members.items() if array is not None})
    with pytest.warns(RuntimeWarning, match="solved again"):
        assert list(Checkpoint(tmp_path, KEY).load(likes())) == []


@pytest.mark.parametrize("content", [b"", b"text", "npy"])
def test_parts_of_another_kind_count_as_not_there(content, tmp_path):
    part = written(tmp_path)
    if content == "npy":
        with part.open("wb") as file:
            np.save(file, np.ones(3))
    else:
        part.write_bytes(content)
    with pytest.warns(RuntimeWarning, match="solved again"):
        assert list(Checkpoint(tmp_path, KEY).load(likes())) == []


def test_a_folder_in_place_of_a_part(tmp_path):
    (tmp_path / "part-x.npz").mkdir()
    with pytest.warns(RuntimeWarning, match="solved again"):
        assert list(Checkpoint(tmp_path, KEY).load(likes())) == []


def test_batches_solve_damaged_parts_again(tmp_path):
    problems = stack([problem_of(planted(seed, *SMALL), np.float64) for seed in range(4)])
    whole = qs.solve_batch(problems, checkpoint=tmp_path)
    part = min(tmp_path.glob("part-*.npz"))
    spoiled = bytearray(part.read_bytes())
    spoiled[spoiled.index(b"leaf0") + 4] ^= 1  # the name of a member
    part.write_bytes(spoiled)
    with pytest.warns(RuntimeWarning, match=part.name):
        again = qs.solve_batch(problems, checkpoint=tmp_path)
    np.testing.assert_allclose(again.value, whole.value, rtol=1e-8)
    with pytest.warns(RuntimeWarning, match=part.name):  # the others are there now
        again = qs.solve_batch(problems, checkpoint=tmp_path, time_limit=1e-9)
    assert np.all(again.status == qs.Status.solved)


@pytest.mark.parametrize("checkpoint", ["", 3, b"folder"])
def test_a_checkpoint_needs_a_folder(checkpoint, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    problems = stack([problem_of(planted(0, *SMALL), np.float64)])
    with pytest.raises(ValueError, match="`checkpoint` must be the path of a folder"):
        qs.solve_batch(problems, checkpoint=checkpoint)
    assert list(tmp_path.iterdir()) == []


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    """Unless it is so new that another process may be writing it."""
    old, new = tmp_path / "part-1.npz.2.tmp", tmp_path / "part-3.npz.4.tmp"
    other = tmp_path / "notes.tmp"
    for path in (old, new, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (0, 0))
    Checkpoint(tmp_path, KEY)
    assert sorted(tmp_path.iterdir()) == sorted([new, other])


FULL = """
import resource, signal, warnings
from pathlib import Path
import numpy as np
from jaxqsdp._batch.checkpoint import Checkpoint
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing beyond the limit is an error instead
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
store = Checkpoint({folder!r}, "key")
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    for _ in range(2):
        store.add(0, np.arange(2000), [np.zeros(2000)])
print(len(caught), {word!r} in str(caught[0].message), *Path({folder!r}).iterdir())
"""


def test_a_full_disk_is_left_as_it_was(tmp_path):
    word = os.strerror(errno.EFBIG)
    script = textwrap.dedent(FULL.format(folder=str(tmp_path), word=word))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("1 True\n", "")
