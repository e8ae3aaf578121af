"""The feasible point and the dual estimate that belong to an iterate: written once."""

from __future__ import annotations

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.types import Scalar, epsilon, namespace, tiny
from .._problem.core import Core


class FeasiblePoint(eqx.Module):
    """A point of the relaxation that satisfies every constraint, and its value.

    Where the loss couples outputs, all of them: Z, V and ρ have a leading axis, ŷ is (n, c).
    """

    value: Scalar
    form: Float[Array, "*c d d"]  # Z
    block: Float[Array, "*c d d"]  # V, with diagonal exactly ρ
    scale: Float[Array, "*c"]  # ρ
    predictions: Float[Array, "n ..."]
    intercept: Float[Array, "*c"] | None


def feasible_point(
    core: Core,
    outputs: Callable[[Float[Array, "*c d d"], Float[Array, "*c"] | None], Float[Array, "n ..."]],
    blocks: Float[Array, "*c 2 d d"],
    intercept: Float[Array, "*c"] | None,
) -> FeasiblePoint:
    """Build the best feasible point on the ray of (P, N) ⪰ 0 and μ, whose predictions are given.

    Diagonals are raised until they are constant, and all is multiplied by the best factor for the
    loss. Raising a diagonal keeps blocks positive semidefinite.
    """
    form, block, scale = core.layout.raised(blocks)
    predictions = outputs(form, intercept)
    xp = namespace(predictions, core.y, core.weight, blocks)
    price = xp.sum(core.beta * scale)
    factor = core.loss.best_on_primal_ray(predictions, core.y, core.weight, price)
    scale, predictions = factor * scale, factor * predictions
    diagonal = xp.broadcast_to(xp.eye(form.shape[-1], dtype=bool), form.shape)
    block = xp.where(diagonal, scale[..., None, None], factor * block)
    value = core.loss(predictions, core.y, core.weight) + xp.sum(core.beta * scale)
    intercept = None if intercept is None else factor * intercept
    return FeasiblePoint(value, factor * form, block, scale, predictions, intercept)


def scaled_gap(
    core: Core,
    blocks: Float[Array, "*c 2 d d"],
    intercept: Float[Array, "*c"] | None,
    dual: Float[Array, "n ..."],
    diagonal: Float[Array, "*cg d"],
) -> tuple[Scalar, Float[Array, "n ..."]]:
    """Return the relative gap of a primal and a dual point inside their cones, and A(Z).

    They are scaled into the other constraints only: the best points on rays take searches.
    """
    form, _, scale = core.layout.raised(blocks)
    predictions = core.predictions(form, intercept)
    value = core.loss(predictions, core.y, core.weight) + jnp.sum(core.beta * scale)
    value = jnp.minimum(value, core.loss(jnp.zeros_like(core.y), core.y, core.weight))
    budget = core.layout.budget(diagonal)
    within = jnp.min(jnp.where(budget > core.beta, core.beta / budget, 1))
    dual = core.loss.clip_dual(within * dual, core.y, core.weight)
    bound = core.loss.dual_value(dual, core.y, core.weight)
    return relative_gap(core, value, bound), predictions


def estimated_bound(
    core: Core, dual: Float[Array, "n ..."], dual_diagonal: Float[Array, "*cg d"]
) -> Scalar:
    """Return `_bound.relaxation.dual_bound` without its allowance for rounding.

    Cheap enough for the stopping test of every few steps; never returned to the user.
    """

    def budget(dual: Array, dual_diagonal: Array) -> Scalar:
        both = core.layout.constraints(dual_diagonal, core.map.adjoint(dual))
        shifts = jnp.maximum(-jnp.min(jnp.linalg.eigvalsh(both), axis=-1), 0)
        return core.layout.budget(core.layout.lifted(dual_diagonal, shifts))

    each = jax.vmap(budget) if core.loss.couples_outputs else budget
    return dual_value(core, dual, each(dual.T, dual_diagonal))


def dual_value(core: Core, dual: Float[Array, "n ..."], budget: Float[Array, "*c"]) -> Scalar:
    """Return the best value on the ray of λ whose p has this budget."""
    limit = jnp.where(budget <= 0, jnp.inf, core.beta / jnp.where(budget <= 0, 1, budget))
    return core.loss.best_on_dual_ray(dual, core.y, core.weight, jnp.min(limit))


def relative_gap(core: Core, value: Scalar, lower_bound: Scalar) -> Scalar:
    """Return (value − bound) / max(value, 10·eps·ℓ(0), tiny)."""
    xp, y = namespace(value, lower_bound, core.y, core.weight), core.y
    floor = 10 * epsilon(value.dtype) * core.loss(xp.zeros_like(y), y, core.weight)
    return (value - lower_bound) / xp.maximum(xp.maximum(value, floor), tiny(value.dtype))
