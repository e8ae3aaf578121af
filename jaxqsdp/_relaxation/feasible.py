"""The feasible point and the dual estimate that belong to an iterate: written once."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.lift import slacks, weighted_gram
from .._base.types import Scalar, epsilon, namespace, tiny
from .._loss.base import AbstractLoss


class FeasiblePoint(eqx.Module):
    """A point of the relaxation that satisfies every constraint, and its value."""

    value: Scalar
    form: Float[Array, "d d"]  # Z
    block: Float[Array, "d d"]  # V, with diagonal exactly ρ
    scale: Scalar  # ρ
    predictions: Float[Array, " n"]


def feasible_point(
    loss: AbstractLoss,
    predictions: Float[Array, " n"],
    y: Float[Array, " n"],
    weight: Float[Array, " n"],
    beta: Scalar,
    plus: Float[Array, "d d"],
    minus: Float[Array, "d d"],
) -> FeasiblePoint:
    """Build the best feasible point on the ray of (P, N) ⪰ 0 with these predictions A((P − N)/2).

    Z = (P − N)/2, V = (P + N)/2 with its diagonal raised to ρ = max_k V_kk, all times
    the best factor for the loss. Raising the diagonal keeps both blocks positive semidefinite.
    """
    xp = namespace(predictions, y, weight, plus, minus)
    form, block = (plus - minus) / 2, (plus + minus) / 2
    scale = xp.max(xp.diag(block))
    factor = loss.best_on_primal_ray(predictions, y, weight, beta * scale)
    scale, predictions = factor * scale, factor * predictions
    diagonal = xp.eye(form.shape[0], dtype=bool)
    block = xp.where(diagonal, scale, factor * block)
    value = loss(predictions, y, weight) + beta * scale
    return FeasiblePoint(value, factor * form, block, scale, predictions)


def estimated_bound(
    loss: AbstractLoss,
    X: Float[Array, "n d"],
    y: Float[Array, " n"],
    weight: Float[Array, " n"],
    beta: Scalar,
    dual: Float[Array, " n"],
    dual_diagonal: Float[Array, " d"],
) -> Scalar:
    """Return `_bound.relaxation.dual_bound` without its allowance for rounding.

    Cheap enough for the stopping test of every few steps; never returned to the user.
    """
    eigenvalues = jnp.linalg.eigvalsh(slacks(dual_diagonal, weighted_gram(X, dual)))
    shift = jnp.maximum(-jnp.min(eigenvalues), 0)
    return dual_value(loss, y, weight, beta, dual, jnp.sum(dual_diagonal + shift))


def dual_value(
    loss: AbstractLoss,
    y: Float[Array, " n"],
    weight: Float[Array, " n"],
    beta: Scalar,
    dual: Float[Array, " n"],
    budget: Scalar,
) -> Scalar:
    """Return the best value on the ray of λ with Diag(p) ± A*λ ⪰ 0 and 1ᵀp = `budget`."""
    limit = jnp.where(budget > 0, beta / jnp.where(budget > 0, budget, 1), jnp.inf)
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
