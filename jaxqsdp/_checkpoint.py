"""Results on disk that survive a kill at any moment."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

_MOST_PENDING = 1024  # results, or ...
_LONGEST_PENDING = 5.0  # ... seconds, after which results are written


def fingerprint(*trees: Any) -> str:
    """Hash arrays, and what else there is by its text."""
    digest = hashlib.blake2b(digest_size=16)
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
    last five seconds.
    """

    def __init__(self, folder: str | os.PathLike[str], key: str):
        self._folder = Path(folder)
        self._pending: list[tuple[int, np.ndarray, list[np.ndarray]]] = []
        self._written_at = time.monotonic()
        self._folder.mkdir(parents=True, exist_ok=True)
        label = self._folder / "problems.json"
        if label.exists():
            if json.loads(label.read_text())["fingerprint"] != key:
                raise ValueError(
                    f"`checkpoint` {os.fspath(folder)!r} belongs to other problems, another solver "
                    "or another version; name another folder, or delete that one."
                )
        else:
            _write(label, json.dumps({"fingerprint": key}).encode())
        self._count = 1 + max((int(part.stem[5:]) for part in self._parts()), default=-1)

    def _parts(self) -> list[Path]:
        return sorted(self._folder.glob("part-*.npz"))

    def load(self) -> Iterator[tuple[int, np.ndarray, list[np.ndarray]]]:
        """Yield (bucket, places, leaves of the solutions) of every part."""
        for part in self._parts():
            with np.load(part) as arrays:
                leaves = [arrays[f"leaf{k}"] for k in range(len(arrays.files) - 2)]
                yield int(arrays["bucket"]), arrays["places"], leaves

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
            path = self._folder / f"part-{self._count:06d}.npz"
            temporary = path.with_suffix(".tmp")
            with temporary.open("wb") as file:
                np.savez(file, **arrays)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            self._count += 1
        self._pending = []
        self._written_at = time.monotonic()


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_bytes(content)
    temporary.replace(path)
