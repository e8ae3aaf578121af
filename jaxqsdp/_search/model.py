"""A squared loss in place of another one: what descents and local search work on.

About predictions ŷ the loss φ is replaced by ½ω(z − ŷ + φ'/ω)², whose slope at ŷ is that of φ. Its
curvature ω is the largest of (φ'(ŷ + h) − φ'(ŷ − h))/2h over some h, so that z may go far: where φ
is linear on both sides of a kink at distance r, that is its jump over 2r, the weight of iteratively
reweighted least squares. Outputs share their neurons, and so a sample has one ω, the largest. Where
the loss couples outputs h goes along one of them at a time: a shift of all may leave φ as it is.

Source: Hunter & Lange, *A tutorial on MM algorithms* (2004).
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np
from numpy.typing import NDArray

from .._loss.squared import SquaredLoss
from .._network.network import QuantizedNetwork
from .._problem.host_core import HostCore
from .._problem.problem import Problem
from .._relaxation.solution import Solution

_WIDTHS = 2.0 ** np.arange(-4, 4)  # of the root mean square of predictions and targets


def quadratic_model(core: HostCore, predictions: NDArray[np.float64]) -> HostCore:
    """Return a problem with a squared loss that is close to that of the core at predictions (n, c).

    Predictions are in the units of the core, and so is α. A squared loss is its own model.
    """
    if core.loss.is_quadratic:
        return core
    loss: Any = core.loss
    counted = core.weight > 0
    size = np.sqrt(np.mean(np.square(predictions[counted])) + np.mean(np.square(core.y[counted])))
    # Targets of samples that do not count may be none of the loss.
    y = np.where(counted[:, None], core.y, 1.0)
    curvature = np.zeros_like(predictions)
    for width in _WIDTHS * (size if size > 0 else 1.0):
        for along in np.eye(y.shape[1]) if loss.couples_outputs else np.ones((1, y.shape[1])):
            there, back = (loss.slope(predictions + end * along, y) for end in (width, -width))
            curvature = np.maximum(curvature, along * (there - back) / (2 * width))
    omega = np.where(counted, curvature.max(axis=1), 0.0)[:, None]
    step = np.divide(loss.slope(predictions, y), omega, where=omega > 0, out=np.zeros_like(y))
    root = np.sqrt(core.weight[:, None] * omega)
    return dataclasses.replace(
        core,
        X=np.sqrt(root) * core.X,
        corner=None if core.corner is None else root[:, 0] * core.corner,
        y=root * (predictions - step),
        weight=np.ones(len(root)),
        loss=SquaredLoss(),
        root=root[:, 0],
        shift=None if core.shift is None else root[:, 0],
    ).centered()


def relaxed_predictions(problem: Problem, solution: Solution) -> NDArray[np.float64]:
    """Return what the relaxation predicts, xᵀZx, (n, c); zero where it has no solution."""
    map, k = problem.activation.lifted(_counted(problem)), problem.num_lifted
    forms: Any = np.asarray(solution.quadratic_form, np.float64).reshape(-1, k, k)
    found: Any = map.outputs(forms)
    if solution.intercept is not None:
        found = found + np.asarray(solution.intercept, np.float64).reshape(1, -1)
    return np.where(np.isfinite(found), found, 0)


def predictions(problem: Problem, network: QuantizedNetwork) -> NDArray[np.float64]:
    """Return what a network predicts, (n, c)."""
    host = jax.tree.map(np.asarray, network)
    neurons = problem.activation.neurons(_counted(problem), *host.vectors(np.float64))
    found = neurons @ np.asarray(host.alpha_columns, np.float64)
    if host.intercept is None:
        return found
    return found + np.asarray(host.intercept, np.float64).reshape(1, -1)


def _counted(problem: Problem) -> Any:
    """Return the samples, zero in place of those that do not count and may overflow."""
    counted = np.asarray(problem.weight) > 0
    return np.where(counted[:, None], np.asarray(problem.X, np.float64), 0)
