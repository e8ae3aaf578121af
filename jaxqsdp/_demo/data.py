"""Tables of numbers to train on: a shipped data set, or the user's own file."""

from __future__ import annotations

import csv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_MOST_CLASSES = 20


class DataError(ValueError):
    """The data cannot be used; the message is one line for the user."""


@dataclass(frozen=True)
class Table:
    """Raw features (n, p) and targets: class labels, or numbers for a regression."""

    name: str
    features: NDArray[np.float64]
    target: NDArray
    classes: tuple[str, ...]  # empty for a regression
    columns: tuple[str, ...] = ()  # names of the features, if there are

    @property
    def task(self) -> str:
        """What is to be learned, in words."""
        return f"{len(self.classes)} classes" if self.classes else "regression"


@dataclass(frozen=True)
class Split:
    """Training and test data as the network sees them.

    Features are standardized by the training rows, a constant one is appended. Targets are ±1 for
    two classes, one ±1 column a class for more, and standardized numbers for a regression.

    `units` has what it takes to do the same with other rows: mean and scale of features and target,
    names of columns and classes.
    """

    train_X: NDArray[np.float64]
    train_y: NDArray[np.float64]
    test_X: NDArray[np.float64]
    test_y: NDArray[np.float64]
    units: dict[str, NDArray]


def breast_cancer() -> Table:
    """Load scikit-learn's breast-cancer data, 569 × 30, benign against malignant."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    classes, columns = (tuple(map(str, names)) for names in (data.target_names, data.feature_names))
    return Table("breast cancer", data.data, data.target, classes, columns)


def read(path: Path, target: str | None, task: str | None = None) -> Table:
    """Read a CSV file with a header row, or an NPZ file with arrays X and y.

    The task is "classes" or "numbers"; None decides by the values of the target.

    **Raises:** `DataError` in one line: missing file, column or value, wrong shape.
    """
    if path.is_dir():
        raise DataError(f"{path} is a folder; a CSV or NPZ file is needed")
    if not path.is_file():
        raise DataError(f"no such file: {path}")
    try:
        features, labels, columns = (
            _read_npz(path, target) if path.suffix == ".npz" else _read_csv(path, target)
        )
    except UnicodeDecodeError:
        raise DataError(f"{path} is neither a CSV file in UTF-8 nor named *.npz") from None
    except (OSError, csv.Error) as error:
        raise DataError(f"cannot read {path}: {error}") from None
    if not np.all(np.isfinite(features)):
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise DataError(
            f"{path}: missing or infinite value in data row {row + 1}, feature {column + 1}"
        )
    if len(features) < 10:
        raise DataError(
            f"{path}: {len(features)} rows are too few for a train/test split (need 10)"
        )
    return _as_table(path.name, features, labels, columns, task)


_Read = tuple[NDArray, NDArray, tuple[str, ...]]  # features, targets, names of the features


def _read_npz(path: Path, target: str | None) -> _Read:
    wanted = "y" if target is None else target
    try:
        arrays = np.load(path, allow_pickle=False)
        names = ", ".join(arrays.files) or "none"
        for name in ("X", wanted):
            if name not in arrays.files:
                raise DataError(f"{path}: no array named '{name}' (arrays: {names})")
        features, labels = np.asarray(arrays["X"]), np.asarray(arrays[wanted])
        arrays.close()
    except DataError:
        raise
    except (ValueError, AttributeError, EOFError, zipfile.BadZipFile) as error:
        raise DataError(f"cannot read {path} as NPZ: {error}") from None
    try:
        features = features.astype(np.float64)
    except ValueError:
        raise DataError(f"{path}: array 'X' is not numeric") from None
    if features.ndim != 2 or labels.shape != (len(features),):
        raise DataError(
            f"{path}: X must have shape (n, d) and '{wanted}' (n,), got {features.shape} and "
            f"{labels.shape}"
        )
    return features, labels, ()


def _read_csv(path: Path, target: str | None) -> _Read:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = [row for row in csv.reader(file) if row]
    if len(rows) < 2:
        raise DataError(f"{path}: need a header row and at least one row of data")
    header, rows = [name.strip() for name in rows[0]], rows[1:]
    _check_header(path, header)
    wanted = header[-1] if target is None else target
    if wanted not in header:
        raise DataError(f"{path}: no column named '{wanted}' (columns: {', '.join(header)})")
    for number, row in enumerate(rows, start=2):
        if len(row) != len(header):
            raise DataError(
                f"{path}: line {number} has {len(row)} fields, the header has {len(header)}"
            )
    position = header.index(wanted)
    features = np.empty((len(rows), len(header) - 1))
    columns = [k for k in range(len(header)) if k != position]
    for number, row in enumerate(rows):
        for place, k in enumerate(columns):
            try:
                features[number, place] = float(row[k])
            except ValueError:
                raise DataError(
                    f"{path}: column '{header[k]}' holds '{row[k].strip()}' in line {number + 2}, "
                    "which is not a number; encode or drop that column"
                ) from None
    labels = [row[position].strip() for row in rows]
    numeric = [_is_number(label) for label in labels]
    for number, label in enumerate(labels):
        if not label:
            raise DataError(f"{path}: line {number + 2} has no target; drop that row")
        if not numeric[number] and 2 * sum(numeric) > len(labels):
            raise DataError(
                f"{path}: the target is '{label}' in line {number + 2}, which is not a number as "
                "most others are; drop that row"
            )
    names = tuple(header[k] for k in columns)
    return features, np.array(labels, np.float64 if all(numeric) else None), names


def _check_header(path: Path, header: list[str]) -> None:
    """Raise unless these are names; numbers may be, if they count the columns."""
    twice = [name for k, name in enumerate(header) if name in header[:k]]
    if twice:
        raise DataError(f"{path}: two columns are named '{twice[0]}'; rename one")
    counted = [[str(k + first) for k in range(len(header))] for first in (0, 1)]
    if all(map(_is_number, header)) and header not in counted:
        raise DataError(f"{path}: the first line holds numbers; put the names of the columns there")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _as_table(
    name: str, features: NDArray, labels: NDArray, columns: tuple[str, ...], task: str | None
) -> Table:
    values, codes = np.unique(labels, return_inverse=True)
    numeric = np.issubdtype(labels.dtype, np.number)
    if numeric and not np.all(np.isfinite(labels)):
        raise DataError(f"{name}: the target has missing or infinite values")
    if len(values) < 2:
        raise DataError(f"{name}: the target has one value only, '{values[0]}'")
    if task is None:
        whole = numeric and np.all(values == np.round(values)) and len(values) <= _MOST_CLASSES
        task = "classes" if whole or not numeric else "numbers"
    if task == "numbers":
        if not numeric:
            raise DataError(f"{name}: the target holds '{values[0]}', which is not a number")
        return Table(name, features, labels.astype(np.float64), (), columns)
    if len(values) > _MOST_CLASSES:
        raise DataError(
            f"{name}: the target has {len(values)} classes, at most {_MOST_CLASSES} work"
        )
    classes = tuple(f"{value:g}" if numeric else str(value) for value in values)
    return Table(name, features, codes, classes, columns)


def split(table: Table, seed: int) -> Split:
    """Hold out 30 % of the rows, in proportion to the classes, and standardize by the others."""
    from sklearn.model_selection import train_test_split

    rows, classes = len(table.target), max(len(table.classes), 1)
    counts = np.unique(table.target, return_counts=True)[1] if table.classes else np.array([rows])
    stratify = bool(table.classes) and counts.min() >= 2 and 0.3 * rows >= classes
    train, test = train_test_split(
        np.arange(rows),
        test_size=0.3,
        random_state=seed,
        stratify=table.target if stratify else None,
    )
    if table.classes and len(np.unique(table.target[train])) < len(table.classes):
        raise DataError(f"{table.name}: a class has too few rows to be split; drop or merge it")
    mean, deviation = table.features[train].mean(0), table.features[train].std(0)
    deviation = np.where(deviation > 0, deviation, 1)

    def features(rows: NDArray) -> NDArray[np.float64]:
        standardized = (table.features[rows] - mean) / deviation
        return np.column_stack([standardized, np.ones(len(rows))])

    center, spread = (0.0, 1.0)
    if not table.classes:
        center, spread = table.target[train].mean(), table.target[train].std()
        spread = spread if spread > 0 else 1.0

    def targets(rows: NDArray) -> NDArray[np.float64]:
        labels = table.target[rows]
        if not table.classes:
            return (labels - center) / spread
        if len(table.classes) == 2:
            return np.where(labels == 1, 1.0, -1.0)
        return np.where(labels[:, None] == np.arange(len(table.classes))[None, :], 1.0, -1.0)

    units = {
        "mean": mean,
        "scale": deviation,
        "target_mean": np.array(center),
        "target_scale": np.array(spread),
        "columns": np.array(table.columns, np.str_),
        "classes": np.array(table.classes, np.str_),
    }
    return Split(features(train), targets(train), features(test), targets(test), units)


def score(predictions: NDArray, targets: NDArray, classes: tuple[str, ...]) -> float:
    """Return the accuracy for classes, R² for a regression."""
    if not classes:
        return float(
            1 - np.sum((predictions - targets) ** 2) / np.sum((targets - targets.mean()) ** 2)
        )
    if targets.ndim == 2:
        return float(np.mean(predictions.argmax(1) == targets.argmax(1)))
    return float(np.mean((predictions >= 0) == (targets > 0)))


def baseline(data: Split, classes: tuple[str, ...]) -> tuple[str, float, float]:
    """Return name, train score and test score of the float model a user would try first."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if not classes:
        model = Ridge().fit(data.train_X, data.train_y)
        return (
            "ridge regression",
            model.score(data.train_X, data.train_y),
            model.score(data.test_X, data.test_y),
        )
    labels = [y.argmax(1) if y.ndim == 2 else y > 0 for y in (data.train_y, data.test_y)]
    model = LogisticRegression(max_iter=5000).fit(data.train_X, labels[0])
    return (
        "logistic regression",
        model.score(data.train_X, labels[0]),
        model.score(data.test_X, labels[1]),
    )
