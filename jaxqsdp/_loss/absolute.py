"""The absolute loss and its tilted form, which fits quantiles."""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array

from .._base.types import Scalar, namespace
from .parameters import positive
from .piecewise import AbstractPiecewiseLoss


class AbsoluteLoss(AbstractPiecewiseLoss):
    """ℓ(ŷ, y) = Σ_i w_i |ŷ_i − y_i|, which outliers among the targets hardly move."""

    bend: ClassVar[int] = 0
    degree: ClassVar[int | None] = 1
    is_of_residual: ClassVar[bool] = True

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return −1 and 1."""
        one = namespace(targets).ones_like(targets)
        return -one, one

    def modelled(self, cp: Any, predictions: Any, targets: Any) -> Any:
        """Return |ŷ − y|."""
        return cp.abs(predictions - targets)


class QuantileLoss(AbstractPiecewiseLoss):
    """ℓ(ŷ, y) = Σ_i w_i max(q·(y_i − ŷ_i), (1 − q)·(ŷ_i − y_i)), which fits the quantile q.

    **Arguments:** `quantile`: q, between 0 and 1; ½ gives half the absolute loss.

    **Raises:** `ValueError` if it is not.

    Source: Koenker & Bassett, *Regression quantiles* (1978).
    """

    quantile: Scalar = eqx.field(converter=positive("quantile", below=1.0))

    bend: ClassVar[int] = 0
    degree: ClassVar[int | None] = 1
    is_of_residual: ClassVar[bool] = True

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return q − 1 and q."""
        xp = namespace(targets, self.quantile)
        quantile = xp.broadcast_to(self.quantile, targets.shape).astype(targets.dtype)
        return quantile - 1, quantile

    def modelled(self, cp: Any, predictions: Any, targets: Any) -> Any:
        """Return the larger of q·(y − ŷ) and (1 − q)·(ŷ − y)."""
        return cp.maximum(
            float(self.quantile) * (targets - predictions),
            (1 - float(self.quantile)) * (predictions - targets),
        )
