"""All sign vectors of some features, and local maxima among those of many."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

_ENTRIES = 2**23  # that a local search works on
_BLOCK = 11  # so many features, 2^11 sign vectors, at a time


Signs = NDArray[np.float64]


def enumerate_signs(gram: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], Signs]:
    """Return the largest ‖Gu‖₁ over all u ∈ {−1, +1}^d, and their u, in descending order.

    u and −u are one. The first is the maximum up to rounding; of the others, `count` or fewer,
    some may be missing, as each block of sign vectors gives only so many.
    """
    low, low_signs, high_signs = _split(len(gram))
    low_images, high_images = low_signs @ gram[:low], high_signs @ gram[low:]

    def norms(block: int) -> NDArray[np.float64]:
        return np.abs(low_images + high_images[block]).sum(axis=1)

    return _largest(norms, len(gram), count)


def enumerate_forms(gram: NDArray[np.float64], count: int) -> tuple[NDArray[np.float64], Signs]:
    """Return the largest |uᵀGu| over all u ∈ {−1, +1}^d, as `enumerate_signs` does."""
    low, low_signs, high_signs = _split(len(gram))
    low_forms = np.sum((low_signs @ gram[:low, :low]) * low_signs, axis=1)
    high_forms = np.sum((high_signs @ gram[low:, low:]) * high_signs, axis=1)
    crossed = 2 * high_signs @ gram[low:, :low]

    def sizes(block: int) -> NDArray[np.float64]:
        return np.abs(low_forms + high_forms[block] + low_signs @ crossed[block])

    return _largest(sizes, len(gram), count)


def search_forms(gram: NDArray[np.float64], starts: Signs) -> tuple[NDArray[np.float64], Signs]:
    """Return local maxima of |uᵀGu| that no flip of one sign improves, one for each start."""
    found = []
    for form in (gram, -gram):
        u = starts.copy()
        images, diagonal = u @ form, np.diagonal(form)
        active = np.arange(len(u))
        while len(active):
            gains = diagonal - u[active] * images[active]  # a quarter of them
            best = gains.argmax(axis=1)
            enough = gains[np.arange(len(active)), best] > 1e-12 * np.abs(form).sum()
            active, best = active[enough], best[enough]
            images[active] -= 2 * u[active, best][:, None] * form[best]
            u[active, best] *= -1
        found.append((np.sum((u @ form) * u, axis=1), u))
    values, signs = (np.concatenate(parts) for parts in zip(*found, strict=True))
    order = np.argsort(-values, kind="stable")
    return values[order], signs[order]


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


def enumerate_all(
    gram: NDArray[np.float64], count: int, num_vectors: int
) -> tuple[NDArray[np.float64], Signs]:
    """Return the largest values for neurons of one or two vectors, as `enumerate_signs` does."""
    return (enumerate_signs if num_vectors == 2 else enumerate_forms)(gram, count)


def search_all(
    gram: NDArray[np.float64], starts: Signs, num_vectors: int
) -> tuple[NDArray[np.float64], Signs]:
    """Return local maxima for neurons of one or two vectors, as `search_signs` does."""
    return (search_signs if num_vectors == 2 else search_forms)(gram, starts)


def random_starts(rng: np.random.Generator, count: int, d: int) -> Signs:
    """Return random sign vectors, fewer than `count` where a search of so many takes much room."""
    return rng.choice((-1.0, 1.0), (min(count, max(_ENTRIES // d**2, 16)), d))


def _split(d: int) -> tuple[int, Signs, Signs]:
    """Return how many features vary within a block, their signs, and those of the others."""
    low = min(d - 1, _BLOCK)
    high = np.column_stack([_all_signs(d - 1 - low), np.ones(2 ** (d - 1 - low))])
    return low, _all_signs(low), high


def _largest(
    values_of: Callable[[int], NDArray[np.float64]], d: int, count: int
) -> tuple[NDArray[np.float64], Signs]:
    """Return the largest values of all blocks, and their sign vectors."""
    low = min(d - 1, _BLOCK)
    num_blocks = 2 ** (d - 1 - low)
    each = min(max(4 * count // num_blocks, 8), 2**low)
    values, codes = np.empty(0), np.empty(0, np.int64)
    threshold = -np.inf
    for block in range(num_blocks):
        found = values_of(block)
        if found.max() <= threshold:
            continue
        best = np.argpartition(-found, each - 1)[:each]
        values = np.append(values, found[best])
        codes = np.append(codes, best + (block << low))
        if len(values) > 4 * max(count, each):
            kept = np.argpartition(-values, count - 1)[:count]
            values, codes = values[kept], codes[kept]
            threshold = values.min()
    order = np.argsort(-values, kind="stable")[:count]
    bits = (codes[order, None] >> np.arange(d - 1)[None, :]) & 1
    return values[order], np.column_stack([2.0 * bits - 1, np.ones(len(order))])


def _all_signs(d: int) -> Signs:
    """Return all of {−1, +1}^d, row k spelling k in binary, lowest bit first."""
    bits = (np.arange(2**d)[:, None] >> np.arange(d)[None, :]) & 1
    return np.asarray(2.0 * bits - 1)
