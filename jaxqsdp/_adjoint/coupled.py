"""Outputs that a loss couples, one by one: what couples them becomes a number of each sample.

The softmax loss is a sum over outputs at a normalizer L = ln Σ exp ŷ, see `NormalizedLoss`. Given L
every output is a problem of its own, whose loss has L for a parameter, and so is its derivative; L
moves so that the probabilities still add up to 1:

    Σ_k (∂t_k/∂L)·dL = −Σ_k dt_k at fixed L,   t = y − q,   Σ_k q_k = 1.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.scipy.special import logsumexp
from jaxtyping import Array, Float

from .._loss.normalized import NormalizedLoss
from .._problem.core import Core
from .._relaxation.solution import Solution, outputs_first, outputs_last


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
    if tangents.intercept is not None:  # whose sum is zero
        middle = jnp.mean(tangents.intercept)
        total["intercept"] = tangents.intercept - middle
        total["predictions"] = (tangents.predictions - middle).T
    return dataclasses.replace(outputs_last(tangents), **total)
