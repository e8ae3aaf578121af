"""The condition that has the loss in it, and how it moves with a change of the data.

ψ'(t) + A(Z) − z_low + z_high = 0,   z_low·(t − low) = z_high·(high − t) = μ
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._loss.base import AbstractLoss
from .._problem.core import Core
from .._solver.loss_path import finite_ends


def barred_ends(core: Core) -> tuple[Array, Array, Array]:
    """Return which ends have multipliers, (2, n), and the ends; ψ' is infinite at others."""
    finite, low, high = finite_ends(core.loss, core.y)
    slopes = [core.loss.conjugate_slope(end, core.y) for end in (low, high)]
    return finite & jnp.isfinite(jnp.stack(slopes)), low, high


def end_slacks(core: Core, dual: Float[Array, " n"]) -> Float[Array, "2 e"]:
    """(t − low, high − t), 1 where there is no multiplier."""
    if core.loss.is_quadratic:
        return no_multipliers(dual)
    barred, low, high = barred_ends(core)
    return jnp.where(barred, jnp.stack([dual - low, high - dual]), 1)


def end_steps(core: Core, step: Float[Array, " n"]) -> Float[Array, "2 e"]:
    """Return the changes of these by one of t."""
    if core.loss.is_quadratic:
        return no_multipliers(step)
    return jnp.where(barred_ends(core)[0], jnp.stack([step, -step]), 0)


def end_moves(core: Core, dual: Float[Array, " n"], change: Core) -> Float[Array, "2 e"]:
    """Return the changes of these by one of y and the loss."""
    if core.loss.is_quadratic:
        return no_multipliers(dual)
    return _along(lambda core: end_slacks(core, dual), core, change)


def slope_step(
    core: Core, dual: Float[Array, " n"], step: Float[Array, " n"]
) -> Float[Array, " n"]:
    """Return the change of ψ'(t) by one of t."""
    if core.loss.is_quadratic:
        return step
    return core.loss.conjugate_curvature(dual, core.y) * step


def target_move(core: Core, dual: Float[Array, " n"], change: Core) -> Float[Array, " n"]:
    """Return the change of −ψ'(t) by one of y and the loss: dy, where φ is one of ŷ − y."""
    if core.loss.is_quadratic:
        return change.y
    return -_along(lambda core: core.loss.conjugate_slope(dual, core.y), core, change)


def _along(function: Callable[[Core], Array], core: Core, change: Core) -> Array:
    def of_these(loss: AbstractLoss, y: Array) -> Array:
        return function(dataclasses.replace(core, y=y, loss=loss))

    return jax.jvp(of_these, (core.loss, core.y), (change.loss, change.y))[1]


def no_multipliers(dual: Float[Array, " n"]) -> Float[Array, "2 0"]:
    """Return the multipliers of the squared loss."""
    return jnp.stack([dual[:0], dual[:0]])  # varies over a mesh as the numbers do
