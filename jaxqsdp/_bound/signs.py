"""All sign vectors of some features."""

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


def _all_signs(d: int) -> Signs:
    """Return all of {−1, +1}^d, row k spelling k in binary, lowest bit first."""
    bits = (np.arange(2**d)[:, None] >> np.arange(d)[None, :]) & 1
    return np.asarray(2.0 * bits - 1)
