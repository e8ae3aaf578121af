"""The largest form of sign vectors, max |uᵀGv| or max |uᵀGu|, or what there is time to prove."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._network.layout import Layout
from .branching import Above, expected_seconds, forms_above
from .max_norm import dual_norm
from .signs import enumerate_all, random_starts, search_all

MOST_ENUMERATED = 16  # features: 2^15 sign vectors, a few milliseconds
CLOSE = 1e-12  # relative: so much below what is known the largest is looked for, to be found itself
_STARTS = 64  # of the local search
_SHARES = (0.0, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.55, 0.75)  # of the way to 1ᵀp
_OF_REST = 0.5  # of the time that is left: what a search is expected to take at most
_ENOUGH = 1e-9  # relative: what may remain between what is proven and what is known


@dataclasses.dataclass(frozen=True)
class Proven:
    """What `all_above` has shown: that no form of this G exceeds the norm, but for rounding."""

    gram: NDArray[np.float64]
    norm: float

    def norm_of(self, gram: NDArray[np.float64]) -> float:
        """Return what no form of another G, nearly a multiple of this one, exceeds.

        |uᵀGv| ≤ |c|·|uᵀG'v| + Σ|G − cG'|.
        """
        if gram.shape != self.gram.shape or not np.any(self.gram):
            return np.inf
        size = float(np.abs(self.gram).max())
        known = self.gram / size
        c = float(np.vdot(known, gram) / np.vdot(known, known))
        rest = float(np.abs(gram - c * known).sum()) * (1 + 1e-9)
        rest += 2.0**-50 * float(np.abs(c * known).sum() + np.abs(gram).sum())
        rest += gram.size * 2.0**-1070  # of subnormal numbers
        return abs(c) * (self.norm / size) + rest


def largest_form(
    gram: NDArray[np.float64],
    layout: Layout,
    aim: float = 0.0,
    deadline: float = np.inf,
    known: Sequence[Proven] = (),
) -> float:
    """Return a number that no |uᵀGv|, or |uᵀGu|, exceeds, but for rounding.

    The largest of them, or `aim` where that is above it; until the deadline the smallest number
    that there is time for, if only 1ᵀp of the relaxation, or what follows from what is known. Up to
    16 features all are tried, and the deadline does not count.
    """
    num_vectors = 2 if layout.shares_diagonal else 1
    if len(gram) <= MOST_ENUMERATED or not np.any(gram):
        return float(enumerate_all(gram, 1, num_vectors)[0][0]) if np.any(gram) else 0.0
    rng = np.random.default_rng(0)
    starts = random_starts(rng, _STARTS, len(gram))
    least = max(float(search_all(gram, starts, num_vectors)[0][0]), aim)
    proven = min(budget_of(gram, layout), *(one.norm_of(gram) for one in known), np.inf)
    while proven > least * (1 + _ENOUGH) and time.monotonic() < deadline:
        threshold = _affordable(gram, layout, least, proven, deadline, rng)
        if threshold is None:
            break
        found = all_above(gram, layout, threshold, 1, deadline)
        if not found.is_complete:
            break
        proven = found.largest
        if threshold < least or len(found.values):
            break
    return proven


def _affordable(
    gram: NDArray,
    layout: Layout,
    least: float,
    proven: float,
    deadline: float,
    rng: np.random.Generator,
) -> float | None:
    """Return the smallest threshold between the two that there is time to prove."""
    for share in _SHARES:
        threshold = least * (1 - CLOSE) + share * (proven - least)
        most = _OF_REST * (deadline - time.monotonic())
        if most == np.inf or seconds_for(gram, layout, threshold, rng, most) <= most:
            return threshold
    return None


def all_above(
    gram: NDArray[np.float64], layout: Layout, threshold: float, count: int, deadline: float
) -> Above:
    """Return what `forms_above` finds, of both signs of uᵀGu if that is the form."""
    if layout.shares_diagonal:
        return forms_above(gram, threshold, (1, -1), count, deadline)
    both = [forms_above(gram, threshold, (sign,), count, deadline) for sign in (1, -1)]
    values, parts = (
        np.concatenate(each)
        for each in zip(*((one.values, one.parts) for one in both), strict=True)
    )
    order = np.argsort(-values, kind="stable")[:count]
    is_complete = all(one.is_complete for one in both)
    return Above(threshold, values[order], parts[order], is_complete)


def seconds_for(
    gram: NDArray[np.float64],
    layout: Layout,
    threshold: float,
    rng: np.random.Generator,
    most: float = np.inf,
) -> float:
    """Return about how long `all_above` takes, not exactly if that is clearly more than `most`."""
    total = 0.0
    for signs in ((1, -1),) if layout.shares_diagonal else ((1,), (-1,)):
        if total <= most:
            total += expected_seconds(gram, threshold, signs, rng, most)
    return total


def budget_of(gram: NDArray[np.float64], layout: Layout) -> float:
    """Return 1ᵀp of a feasible p that is nearly the best, which no form exceeds."""
    exact: Any = gram, np.zeros_like(gram)
    return float(dual_norm(layout, *exact))
