"""From a table to what the network sees: split, encoded, standardized, and how to do it again."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._loss.base import AbstractLoss
from .._loss.squared import SQUARED
from .._problem.features import with_constant
from .encode import encode
from .errors import DataError, quoted
from .table import Table


@dataclass(frozen=True)
class Split:
    """Training and test data as the network sees them.

    Features are encoded and standardized by the training rows, a constant one is appended. Targets
    are ±1 for two classes, one ±1 column a class for more, and standardized numbers for a
    regression; for a loss that takes classes one column a class, 1 there and 0 elsewhere.

    `units` has what it takes to do the same with other rows, as arrays for the network's file;
    `left_out` the columns that are not used, and why; `notes` what was done to the others.
    """

    train_X: NDArray[np.float64]
    train_y: NDArray[np.float64]
    test_X: NDArray[np.float64]
    test_y: NDArray[np.float64]
    units: dict[str, NDArray]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)

    def with_constant(self, scale: float) -> Split:
        """Return the same data with another constant feature."""
        train_X, test_X = (
            np.asarray(with_constant(X[:, :-1], scale)) for X in (self.train_X, self.test_X)
        )
        units = self.units | {"constant": np.array(scale)}
        return replace(self, train_X=train_X, test_X=test_X, units=units)


def split(table: Table, seed: int, loss: AbstractLoss = SQUARED) -> Split:
    """Hold out 30 % of the rows, in proportion to the classes, and prepare by the others.

    Targets are coded as the loss takes them.

    **Raises:** `DataError` if the training rows have nothing to learn, or too many features.
    """
    train, test = _rows(table, seed)
    targets, target_mean, target_scale = _targets(table, train, loss)
    encoded = encode(table, train)
    scaled, varies, mean, scale = _standardized(encoded.values, train)
    columns = [column for column, kept in zip(encoded.columns, varies, strict=True) if kept]
    used = {column["column"] for column in columns}
    left_out = table.left_out | {
        str(name): "the same in all training rows"
        for name in table.features.columns
        if name not in used
    }
    if not columns:
        raise DataError(f"{table.name}: no column varies in the training rows")
    features = np.asarray(with_constant(scaled))
    units = {
        "mean": mean,
        "scale": scale,
        "constant": features[0, -1],
        "target_mean": np.array(target_mean),
        "target_scale": np.array(target_scale),
        "columns": _as_bytes(columns),
        "classes": _as_bytes(table.classes),
    }
    return Split(
        features[train],
        targets[train],
        features[test],
        targets[test],
        units,
        left_out,
        table.notes | encoded.notes,
    )


def _rows(table: Table, seed: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    from sklearn.model_selection import train_test_split

    rows, classes = len(table.target), len(table.classes)
    train, test = train_test_split(
        np.arange(rows),
        test_size=0.3,
        random_state=seed,
        stratify=table.target if 0 < classes <= 0.3 * rows else None,
    )
    if len(np.unique(table.target[train])) < max(classes, 2):
        raise DataError(
            f"{table.name}: the training rows, 70 % drawn at random, "
            + ("lack a class" if classes else f"all have the target {table.target[train[0]]:g}")
            + "; another --seed may do, more rows will"
        )
    return train, test


def _standardized(
    values: NDArray[np.float64], train: NDArray[np.intp]
) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.float64], NDArray[np.float64]]:
    """Return the columns that vary standardized, which they are, and their mean and scale."""
    from sklearn.preprocessing import StandardScaler

    scaler = StandardScaler().fit(values[train])
    # Where the spread is that of rounding errors, scikit-learn takes 1 for the scale.
    varies = scaler.scale_**2 <= 2 * scaler.var_
    mean, scale = scaler.mean_[varies], scaler.scale_[varies]
    return (values[:, varies] - mean) / scale, varies, mean, scale


def _targets(
    table: Table, train: NDArray[np.intp], loss: AbstractLoss
) -> tuple[NDArray[np.float64], float, float]:
    """Return all targets as the network sees them, and mean and scale of the numbers."""
    labels = table.target
    if table.classes:
        own = labels[:, None] == np.arange(len(table.classes))[None, :]
        if loss.takes_classes:
            return own.astype(np.float64), 0.0, 1.0
        signs = np.where(own, 1.0, -1.0)
        return signs[:, 1] if len(table.classes) == 2 else signs, 0.0, 1.0
    scaled, varies, mean, scale = _standardized(labels[:, None], train)
    if not varies[0]:
        raise DataError(
            f"{table.name}: the target {quoted(table.target_name)} varies by rounding errors only"
        )
    return scaled[:, 0], float(mean[0]), float(scale[0])


def _as_bytes(value: Any) -> NDArray[np.uint8]:
    """Return JSON in UTF-8: texts of any length in an array that needs no pickle."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return np.frombuffer(text.encode("utf-8", "replace"), np.uint8)
