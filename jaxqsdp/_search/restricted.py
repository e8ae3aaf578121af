"""The best output weights for some hundred or thousand neurons, and the dual point beside them.

    min_α ½‖Φα − y‖² + β‖α‖₁  =  max_λ λᵀy − ½‖λ‖²  s.t.  |Φᵀλ| ≤ β

by a primal–dual interior-point method on the host, in NumPy's float64. Column generation stops it
early: a dual point well inside the constraints is a better guide to new neurons than a vertex.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import scipy  # imports `scipy.optimize` where that is used first, which takes long
from numpy.typing import NDArray
from scipy import linalg

_MAX_STEPS = 100
_LEAST_PENALTY = np.finfo(np.float64).eps ** 4
_TO_BOUNDARY = 0.99
_START_INSIDE = 0.95  # of the way to the constraints at most
_LEAST_STEP = 1e-10
_EXACT = 1e-10  # relative gap from which the entries that are not zero stand out
_NEGLIGIBLE = 1e-9  # of ‖y‖: what a neuron that is dropped contributes at most
_DEPENDENT = 1e-8  # columns
_FEASIBLE = 1 + 1e-7  # |Φᵀr| / β at most

Vector = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Restricted:
    """A primal and a dual point: `value` − `bound` is at least the distance to the optimum."""

    alpha: Vector  # (m,) or, of outputs together, (m, c); no exact zeros
    dual: Vector  # (k,) or (k, c), |Φᵀλ| < β
    value: float
    bound: float

    def at(self, change: Callable[[Vector], Vector]) -> Restricted:
        """Return it with other weights."""
        return dataclasses.replace(self, alpha=change(self.alpha))


def solve_restricted(
    columns: NDArray[np.float64], y: Vector, beta: float, start: Vector, tol: float
) -> Restricted:
    """Solve for the columns (k, m) given to a relative gap, from a dual point.

    The multipliers a± ≥ 0 of |Φᵀλ| ≤ β are the two parts of α = a₊ − a₋. Slacks follow from λ, so
    the dual point is always feasible; y − Φα = λ holds at the end. Penalties at which 1/β² would
    overflow are raised, as `_representable` says.
    """
    beta = _representable(columns, y, beta)
    k, m = columns.shape
    if m == 0:
        loss = 0.5 * float(y @ y)
        return Restricted(np.zeros(0), y, loss, loss)
    if m < k:  # what the columns do not reach stays in λ
        left, columns = np.linalg.qr(columns)
        inside = left.T @ y
        outside = y - left @ inside
        reduced = solve_restricted(columns, inside, beta, left.T @ start, tol)
        rest = 0.5 * float(outside @ outside)
        return Restricted(
            reduced.alpha,
            left @ reduced.dual + outside,
            reduced.value + rest,
            reduced.bound + rest,
        )
    correlation = start @ columns
    most = np.abs(correlation).max(initial=0)
    factor = min(1.0, _START_INSIDE * beta / most) if most > 0 else 1.0
    dual, correlation = factor * start, factor * correlation
    slack = np.stack([beta - correlation, beta + correlation])
    parts = 0.05 * (y @ y) / (2 * m) / slack
    for _ in range(_MAX_STEPS):
        alpha = parts[0] - parts[1]
        residual = y - columns @ alpha
        value = 0.5 * residual @ residual + beta * np.abs(alpha).sum()
        bound = dual @ y - 0.5 * dual @ dual
        if value - bound <= tol * value:
            break
        try:
            direction = _newton(columns, slack, parts, residual - dual)
        except np.linalg.LinAlgError:
            break  # where float64 stops
        mu = np.mean(parts * slack)
        _, slack_step, parts_step = direction(-parts * slack)
        length = min(1.0, _longest(slack, slack_step), _longest(parts, parts_step))
        after = np.mean((parts + length * parts_step) * (slack + length * slack_step))
        target = mu * (after / mu) ** 3
        step, slack_step, parts_step = direction(target - parts * slack - parts_step * slack_step)
        longest = min(_longest(slack, slack_step), _longest(parts, parts_step))
        length = min(1.0, _TO_BOUNDARY * longest)
        moved = dual + length * step, parts + length * parts_step
        correlation = moved[0] @ columns
        slack = np.stack([beta - correlation, beta + correlation])
        if not (length > _LEAST_STEP and slack.min() > 0 and moved[1].min() > 0):
            break
        dual, parts = moved
    return Restricted(alpha, dual, float(value), float(bound))


def _representable(columns: NDArray[np.float64], y: Vector, beta: float) -> float:
    """Raise a penalty to 1e-63 of the one that leaves no α, which moves the optimum by 1e-63 ‖y‖².

    That is far below the rounding errors of the loss, whatever β.
    """
    return max(beta, _LEAST_PENALTY * float(np.abs(y @ columns).max(initial=0)))


def _newton(
    columns: NDArray[np.float64], slack: Vector, parts: Vector, misfit: Vector
) -> Callable[[Vector], tuple[Vector, Vector, Vector]]:
    """Return the map from changes asked of parts·slack to changes of λ, slacks and parts."""
    scaled = columns * np.sqrt((parts / slack).sum(axis=0))
    factor = linalg.cho_factor(np.eye(len(scaled)) + scaled @ scaled.T, check_finite=False)

    def direction(asked: Vector) -> tuple[Vector, Vector, Vector]:
        pull = asked / slack
        step = linalg.cho_solve(factor, misfit - columns @ (pull[0] - pull[1]), check_finite=False)
        along = step @ columns
        slack_step = np.stack([-along, along])
        return step, slack_step, pull - parts * slack_step / slack

    return direction


def _longest(x: Vector, step: Vector) -> float:
    """Return the step length at which an entry of x reaches zero."""
    falling = step < 0
    return float(np.min(-x[falling] / step[falling], initial=np.inf))


def basic_weights(columns: NDArray[np.float64], alpha: Vector) -> Vector:
    """Return output weights with the same predictions and penalty, at most k + 1 not zero.

    They exist by Carathéodory's theorem; an active-set method finds them. Where that does not end,
    the given ones are returned.
    """
    if columns.size == 0:  # of which SciPy's method frees memory twice
        return alpha
    signs = np.sign(alpha)
    size = np.sqrt(np.mean(np.square(columns)) * len(columns))
    signed = np.vstack([columns * signs, np.full(len(alpha), size)])
    try:
        weights, _ = scipy.optimize.nnls(signed, signed @ np.abs(alpha), maxiter=10 * len(alpha))
    except RuntimeError:  # too many changes of the active set
        return alpha
    return signs * weights


def best_weights(columns: NDArray[np.float64], y: Vector, beta: float) -> Vector:
    """Return the α that minimizes ½‖Φα − y‖² + β‖α‖₁, zero where the minimizer is.

    An interior point shows which entries are not zero, and those are solved for; where columns
    depend on each other the minimizer is not unique, and one with few entries is chosen. If its
    signs are not those of a minimizer, as next to ties, small entries become zero instead.
    """
    alpha = np.zeros(columns.shape[1])
    if not np.abs(y @ columns).max(initial=0) > beta:
        return alpha
    beta = _representable(columns, y, beta)
    size = np.linalg.norm(columns, axis=0)
    some = columns[:, size > 0]
    fitted = solve_restricted(some, y, beta, y, _EXACT)
    reach = np.abs(fitted.alpha) * size[size > 0] / np.linalg.norm(y)
    slack = 1 - np.abs(fitted.dual @ some) / beta
    weights = np.where(reach > slack, fitted.alpha, 0)
    polished = _polished(some, y, beta, np.sign(weights))
    if polished is None:
        weights = np.where(reach > _NEGLIGIBLE, fitted.alpha, 0)
        used = np.flatnonzero(weights)
        weights[used] = basic_weights(some[:, used], weights[used])
        polished = _polished(some, y, beta, np.sign(weights))
    alpha[size > 0] = weights if polished is None else polished
    return alpha


def _polished(columns: NDArray[np.float64], y: Vector, beta: float, signs: Vector) -> Vector | None:
    """Return the weights that are optimal if they have these signs, and None if they have not."""
    used = np.flatnonzero(signs)
    some = columns[:, used]
    # Φᵀ(y − Φα) = β·sign(α) through an orthogonal factor: the Gram matrix would square the errors.
    left, upper = np.linalg.qr(some)
    diagonal = np.abs(np.diagonal(upper))
    if len(used) > len(y) or diagonal.min(initial=np.inf) <= _DEPENDENT * diagonal.max(initial=0):
        return None
    pull = linalg.solve_triangular(upper, signs[used], trans="T", check_finite=False)
    weights = linalg.solve_triangular(upper, left.T @ y - beta * pull, check_finite=False)
    residual = y - some @ weights
    if np.any(weights * signs[used] < 0) or np.abs(residual @ columns).max() > beta * _FEASIBLE:
        return None
    alpha = np.zeros(columns.shape[1])
    alpha[used] = weights
    return alpha
