"""Which neurons would improve a network most: those of largest |uᵀGv|, G = Xᵀ diag(λ) X.

A neuron is worth adding if |uᵀGv| exceeds β. For a given u the best v is sign(Gu), so one vector
of signs is searched for, to maximize ‖Gu‖₁: all 2^(d−1) of them where that is feasible, else by
alternating maximization and single flips from many starts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .._bound.signs import Signs


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
