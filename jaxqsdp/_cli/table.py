"""Tables to train on: a shipped data set, or the user's own file, and what its columns mean."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from .arrays import read_arrays
from .delimited import DECIMAL_COMMA, read_delimited
from .errors import DataError, quoted
from .numerals import LARGEST, SMALLEST, is_missing, is_number, numbers
from .raw import Raw
from .source import open_source
from .target import read_target

if TYPE_CHECKING:
    import pandas as pd

MOST_CATEGORIES = 20  # of a column of texts; rarer ones are taken together
_FEWEST_ROWS = 10


@dataclass(frozen=True)
class Table:
    """Features and target, checked but not yet prepared.

    Columns of `features` are numbers (float64, NaN where missing) or texts (object, "" where
    missing). `target` holds numbers for a regression, else positions in `classes`. `left_out` are
    columns that are not in `features`, and why; `notes` what the user should know about the file.
    """

    name: str
    features: pd.DataFrame
    target: NDArray
    target_name: str
    classes: tuple[str, ...]  # empty for a regression
    left_out: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    @property
    def task(self) -> str:
        """What is to be learned, in words."""
        return f"{len(self.classes)} classes" if self.classes else "regression"


def breast_cancer() -> Table:
    """Load scikit-learn's breast-cancer data, 569 × 30, benign against malignant."""
    import pandas as pd
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    features = pd.DataFrame(data.data, columns=[str(name) for name in data.feature_names])
    classes = tuple(map(str, data.target_names))
    return Table("breast cancer", features, data.target, "diagnosis", classes)


def read(
    path: Path, target: str | None = None, task: str | None = None, drop: Iterable[str] = ()
) -> Table:
    """Read a table with a header row (CSV, TSV and the like), or an NPZ file with X and y.

    Either may be packed by gzip or come through a pipe; `-` is standard input. The task is
    "classes" or "numbers"; None decides by the values of the target. Columns named in `drop` are
    left out.

    **Raises:** `DataError`, one line that names the column and the line or row.
    """
    source = open_source(path)
    packed = source.suffix == ".npz" or source.contents.startswith(b"PK\x03\x04")
    raw = (read_arrays if packed else read_delimited)(source, target)
    rows = len(raw.target)
    if rows < _FEWEST_ROWS:
        raise DataError(
            f"{raw.name}: {rows} rows are too few for a train/test split (need {_FEWEST_ROWS})"
        )
    left_out = {name: "--drop" for name in drop}
    for name in left_out:
        if name not in raw.frame.columns:
            raise DataError(f"{raw.name}: --drop: no feature is named {quoted(name)}")
    labels, classes = read_target(raw, task)
    columns: dict[str, NDArray] = {}
    for position, name in enumerate(raw.frame.columns):
        if name in left_out:
            continue
        column = _column(raw, name, raw.frame.iloc[:, position].to_numpy())
        if column is None:
            left_out[name] = "empty"
        else:
            columns[name] = column
    if not columns:
        raise DataError(f"{raw.name}: no column is left to learn from")
    features = _frame(columns)
    return Table(raw.name, features, labels, raw.target_name, classes, left_out, raw.notes)


def _frame(columns: dict[str, NDArray]) -> pd.DataFrame:
    import pandas as pd

    return pd.DataFrame(columns)


def _column(raw: Raw, name: str, cells: NDArray) -> NDArray | None:
    """Return a column as numbers or as texts, or None if it is empty."""
    if cells.dtype != object:
        return _checked(raw, name, cells.astype(np.float64))
    texts: list[str] = list(cells)
    values = numbers(texts)
    if values is None:
        missing = np.array([is_missing(text) for text in texts])
        present = [text for text in texts if not is_missing(text)]
        if not present:
            return None
        present_values = numbers(present)
        if present_values is None:
            return _texts(raw, name, texts)
        values = np.full(len(texts), np.nan)
        values[~missing] = present_values
    return _checked(raw, name, values)


def _texts(raw: Raw, name: str, texts: list[str]) -> NDArray:
    """Return a column of categories, having made sure that it is one."""
    column = f"{raw.name}: column {quoted(name)}"
    stray = [k for k, text in enumerate(texts) if not (is_missing(text) or is_number(text))]
    filled = sum(not is_missing(text) for text in texts)
    first = f"{quoted(texts[stray[0]])} in {raw.place(stray[0], name)}"
    if 2 * len(stray) < filled:
        raise DataError(
            f"{column} holds {first}, which is not a number as most others are; correct or empty "
            "that cell, or leave the column out with --drop"
        )
    if all(DECIMAL_COMMA.fullmatch(texts[k]) for k in stray):
        raise DataError(
            f"{column} holds {first}; write decimals with a point, thousands without a comma"
        )
    distinct = len(set(texts) - {""})
    if distinct > MOST_CATEGORIES and 2 * distinct > filled:
        raise DataError(
            f"{column} holds {distinct:,} different texts, such as {first}: neither numbers nor "
            "categories; encode the column or leave it out with --drop"
        )
    array = np.empty(len(texts), object)
    array[:] = texts
    return array


def _checked(raw: Raw, name: str, values: NDArray[np.float64]) -> NDArray[np.float64] | None:
    size = np.abs(values)
    if np.all(np.isnan(values)):
        return None
    if np.any(size > LARGEST):
        row = int(np.argmax(size > LARGEST))
        raise DataError(
            f"{raw.name}: column {quoted(name)} holds {values[row]:g} in {raw.place(row, name)}, "
            f"which is out of range (±{LARGEST:g}); leave the cell empty if the value is missing"
        )
    if 0 < np.nanmax(size) < SMALLEST:
        row = int(np.nanargmax(size))
        raise DataError(
            f"{raw.name}: column {quoted(name)} holds no larger number than {values[row]:g} in "
            f"{raw.place(row, name)}, too small to square; change its unit"
        )
    return values
