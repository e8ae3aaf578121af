"""Bilinear neurons as polynomial ones, and back: weights, output weights and levels."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Float

from .._base.types import is_concrete, namespace
from .levels import MOST_COEFFICIENTS, Levels
from .polynomial import Polynomial

Vectors = tuple[Float[Array, "m d"], ...]


def polynomial_from_bilinear(
    vectors: Vectors, alpha: Array, levels: Levels, activation: Polynomial
) -> tuple[Vectors, Array, Levels]:
    """Return the neurons σ(xᵀw) that make those of u and v, as `to_polynomial` says."""
    a, b, _ = activation.coefficients
    if a == 0:
        raise ValueError("`a` must not be zero: without t² there are no products.")
    if len(levels.coefficients) > MOST_COEFFICIENTS // 2:
        raise ValueError(
            f"The network has {levels!r}, of more than {MOST_COEFFICIENTS // 2} coefficients; half "
            "the sums of two such weights are too many levels."
        )
    halves = [coefficient / 2 for coefficient in levels.coefficients for _ in range(2)]
    (u, v), xp, alpha = vectors, namespace(*vectors), alpha / a
    plus, minus = (u + v) / 2, (u - v) / 2
    neurons = [(plus, alpha), (minus, -alpha)]
    if b != 0:  # t² = (σ(t) + σ(−t))/2a − c/a, and c goes
        neurons = [(sign * w, alpha / 2) for w, alpha in neurons for sign in (1, -1)]
    weights, alphas = (xp.concatenate(part) for part in zip(*neurons, strict=True))
    return (weights,), alphas, Levels(coefficients=halves)


def bilinear_from_square(
    weights: Float[Array, "m d"], alpha: Array, levels: Levels
) -> tuple[Vectors, Array, Levels]:
    """Return u and v that make the neurons (xᵀw)², as `to_bilinear` says."""
    pairs = _pairs(weights, alpha, levels) if is_concrete(weights, alpha) else None
    return ((weights, weights), alpha, levels) if pairs is None else pairs


def _pairs(weights: Any, alpha: Any, levels: Levels) -> tuple[Vectors, Array, Levels] | None:
    """Return half as many neurons of fewer levels, if these were made from such."""
    coefficients, half = levels.coefficients, len(weights) // 2
    if coefficients[::2] != coefficients[1::2] or len(weights) % 2:
        return None
    weights, alpha = np.asarray(weights), np.asarray(alpha)
    fewer = Levels(coefficients=coefficients[::2])
    u, v = weights[:half] + weights[half:], weights[:half] - weights[half:]
    if not (np.array_equal(alpha[half:], -alpha[:half]) and fewer.holds(u) and fewer.holds(v)):
        return None
    vectors: Any = (u, v)
    return vectors, alpha[:half], fewer
