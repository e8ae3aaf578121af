"""What a dual point costs whose sum is not zero: of λ as rounded, with an intercept in the network.

An intercept μ has no penalty, so that 1ᵀλ = 0 in the dual; else a bound falls by 1ᵀλ·μ at the
optimum. Between what numbers that μ lies follows from other dual points, of one sign: with λ' ≥ 0
feasible and s' = 1ᵀλ', every network no worse than a constant μ₀ satisfies ℓ(μ₀) ≥ D(λ') − s'μ.
"""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from .._base.types import Scalar, across, across_outputs, epsilon, namespace, tiny
from .._exact.sums import inner, over_blocks, to_digits
from .._loss.base import AbstractLoss

_ROOM = 32  # units in the last place, for what a few operations round


def intercept_cost(
    X: Float[Array, "n d"],
    y: Float[Array, "n ..."],
    weight: Float[Array, " n"],
    beta: Float[Array, "*c"],
    dual: Float[Array, "n ..."],
    loss: AbstractLoss,
    mask: Float[Array, "d d"] | None,
) -> Scalar:
    """Return at least what 1ᵀλ·μ can be at the optimum, for λ and for all c·λ, c times that.

    Data are of moderate scale, samples that do not count zero. Infinite where nothing is known, and
    no number where λ has none.
    """
    xp, eps = namespace(X, y, weight, beta, dual), epsilon(X.dtype)
    sums, error = over_blocks(_sums, dual.reshape(len(dual), -1))
    low, high = sums[0] - error[0], sums[0] + error[0]
    constant = loss.best_intercept(xp.zeros_like(y), y, weight)
    constant = xp.where(xp.isfinite(constant), constant, 0)
    predictions = xp.zeros_like(y) + across_outputs(constant, y)
    above = across(weight, weight) * loss.value_above(predictions, predictions, y)
    above = xp.where(weight > 0, above, 0)
    nothing = xp.sum(above) * (1 + (len(y) + _ROOM) * eps) + (len(y) + 1) * tiny(X.dtype)
    if loss.couples_outputs:
        used = xp.any(dual != 0, axis=0)  # not so for classes that do not occur
        reach = _reach_of_classes(X, y, weight, beta, mask, nothing, used)
        total = xp.sum(xp.where(used, xp.maximum(xp.abs(low), xp.abs(high)), 0))
        return _product(total, reach) * (1 + _ROOM * eps)
    least, most = (
        -sign * _reach(X, y, weight, beta, loss, mask, nothing, sign) for sign in (1, -1)
    )
    corners = [_product(total, end) for total in (low[0], high[0]) for end in (least, most)]
    cost = xp.max(xp.stack(corners))
    return cost + _ROOM * eps * xp.abs(cost)


def _sums(columns: Array) -> tuple[Array, Array]:
    ones = namespace(columns).ones_like(columns[:, :1])
    return inner(to_digits(ones), to_digits(columns))


def _product(total: Scalar, reach: Scalar) -> Scalar:
    """Return total·reach, 0 where the total is."""
    xp = namespace(total, reach)
    return xp.where(total == 0, 0, total * xp.where(total == 0, 1, reach))


def _reach(
    X: Array,
    y: Array,
    weight: Array,
    beta: Array,
    loss: AbstractLoss,
    mask: Any,
    nothing: Any,
    sign: int,
) -> Scalar:
    """Return a number that −sign·μ is at most, from λ' of this sign."""
    xp, eps, counted = namespace(X, y, weight), epsilon(X.dtype), weight > 0
    low, high = loss.interval(y)
    room = xp.maximum(high if sign > 0 else -low, 0)
    unit = xp.where(counted, xp.minimum(room, 1), 0)
    scale = _feasible(X, weight * unit, beta, mask)
    unit = sign * scale * unit
    above = weight * xp.where(counted, loss.conjugate_above(unit, unit, y), 0)
    rounding = (len(y) + _ROOM) * eps
    fall = nothing + xp.sum(above) + rounding * (nothing + xp.sum(xp.abs(above)))
    total = xp.sum(weight * xp.abs(unit))
    known = (total > 0) & xp.isfinite(fall)
    reach = fall / xp.where(known, total, 1)
    reach = reach + 2 * rounding * xp.abs(reach)  # of the sum, too
    return xp.where(known, reach, xp.inf)


def _reach_of_classes(
    X: Array, y: Array, weight: Array, beta: Array, mask: Any, nothing: Any, used: Array
) -> Scalar:
    """Return at least how far intercepts of two classes that occur can be apart.

    With λ' = w/2 for a class k and −w/2 for another one, on the samples of the class: their
    probabilities are ½ or 0, so that D(λ') ≥ 0.
    """
    xp, eps = namespace(X, y, weight), epsilon(X.dtype)
    reach = xp.zeros((), X.dtype)
    for output in range(y.shape[1]):
        half = weight * y[:, output] / 2
        total = xp.sum(half) * (1 - (len(y) + _ROOM) * eps) * _feasible(X, half, xp.min(beta), mask)
        far = xp.where(total > 0, nothing / xp.where(total > 0, total, 1), xp.inf)
        reach = xp.maximum(reach, xp.where(used[output], far, 0))
    return reach


def _feasible(X: Array, dual: Array, beta: Array, mask: Any) -> Scalar:
    """Return a c ≤ 1 with which c·λ' ≥ 0, of either sign, satisfies the dual's constraints.

    p_k = Σ_l |G_kl| makes Diag(p) ± G diagonally dominant.
    """
    xp, eps, (n, d) = namespace(X, dual), epsilon(X.dtype), X.shape
    gram, sizes = X.T @ (dual[:, None] * X), xp.abs(X)
    if mask is None:
        mass = xp.sum(dual * xp.square(xp.sum(sizes, axis=1)))
    else:
        gram, total = mask * gram, xp.sum((sizes @ xp.abs(mask)) * sizes, axis=1)
        mass = xp.sum(dual * total)
    rounding = (2 * n + 4 * d + _ROOM) * eps * mass + d * d * (n + 4) * tiny(X.dtype)
    budget = xp.sum(xp.abs(gram)) * (1 + (d * d + _ROOM) * eps) + rounding
    fits = xp.isfinite(budget) & (budget > 0)
    return xp.where(fits, xp.minimum(beta / xp.where(fits, budget, 1) * (1 - _ROOM * eps), 1), 0)
