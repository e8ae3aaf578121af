"""Column generation where sign vectors are too many to enumerate, and the proof that it has ended.

Local search prices until it finds nothing. That leads to the dual point λ of all neurons, at which
very many of them are nearly violated: to prove that none is takes long. Less is proven, but more
quickly, at points between it and the relaxation's dual point λ₀, and with a threshold above the
largest |uᵀGv| there:

    neurons ──► generate, priced locally ──► λ ──► |uᵀGv| < T at (1 − t)·λ + t·λ₀ ──► a bound
       └──────────── those that violate λ after all ◄──┘

Of t and T that promise the same bound those are taken for which T is nearest to the 1ᵀp of the
relaxation there, and of bounds the best that there is time for; how long it takes is estimated.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from .._bound.branching import forms_above
from .._bound.largest import budget_of, expected_seconds, sides_of
from .._network.layout import Layout
from .columns import EACH_ROUND, Round, Task, generate
from .pricing import Neurons, joined, neurons_of, price_locally, some
from .target import Points, Vector

_STARTS, _CHECKED = 200, 600  # of local search when pricing, and before a proof
_SHARES = (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)  # t
_FIRST, _MORE = 1.0, 4.0  # seconds for the first proof, and how many times as many for the next
_OF_REST = 0.6  # of the time that is left: what a proof is expected to take at most
_PATIENCE = 3.0  # times what it is expected to take
_LOCALLY = 0.1  # of the tolerance: how well columns are generated
_AT_ONCE, _COARSER = 50.0, 1.6  # by how much a gap is to shrink at once, and steps from there
_LEAST_GAIN = 0.9  # of the gap, which a proof has to promise
_CLOSE = 1e-12  # relative: so that the largest form is found itself


@dataclasses.dataclass(frozen=True)
class _Place:
    """A dual point between the relaxation's and that of all neurons."""

    point: Points
    grams: list[NDArray[np.float64]]
    largest: Vector  # |uᵀGv| found, of each output
    budgets: Vector  # 1ᵀp, which is above all

    def norms(self, share: float) -> Vector:
        """Return a threshold for each output, between the two."""
        return self.largest + share * (self.budgets - self.largest)


class _Proof:
    """What can be proven from the dual point λ of some neurons that local search adds none to."""

    def __init__(
        self, task: Task, layout: Layout, last: Round, relaxed: Points, rng: np.random.Generator
    ):
        self.task, self.layout, self.value, self.rng = task, layout, last.value, rng
        columns = task.columns(last.neurons)
        self.places = []
        for t in _SHARES:
            point = task.target.admissible((1 - t) * last.dual + t * relaxed)
            grams = task.grams(point)
            known = np.abs(np.atleast_2d(point.T) @ columns).max(axis=1, initial=0.0)
            starts = rng.choice((-1.0, 1.0), (_CHECKED, task.num_lifted))
            found = [price_locally(gram, starts, len(last.neurons))[0][0] for gram in grams]
            largest = np.maximum(known, found) * (1 - _CLOSE)
            budgets = np.array([budget_of(gram, layout) for gram in grams])
            self.places.append(_Place(point, grams, largest, np.maximum(budgets, largest)))

    def gap(self, place: _Place, share: float) -> float:
        """Return the relative gap that thresholds at a place prove."""
        _, gained = self.task.target.best_dual(place.point, place.norms(share))
        return (self.value - gained - self.task.rest) / self.value

    def planned(self, gap: float) -> tuple[_Place, float] | None:
        """Return place and share that prove a gap, with thresholds nearest to the budgets."""
        best = None
        for place in self.places:
            if self.gap(place, 0.0) > gap:
                continue
            low, high = 0.0, 1.0
            for _ in range(20):
                middle = (low + high) / 2
                low, high = (middle, high) if self.gap(place, middle) <= gap else (low, middle)
            distance = float(np.mean(np.log(place.budgets / place.norms(low))))
            if best is None or distance < best[2]:
                best = place, low, distance
        return None if best is None else best[:2]

    def chosen(self, gap: float, tol: float, most: float) -> tuple[_Place, float, float] | None:
        """Return place, share and seconds of the best proof that takes `most` seconds or less."""
        goals = [tol / 2]
        while (coarser := max(gap / _AT_ONCE, goals[-1]) * _COARSER) < _LEAST_GAIN * gap:
            goals.append(coarser)
        for goal in goals:
            plan = self.planned(goal)
            if plan is not None:
                place, share = plan
                pairs = zip(place.grams, place.norms(share), strict=True)
                seconds = 0.0
                for gram, norm in pairs:
                    if seconds <= most:
                        seconds += expected_seconds(gram, self.layout, norm, self.rng, most)
                if seconds <= most:
                    return place, share, seconds
        return None

    def run(
        self, place: _Place, share: float, num_vectors: int, deadline: float
    ) -> tuple[Vector, Neurons] | None:
        """Return norms that are proven and neurons of at least the thresholds; None if late."""
        norms, parts = [], []
        for gram, norm in zip(place.grams, place.norms(share), strict=True):
            proven = 0.0
            for signs in sides_of(self.layout):
                above = forms_above(gram, norm, signs, EACH_ROUND, deadline)
                if not above.is_complete:
                    return None
                proven = max(proven, above.largest)
                u = above.parts.sum(axis=1).astype(np.float64)
                parts.append(neurons_of(gram, u, num_vectors))
            norms.append(proven)
        return np.array(norms), joined(*parts)


def generate_and_prove(
    task: Task,
    layout: Layout,
    neurons: Neurons,
    relaxed: Points,
    tol: float,
    deadline: float,
    rng: np.random.Generator,
) -> Iterator[Round]:
    """Generate neurons, round by round, from some of them and the relaxation's dual point.

    Bounds are proven. Ends when value and bound agree to the relative tolerance, or in time.
    """
    num_vectors, target = len(neurons), task.target

    def price(gram: NDArray[np.float64], count: int) -> tuple[NDArray, Neurons]:
        starts = rng.choice((-1.0, 1.0), (_STARTS, len(gram)))
        norms, found = price_locally(gram, starts, num_vectors)
        return norms[:count], some(found, np.arange(len(norms))[:count])

    norms = np.array([budget_of(gram, layout) for gram in task.grams(relaxed)])
    best, gained = target.best_dual(relaxed, norms)
    bound, start, seconds = gained + task.rest, relaxed, _FIRST
    while True:
        for found in generate(task, price, neurons, start, _LOCALLY * tol):
            yield dataclasses.replace(found, dual=best, bound=bound)
            if time.monotonic() > deadline:
                return
        proof = _Proof(task, layout, found, relaxed, rng)
        neurons, start = found.neurons, found.dual
        more: Neurons = some(neurons, np.zeros(0, np.int64))
        while len(more[0]) == 0:
            gap = (found.value - bound) / found.value if found.value > 0 else 0.0
            rest = deadline - time.monotonic()
            if gap <= tol or rest <= 0:
                return
            most = min(seconds, _OF_REST * rest)
            chosen = proof.chosen(gap, tol, most)
            if chosen is None and most < seconds:
                return
            seconds *= _MORE
            if chosen is None:
                continue
            place, share, expected = chosen
            patience = max(_PATIENCE * expected, _FIRST)
            until = min(time.monotonic() + patience, deadline)
            result = proof.run(place, share, num_vectors, until)
            if result is None:
                continue
            scaled, gained = target.best_dual(place.point, result[0])
            if gained + task.rest > bound:
                best, bound = scaled, gained + task.rest
            yield dataclasses.replace(found, dual=best, bound=bound)
            violation = target.correlation(start, task.columns(result[1]))
            more = some(result[1], np.flatnonzero(violation > target.limit * (1 + 1e-9)))
        neurons = joined(neurons, more)
