"""The best point on the ray of a dual point, rounded down: the last step of every bound."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Float

from .._base.types import Scalar, across, epsilon, namespace, tiny
from .._exact.sums import inner, over_blocks, to_digits
from .._loss.base import AbstractLoss


def best_below(linear: Any, quadratic: Any, beta: Any, budget: Any) -> Scalar:
    """Return c·`linear` − ½c²·`quadratic` at c = clip(linear/quadratic, 0, β/budget), rounded down.

    For the squared loss: `linear` is at most λᵀy, `quadratic` at least Σ λ²/w, and `budget` at
    least what is to stay below β. Any c within the limits gives a bound; this is the best. A bound
    below zero, or none at all, becomes 0, which the loss and the penalty never fall below.
    """
    xp = namespace(linear)  # the others may be plain numbers
    eps, least = epsilon(linear.dtype), tiny(linear.dtype)
    unconstrained = xp.where(quadratic > 0, linear / xp.where(quadratic > 0, quadratic, 1), 0)
    # A budget that is no number says nothing, and the bound becomes 0.
    limit = xp.where(budget <= 0, xp.inf, beta / xp.where(budget <= 0, 1, budget))
    c = xp.clip(unconstrained, 0, limit * (1 - 4 * eps))
    gain, loss = c * linear, 0.5 * (c * (c * quadratic)) + least
    bound = (gain - loss) - 8 * eps * (gain + loss)
    return xp.where(xp.isfinite(bound), xp.maximum(bound, 0), 0)


def best_below_of(
    loss: AbstractLoss,
    dual: Float[Array, "n ..."],
    y: Float[Array, "n ..."],
    weight: Float[Array, " n"],
    beta: Float[Array, "*c"],
    budget: Float[Array, "*c"],
    cost: Any = None,
    slack: Any = None,
) -> Scalar:
    """Return −Σ w ψ(cλ/w) − c·cost at about the best c that `best_below` describes, rounded down.

    For any loss; c·λ/w is within the intervals, too. It is known to within some roundings, and ψ,
    which is convex, is bounded at both ends of what it may be. Where the loss couples outputs, one
    c is for all of them, and λ is what `clip_dual` makes of it.
    """
    xp = namespace(dual, y, weight)
    eps, least = epsilon(dual.dtype), tiny(dual.dtype)
    limit = xp.min(xp.where(budget <= 0, xp.inf, beta / xp.where(budget <= 0, 1, budget)))
    limit = xp.where(xp.isnan(limit), 0, limit)  # a budget that is no number says nothing
    c = loss.best_factor_on_dual_ray(dual, y, weight, limit) * (1 - 8 * eps)
    counted = weight > 0
    unit = c * dual / across(xp.where(counted, weight, 1), dual)
    spread = 4 * eps * xp.abs(unit) + least * (dual != 0).astype(dual.dtype)
    low, high = loss.interval(y)
    lower, upper = (xp.clip(end, low, high) for end in (unit - spread, unit + spread))
    above = xp.where(counted, loss.conjugate_above(lower, upper, y), 0)
    if slack is not None:  # what targets may be wrong by: −ty is all that ψ has of them
        above = above + (1 + 8 * eps) * (xp.abs(unit) + spread) * slack
    each = weight * above
    each = each + 2 * eps * xp.abs(each) + least * counted.astype(dual.dtype)
    # Sums without rounding, or that of many samples would be worse than all else in float32.
    (total,), (error,) = (part[0] for part in over_blocks(_sum, each))
    bound = -(total + error) - 2 * eps * xp.abs(total)
    if cost is not None:
        fine = c * cost
        bound = bound - fine - 4 * eps * (xp.abs(bound) + xp.abs(fine))
    return xp.where(xp.isfinite(bound), xp.maximum(bound, 0), 0)


def _sum(numbers: Array) -> tuple[Array, Array]:
    ones = namespace(numbers).ones_like(numbers)
    return inner(to_digits(numbers[:, None]), to_digits(ones[:, None]))
