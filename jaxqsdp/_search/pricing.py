"""Which neurons would improve a network most: those of largest |uᵀGv|, G = Xᵀ diag(λ) X.

A neuron is worth adding if |uᵀGv| exceeds β. For a given u the best v is sign(Gu), so one vector
of signs is searched for, to maximize ‖Gu‖₁: all 2^(d−1) of them where that is feasible, else by
alternating maximization and single flips from many starts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

MOST_FEATURES = 26  # for enumeration: 2^25 sign vectors, some seconds
_BLOCK = 11  # so many features, 2^11 sign vectors, at a time

Signs = NDArray[np.float64]


def enumerate_signs(gram: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], Signs]:
    """Return the largest ‖Gu‖₁ over all u ∈ {−1, +1}^d, and their u, in descending order.

    u and −u are one. The first is the maximum up to rounding; of the others, `count` or fewer,
    some may be missing, as each block of sign vectors gives only so many.
    """
    d = len(gram)
    low = min(d - 1, _BLOCK)
    low_images = _all_signs(low) @ gram[:low]
    high_signs = np.column_stack([_all_signs(d - 1 - low), np.ones(2 ** (d - 1 - low))])
    high_images = high_signs @ gram[low:]
    each = min(max(4 * count // len(high_images), 8), len(low_images))
    values, codes = np.empty(0), np.empty(0, np.int64)
    threshold = -np.inf
    for block, image in enumerate(high_images):
        norms = np.abs(low_images + image).sum(axis=1)
        if norms.max() <= threshold:
            continue
        best = np.argpartition(-norms, each - 1)[:each]
        values = np.append(values, norms[best])
        codes = np.append(codes, best + (block << low))
        if len(values) > 4 * max(count, each):
            kept = np.argpartition(-values, count - 1)[:count]
            values, codes = values[kept], codes[kept]
            threshold = values.min()
    order = np.argsort(-values, kind="stable")[:count]
    bits = (codes[order, None] >> np.arange(d - 1)[None, :]) & 1
    return values[order], np.column_stack([2.0 * bits - 1, np.ones(len(order))])


def search_signs(gram: NDArray[np.float64], starts: Signs) -> tuple[NDArray[np.float64], Signs]:
    """Return local maxima of ‖Gu‖₁ that no flip of one sign improves, one for each start.

    In descending order. Starts (s, d) are improved together, by alternating maximization over u
    and v until nothing changes, then by the best flip, over and over.
    """
    u = _alternate(gram, starts)
    values = np.abs(u @ gram).sum(axis=1)
    active = np.arange(len(u))
    while len(active):
        some = u[active]
        # G(u − 2u_k e_k) for all k: (s, k, d).
        flipped = (some @ gram)[:, None, :] - 2 * some[:, :, None] * gram[None]
        norms = np.abs(flipped).sum(axis=2)
        best = norms.argmax(axis=1)
        gained = norms[np.arange(len(some)), best] > values[active] * (1 + 1e-12)
        active, best = active[gained], best[gained]
        u[active, best] *= -1
        u[active] = _alternate(gram, u[active])
        values[active] = np.abs(u[active] @ gram).sum(axis=1)
    order = np.argsort(-values, kind="stable")
    return values[order], u[order]


def partners(gram: NDArray[np.float64], u: Signs) -> Signs:
    """Return the best v = sign(Gu) for each u."""
    return np.where(u @ gram >= 0, 1.0, -1.0)


def distinct(u: Signs, v: Signs, count: int) -> NDArray[np.int64]:
    """Return places of up to `count` neurons that differ in at least two signs, first come.

    Neurons are the same up to the order of u and v and the sign of either.
    """
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


def _alternate(gram: NDArray[np.float64], u: Signs) -> Signs:
    """Replace u by sign(G sign(Gu)) until that changes nothing; the norm never falls."""
    values = np.abs(u @ gram).sum(axis=1)
    while True:
        turned = partners(gram, partners(gram, u))
        norms = np.abs(turned @ gram).sum(axis=1)
        gained = norms > values * (1 + 1e-12)
        if not gained.any():
            return u.copy()
        u = np.where(gained[:, None], turned, u)
        values = np.where(gained, norms, values)


def _all_signs(d: int) -> Signs:
    """Return all of {−1, +1}^d, row k spelling k in binary, lowest bit first."""
    bits = (np.arange(2**d)[:, None] >> np.arange(d)[None, :]) & 1
    return np.asarray(2.0 * bits - 1)
