"""What the relaxation depends on: one output, or all that a loss couples."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Float

from .._base.lift import LiftedMap
from .._base.types import across, across_outputs, namespace, record
from .._loss.base import AbstractLoss
from .._network.bilinear import BILINEAR
from .._network.layout import Layout


@record
class Core:
    """The data of the relaxation, or a change of them.

        min ℓ(A(Z), y) + βρ  s.t.  diag V = ρ·1,  P, N ⪰ 0

    with Z and V made of P and N by `layout`, which may ask more of diagonals, and A by `map`, whose
    rows, x for bilinear neurons, are X. With an intercept μ, free of penalty, ŷ is A(Z) + μ·shift,
    and 1ᵀλ = 0 in the dual. Where the loss couples outputs, Z and all that belongs
    to it has a leading axis of them, ŷ and λ a last one.

    Solvers are given one in moderate units (`_exact.units`), with weights absorbed where they can
    be; then samples that do not count have weight zero, and rows of zeros.
    """

    X: Float[Array, "n d"]
    weight: Float[Array, " n"]
    y: Float[Array, "n ..."]
    beta: Float[Array, "*c"]
    loss: AbstractLoss

    corner: Float[Array, " n"] | None = None  # of `map`
    shift: Float[Array, " n"] | None = None  # what an intercept of 1 adds to ŷ; None without one
    sign: float = dataclasses.field(default=1.0, metadata={"static": True})  # of `map`
    layout: Layout = dataclasses.field(default=BILINEAR.layout, metadata={"static": True})

    @property
    def map(self) -> LiftedMap:
        """A."""
        return LiftedMap(self.X, self.corner, self.sign)

    def predictions(
        self, forms: Float[Array, "*c d d"], intercept: Float[Array, "*c"] | None
    ) -> Float[Array, "n ..."]:
        """ŷ of Z, one or several, and of the intercepts."""
        outputs = self.map.outputs(forms)
        if intercept is None or self.shift is None:
            return outputs
        return outputs + across(self.shift, outputs) * across_outputs(intercept, outputs)

    def fitted_intercept(
        self, targets: Float[Array, " n"], form: Float[Array, "d d"]
    ) -> Float[Array, ""] | None:
        """Return the μ that fits targets best, by squares; None without an intercept."""
        if self.shift is None:
            return None
        return self.shift @ (targets - self.map.outputs(form)) / (self.shift @ self.shift)

    @property
    def root(self) -> Float[Array, " n"]:
        """What `absorbed` multiplies targets by: √w, or 1 where it leaves the weights alone."""
        xp = namespace(self.weight)
        return xp.sqrt(self.weight) if self.loss.is_quadratic else xp.ones_like(self.weight)

    @property
    def absorbed(self) -> Core:
        """The same problem with X → ⁴√w·X, y → √w·y and weights 1, if the loss is quadratic."""
        if not self.loss.is_quadratic:
            return self
        xp, root = namespace(self.X, self.weight), self.root
        map, y = self.map.times(root), across(root, self.y) * self.y
        shift = None if self.shift is None else root * self.shift
        return dataclasses.replace(
            self, X=map.X, corner=map.corner, shift=shift, y=y, weight=xp.ones_like(root)
        )
