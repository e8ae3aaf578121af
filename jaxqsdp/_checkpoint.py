"""Results on disk that survive a kill at any moment."""

from __future__ import annotations

import hashlib
import os
import time
import uuid
import warnings
import zipfile
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np

_MOST_PENDING = 1024  # results, or ...
_LONGEST_PENDING = 5.0  # ... seconds, after which results are written


def fingerprint(*trees: Any) -> str:
    """Hash arrays, what else there is by its text, and the version of the package."""
    digest = hashlib.blake2b(version("jaxqsdp").encode(), digest_size=16)
    for leaf in jax.tree.leaves(trees):
        if hasattr(leaf, "dtype"):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.data if array.size else b"")
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


class Checkpoint:
    """A folder of parts, each with some results and their places, each written in one go.

    A part is written under another name, flushed to the disk and renamed, so that it is there whole
    or not at all. What a kill loses is at most the results pending: 1024 of them, or those of the
    last five seconds. A part that cannot be read counts as not there. If the disk fails, a warning
    says so, and results are kept in memory only.
    """

    def __init__(self, folder: str | os.PathLike[str], key: str):
        self._folder = Path(folder)
        self._key = key
        self._pending: list[tuple[int, np.ndarray, list[np.ndarray]]] = []
        self._written_at = time.monotonic()
        self._failed = False
        if self._folder.exists() and not self._folder.is_dir():
            raise ValueError(f"`checkpoint` {os.fspath(folder)!r} is a file; name a folder.")
        self._folder.mkdir(parents=True, exist_ok=True)

    def load(self) -> Iterator[tuple[int, np.ndarray, list[np.ndarray]]]:
        """Yield (bucket, places, leaves of the solutions) of every part.

        **Raises:** `ValueError` for parts of other problems.
        """
        for part in sorted(self._folder.glob("part-*.npz")):
            try:
                with part.open("rb") as file, np.load(file) as arrays:
                    content = {name: arrays[name] for name in arrays.files}
            except (OSError, EOFError, ValueError, zipfile.BadZipFile):
                continue
            if str(content.get("fingerprint")) != self._key:
                raise ValueError(
                    f"`checkpoint` {os.fspath(self._folder)!r} belongs to other problems, another "
                    "solver or another version; name another folder, or delete that one."
                )
            leaves = [content[f"leaf{k}"] for k in range(len(content) - 3)]
            yield int(content["bucket"]), content["places"], leaves

    def add(self, bucket: int, places: np.ndarray, leaves: list[np.ndarray]) -> None:
        """Take results, and write what is pending if that is much or old."""
        self._pending.append((bucket, places, leaves))
        many = sum(len(places) for _, places, _ in self._pending) >= _MOST_PENDING
        if many or time.monotonic() - self._written_at > _LONGEST_PENDING:
            self.flush()

    def flush(self) -> None:
        """Write what is pending, a part for each bucket."""
        for bucket in sorted({bucket for bucket, _, _ in self._pending}):
            chosen = [entry for entry in self._pending if entry[0] == bucket]
            arrays: dict[str, Any] = {
                f"leaf{k}": np.concatenate(leaves)
                for k, leaves in enumerate(zip(*(entry[2] for entry in chosen), strict=True))
            }
            arrays["places"] = np.concatenate([entry[1] for entry in chosen])
            arrays["bucket"] = np.asarray(bucket)
            arrays["fingerprint"] = np.asarray(self._key)
            self._write(arrays)
        self._pending = []
        self._written_at = time.monotonic()

    def _write(self, arrays: dict[str, Any]) -> None:
        if self._failed:
            return
        path = self._folder / f"part-{uuid.uuid4().hex}.npz"
        temporary = path.with_suffix(".tmp")
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            self._failed = True
            warnings.warn(f"`checkpoint` is given up: {error}.", RuntimeWarning, stacklevel=2)
