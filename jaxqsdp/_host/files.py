"""Files that are there whole or not at all, what they are of, and NPZ files of unknown origin."""

from __future__ import annotations

import hashlib
import lzma
import math
import os
import shutil
import struct
import tokenize
import uuid
import warnings
import zipfile
import zlib
from collections.abc import Callable, Mapping, Set
from importlib.metadata import version
from pathlib import Path
from typing import Any, BinaryIO, cast

import jax
import numpy as np

_RATIO = 20  # of a compressed member's size: arrays worth saving hardly compress further, ...
_SMALL = 2**20  # ... small ones excepted

# What the readers of ZIP files, of compressed data and of NPY headers raise, on whatever bytes.
_DAMAGE = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    OverflowError,
    SyntaxError,
    Warning,
    struct.error,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
    lzma.LZMAError,
)


class DamagedFile(ValueError):
    """A file does not hold what it should; the text says why."""


def fingerprint(*trees: Any) -> str:
    """Hash arrays, what else there is by its text, the kinds of both, and the package's version."""
    digest = hashlib.blake2b(version("jaxqsdp").encode(), digest_size=16)
    digest.update(str(jax.tree.structure(trees)).encode())
    for leaf in jax.tree.leaves(trees):
        if hasattr(leaf, "dtype"):
            array = np.ascontiguousarray(leaf)
            digest.update(f"{array.dtype}{array.shape}".encode())
            digest.update(array.data if array.size else b"")
        else:
            digest.update(repr(leaf).encode())
    return digest.hexdigest()


def write_arrays(path: Path, arrays: Mapping[str, Any]) -> None:
    """Write an NPZ file by `write_file`."""
    write_file(path, lambda file: np.savez(file, **arrays))


def write_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Write a file under another name, flush it to the disk and rename it.

    So what was there under that name stays until all is written, and stays if that fails. Through a
    link the file that it points to is replaced. What is no regular file is written to directly.

    **Raises:** `OSError`.
    """
    path = path.resolve()
    if path.exists() and not path.is_file():
        with path.open("wb") as file:
            write(file)
        return
    temporary = path.with_name(f"{path.name[:40]}.{uuid.uuid4().hex}.tmp")  # names have a limit
    try:
        with temporary.open("xb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, temporary)
        temporary.replace(path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename == str(temporary):
            error.filename = str(path)  # the one that the caller has named
        raise


def read_arrays(
    path: Path, names: set[str] | None = None, optional: Set[str] = frozenset()
) -> dict[str, np.ndarray]:
    """Read members of an NPZ file, all of them by default; optional ones if they are there.

    Sizes are checked before anything is unpacked, so memory stays in proportion to the file.

    **Raises:** `DamagedFile` for anything but an NPZ file of plain arrays with these members;
    `OSError` if it cannot be opened.
    """
    with path.open("rb") as file:
        try:
            # Headers are Python literals, about which Python may warn.
            with warnings.catch_warnings(), zipfile.ZipFile(file) as archive:
                warnings.simplefilter("error")
                return _read_members(archive, names, optional)
        except DamagedFile:
            raise
        except _DAMAGE as error:
            reason = str(error) or type(error).__name__
            raise DamagedFile(f"it cannot be read as an NPZ file ({reason})") from None


def _read_members(
    archive: zipfile.ZipFile, names: set[str] | None, optional: Set[str]
) -> dict[str, np.ndarray]:
    members = {info.filename.removesuffix(".npy"): info for info in archive.infolist()}
    if len(members) < len(archive.infolist()):
        raise DamagedFile("it has two members of one name")
    missing = (names or set()) - set(members)
    if missing:
        raise DamagedFile(f"it has no {min(missing)!r}")
    wanted = set(members) if names is None else names | (optional & set(members))
    return {name: _read_member(archive, name, members[name]) for name in wanted}


def _read_member(archive: zipfile.ZipFile, name: str, info: zipfile.ZipInfo) -> np.ndarray:
    if info.file_size > max(_SMALL, _RATIO * info.compress_size):
        raise DamagedFile(f"{name!r} would take {info.file_size} bytes, unpacked")
    with archive.open(info) as member:
        stream = cast(BinaryIO, member)
        version = np.lib.format.read_magic(stream)
        readers = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }
        if version not in readers:
            raise DamagedFile(f"{name!r} has an unknown format")
        shape, fortran_order, dtype = readers[version](stream)
        if dtype.hasobject or dtype.itemsize == 0:
            raise DamagedFile(f"{name!r} holds {dtype}")
        count = math.prod(shape)
        if min(shape, default=0) < 0 or stream.tell() + count * dtype.itemsize != info.file_size:
            raise DamagedFile(f"{name!r} is not of the size that its header says")
        data = stream.read()
    array = np.frombuffer(data, dtype, count).reshape(shape, order="F" if fortran_order else "C")
    return array.astype(dtype.newbyteorder("="))
