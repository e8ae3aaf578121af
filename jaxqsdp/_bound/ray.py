"""The best point on the ray of a dual point, rounded down: the last step of every bound."""

from __future__ import annotations

from typing import Any

from .._base.types import Scalar, epsilon, namespace, tiny


def best_below(linear: Any, quadratic: Any, beta: Any, budget: Any) -> Scalar:
    """Return c·`linear` − ½c²·`quadratic` at c = clip(linear/quadratic, 0, β/budget), rounded down.

    For the squared loss: `linear` is at most λᵀy, `quadratic` at least Σ λ²/w, and `budget` at
    least what is to stay below β. Any c within the limits gives a bound; this is the best. A bound
    below zero, or none at all, becomes 0, which the loss and the penalty never fall below.
    """
    xp = namespace(linear)  # the others may be plain numbers
    eps, least = epsilon(linear.dtype), tiny(linear.dtype)
    unconstrained = xp.where(quadratic > 0, linear / xp.where(quadratic > 0, quadratic, 1), 0)
    limit = xp.where(budget > 0, beta / xp.where(budget > 0, budget, 1), xp.inf)
    c = xp.clip(unconstrained, 0, limit * (1 - 4 * eps))
    gain, loss = c * linear, 0.5 * (c * (c * quadratic)) + least
    bound = (gain - loss) - 8 * eps * (gain + loss)
    return xp.where(xp.isfinite(bound), xp.maximum(bound, 0), 0)
