"""The largest form of sign vectors, max |uᵀGv| or max |uᵀGu|, or what there is time to prove."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._network.layout import Layout
from .branching import expected_nodes, forms_above
from .max_norm import dual_norm
from .signs import enumerate_forms, enumerate_signs, search_forms, search_signs

MOST_ENUMERATED = 16  # features: 2^15 sign vectors, a few milliseconds
_STARTS = 64  # of the local search
_SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.75)  # of the way to 1ᵀp
_SECONDS = 2.5e-8  # for a node, times the number of features
_OF_REST = 0.5  # of the time that is left: what a search is expected to take at most
_CLOSE = 1e-12  # relative: so that the largest is found itself


def largest_form(
    gram: NDArray[np.float64], layout: Layout, aim: float = 0.0, deadline: float = np.inf
) -> float:
    """Return a number that no |uᵀGv|, or |uᵀGu|, exceeds, but for rounding.

    The largest of them, or `aim` where that is above it; until the deadline the smallest number
    that there is time for, if only 1ᵀp of the relaxation. Up to 16 features all are tried, and the
    deadline does not count.
    """
    if len(gram) <= MOST_ENUMERATED:
        enumerate_all = enumerate_signs if layout.shares_diagonal else enumerate_forms
        return float(enumerate_all(gram, 1)[0][0])
    rng = np.random.default_rng(0)
    starts = rng.choice((-1.0, 1.0), (_STARTS, len(gram)))
    search = search_signs if layout.shares_diagonal else search_forms
    least = max(float(search(gram, starts)[0][0]), aim)
    proven = budget_of(gram, layout)
    while proven > least:
        found = _lower(gram, layout, least, proven, deadline, rng)
        if found is None:
            break
        proven, is_exact = found
        if is_exact:
            break
    return proven


def budget_of(gram: NDArray[np.float64], layout: Layout) -> float:
    """Return 1ᵀp of a feasible p that is nearly the best, which no form exceeds."""
    exact: Any = gram, np.zeros_like(gram)
    return float(dual_norm(layout, *exact))


def sides_of(layout: Layout) -> tuple[tuple[int, ...], ...]:
    """Return what `forms_above` has to search, one after the other."""
    return ((1, -1),) if layout.shares_diagonal else ((1,), (-1,))


def _lower(
    gram: NDArray,
    layout: Layout,
    least: float,
    proven: float,
    deadline: float,
    rng: np.random.Generator,
) -> tuple[float, bool] | None:
    """Return a smaller number that is proven, and whether it is the smallest; None without."""
    for share in _SHARES:
        threshold = least * (1 - _CLOSE) + share * (proven - least)
        rest = deadline - time.monotonic()
        if rest <= 0:
            return None
        if rest < np.inf:
            affordable = _OF_REST * rest
            if expected_seconds(gram, layout, threshold, rng, affordable) > affordable:
                continue
        found = [forms_above(gram, threshold, side, 1, deadline) for side in sides_of(layout)]
        if all(each.is_complete for each in found):
            is_exact = share == 0 or any(len(each.values) for each in found)
            return max(each.largest for each in found), is_exact
        return None
    return None


def expected_seconds(
    gram: NDArray[np.float64],
    layout: Layout,
    threshold: float,
    rng: np.random.Generator,
    most: float = np.inf,
) -> float:
    """Return about how long a search takes, not exactly if that is clearly more than `most`."""
    each, total = _SECONDS * len(gram), 0.0
    for side in sides_of(layout):
        if total <= most:
            total += each * expected_nodes(gram, threshold, side, rng, most / each)
    return total
