"""Outputs that a loss couples, one by one: what couples them becomes a number of each sample.

    φ(ŷ) = min_L Σ_k φ_k(ŷ_k),   φ_k(z) = exp(z − L) − y_k(z − L + 1)

is the softmax loss, at L = ln Σ exp ŷ. Given L every output is a problem of its own, whose loss has
L for a parameter, and so is its derivative; L moves so that the probabilities still add up to 1:

    Σ_k (∂t_k/∂L)·dL = −Σ_k dt_k at fixed L,   t = y − q,   Σ_k q_k = 1.
"""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from .._loss.base import AbstractLoss
from .._problem.core import Core
from .._relaxation.solution import Solution, outputs_first, outputs_last


class NormalizedLoss(AbstractLoss):
    """φ_k, for targets 0 and 1."""

    level: Float[Array, " n"]  # L

    takes_labels: ClassVar[bool] = True  # which do not move

    def value(self, predictions: Array, targets: Array) -> Array:
        """Return exp(u) − y(u + 1), u = ŷ − L."""
        excess = predictions - self.level
        return jnp.exp(excess) - targets * (excess + 1)

    def slope(self, predictions: Array, targets: Array) -> Array:
        """Return exp(ŷ − L) − y."""
        return jnp.exp(predictions - self.level) - targets

    def curvature(self, predictions: Array, targets: Array) -> Array:
        """Return exp(ŷ − L)."""
        return jnp.exp(predictions - self.level)

    def conjugate(self, dual: Array, targets: Array) -> Array:
        """Return q ln q − q + y − tL, q = y − t."""
        q = targets - dual
        return jax.scipy.special.xlogy(q, q) + dual - dual * self.level

    def conjugate_slope(self, dual: Array, targets: Array) -> Array:
        """Return −ln q − L."""
        return -jnp.log(targets - dual) - self.level

    def conjugate_curvature(self, dual: Array, targets: Array) -> Array:
        """Return 1/q."""
        return 1 / (targets - dual)

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return −∞ and y."""
        return jnp.full_like(targets, -jnp.inf), targets


def separated(data: Core, numbers: Solution) -> Core:
    """Return the data with a loss that does not couple outputs any more, next to a solution."""
    level = logsumexp(numbers.predictions, axis=-1)
    return dataclasses.replace(data, loss=NormalizedLoss(level))


def with_change_of_level(change: Core, level: Float[Array, " n"]) -> Core:
    """Return a change of the data and of L."""
    return dataclasses.replace(change, loss=NormalizedLoss(level))


def separate_lanes(numbers: Solution) -> Solution:
    """Return the numbers of a solution with the outputs first, what they share repeated."""
    count = numbers.scale.shape[0]
    names = ("value", "lower_bound", "stats", "status")
    shared = {name: getattr(numbers, name) for name in names}
    repeated = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (count, *leaf.shape)), shared)
    return dataclasses.replace(outputs_first(numbers), **repeated)


def joined(tangents: Solution) -> Solution:
    """Inverse of `separate_lanes`, for changes: those of values add up."""
    shared = dict(value=tangents.value, lower_bound=tangents.lower_bound, stats=tangents.stats)
    total = jax.tree.map(lambda leaf: jnp.sum(leaf, axis=0), shared)
    return dataclasses.replace(outputs_last(tangents), **total)
