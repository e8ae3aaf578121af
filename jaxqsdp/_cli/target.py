"""The target: classes, named as in the file, or numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, quoted
from .numerals import LARGEST, SMALLEST, is_missing, is_number
from .raw import Raw

_MOST_CLASSES = 20


@dataclass(frozen=True)
class _Values:
    """The distinct values of a target: as texts, as numbers (NaN where none), and where they are.

    Texts that differ are different values, whatever number they stand for: 001 is not 1.
    """

    texts: list[str]
    numbers: NDArray[np.float64]
    codes: NDArray[np.intp]

    def first(self, wrong: NDArray[np.bool_]) -> tuple[int, str] | None:
        """Return the first row whose value is one of these, and its text."""
        rows = wrong[self.codes]
        if not rows.any():
            return None
        row = int(np.argmax(rows))
        return row, self.texts[self.codes[row]]


def read_target(raw: Raw, task: str | None) -> tuple[NDArray, tuple[str, ...]]:
    """Return numbers and no classes, or positions of classes and their names.

    **Raises:** `DataError` naming the line or row.
    """
    values = _values(raw.target)
    whose = f"{raw.name}: the target {quoted(raw.target_name)}"
    numeric = ~np.isnan(values.numbers)
    _check_missing(raw, whose, values, numeric, task)
    if numeric.all():
        _check_range(raw, whose, values)
    if len(values.texts) < 2:
        raise DataError(f"{whose} has one value only, {quoted(values.texts[0])}")
    whole = bool(np.all(values.numbers == np.round(values.numbers)))
    few = len(values.texts) <= _MOST_CLASSES
    if task is None:
        mostly_numbers = 2 * np.count_nonzero(numeric[values.codes]) > len(values.codes)
        fractions = bool(np.any(values.numbers[np.isfinite(values.numbers)] % 1 != 0))
        if numeric.all():
            task = "classes" if whole and few else "numbers"
        else:  # a stray text among numbers, or classes
            task = "numbers" if mostly_numbers and (fractions or not few) else "classes"
    if task == "numbers":
        return _numbers(raw, whose, values, numeric), ()
    return _classes(raw, whose, values)


def _values(target: NDArray) -> _Values:
    if target.dtype == object:
        import pandas as pd

        codes, uniques = pd.factorize(target)
        texts = [str(text) for text in uniques]
        numbers = [float(text) if is_number(text) else np.nan for text in texts]
        return _Values(texts, np.array(numbers, np.float64), codes)
    distinct, codes = np.unique(target, return_inverse=True)
    if distinct.dtype.kind == "f":
        # 1234567.0 is called 1234567, and no two numbers are called the same.
        wholes = [float(value).is_integer() and abs(float(value)) < 2**53 for value in distinct]
        texts = [
            str(int(value)) if whole else str(value)
            for value, whole in zip(distinct, wholes, strict=True)
        ]
    else:
        texts = [str(value) for value in distinct]
    return _Values(texts, distinct.astype(np.float64), codes)


def _check_missing(
    raw: Raw, whose: str, values: _Values, numeric: NDArray[np.bool_], task: str | None
) -> None:
    marked = np.array([is_missing(text) for text in values.texts])
    if task == "classes" or not np.all(numeric | marked):  # among words, NA may be one as well
        marked = np.array([text == "" or text.lower() == "nan" for text in values.texts])
    if marked.all() and "" not in values.texts:
        return  # one word, whatever it means
    if found := values.first(marked):
        row, text = found
        held = f" ({quoted(text)})" if text else ""
        raise DataError(f"{whose}: {raw.place(row, None)} has no target{held}; drop that row")


def _check_range(raw: Raw, whose: str, values: _Values) -> None:
    if found := values.first(np.abs(values.numbers) > LARGEST):
        row, text = found
        raise DataError(
            f"{whose} holds {quoted(text)} in {raw.place(row, None)}, which is out of range "
            f"(±{LARGEST:g}); drop that row"
        )
    if 0 < np.max(np.abs(values.numbers)) < SMALLEST:
        raise DataError(f"{whose} holds no number above {SMALLEST:g} in size; change its unit")


def _numbers(
    raw: Raw, whose: str, values: _Values, numeric: NDArray[np.bool_]
) -> NDArray[np.float64]:
    if found := values.first(~numeric):
        row, text = found
        raise DataError(
            f"{whose} holds {quoted(text)} in {raw.place(row, None)}, which is not a number; "
            "correct or drop that row"
        )
    return values.numbers[values.codes]


def _classes(raw: Raw, whose: str, values: _Values) -> tuple[NDArray, tuple[str, ...]]:
    count = len(values.texts)
    if count > _MOST_CLASSES:
        raise DataError(
            f"{whose} has {count:,} classes, at most {_MOST_CLASSES} work; are they --task numbers?"
        )
    rows = np.bincount(values.codes, minlength=count)
    if found := values.first(rows == 1):
        row, text = found
        raise DataError(
            f"{whose}: class {quoted(text)} has one row only, {raw.place(row, None)}; to be "
            "split a class needs two"
        )
    # Numbers in their order, words after them in theirs.
    order = sorted(
        range(count),
        key=lambda k: (
            np.isnan(values.numbers[k]),
            np.nan_to_num(values.numbers[k]),
            values.texts[k],
        ),
    )
    position = np.empty(count, np.intp)
    position[order] = np.arange(count)
    return position[values.codes], tuple(values.texts[k] for k in order)
