"""The losses that are quadratic or linear piece by piece, and what they share."""

from __future__ import annotations

from typing import ClassVar

from jaxtyping import Array, Float

from .._base.types import Scalar, epsilon, namespace, tiny
from .._exact.powers import is_subnormal
from .base import AbstractLoss

_ROUNDING = 16  # units in the last place: two differences and two products


class AbstractPiecewiseLoss(AbstractLoss):
    """A loss with ψ(t) = ½κt² − yt on an interval, κ = 1 or 0: the interval is all that differs.

    φ(ŷ) = max t·(y − ŷ) − ½κt² over the interval, attained at the end of the interval next to
    y − ŷ if κ = 1, and at the end on its side if κ = 0; at the kink ŷ = y, where any t does, 0 is
    taken.
    """

    bend: ClassVar[int] = 1  # κ

    def _attained(self, predictions: Array, targets: Array) -> tuple[Array, Array]:
        """Return the t that attains φ, and y − ŷ."""
        xp = namespace(predictions, targets)
        residual = targets - predictions
        low, high = self.interval(targets)
        if self.bend:
            return xp.clip(residual, low, high), residual
        return xp.where(residual == 0, 0, xp.where(residual > 0, high, low)), residual

    def value(self, predictions: Array, targets: Array) -> Array:
        """Return t·(y − ŷ − ½κt)."""
        attained, residual = self._attained(predictions, targets)
        return attained * (residual - 0.5 * self.bend * attained)

    def slope(self, predictions: Array, targets: Array) -> Array:
        """Return −t."""
        return -self._attained(predictions, targets)[0]

    def curvature(self, predictions: Array, targets: Array) -> Array:
        """Return κ where t is inside the interval."""
        xp = namespace(predictions, targets)
        attained, residual = self._attained(predictions, targets)
        return xp.where(attained == residual, self.bend, xp.zeros_like(residual))

    def conjugate(self, dual: Array, targets: Array) -> Array:
        """Return t·(½κt − y)."""
        return dual * (0.5 * self.bend * dual - targets)

    def conjugate_slope(self, dual: Array, targets: Array) -> Array:
        """Return κt − y."""
        return self.bend * dual - targets

    def conjugate_curvature(self, dual: Array, targets: Array) -> Array:
        """Return κ."""
        xp = namespace(dual, targets)
        return xp.full_like(dual, self.bend)

    def prox(self, center: Array, targets: Array, step: Array) -> Array:
        """Return center + step·t with t next to (y − center)/(κ + step) in the interval."""
        xp = namespace(center, targets)
        low, high = self.interval(targets)
        return center + step * xp.clip((targets - center) / (self.bend + step), low, high)

    def best_factor_on_dual_ray(
        self,
        dual: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
        limit: Scalar,
    ) -> Scalar:
        """Return clip(λᵀy / κΣλ²/w, 0, limit), the limit that of the intervals if lower."""
        xp = namespace(dual, targets, weight)
        limit = xp.minimum(limit, self._longest(dual, targets, weight))
        linear = xp.sum(dual * targets)
        quadratic = self.bend * xp.sum(xp.square(dual) / xp.where(weight > 0, weight, 1))
        curved = quadratic > 0
        c = xp.where(curved, linear / xp.where(curved, quadratic, 1), limit)
        return xp.where(linear > 0, xp.clip(c, 0, limit), 0)

    # In what follows, subnormal numbers, y, ŷ and t too, may have been taken for zero.

    def value_above(self, lower: Array, upper: Array, targets: Array) -> Array:
        """Return the larger of φ at both ends, rounded up, and 0 only where it is exactly that."""
        xp, eps, least = namespace(lower, upper, targets), epsilon(lower.dtype), tiny(lower.dtype)

        def above(predictions: Array) -> Array:
            attained, residual = self._attained(predictions, targets)
            value = AbstractPiecewiseLoss.value(self, predictions, targets)
            allowance = _ROUNDING * eps * xp.abs(attained * residual)
            bound = value + allowance + 4 * (1 + xp.abs(attained)) * least
            # On the flat side, or no residual, which for two numbers near zero is not the same as
            # a difference of zero.
            flat = (attained == 0) & (residual != 0)
            equal = (predictions == targets) & ~is_subnormal(predictions) & ~is_subnormal(targets)
            return xp.where(flat | equal, 0, bound)

        return xp.maximum(above(lower), above(upper))

    def conjugate_above(self, lower: Array, upper: Array, targets: Array) -> Array:
        """Return the larger of ψ at both ends, rounded up."""
        xp, eps, least = namespace(lower, upper, targets), epsilon(lower.dtype), tiny(lower.dtype)

        def above(dual: Array) -> Array:
            size = self.bend * dual * dual + xp.abs(dual * targets)
            small = 4 * (1 + xp.abs(dual) + xp.abs(targets)) * least
            return self.conjugate(dual, targets) + _ROUNDING * eps * size + small

        return xp.maximum(above(lower), above(upper))
