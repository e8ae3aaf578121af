"""Neurons of one vector of weights and a polynomial of degree two."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import equinox as eqx
from jaxtyping import Array, Float

from .._base.lift import LiftedMap
from .._base.types import as_number, namespace
from .activation import AbstractActivation
from .layout import Layout

_GROTHENDIECK = 1.7823  # K_G is less (Krivine 1979)


class Polynomial(AbstractActivation):
    """σ(xᵀw), σ(t) = a·t² + b·t + c: neurons of one vector of weights.

    In `Problem(X, y, beta, activation=Polynomial(a, b, c))` they are trained directly, with a ≠ 0.
    With ũ = (u, s), s = ±1, of which only u·s matters, a neuron is ũᵀM(x)ũ, and the relaxation

        ŷ_i = ⟨M(x_i), P − N⟩,   M(x) = [[a·xxᵀ, bx/2], [bxᵀ/2, c]],
        diag P = ρ₊·1,   diag N = ρ₋·1,   P, N ⪰ 0,   penalty β(ρ₊ + ρ₋)

    of all networks of weights ±1. It proves less in the worst case than that of bilinear neurons:
    optimum ≤ (1 + 4K)·p_sdp, K < 1.7823, against a factor of K. The other way, training bilinear
    neurons and `QuantizedNetwork.to_polynomial`, keeps that, but makes ternary weights. Programs
    are compiled anew for other a, b and c.

    **Raises:** `TypeError` or `ValueError` naming the argument.

    Source: Bartan & Pilanci, ICML 2021.

    Example: `qs.fit(X, y, beta=2.0, num_neurons=8, key=key, activation=qs.Polynomial(1, 0.5))`.
    """

    a: float = eqx.field(static=True)
    b: float = eqx.field(static=True)
    c: float = eqx.field(static=True)

    num_vectors: ClassVar[int] = 1
    has_levels: ClassVar[bool] = False
    guarantee: ClassVar[float] = 1 + 4 * _GROTHENDIECK
    layout: ClassVar[Layout] = Layout(gain=1.0, shares_diagonal=False)

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

    @property
    def sign(self) -> float:
        """The sign of a."""
        return math.copysign(1.0, self.a)

    @property
    def mask(self) -> tuple[float, float, float]:
        """Numbers of M: a, of two features, b/2, of one, and c, of none."""
        return self.a, self.b / 2, self.c

    def num_lifted(self, d: int) -> int:
        """Return d + 1."""
        return d + 1

    def lifted(self, X: Float[Array, "n d"]) -> LiftedMap:
        """Return the map with M = ±x̃x̃ᵀ, x̃ = √|a|·(x, b/2a), and c for its last entry."""
        xp, root, (a, b, c) = namespace(X), math.sqrt(abs(self.a)), self.coefficients
        last = xp.full((*X.shape[:-1], 1), root * (b / (2 * a)), X.dtype)
        corner = xp.full(X.shape[:-1], c, X.dtype)
        rows = xp.concatenate([xp.asarray(root, X.dtype) * X, last], axis=-1)
        return LiftedMap(rows, corner, self.sign)

    def homogeneous(self, X: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Return (x, 1)."""
        xp = namespace(X)
        return xp.concatenate([X, xp.ones((*X.shape[:-1], 1), X.dtype)], axis=-1)

    def value(self, projection: Any) -> Any:
        """Return σ of projections, elementwise."""
        return (self.a * projection + self.b) * projection + self.c
