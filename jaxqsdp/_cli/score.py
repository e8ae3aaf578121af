"""Scores of predictions, and the float model a user would try first."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._loss.base import AbstractLoss
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


def probabilities(loss: AbstractLoss, scores: Any) -> NDArray:
    """Return the probabilities (n, c) of the classes; those of one column each made to add up."""
    positive = np.asarray(loss.predict_proba(scores))
    if positive.ndim == 1:
        return np.stack([1 - positive, positive], axis=1)
    positive = np.maximum(positive, np.finfo(positive.dtype).tiny)
    return positive / positive.sum(axis=1, keepdims=True)


def log_loss(probabilities: NDArray, labels: NDArray) -> float:
    """Return the mean of −log of the probability of the right class, kept above 0 by rounding."""
    from sklearn.metrics import log_loss

    classes = np.arange(probabilities.shape[1])
    return float(log_loss(labels, probabilities, labels=classes))


def labels_of(targets: NDArray) -> NDArray[np.intp]:
    """Return the positions of the classes."""
    return (targets.argmax(1) if targets.ndim == 2 else targets > 0).astype(np.intp)


def baseline(
    data: Split, classes: tuple[str, ...]
) -> tuple[str, dict[str, float], dict[str, float] | None]:
    """Return name, scores and log-losses, in training and test, of logistic or ridge regression.

    A regression has no log-losses.
    """
    from sklearn.linear_model import LogisticRegression, Ridge

    name, model = "ridge regression", Ridge()
    if classes:
        name, model = "logistic regression", LogisticRegression(max_iter=5000)
    parts: dict[str, tuple[NDArray, NDArray]]
    parts = {"train": (data.train_X, data.train_y), "test": (data.test_X, data.test_y)}
    if classes:
        parts = {part: (X, labels_of(y)) for part, (X, y) in parts.items()}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of slow convergence
        model.fit(*parts["train"])
    if not classes:
        return name, {part: score(model.predict(X), y, ()) for part, (X, y) in parts.items()}, None
    return (
        name,
        {part: float(model.score(X, y)) for part, (X, y) in parts.items()},
        {part: log_loss(model.predict_proba(X), y) for part, (X, y) in parts.items()},
    )
