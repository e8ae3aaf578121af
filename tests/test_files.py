"""Networks in files: any file is a network or a `ValueError`, and a failure loses nothing."""

import io
import os
import subprocess
import sys
import textwrap
import zipfile

import equinox as eqx
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import stack

import jaxqsdp as qs


def network(m=5, d=9, outputs=None):
    rng = np.random.default_rng(0)
    u, v = rng.choice((-1.0, 1.0), (2, m, d))
    alpha = rng.standard_normal((m,) if outputs is None else (m, outputs))
    return qs.QuantizedNetwork.from_weights(u, v, alpha)


def members(**changes):
    """Return the arrays of a file, some changed; None leaves one out."""
    one = network()
    arrays = {
        "packed_u": np.asarray(one.packed_u),
        "packed_v": np.asarray(one.packed_v),
        "alpha": np.asarray(one.alpha),
        "num_features": np.asarray(9),
    }
    arrays = {**arrays, **changes}
    return {name: array for name, array in arrays.items() if array is not None}


def with_bit(packed):
    """Set the last padding bit."""
    return packed | np.asarray([[0, 1]], np.uint8)


U, ALPHA = members()["packed_u"], members()["alpha"]
WRONG = {
    "negative": {"num_features": np.asarray(-3)},
    "none": {"num_features": np.asarray(0)},
    "many": {"num_features": np.asarray(2**40)},
    "fraction": {"num_features": np.asarray(9.0)},
    "flag": {"num_features": np.asarray(True)},
    "several numbers": {"num_features": np.asarray([9])},
    "one byte less": {"num_features": np.asarray(8)},
    "one byte more": {"num_features": np.asarray(17)},
    "complex": {"alpha": ALPHA * 1j},
    "complex, but real": {"alpha": ALPHA + 0j},
    "integers": {"alpha": np.ones(5, int)},
    "text": {"alpha": np.asarray(["1"] * 5)},
    "long double": {"alpha": ALPHA.astype(np.longdouble)},
    "records": {"alpha": np.zeros(5, [("a", float)])},
    "NaN": {"alpha": ALPHA * np.nan},
    "infinite": {"alpha": np.full(5, np.inf)},
    "short": {"alpha": ALPHA[:4]},
    "scalar": {"alpha": ALPHA[0]},
    "no outputs": {"alpha": np.zeros((5, 0))},
    "three axes": {"alpha": np.zeros((5, 1, 1))},
    "widths differ": {"packed_v": np.zeros((5, 3), np.uint8)},
    "neurons differ": {"packed_v": U[:4]},
    "one axis": {"packed_u": U[0], "packed_v": U[0]},
    "signed": {"packed_u": U.astype(np.int8)},
    "wide": {"packed_v": U.astype(np.uint16)},
    "padding of u": {"packed_u": with_bit(U)},
    "padding of v": {"packed_v": with_bit(U)},
    "no alpha": {"alpha": None},
    "no size": {"num_features": None},
}


@pytest.mark.parametrize("name", WRONG)
def test_load_refuses_arrays_that_make_no_network(name, tmp_path):
    path = tmp_path / "network.npz"
    np.savez(path, **members(**WRONG[name]))
    with pytest.raises(ValueError, match="holds no network"):
        qs.QuantizedNetwork.load(path)


def test_load_takes_what_it_should(tmp_path):
    """Also compressed, of another byte order, in half precision, transposed in memory."""
    path = tmp_path / "network.npz"
    several = network(outputs=3)
    for write, change in (
        (np.savez, {}),
        (np.savez_compressed, {}),
        (np.savez, {"alpha": ALPHA.astype(">f8")}),
        (np.savez, {"num_features": np.asarray(9, ">u2")}),
        (np.savez, {"packed_u": np.asfortranarray(U)}),
    ):
        write(path, **members(**change))
        assert eqx.tree_equal(qs.QuantizedNetwork.load(path), network())
    np.savez(path, **members(alpha=np.asfortranarray(several.alpha)))
    assert eqx.tree_equal(qs.QuantizedNetwork.load(path), several)
    np.savez(path, **members(alpha=ALPHA.astype(np.float16)))
    assert qs.QuantizedNetwork.load(path).alpha.dtype == np.float32


def _npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def _npy():
    file = io.BytesIO()
    np.save(file, np.ones(3))
    return file.getvalue()


def _zip(members, **options):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", **options) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return file.getvalue()


def _pickled():
    file = io.BytesIO()
    np.savez(file, **members(alpha=np.array([{}], object)))
    return file.getvalue()


def _header(shape):
    """Return an NPY file of no data whose header claims a shape."""
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        file, {"descr": "|u1", "fortran_order": False, "shape": shape}
    )
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"age,price\n1,2\n",
        _npz(**members())[:-30],
        _npz(**members())[: len(_npz(**members())) // 2],
        _npy(),
        _pickled(),
        _zip([("packed_u.npy", b"text")]),
        _zip([(f"{name}.npy", b"") for name in members()]),
        _zip([(f"{name}.npy", _header((2**40, 2))) for name in members()]),
        _zip([(f"{name}.npy", _header((-5, 2))) for name in members()]),
        _zip([(f"{name}.npy", _header((0, 2))[:20]) for name in members()]),
        _zip([(f"{name}.npy", _npy()) for name in members()]),
    ],
    ids=[
        "empty", "text", "no directory", "half", "npy", "pickle", "no array", "empty members",
        "claims much", "claims less than nothing", "cut header", "vectors",
    ],
)  # fmt: skip
def test_load_refuses_what_is_no_file_of_a_network(content, tmp_path):
    path = tmp_path / "network.npz"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="holds no network"):
        qs.QuantizedNetwork.load(path)


def test_load_says_which_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"absent\.npz"):
        qs.QuantizedNetwork.load(tmp_path / "absent.npz")
    with pytest.raises(IsADirectoryError):
        qs.QuantizedNetwork.load(tmp_path)


def test_save_names_the_path_that_it_cannot_write(tmp_path):
    path = tmp_path / "none" / "network.npz"
    with pytest.raises(FileNotFoundError) as caught:
        network().save(path)
    assert caught.value.filename == str(path)


def test_load_of_two_members_of_one_name(tmp_path):
    path = tmp_path / "network.npz"
    path.write_bytes(_npz(**members()))
    with zipfile.ZipFile(path, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr("alpha.npy", b"")
    with pytest.raises(ValueError, match="two members of one name"):
        qs.QuantizedNetwork.load(path)


BOMB = """
import resource, sys
sys.path.insert(0, {tests!r})
import numpy as np
import jaxqsdp as qs
import jax.numpy as jnp
jnp.zeros(3).block_until_ready()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
try:
    qs.QuantizedNetwork.load({path!r})
except ValueError as error:
    assert "holds no network" in str(error), error
    assert "unpacked" in str(error), error
    print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


@pytest.fixture(scope="module")
def bomb(tmp_path_factory):
    """Return a file of less than a megabyte: consistent, and all zeros but for its 4·10⁸ bytes."""
    path = tmp_path_factory.mktemp("bomb") / "bomb.npz"
    neurons = 10**8
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("packed_u", "packed_v"):
            with archive.open(f"{name}.npy", "w") as member:
                np.lib.format.write_array_header_1_0(
                    member, {"descr": "|u1", "fortran_order": False, "shape": (neurons, 2)}
                )
                for _ in range(20):
                    member.write(bytes(neurons // 10))
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("alpha.npy", _npy())
        archive.writestr("num_features.npy", _npy())
    return path


def test_a_file_that_unpacks_to_much_is_refused_before(bomb):
    assert bomb.stat().st_size < 1e6
    script = textwrap.dedent(BOMB.format(path=str(bomb), tests=os.path.dirname(__file__)))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 64  # MiB


def test_mutated_files_hold_the_network_or_none(tmp_path):
    """Wherever a byte is damaged: never another error, and never another network."""
    content, path = _npz(**members()), tmp_path / "network.npz"
    rng, expected, intact = np.random.default_rng(0), network(), 0
    for _ in range(400):
        spoiled = bytearray(content)
        for place in rng.integers(len(content), size=rng.integers(1, 4)):
            spoiled[place] = rng.integers(256)
        path.write_bytes(spoiled)
        try:
            loaded = qs.QuantizedNetwork.load(path)
        except ValueError:
            with pytest.raises(ValueError, match="holds no network"):
                qs.QuantizedNetwork.load(path)
        else:
            intact += 1
            assert eqx.tree_equal(loaded, expected)
    assert 0 < intact < 400


RAGGED = [[1.0, 2.0], [3.0]]


@pytest.mark.parametrize(
    ("others", "match"),
    [
        ({"mean": RAGGED}, "`mean`"),
        ({"mean": [object()]}, "`mean`"),
        ({"alpha": [1.0]}, "`alpha` is a name"),
        ({"packed_u": [1.0]}, "`packed_u` is a name"),
        ({"file": [1.0]}, "`file` is a name"),
        ({"allow_pickle": [1.0]}, "`allow_pickle` is a name"),
    ],
)
def test_a_save_that_fails_leaves_the_file_as_it_was(others, match, tmp_path):
    path = network().save(tmp_path / "network.npz")
    content = path.read_bytes()
    with pytest.raises((TypeError, ValueError), match=match):
        network(m=3).save(path, **others)
    assert path.read_bytes() == content
    assert os.listdir(tmp_path) == ["network.npz"]


@pytest.mark.parametrize(
    "change",
    [
        lambda one: eqx.tree_at(lambda n: n.alpha, one, one.alpha[:3]),
        lambda one: eqx.tree_at(lambda n: n.alpha, one, one.alpha * jnp.nan),
        lambda one: eqx.tree_at(lambda n: n.packed_v, one, one.packed_v[:, :1]),
        lambda one: stack([one, one]),
    ],
    ids=["short", "NaN", "narrow", "stacked"],
)
def test_save_writes_nothing_that_load_refuses(change, tmp_path):
    with pytest.raises(ValueError, match=r"alpha|packed"):
        change(network()).save(tmp_path / "network.npz")
    assert os.listdir(tmp_path) == []


def test_a_network_in_half_precision_can_be_saved(tmp_path):
    half = eqx.tree_at(lambda n: n.alpha, network(), network().alpha.astype(jnp.bfloat16))
    loaded = qs.QuantizedNetwork.load(half.save(tmp_path / "network.npz"))
    np.testing.assert_array_equal(loaded.alpha, half.alpha.astype(jnp.float32))


FULL = """
import errno, resource, signal, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
import numpy as np
from test_files import network
path = network().save({path!r})
content = path.read_bytes()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # writing beyond the limit is an error instead
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    network().save({path!r}, mean=np.ones(10_000))
except OSError as error:
    assert error.errno == errno.EFBIG, error
    assert path.read_bytes() == content
    print(*[file.name for file in path.parent.iterdir()])
"""


def test_a_full_disk_leaves_the_file_and_nothing_else(tmp_path):
    path = str(tmp_path / "network.npz")
    script = textwrap.dedent(FULL.format(path=path, tests=os.path.dirname(__file__)))
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.stdout.split(), done.stderr) == (["network.npz"], "")


def test_save_keeps_links_and_permissions_and_takes_devices(tmp_path):
    path = network().save(tmp_path / "network.npz")
    path.chmod(0o640)
    link = tmp_path / "link.npz"
    link.symlink_to(path)
    network(m=3).save(link)
    assert link.is_symlink()
    assert path.stat().st_mode & 0o777 == 0o640
    assert qs.QuantizedNetwork.load(path).num_neurons == 3
    long = network().save(tmp_path / f"{'n' * 250}.npz")
    assert eqx.tree_equal(qs.QuantizedNetwork.load(long), network())
    network().save(os.devnull)
    assert not os.path.isfile(os.devnull)
