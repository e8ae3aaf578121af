"""NPZ files: arrays X (n, d) and y (n,), or X a record array whose fields are the columns."""

from __future__ import annotations

import io
import tokenize
import zipfile
import zlib
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, listed, quoted
from .raw import Raw, check_width
from .source import Source

if TYPE_CHECKING:
    import pandas as pd

# What NumPy and zipfile raise for files that are damaged, or refuse: encrypted, Python objects.
_DAMAGED = (
    *(ValueError, TypeError, OSError, EOFError, KeyError, IndexError, OverflowError, MemoryError),
    *(RuntimeError, SyntaxError, tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)


def read_arrays(source: Source, target: str | None) -> Raw:
    """Read the features from array X, the target from y unless another is named.

    **Raises:** `DataError` naming the array.
    """
    wanted = "y" if target is None else target
    features, labels = _load(source, ("X", wanted))
    where = f"{source.name}: array"
    fields = features.dtype.names
    if features.ndim != (2 if fields is None else 1) or labels.shape != (len(features),):
        raise DataError(
            f"{source.name}: X must have shape (n, d), or (n,) and fields, and {quoted(wanted)} "
            f"(n,); got {features.shape} and {labels.shape}"
        )
    labels = _readable(f"{where} {quoted(wanted)}", labels)
    if fields is None:
        check_width(source.name, features.shape[1])
        frame = _frame(_readable(f"{where} 'X'", features))
    else:
        check_width(source.name, len(fields))
        columns = {name: features[name] for name in fields}
        for name, column in columns.items():
            if column.ndim != 1:
                raise DataError(f"{where} 'X', field {quoted(name)}: must hold one value a row")
        frame = _frame(
            {
                name: _readable(f"{where} 'X', field {quoted(name)}", columns[name])
                for name in fields
            }
        )
    return Raw(source.name, frame, labels, wanted, lambda row, _: f"row {row + 1}")


def _load(source: Source, wanted: tuple[str, ...]) -> list[NDArray]:
    try:
        with np.load(io.BytesIO(source.contents), allow_pickle=False) as arrays:
            for name in wanted:
                if name not in arrays.files:
                    names = listed(map(quoted, arrays.files)) or "none"
                    raise DataError(
                        f"{source.name}: no array named {quoted(name)} (arrays: {names})"
                    )
            return [np.asarray(arrays[name]) for name in wanted]
    except DataError:
        raise
    except _DAMAGED as error:
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(f"cannot read {source.name} as NPZ: {reason}") from None


def _frame(columns: NDArray | dict[str, NDArray]) -> pd.DataFrame:
    import pandas as pd

    if isinstance(columns, dict):
        return pd.DataFrame(columns)
    return pd.DataFrame(columns, columns=[f"X[:, {k}]" for k in range(columns.shape[1])])


def _readable(what: str, array: NDArray) -> NDArray:
    """Return an array of numbers, or of texts (object).

    **Raises:** `DataError` if it holds neither.
    """
    kind = array.dtype.kind
    if kind == "f" and array.dtype.itemsize > 8:
        with np.errstate(over="ignore"):  # infinite, and refused as such
            return array.astype(np.float64)
    if kind in "biuf":
        return array
    if kind == "U":
        return np.char.strip(array).astype(object)
    if kind == "S":
        try:
            return np.char.strip(np.char.decode(array, "utf-8")).astype(object)
        except UnicodeDecodeError:
            raise DataError(f"{what} holds bytes that are not text in UTF-8") from None
    names = {"c": "complex numbers", "m": "durations", "M": "dates", "V": "records"}
    held = names.get(kind, f"values of type {array.dtype}")
    raise DataError(f"{what} holds {held}; numbers or texts are needed")
