"""The bytes of a table, from a file, a pipe or standard input."""

from __future__ import annotations

import gzip
import io
import os
import stat
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from .errors import DataError

_MOST_BYTES = 2**30  # unpacked, or from a pipe
_PART = 2**20


@dataclass(frozen=True)
class Source:
    """The contents of a file, unpacked, and its name as the user is shown it."""

    name: str
    suffix: str
    contents: bytes


def open_source(path: Path) -> Source:
    """Read a file, a pipe or, for `-`, standard input; unpack it if it is gzip.

    **Raises:** `DataError` if there is no such file, or it cannot be read.
    """
    name = os.fsencode(path.name).decode("utf-8", "replace")
    try:
        if str(path) == "-":
            name, contents = "standard input", _from_stdin()
        else:
            contents = _from_path(path)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    suffixes = [suffix.lower() for suffix in path.suffixes]
    if contents.startswith(b"\x1f\x8b"):
        contents = _unpacked(path, contents)
        suffixes = [suffix for suffix in suffixes if suffix != ".gz"]
    return Source(name, suffixes[-1] if suffixes else "", contents)


def _from_stdin() -> bytes:
    if sys.stdin is None:
        raise DataError("standard input is closed")
    return _limited("standard input", sys.stdin.buffer)


def _from_path(path: Path) -> bytes:
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        raise DataError(f"no such file: {path}") from None
    except ValueError:  # a NUL in the name
        raise DataError(f"no such file: {path!r}") from None
    if stat.S_ISDIR(mode):
        raise DataError(f"{path} is a folder; a table or an NPZ file is needed")
    if stat.S_ISREG(mode):
        return path.read_bytes()
    with path.open("rb") as file:
        return _limited(str(path), file)


def _limited(name: str, file: BinaryIO | gzip.GzipFile) -> bytes:
    """Read to the end, unless that is too far: a device such as /dev/zero has none."""
    parts, size = [], 0
    while part := file.read(_PART):
        parts.append(part)
        size += len(part)
        if size > _MOST_BYTES:
            most = f"{_MOST_BYTES >> 20} MiB"
            raise DataError(f"{name} holds more than {most}; take a sample of its rows")
    return b"".join(parts)


def _unpacked(path: Path, contents: bytes) -> bytes:
    try:
        with gzip.GzipFile(fileobj=io.BytesIO(contents)) as file:
            return _limited(f"{path}, unpacked,", file)
    except (OSError, EOFError, zlib.error) as error:
        raise DataError(f"cannot unpack {path}: {error}") from None
