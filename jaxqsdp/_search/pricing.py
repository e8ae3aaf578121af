"""Which neurons would improve a network most: those of largest |uᵀGv|, G = A*(λ).

A neuron is worth adding if |uᵀGv| exceeds β. For bilinear neurons the best v for a given u is
sign(Gu), so one vector of signs is searched for, to maximize ‖Gu‖₁. For neurons of one vector it is
ũ = (u, 1) and |ũᵀGũ|. All sign vectors are tried where that is feasible, else those that single
flips, and for ‖Gu‖₁ alternating maximization, lead to from many starts.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .._bound.signs import Signs, enumerate_all, partners, search_all

Neurons = tuple[Signs, ...]  # one or two vectors each, (m, d)
Pricing = Callable[[NDArray[np.float64], int], tuple[NDArray[np.float64], Neurons]]


def price_exactly(num_vectors: int) -> Pricing:
    """Return what tries all sign vectors, and gives the best so many neurons of one or two."""

    def price(gram: NDArray[np.float64], count: int) -> tuple[NDArray, Neurons]:
        values, signs = enumerate_all(gram, count, num_vectors)
        return values, neurons_of(gram, signs, num_vectors)

    return price


def price_locally(
    gram: NDArray[np.float64], starts: Signs, num_vectors: int
) -> tuple[NDArray[np.float64], Neurons]:
    """Return local maxima from starts (s, k), in descending order."""
    values, signs = search_all(gram, starts, num_vectors)
    return values, neurons_of(gram, signs, num_vectors)


def neurons_of(gram: NDArray[np.float64], signs: Signs, num_vectors: int) -> Neurons:
    """Return the best neurons with these sign vectors, in which a constant has the sign +1."""
    if num_vectors == 2:
        return signs, partners(gram, signs)
    return ((signs[:, -1:] * signs)[:, :-1],)


def with_last_sign(vectors: Signs, k: int) -> Signs:
    """Return vectors of k signs: with that of the constant, if they are without."""
    missing = k - vectors.shape[1]
    return np.pad(vectors, ((0, 0), (0, missing)), constant_values=1.0) if missing else vectors


def joined(*parts: Neurons) -> Neurons:
    """Return the neurons of all parts."""
    return tuple(np.concatenate(vectors) for vectors in zip(*parts, strict=True))


def some(neurons: Neurons, places: NDArray) -> Neurons:
    """Return some of the neurons."""
    return tuple(vectors[places] for vectors in neurons)


def distinct(neurons: Neurons, count: int) -> NDArray[np.int64]:
    """Return places of up to `count` neurons that differ in at least two signs, first come.

    Neurons of two vectors are the same up to their order and the sign of either.
    """
    if len(neurons) == 1:
        return _distinct_vectors(*neurons, count)
    u, v = neurons
    d = u.shape[1]
    chosen: list[int] = []
    for index in range(len(u)):
        if chosen:
            kept = np.array(chosen)
            straight = np.abs(u[kept] @ u[index]) + np.abs(v[kept] @ v[index])
            crossed = np.abs(v[kept] @ u[index]) + np.abs(u[kept] @ v[index])
            # Two signs away: 2d − 4 at most; with d = 1 all neurons are the same.
            if max(straight.max(), crossed.max()) > 2 * d - 4:
                continue
        chosen.append(index)
        if len(chosen) == count:
            break
    return np.array(chosen, np.int64)


def _distinct_vectors(u: Signs, count: int) -> NDArray[np.int64]:
    chosen: list[int] = []
    for index in range(len(u)):
        # Two signs away: d − 4 at most; with d < 2 there are no such.
        if not chosen or (u[chosen] @ u[index]).max() <= max(u.shape[1] - 4, 0):
            chosen.append(index)
        if len(chosen) == count:
            break
    return np.array(chosen, np.int64)
