"""The bilinear neuron."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from .activation import AbstractActivation
from .layout import Layout

KRIVINE_ANGLE = math.asinh(1.0)
"""γ = ln(1+√2), at which sin and sinh of Grothendieck's identity meet: sinh γ = 1."""

KRIVINE_CONSTANT = math.pi / (2 * KRIVINE_ANGLE)
"""K = π/(2 ln(1+√2)) = 1.78221…: p_sdp ≤ optimum ≤ K·p_sdp."""


class Bilinear(AbstractActivation):
    """(xᵀu)(xᵀv); the relaxation of training has the blocks of `layout`."""

    num_vectors: ClassVar[int] = 2
    layout: ClassVar[Layout] = Layout(gain=0.5)
    guarantee: ClassVar[float] = KRIVINE_CONSTANT  # K: p_sdp ≤ optimum ≤ K·p_sdp

    def value(self, first: Any, second: Any) -> Any:
        """Return the product."""
        return first * second


BILINEAR = Bilinear()
