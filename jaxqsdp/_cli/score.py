"""Scores of predictions, and the float model a user would try first."""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray

from .prepare import Split


def score(predictions: NDArray, targets: NDArray, classes: tuple[str, ...]) -> float:
    """Return the accuracy for classes, R² for a regression: NaN if all targets are the same."""
    if targets.ndim == 2:
        return float(np.mean(predictions.argmax(1) == targets.argmax(1)))
    if classes:
        return float(np.mean((predictions >= 0) == (targets > 0)))
    if np.ptp(targets) == 0:
        return float("nan")
    with np.errstate(over="ignore"):
        errors = np.sum((predictions - targets) ** 2)
        return float(1 - errors / np.sum((targets - targets.mean()) ** 2))


def baseline(data: Split, classes: tuple[str, ...]) -> tuple[str, float, float]:
    """Return name, train score and test score of logistic or ridge regression."""
    from sklearn.linear_model import LogisticRegression, Ridge

    if classes:
        name, model = "logistic regression", LogisticRegression(max_iter=5000)
        train, test = (_labels(targets) for targets in (data.train_y, data.test_y))
    else:
        name, model = "ridge regression", Ridge()
        train, test = data.train_y, data.test_y
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of slow convergence
        model.fit(data.train_X, train)
    if classes:
        return name, float(model.score(data.train_X, train)), float(model.score(data.test_X, test))
    return (
        name,
        score(model.predict(data.train_X), train, classes),
        score(model.predict(data.test_X), test, classes),
    )


def _labels(targets: NDArray) -> NDArray:
    return targets.argmax(1) if targets.ndim == 2 else targets > 0
