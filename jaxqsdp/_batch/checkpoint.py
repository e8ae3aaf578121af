"""Results on disk that survive a kill at any moment."""

from __future__ import annotations

import contextlib
import os
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from .._host.files import DamagedFile, read_arrays, write_arrays

_MOST_PENDING = 1024  # results, or ...
_LONGEST_PENDING = 5.0  # ... seconds, after which results are written
_LONGEST_WRITING = 3600.0  # seconds, after which nobody is writing a part any more


class Part(NamedTuple):
    """Some results: the bucket, the places in it, and the leaves of the stacked solutions."""

    bucket: int
    places: np.ndarray
    leaves: list[np.ndarray]


class Checkpoint:
    """A folder of parts, each with some results and their places, each written in one go.

    A part is written under another name, flushed to the disk and renamed, so that it is there whole
    or not at all. What a kill loses is at most the results pending: 1024 of them, or those of the
    last five seconds. A part that cannot be used counts as not there, and a warning says so. If the
    disk fails, a warning says so, and results are kept in memory only.
    """

    def __init__(self, folder: str | os.PathLike[str], key: str):
        if not isinstance(folder, str | os.PathLike) or os.fspath(folder) == "":
            raise ValueError(f"`checkpoint` must be the path of a folder, got {folder!r}.")
        self._folder = Path(folder)
        self._key = key
        self._pending: list[Part] = []
        self._written_at = time.monotonic()
        self._failed = False
        if self._folder.exists() and not self._folder.is_dir():
            raise ValueError(f"`checkpoint` {os.fspath(folder)!r} is a file; name a folder.")
        self._folder.mkdir(parents=True, exist_ok=True)
        self._remove_remains()

    def _remove_remains(self) -> None:
        """Remove what a killed process was about to write; another one may be at it just now."""
        for path in self._folder.glob("part-*.tmp"):
            with contextlib.suppress(OSError):  # gone already, or not ours to remove
                if time.time() - path.stat().st_mtime > _LONGEST_WRITING:
                    path.unlink()

    def load(self, likes: Sequence[Callable[[], Sequence[np.ndarray]]]) -> Iterator[Part]:
        """Yield the parts, given the leaves of all results of each bucket, whatever they hold.

        **Raises:** `ValueError` for parts of other problems.
        """
        for path in sorted(self._folder.glob("part-*.npz")):
            try:
                part = self._read(path, likes)
            except (DamagedFile, OSError) as error:
                reason = f"{os.fspath(path)!r} cannot be used: {error}"
                warnings.warn(
                    f"A part of `checkpoint`, {reason}. What was in it is solved again; you may "
                    "delete it.",
                    RuntimeWarning,
                    stacklevel=3,
                )
            else:
                yield part

    def _read(self, path: Path, likes: Sequence[Callable[[], Sequence[np.ndarray]]]) -> Part:
        content = read_arrays(path)
        key, bucket, places = (
            content.pop(name, np.zeros(0)) for name in ("fingerprint", "bucket", "places")
        )
        if key.shape != () or key.dtype.kind != "U":
            raise DamagedFile("it is no part of a checkpoint")
        if str(key) != self._key:
            raise ValueError(
                f"`checkpoint` {os.fspath(self._folder)!r} belongs to other problems, another "
                "solver or another version; name another folder, or delete that one."
            )
        if bucket.shape != () or bucket.dtype.kind != "i" or not 0 <= bucket < len(likes):
            raise DamagedFile("its bucket is unknown")
        expected = likes[int(bucket)]()
        if places.ndim != 1 or places.dtype.kind != "i":
            raise DamagedFile("its places are no integers")
        count = len(expected[0])
        if len(np.unique(places)) < len(places) or not np.all((places >= 0) & (places < count)):
            raise DamagedFile("its places do not exist")
        if set(content) != {f"leaf{k}" for k in range(len(expected))}:
            raise DamagedFile("its members are not those of a solution")
        leaves = [content[f"leaf{k}"] for k in range(len(expected))]
        for leaf, like in zip(leaves, expected, strict=True):
            if leaf.shape != (len(places), *like.shape[1:]) or leaf.dtype != like.dtype:
                raise DamagedFile(f"it has numbers of shape {leaf.shape} and dtype {leaf.dtype}")
        return Part(int(bucket), places, leaves)

    def add(self, bucket: int, places: np.ndarray, leaves: list[np.ndarray]) -> None:
        """Take results, and write what is pending if that is much or old."""
        self._pending.append(Part(bucket, places, leaves))
        many = sum(len(part.places) for part in self._pending) >= _MOST_PENDING
        if many or time.monotonic() - self._written_at > _LONGEST_PENDING:
            self.flush()

    def flush(self) -> None:
        """Write what is pending, a part for each bucket."""
        for bucket in sorted({part.bucket for part in self._pending}):
            chosen = [part for part in self._pending if part.bucket == bucket]
            arrays: dict[str, Any] = {
                f"leaf{k}": np.concatenate(leaves)
                for k, leaves in enumerate(zip(*(part.leaves for part in chosen), strict=True))
            }
            arrays["places"] = np.concatenate([part.places for part in chosen])
            arrays["bucket"] = np.asarray(bucket)
            arrays["fingerprint"] = np.asarray(self._key)
            self._write(arrays)
        self._pending = []
        self._written_at = time.monotonic()

    def _write(self, arrays: dict[str, Any]) -> None:
        if self._failed:
            return
        try:
            write_arrays(self._folder / f"part-{uuid.uuid4().hex}.npz", arrays)
        except OSError as error:
            self._failed = True
            warnings.warn(f"`checkpoint` is given up: {error}.", RuntimeWarning, stacklevel=2)
