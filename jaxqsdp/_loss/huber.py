"""The Huber loss."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array

from .._base.types import Scalar, namespace
from .parameters import positive
from .piecewise import AbstractPiecewiseLoss


class HuberLoss(AbstractPiecewiseLoss):
    """ℓ(ŷ, y) = Σ_i w_i h(ŷ_i − y_i) with h(r) = ½r² up to |r| = δ, and δ|r| − ½δ² beyond.

    **Arguments:** `delta`: δ > 0, in units of y, where the loss turns from squares to absolute
    values.

    **Raises:** `ValueError` if it is not positive.

    Source: Huber, *Robust estimation of a location parameter* (1964).
    """

    delta: Scalar = eqx.field(default=1.0, converter=positive("delta"))

    degree: ClassVar[int | None] = 2
    is_of_residual: ClassVar[bool] = True

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return −δ and δ."""
        delta = namespace(targets, self.delta).broadcast_to(self.delta, targets.shape)
        delta = delta.astype(targets.dtype)
        return -delta, delta

    def rescaled(self, unit: Scalar) -> HuberLoss:
        """Return the loss with δ·unit."""
        xp = namespace(self.delta, unit)
        dtype = xp.result_type(unit)
        delta = xp.asarray(self.delta, dtype) * xp.asarray(unit, dtype)
        return eqx.tree_at(lambda loss: loss.delta, self, delta)

    def modelled(self, cp: Any, predictions: Any, targets: Any) -> Any:
        """Return h(ŷ − y)."""
        return cp.huber(predictions - targets, float(self.delta)) / 2
