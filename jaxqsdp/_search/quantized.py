"""Output weights that are integers times a scale, for any loss.

fitted α ─► squared model at its predictions ─► integers ─► for another loss, polished with that
"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy  # imports `scipy.optimize` where that is used first, which takes long
from numpy.typing import NDArray

from .integers import Quadratic
from .target import Points, Target

_FIT = 1e-8  # relative gap of the fit that the dual point comes from
_WIDTHS = 2.0 ** np.arange(0, 6)  # of what rounding α makes of predictions
_LEAST_GAIN = 1e-9  # of the objective
_ENTRIES = 2e8  # losses of samples that polishing evaluates, from each of ...
_FACTORS = 0.5, 2.0  # within which a scale is improved
_POLISHED = 4  # ... so many starts

Columns = NDArray[np.float64]
Vector = NDArray[np.float64]


def best_integers(
    target: Target, columns: Columns, alpha: Points, most: int
) -> tuple[Points, NDArray[np.float64]]:
    """Return integers like α, up to `most`, and the scale, or one for each of coupled outputs.

    α is to be the best for these columns.
    """
    if len(alpha) == 0:
        return alpha, np.zeros(alpha.shape[1:])
    grams, targets = _model(target, columns, alpha, most)
    betas, alphas = np.atleast_1d(target.beta), np.atleast_2d(alpha.T)
    found = [
        Quadratic(gram, linear, float(beta)).search(each, most)
        for gram, linear, beta, each in zip(grams, targets, betas, alphas, strict=True)
    ]
    fits = [best for best, *_ in found]
    integers, scale = np.stack([fit.integers for fit in fits]).T, [fit.scale for fit in fits]
    if alpha.ndim == 2:
        return integers, _rescaled(target, columns, integers, np.array(scale))
    if target.loss.is_quadratic:
        return integers[:, 0], np.array(scale[0])
    polished = [
        _polished(target, columns, fit.integers, fit.scale, most) for fit in found[0][:_POLISHED]
    ]
    return min(polished, key=lambda each: target.objective(columns, each[0] * each[1]))


def _model(
    target: Target, columns: Columns, alpha: Points, most: int
) -> tuple[list[NDArray[np.float64]], list[Vector]]:
    """Return H and Hα + Φᵀλ of each output: a squared loss, of which α is the minimizer, too.

    H = Φᵀ diag(ω) Φ, and λ is dual to α. ω is the largest of w (φ'(ŷ + h) − φ'(ŷ − h))/2h over some
    h, beginning with what rounding α makes of ŷ, so that a kink as close as that counts.
    """
    loss, y = target.loss, target.y
    predictions = target.shifted(columns @ alpha)
    if loss.is_quadratic:
        dual, omega = y - predictions, np.ones_like(predictions)
    else:
        start = loss.dual_at(predictions, y, target.weight)
        dual = target.restricted(columns, start, _FIT).dual
        step = np.abs(alpha).max(axis=0, initial=0) / most
        width = step / np.sqrt(12) * np.sqrt(np.sum(np.square(columns), axis=1, keepdims=True))
        width = width if alpha.ndim == 2 else width[:, 0]
        omega = _curvature(target, predictions, np.maximum(width, np.finfo(np.float64).tiny))
    omegas, duals = np.atleast_2d(omega.T), np.atleast_2d(dual.T)
    grams = [columns.T @ (each[:, None] * columns) for each in omegas]
    parts = zip(grams, np.atleast_2d(alpha.T), duals, strict=True)
    return grams, [gram @ each + columns.T @ one for gram, each, one in parts]


def _curvature(target: Target, predictions: Points, width: Points) -> Points:
    loss: Any = target.loss
    counted = target.weight > 0
    y = np.where(counted if target.y.ndim == 1 else counted[:, None], target.y, 1.0)
    found = np.zeros_like(predictions)
    for along in np.eye(y.shape[1]) if y.ndim == 2 else [np.ones(())]:
        for factor in _WIDTHS:
            step = factor * width * along
            rise = loss.slope(predictions + step, y) - loss.slope(predictions - step, y)
            found = np.maximum(found, along * rise / (2 * factor * width))
    return found * (target.weight if y.ndim == 1 else target.weight[:, None])


def _rescaled(
    target: Target, columns: Columns, integers: Points, scale: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Return the scales times the one factor that is best for the loss."""
    alpha = integers * scale
    price = float(np.sum(target.beta * np.abs(alpha).sum(axis=0)))
    if target.has_intercept:
        return _rescaled_about(target, columns @ alpha, scale, price)
    factor: Any = target.loss.best_on_primal_ray(columns @ alpha, target.y, target.weight, price)
    return scale * float(factor)


def _rescaled_about(
    target: Target, predictions: Points, scale: NDArray[np.float64], price: float
) -> NDArray[np.float64]:
    """Return the scales times the best factor, the intercept being the best one for each."""
    loss: Any = target.loss

    def objective(factor: float) -> float:
        found = target.shifted(factor * predictions)
        return float(loss(found, target.y, target.weight)) + factor * price

    found = scipy.optimize.minimize_scalar(objective, bounds=_FACTORS, method="bounded")
    return scale * (found.x if found.fun < objective(1.0) else 1.0)


def _polished(
    target: Target, columns: Columns, z: Vector, scale: float, most: int
) -> tuple[Vector, NDArray[np.float64]]:
    """Change one integer by one, or two, the best first, as long as that helps, and the scale."""
    counted = target.weight > 0
    columns, y, weight = columns[counted], target.y[counted], target.weight[counted]
    loss: Any = target.loss
    some = Target(y, weight, target.beta, loss, target.has_intercept)
    level = target.shifted(scale * columns @ z) - scale * columns @ z  # stays as it is
    spent, best = 0.0, (np.inf, z, np.array(scale))

    def costs(predictions: NDArray[np.float64], z: NDArray[np.float64]) -> Vector:
        """Return the objectives of predictions (k, n) and integers (k, m)."""
        losses = loss.value(predictions, np.broadcast_to(y, predictions.shape)) @ weight
        price = scale * target.beta * np.abs(z).sum(axis=1)
        return np.where(np.abs(z).max(axis=1) <= most, losses + price, np.inf)

    while True:
        scale = float(_rescaled(some, columns, z, np.array(scale)))
        moves = np.concatenate([np.eye(len(z)), -np.eye(len(z))])
        images = scale * moves @ columns.T
        value = costs((level + scale * columns @ z)[None], z[None])[0]
        if not value < best[0] * (1 - _LEAST_GAIN):
            return best[1], best[2]
        best = value, z, np.array(scale)
        while spent < _ENTRIES:
            base = level + scale * columns @ z
            alone = costs(base + images, z + moves)
            spent += images.size
            order = np.argsort(alone, kind="stable")
            if alone[order[0]] < value * (1 - _LEAST_GAIN):
                z, value = z + moves[order[0]], alone[order[0]]
                continue
            found = None
            for first in order:  # pairs with the least harmful move first
                block = costs(base + images[first] + images, z + moves[first] + moves)
                spent += images.size
                second = int(np.argmin(block))
                if block[second] < value * (1 - _LEAST_GAIN):
                    found = z + moves[first] + moves[second], block[second]
                    break
                if spent > _ENTRIES:
                    break
            if found is None:
                break
            z, value = found
