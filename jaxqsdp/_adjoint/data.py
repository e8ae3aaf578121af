"""What a solution depends on, and how the condition that has the loss in it moves with that.

ψ'(t) + A(Z) − z_low + z_high = 0,   z_low·(t − low) = z_high·(high − t) = μ
"""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.types import Scalar
from .._loss.base import AbstractLoss
from .._solver.loss_path import finite_ends


class Data(eqx.Module):
    """What the relaxation depends on, one output, in moderate units; or a change of it."""

    X: Float[Array, "n d"]
    weight: Float[Array, " n"]
    y: Float[Array, " n"]
    beta: Scalar
    loss: AbstractLoss

    def ends(self) -> tuple[Array, Array, Array]:
        """Return which ends have multipliers, (2, n), and the ends; ψ' is infinite at others."""
        finite, low, high = finite_ends(self.loss, self.y)
        slopes = [self.loss.conjugate_slope(end, self.y) for end in (low, high)]
        return finite & jnp.isfinite(jnp.stack(slopes)), low, high

    def end_slacks(self, dual: Float[Array, " n"]) -> Float[Array, "2 e"]:
        """(t − low, high − t), 1 where there is no multiplier."""
        if self.loss.is_quadratic:
            return no_multipliers(dual)
        barred, low, high = self.ends()
        return jnp.where(barred, jnp.stack([dual - low, high - dual]), 1)

    def end_steps(self, step: Float[Array, " n"]) -> Float[Array, "2 e"]:
        """Return the changes of these by one of t."""
        if self.loss.is_quadratic:
            return no_multipliers(step)
        return jnp.where(self.ends()[0], jnp.stack([step, -step]), 0)

    def end_moves(self, dual: Float[Array, " n"], change: Data) -> Float[Array, "2 e"]:
        """Return the changes of these by one of y and the loss."""
        if self.loss.is_quadratic:
            return no_multipliers(dual)
        return self._along(lambda data: data.end_slacks(dual), change)

    def slope_step(self, dual: Float[Array, " n"], step: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the change of ψ'(t) by one of t."""
        if self.loss.is_quadratic:
            return step
        return self.loss.conjugate_curvature(dual, self.y) * step

    def target_move(self, dual: Float[Array, " n"], change: Data) -> Float[Array, " n"]:
        """Return the change of −ψ'(t) by one of y and the loss: dy, where φ is one of ŷ − y."""
        if self.loss.is_quadratic:
            return change.y
        return -self._along(lambda data: data.loss.conjugate_slope(dual, data.y), change)

    def _along(self, function: Callable[[Data], Array], change: Data) -> Array:
        def of_these(loss: AbstractLoss, y: Array) -> Array:
            return function(Data(self.X, self.weight, y, self.beta, loss))

        return jax.jvp(of_these, (self.loss, self.y), (change.loss, change.y))[1]


def no_multipliers(dual: Float[Array, " n"]) -> Float[Array, "2 0"]:
    """Return the multipliers of the squared loss."""
    return jnp.stack([dual[:0], dual[:0]])  # varies over a mesh as the numbers do
