"""All sign vectors above a threshold, against brute force, on what can break a search.

    python -m benchmarks.branching --count 2000 --json branching.json      some minutes on two cores

Random G of up to ten features, of families with ties, equal features, features of zero, rank one,
one sign and scales over eight decades, the whole times 1e±8, for uᵀGv and ±uᵀGu; thresholds with
none above, one and, but for blocks of single nodes, a tenth of all. A row tells of how many the
vectors above the threshold were other ones than brute force has, and how often the largest was
above what is proven, for the blocks of nodes that the search has and for blocks of at most 1, 10
and 100, those of up to six features.
"""

from __future__ import annotations

import concurrent.futures
import functools
import multiprocessing
import os
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jaxqsdp._bound import branching
from jaxqsdp._bound.branching import forms_above
from jaxqsdp._host.threads import num_cores
from tests.problems import FAMILIES, gram_of

from ._report import arguments, publish

_SIGNS = ((1, -1), (1,), (-1,))
_BLOCKS = (1, 10, 100, branching._BLOCK)
_MOST, _MOST_IN_SMALL_BLOCKS = 10, 6  # features
_CLOSE = 1e-12  # of Σ|G|: rounding of values


def brute_force(gram: NDArray[np.float64], signs: tuple[int, ...]) -> NDArray[np.float64]:
    """Return the values, of those that differ by the sign of a part one, in descending order."""
    gram = gram[np.ix_(*2 * [np.any(gram, axis=0)])]
    d = len(gram)
    vectors = 1.0 - 2 * ((np.arange(2**d)[:, None] >> np.arange(d)) & 1)
    if len(signs) == 1:
        half = vectors[: max(2**d // 2, 1)]  # the last sign is +1
        return np.sort(signs[0] * np.einsum("ni,ij,nj->n", half, gram, half))[::-1]
    values = vectors @ gram @ vectors.T
    # (u, v), (v, u), (−u, −v), (−v, −u) are one, with u = v or u = −v two of them the same.
    u, v = np.triu_indices(2**d)
    opposite = 2**d - 1
    kept = (u <= opposite - v) & (u + v <= opposite)
    kept &= np.minimum(u, opposite - v) == u
    return np.sort(values[u[kept], v[kept]])[::-1]


def compare(block: int, index: int) -> dict[str, Any]:
    """Return how the search did on one problem."""
    family = FAMILIES[index % len(FAMILIES)]
    signs = _SIGNS[index // len(FAMILIES) % len(_SIGNS)]
    rng = np.random.default_rng(index)
    d = int(rng.integers(1, 1 + (_MOST if block == _BLOCKS[-1] else _MOST_IN_SMALL_BLOCKS)))
    gram = 10.0 ** rng.integers(-8, 9) * gram_of(family, index, d)
    values, size = brute_force(gram, signs), np.abs(gram).sum()
    places = (0,) if block == 1 else (0, len(values) // 10)
    thresholds = [values[place] - _CLOSE * size for place in places] + [values[0] + 1e-6 * size]
    wrong, above = False, False
    for threshold in thresholds:
        found = forms_above(gram, threshold, signs, 10**7)
        expected = values[values >= threshold]
        agrees = len(found.values) == len(expected) and np.allclose(
            found.values, expected, rtol=0, atol=_CLOSE * size
        )
        wrong |= not (found.is_complete and agrees)
        above |= bool(values[0] > found.largest + _CLOSE * size)
    return {"family": family, "features": d, "wrong": wrong, "above": above}


def _use_blocks(block: int) -> None:
    branching._BLOCK = block


def main() -> None:
    parser = arguments((__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=2000)
    options = parser.parse_args()
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # a process a core
    rows, fresh = [], multiprocessing.get_context("spawn")
    for block in _BLOCKS:
        with concurrent.futures.ProcessPoolExecutor(
            num_cores(), fresh, _use_blocks, (block,)
        ) as executor:
            compared = executor.map(
                functools.partial(compare, block), range(options.count), chunksize=20
            )
            found = list(compared)
        rows.append(
            {
                "nodes in a block": block,
                "problems": len(found),
                "most features": max(one["features"] for one in found),
                "other vectors than brute force": sum(one["wrong"] for one in found),
                "largest above what is proven": sum(one["above"] for one in found),
            }
        )
        print(rows[-1], [one for one in found if one["wrong"]][:3], flush=True)
    publish(rows, options.json)


if __name__ == "__main__":
    main()
