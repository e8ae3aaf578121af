"""The bilinear neuron."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from jaxtyping import Array, Float

from .._base.lift import LiftedMap
from .activation import AbstractActivation
from .layout import Layout

KRIVINE_ANGLE = math.asinh(1.0)
"""γ = ln(1+√2), at which sin and sinh of Grothendieck's identity meet: sinh γ = 1."""

KRIVINE_CONSTANT = math.pi / (2 * KRIVINE_ANGLE)
"""K = π/(2 ln(1+√2)) = 1.78221…: p_sdp ≤ optimum ≤ K·p_sdp."""


class Bilinear(AbstractActivation):
    """(xᵀu)(xᵀv); the relaxation of training has the blocks of `layout`."""

    num_vectors: ClassVar[int] = 2
    has_levels: ClassVar[bool] = True
    layout: ClassVar[Layout] = Layout(gain=0.5)
    guarantee: ClassVar[float] = KRIVINE_CONSTANT

    def value(self, first: Any, second: Any) -> Any:
        """Return the product."""
        return first * second

    def num_lifted(self, d: int) -> int:
        """Return d."""
        return d

    def lifted(self, X: Float[Array, "n d"]) -> LiftedMap:
        """Return A(Z) = xᵀZx."""
        return LiftedMap(X, sign=self.sign)

    @property
    def sign(self) -> float:
        """Return 1."""
        return 1.0

    @property
    def mask(self) -> None:
        """None: A*(λ) = Xᵀ diag(λ) X."""

    def homogeneous(self, X: Float[Array, "n d"]) -> Float[Array, "n d"]:
        """Return X."""
        return X


BILINEAR = Bilinear()
