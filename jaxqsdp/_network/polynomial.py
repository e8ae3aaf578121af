"""Neurons of one vector of weights and a polynomial of degree two."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import equinox as eqx

from .._base.types import as_number
from .activation import AbstractActivation


class Polynomial(AbstractActivation):
    """σ(xᵀw), σ(t) = a·t² + b·t + c, for networks that `QuantizedNetwork.to_polynomial` makes.

    **Raises:** `TypeError` or `ValueError` naming the argument.

    Source: Bartan & Pilanci, ICML 2021.
    """

    a: float = eqx.field(static=True)
    b: float = eqx.field(static=True)
    c: float = eqx.field(static=True)

    num_vectors: ClassVar[int] = 1

    def __init__(self, a: float, b: float = 0.0, c: float = 0.0):
        for name, value in (("a", a), ("b", b), ("c", c)):
            number = as_number(value, name)
            if not math.isfinite(number):
                raise ValueError(f"`{name}` must be finite, got {value!r}.")
            setattr(self, name, number)

    def __repr__(self) -> str:
        return f"Polynomial({self.a:g}, {self.b:g}, {self.c:g})"

    @property
    def coefficients(self) -> tuple[float, float, float]:
        """(a, b, c)."""
        return self.a, self.b, self.c

    @property
    def is_square(self) -> bool:
        """Whether σ(t) = a·t², of which a bilinear neuron with equal vectors is one."""
        return self.coefficients[1:] == (0.0, 0.0)

    def value(self, projection: Any) -> Any:
        """Return σ of projections, elementwise."""
        return (self.a * projection + self.b) * projection + self.c
