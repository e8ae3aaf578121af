"""The squared loss."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Array, Float

from .._base.types import Scalar, across, namespace
from .base import check_alike
from .piecewise import AbstractPiecewiseLoss


class SquaredLoss(AbstractPiecewiseLoss):
    """ℓ(ŷ, y) = ½ Σ_i w_i (ŷ_i − y_i)², a sum over samples, not a mean.

    Doubling the data therefore doubles the loss; scale β along with it to keep the balance.
    """

    is_quadratic: ClassVar[bool] = True
    degree: ClassVar[int | None] = 2
    is_of_residual: ClassVar[bool] = True

    def best_intercept(self, predictions: Array, targets: Array, weight: Array) -> Array:
        """Return the mean of residuals."""
        xp = namespace(predictions, targets, weight)
        counted = weight > 0
        residual = xp.where(counted, targets - predictions, 0)
        return xp.sum(xp.where(counted, weight, 0) * residual) / xp.sum(weight)

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return all numbers."""
        infinity = namespace(targets).full_like(targets, float("inf"))
        return -infinity, infinity

    # Simpler than for the others, with a rounding error less.

    def value(self, predictions: Array, targets: Array) -> Array:
        """Return ½(ŷ − y)² of each sample."""
        return 0.5 * namespace(predictions, targets).square(predictions - targets)

    def weighted(self, predictions: Array, targets: Array, root: Array) -> Array:
        """Return ½(√w(ŷ − y))² of each sample."""
        residual = predictions - targets
        return 0.5 * namespace(residual).square(across(root, residual) * residual)

    def __call__(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
    ) -> Scalar:
        """Return the loss of the predictions."""
        check_alike(predictions, targets)
        xp = namespace(predictions, targets, weight)
        return 0.5 * xp.sum(weight * xp.square(predictions - targets))

    def best_on_primal_ray(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
        penalty: Scalar,
    ) -> Scalar:
        """Return max(0, (Σ w ŷ y − penalty)/Σ w ŷ²)."""
        xp = namespace(predictions, targets, weight)
        energy = xp.sum(weight * xp.square(predictions))
        slope = xp.sum(weight * predictions * targets) - penalty
        return xp.maximum(slope, 0) / xp.where(energy > 0, energy, 1)

    def best_on_dual_ray(
        self,
        dual: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
        limit: Scalar,
    ) -> Scalar:
        """Return c λᵀy − ½c² Σ λ²/w at c = clip(λᵀy / Σ λ²/w, 0, limit)."""
        xp = namespace(dual, targets, weight)
        linear = xp.sum(dual * targets)
        quadratic = xp.sum(xp.square(dual) / xp.where(weight > 0, weight, 1))
        c = xp.where(quadratic > 0, linear / xp.where(quadratic > 0, quadratic, 1), 0)
        c = xp.clip(c, 0, limit)
        return c * linear - 0.5 * c * c * quadratic

    def modelled(self, cp: Any, predictions: Any, targets: Any) -> Any:
        """Return ½(ŷ − y)²."""
        return cp.square(predictions - targets) / 2


SQUARED = SquaredLoss()
