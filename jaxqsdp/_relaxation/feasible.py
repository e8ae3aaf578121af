"""The feasible point and the dual estimate that belong to an iterate: written once."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.lift import slacks, weighted_gram
from .._base.types import Scalar, epsilon, namespace, tiny
from .._loss.base import AbstractLoss


class FeasiblePoint(eqx.Module):
    """A point of the relaxation that satisfies every constraint, and its value.

    Where the loss couples outputs, all of them: Z, V and ρ have a leading axis, ŷ is (n, c).
    """

    value: Scalar
    form: Float[Array, "*c d d"]  # Z
    block: Float[Array, "*c d d"]  # V, with diagonal exactly ρ
    scale: Float[Array, "*c"]  # ρ
    predictions: Float[Array, "n ..."]


def feasible_point(
    loss: AbstractLoss,
    predictions: Float[Array, "n ..."],
    y: Float[Array, "n ..."],
    weight: Float[Array, " n"],
    beta: Float[Array, "*c"],
    plus: Float[Array, "*c d d"],
    minus: Float[Array, "*c d d"],
) -> FeasiblePoint:
    """Build the best feasible point on the ray of (P, N) ⪰ 0 with these predictions A((P − N)/2).

    Z = (P − N)/2, V = (P + N)/2 with its diagonal raised to ρ = max_k V_kk, all times
    the best factor for the loss. Raising the diagonal keeps both blocks positive semidefinite.
    """
    xp = namespace(predictions, y, weight, plus, minus)
    form, block = (plus - minus) / 2, (plus + minus) / 2
    scale = xp.max(xp.diagonal(block, axis1=-2, axis2=-1), axis=-1)
    factor = loss.best_on_primal_ray(predictions, y, weight, xp.sum(beta * scale))
    scale, predictions = factor * scale, factor * predictions
    diagonal = xp.broadcast_to(xp.eye(form.shape[-1], dtype=bool), form.shape)
    block = xp.where(diagonal, scale[..., None, None], factor * block)
    value = loss(predictions, y, weight) + xp.sum(beta * scale)
    return FeasiblePoint(value, factor * form, block, scale, predictions)


def estimated_bound(
    loss: AbstractLoss,
    X: Float[Array, "n d"],
    y: Float[Array, "n ..."],
    weight: Float[Array, " n"],
    beta: Float[Array, "*c"],
    dual: Float[Array, "n ..."],
    dual_diagonal: Float[Array, "*c d"],
) -> Scalar:
    """Return `_bound.relaxation.dual_bound` without its allowance for rounding.

    Cheap enough for the stopping test of every few steps; never returned to the user.
    """

    def budget(dual: Array, dual_diagonal: Array) -> Scalar:
        eigenvalues = jnp.linalg.eigvalsh(slacks(dual_diagonal, weighted_gram(X, dual)))
        shift = jnp.maximum(-jnp.min(eigenvalues), 0)
        return jnp.sum(dual_diagonal + shift)

    each = jax.vmap(budget) if loss.couples_outputs else budget
    return dual_value(loss, y, weight, beta, dual, each(dual.T, dual_diagonal))


def dual_value(
    loss: AbstractLoss,
    y: Float[Array, "n ..."],
    weight: Float[Array, " n"],
    beta: Float[Array, "*c"],
    dual: Float[Array, "n ..."],
    budget: Float[Array, "*c"],
) -> Scalar:
    """Return the best value on the ray of λ with Diag(p) ± A*λ ⪰ 0 and 1ᵀp = `budget`."""
    limit = jnp.min(jnp.where(budget > 0, beta / jnp.where(budget > 0, budget, 1), jnp.inf))
    return loss.best_on_dual_ray(dual, y, weight, limit)


def relative_gap(
    loss: AbstractLoss,
    value: Scalar,
    lower_bound: Scalar,
    y: Array,
    weight: Float[Array, " n"],
) -> Scalar:
    """Return (value − bound) / max(value, 10·eps·ℓ(0), tiny)."""
    xp = namespace(value, lower_bound, y, weight)
    floor = 10 * epsilon(value.dtype) * loss(xp.zeros_like(y), y, weight)
    return (value - lower_bound) / xp.maximum(xp.maximum(value, floor), tiny(value.dtype))
