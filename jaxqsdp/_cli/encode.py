"""A table as numbers: missing ones imputed, texts one-hot encoded, and how to do it again."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .errors import DataError, listed, quoted
from .table import MOST_CATEGORIES, Table

if TYPE_CHECKING:
    from sklearn.compose import ColumnTransformer

_MOST_FEATURES = 2000  # the relaxation has square matrices of that size
_RARE = 0.01  # categories of a smaller share of the rows are taken together


@dataclass(frozen=True)
class Encoded:
    """All rows as numbers (n, p), and how each of the p comes from the table.

    An entry of `columns` has the name of the `column` that it is made of, and a `kind`:

    - "number": the number there, or `missing` in its place where there is none,
    - "missing": 1 where there is none, else 0,
    - "text": 1 where the `text` is there, else 0,
    - "other text": 1 where none of the `texts` is there, else 0.
    """

    values: NDArray[np.float64]
    columns: list[dict[str, Any]]
    notes: dict[str, str]


def encode(table: Table, train: NDArray[np.intp]) -> Encoded:
    """Encode by what the training rows hold: their medians, their categories.

    A column of numbers gets an indicator if training rows lack some; one of two texts becomes one
    feature. Columns of numbers that training rows lack altogether have no entry.

    **Raises:** `DataError` if these are too many features.
    """
    names = list(table.features.columns)
    numeric = [table.features.iloc[:, k].dtype == np.float64 for k in range(len(names))]
    present = table.features.iloc[train].notna().any(axis=0).to_numpy()
    numbers = [k for k in range(len(names)) if numeric[k] and present[k]]
    texts = [k for k in range(len(names)) if not numeric[k]]
    # Positions for names: scikit-learn takes only some kinds of names.
    frame = table.features.set_axis(range(len(names)), axis=1).astype({k: object for k in texts})
    encoder = _encoder(numbers, texts)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of categories that only test rows have
        encoder.fit(frame.iloc[train])
        columns = _number_columns(encoder, [names[k] for k in numbers])
        columns += _text_columns(encoder, [names[k] for k in texts])
        if len(columns) >= _MOST_FEATURES:
            raise DataError(
                f"{table.name}: {len(columns):,} features are too many, at most "
                f"{_MOST_FEATURES - 1:,} work; leave columns out with --drop"
            )
        values = np.asarray(encoder.transform(frame), np.float64)
    return Encoded(values, columns, _notes(table, columns))


def _encoder(numbers: list[int], texts: list[int]) -> ColumnTransformer:
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.preprocessing import OneHotEncoder

    imputer = SimpleImputer(strategy="median", add_indicator=True)
    categories = OneHotEncoder(
        drop="if_binary",
        min_frequency=_RARE,
        max_categories=MOST_CATEGORIES,
        handle_unknown="infrequent_if_exist",
        sparse_output=False,
    )
    steps = [("numbers", imputer, numbers), ("texts", categories, texts)]
    return ColumnTransformer([step for step in steps if step[2]], sparse_threshold=0)


def _number_columns(encoder: ColumnTransformer, names: list[str]) -> list[dict[str, Any]]:
    if not names:
        return []
    imputer = encoder.named_transformers_["numbers"]
    numbers = [
        {"column": name, "kind": "number", "missing": float(median)}
        for name, median in zip(names, imputer.statistics_, strict=True)
    ]
    indicators = [{"column": names[k], "kind": "missing"} for k in imputer.indicator_.features_]
    return numbers + indicators


def _text_columns(encoder: ColumnTransformer, names: list[str]) -> list[dict[str, Any]]:
    if not names:
        return []
    one_hot = encoder.named_transformers_["texts"]
    columns: list[dict[str, Any]] = []
    for name, texts, rare in zip(
        names, one_hot.categories_, one_hot.infrequent_categories_, strict=True
    ):
        others = set() if rare is None else set(rare)
        kept = [str(text) for text in texts if text not in others]
        entries: list[dict[str, Any]] = [
            {"column": name, "kind": "text", "text": text} for text in kept
        ]
        if others:
            entries.append({"column": name, "kind": "other text", "texts": kept})
        columns += entries[1:] if len(entries) == 2 else entries  # one says what the other does
    return columns


def _notes(table: Table, columns: list[dict[str, Any]]) -> dict[str, str]:
    notes = {}
    counts = table.features.isna().sum(axis=0)
    lacking = [f"{count:,} of {quoted(name)}" for name, count in counts.items() if count]
    if lacking:
        notes["missing values"] = (
            f"{listed(lacking)}: the median of the training rows in their place, and a feature "
            "that is 1 where it is"
        )
    texts: dict[str, str] = {}
    for name, cells in table.features.items():
        if cells.dtype == np.float64:
            continue
        entries = [column for column in columns if column["column"] == name]
        rest = any(column["kind"] == "other text" for column in entries)
        missing = int((cells == "").sum())
        shares = [f"{cells[cells != ''].nunique()} texts"]
        shares += [f"{missing:,} missing as one more"] if missing else []
        shares += ["rare ones taken together"] if rest else []
        texts[name] = f"{quoted(name)} ({', '.join(shares)})"
    if texts:
        notes["categories"] = f"{listed(texts.values())}: one feature a text"
    return notes
