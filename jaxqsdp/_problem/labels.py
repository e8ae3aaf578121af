"""Targets that are labels of classes, which squared loss would take for numbers."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import numpy as np

from .._base.types import is_concrete

_MOST_CLASSES = 10
_EACH = 4  # samples of a class, on average, or the numbers are not taken for labels

_REMEDY = (
    "code two classes as ±1, `np.where(y == positive, 1.0, -1.0)`, and more of them as one such "
    "column each, shape (n, c), or pass `loss=SoftmaxLoss()`"
)


def check_labels(y: Any) -> None:
    """Raise `TypeError` for text and truth values; warn of integers 0, 1, … that look like labels.

    Squared loss fits numbers: with classes 0, 1, 2 the second would lie between the others. What is
    floating-point is meant as numbers, so converting y silences the warning.
    """
    array = _array_of(y)
    if array is None:
        return
    if array.dtype.kind in "USTO" and any(isinstance(item, str | bytes) for item in array.flat):
        raise TypeError(f"`y` holds text; {_REMEDY}.")
    if array.dtype.kind == "b":
        raise TypeError(
            f"`y` holds truth values; {_REMEDY}, or pass `y.astype(float)` if 0 and 1 are meant."
        )
    if array.dtype.kind in "iu" and _look_like_labels(array):
        warnings.warn(
            f"`y` holds integers from 0 to {int(array.max())}, fitted as numbers. If they are "
            f"labels of classes, {_REMEDY}; if not, pass `y.astype(float)`.",
            UserWarning,
            stacklevel=5,  # past the metaclass: where the problem is made
        )


def _array_of(y: Any) -> np.ndarray | None:
    if not is_concrete(y):
        return None
    if isinstance(y, jax.Array):
        return np.asarray(y) if y.is_fully_addressable else None
    try:
        return np.asarray(y)
    except (TypeError, ValueError):  # said where it is converted
        return None


def _look_like_labels(array: np.ndarray) -> bool:
    if array.ndim != 1 or array.size == 0 or array.min() != 0 or array.max() >= _MOST_CLASSES:
        return False
    classes = len(np.unique(array))
    return 2 <= classes == array.max() + 1 and _EACH * classes <= array.size
