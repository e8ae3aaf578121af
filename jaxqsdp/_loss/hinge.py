"""The hinge loss of support vector machines, and its square."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Array

from .._base.types import namespace
from .piecewise import AbstractPiecewiseLoss


class HingeLoss(AbstractPiecewiseLoss):
    """ℓ(ŷ, y) = Σ_i w_i max(1 − y_i ŷ_i, 0) for labels y_i = ±1.

    Samples beyond the margin, y_i ŷ_i > 1, cost nothing and have λ_i = 0.
    """

    bend: ClassVar[int] = 0
    takes_labels: ClassVar[bool] = True

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return 0 and y, in order."""
        xp = namespace(targets)
        return xp.minimum(targets, 0), xp.maximum(targets, 0)

    def modelled(self, cp: Any, predictions: Any, targets: Any) -> Any:
        """Return max(1 − yŷ, 0)."""
        return cp.pos(1 - cp.multiply(targets, predictions))


class SquaredHingeLoss(AbstractPiecewiseLoss):
    """ℓ(ŷ, y) = ½ Σ_i w_i max(1 − y_i ŷ_i, 0)² for labels y_i = ±1.

    As the hinge loss, but differentiable.
    """

    takes_labels: ClassVar[bool] = True

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return the numbers of the sign of y."""
        xp = namespace(targets)
        infinity = xp.full_like(targets, float("inf"))
        zero = xp.zeros_like(targets)
        return xp.where(targets > 0, zero, -infinity), xp.where(targets > 0, infinity, zero)

    def modelled(self, cp: Any, predictions: Any, targets: Any) -> Any:
        """Return ½ max(1 − yŷ, 0)²."""
        return cp.square(cp.pos(1 - cp.multiply(targets, predictions))) / 2
