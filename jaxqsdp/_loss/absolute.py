"""The absolute loss and its tilted form, which fits quantiles."""

from __future__ import annotations

from typing import ClassVar

import equinox as eqx
from jaxtyping import Array

from .._base.types import Scalar, namespace
from .parameters import positive
from .piecewise import AbstractPiecewiseLoss


class AbsoluteLoss(AbstractPiecewiseLoss):
    """ℓ(ŷ, y) = Σ_i w_i |ŷ_i − y_i|, which outliers among the targets hardly move."""

    bend: ClassVar[int] = 0
    degree: ClassVar[int | None] = 1

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return −1 and 1."""
        one = namespace(targets).ones_like(targets)
        return -one, one


class QuantileLoss(AbstractPiecewiseLoss):
    """ℓ(ŷ, y) = Σ_i w_i max(q·(y_i − ŷ_i), (1 − q)·(ŷ_i − y_i)), which fits the quantile q.

    **Arguments:** `quantile`: q, between 0 and 1; ½ gives half the absolute loss.

    **Raises:** `ValueError` if it is not.

    Source: Koenker & Bassett, *Regression quantiles* (1978).
    """

    quantile: Scalar = eqx.field(converter=positive("quantile", below=1.0))

    bend: ClassVar[int] = 0
    degree: ClassVar[int | None] = 1

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return q − 1 and q."""
        xp = namespace(targets, self.quantile)
        quantile = xp.broadcast_to(self.quantile, targets.shape).astype(targets.dtype)
        return quantile - 1, quantile
