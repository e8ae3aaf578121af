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

from .._base.types import tiny
from .._bound.largest import CLOSE, Proven, all_above, budget_of, seconds_for
from .._bound.signs import random_starts
from .._network.layout import Layout
from .columns import EACH_ROUND, Round, Task, generate
from .pricing import Neurons, joined, neurons_of, price_locally, some
from .target import Points, Vector

_STARTS, _CHECKED = 200, 600  # of local search when pricing, and before a proof
_SHARES = (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, 1.0)  # t
_FIRST, _MORE = 1.0, 4.0  # seconds for the first proof, and how many times as many for the next
_OF_REST = 0.6  # of the time that is left: what a proof is expected to take
_PATIENCE = 2.0  # times what it is expected to take, but not all of the time that is left
_ADAPTED = 2.0  # by how much one proof may change what is expected of others
_LOCALLY = 0.1  # of the tolerance: how well columns are generated
_LEAST_GAIN, _LAST_GAIN = 0.9, 0.98  # of the gap: what a proof has to promise, and the last one
_HALVINGS = 4  # until a better one is not looked for
_STALLED = 0.999  # of the gap: where a proof leaves more, there is no use in another
_VIOLATED = 1e-9  # relative


@dataclasses.dataclass
class _Place:
    """A dual point between the relaxation's and that of all neurons."""

    point: Points
    grams: list[NDArray[np.float64]]
    largest: Vector  # |uᵀGv| found, of each output
    budgets: Vector  # 1ᵀp, which is above all

    def norms(self, share: float) -> Vector:
        """Return a threshold for each output, between the two."""
        return self.largest + share * (self.budgets - self.largest)


@dataclasses.dataclass(frozen=True)
class _Plan:
    """What to prove, and about how long that takes."""

    place: _Place
    norms: Vector
    seconds: float
    most: float  # how many it may take


class _Proof:
    """What can be proven from the dual point λ of some neurons that local search adds none to.

    `violating` are neurons that a longer search finds for λ.
    """

    def __init__(
        self,
        task: Task,
        layout: Layout,
        last: Round,
        relaxed: Points,
        rng: np.random.Generator,
        deadline: float,
    ):
        self.task, self.layout, self.value, self.rng = task, layout, last.value, rng
        self.num_vectors, self.dual, self.slowness = len(last.neurons), last.dual, 1.0
        columns = task.columns(last.neurons)
        self.known = float(task.target.correlation(last.dual, columns).max(initial=0.0))
        self.places, self.violating = [], some(last.neurons, np.zeros(0, np.int64))
        for t in _SHARES:
            if time.monotonic() > deadline:
                break
            point = task.target.admissible((1 - t) * last.dual + t * relaxed)
            grams = task.grams(point)
            known = task.target.norms(point, columns)
            starts = random_starts(rng, _CHECKED, task.num_lifted)
            found = [price_locally(gram, starts, self.num_vectors) for gram in grams]
            if t == 0:
                best = joined(*(some(neurons, np.arange(EACH_ROUND)) for _, neurons in found))
                self.violating = self.violated(best)
            largest = np.maximum(known, [norms[0] for norms, _ in found]) * (1 - CLOSE)
            largest = np.maximum(largest, tiny(np.float64))
            budgets = np.array([budget_of(gram, layout) for gram in grams])
            self.places.append(_Place(point, grams, largest, np.maximum(budgets, largest)))

    def violated(self, neurons: Neurons) -> Neurons:
        """Return those that violate λ, more than any that the restricted problem has."""
        target = self.task.target
        violation = target.correlation(self.dual, self.task.columns(neurons))
        least = max(target.limit, self.known) * (1 + _VIOLATED)
        return some(neurons, np.flatnonzero(violation > least))

    def gap(self, place: _Place, norms: Vector) -> float:
        """Return the relative gap that norms at a place prove."""
        _, gained = self.task.target.best_dual(place.point, norms)
        return (self.value - gained - self.task.rest) / self.value

    def _planned(self, gap: float, most: float) -> _Plan | None:
        """Return how to prove a gap, with the norms nearest to the budgets.

        How long it takes is not exact if that is clearly more than `most`.
        """
        best = None
        for place in self.places:
            if self.gap(place, place.norms(0.0)) > gap:
                continue
            low, high = 0.0, 1.0
            for _ in range(20):
                middle = (low + high) / 2
                enough = self.gap(place, place.norms(middle)) <= gap
                low, high = (middle, high) if enough else (low, middle)
            norms = place.norms(low)
            distance = float(np.mean(np.log(place.budgets / norms)))
            if best is None or distance < best[2]:
                best = place, norms, distance
        if best is None:
            return None
        (place, norms, _), seconds, room = best, 0.0, most / self.slowness
        for gram, norm in zip(place.grams, norms, strict=True):
            if seconds <= room:
                seconds += seconds_for(gram, self.layout, norm, self.rng, room)
        return _Plan(place, norms, seconds * self.slowness, most)

    def chosen(
        self, gap: float, tol: float, most: float, deadline: float, gain: float
    ) -> tuple[_Plan | None, bool]:
        """Return the best proof that takes `most` seconds or less, and whether any takes more.

        It promises the tolerance, or at most `gain` times the gap.
        """
        low, high, best, takes_more = tol / 2, gain * gap, None, False
        for goal in (low, high):
            plan = self._planned(goal, most)
            if plan is not None and plan.seconds <= most:
                best = plan
                break
            takes_more |= plan is not None
        if best is None or goal == low:
            return best, takes_more
        for _ in range(_HALVINGS):
            if time.monotonic() > deadline:
                break
            middle = (low + high) / 2
            plan = self._planned(middle, most)
            if plan is not None and plan.seconds <= most:
                best, high = plan, middle
            else:
                low = middle
        return best, takes_more

    def run(self, plan: _Plan, deadline: float) -> tuple[Vector, Neurons] | None:
        """Return norms that are proven and neurons of at least the thresholds; None if late."""
        start, norms, parts = time.monotonic(), [], []
        until = start + max(_PATIENCE * plan.seconds, plan.most)
        if plan.most <= _OF_REST * (deadline - start):  # another attempt is to be possible
            until = min(until, start + _OF_REST * (deadline - start))
        until = min(until, deadline)
        for gram, norm in zip(plan.place.grams, plan.norms, strict=True):
            above = all_above(gram, self.layout, norm, EACH_ROUND, until)
            if not above.is_complete:
                self.slowness *= _ADAPTED
                return None
            norms.append(above.largest)
            u = above.parts.sum(axis=1).astype(np.float64)
            parts.append(neurons_of(gram, u, self.num_vectors))
        if time.monotonic() - start > _FIRST:  # else it says little
            ratio = (time.monotonic() - start) / plan.seconds
            self.slowness *= float(np.clip(ratio, 1 / _ADAPTED, _ADAPTED))
        found = np.array([max(norm, tiny(np.float64)) for norm in norms])
        plan.place.largest = np.where(found > plan.norms, found, plan.place.largest)
        return found, joined(*parts)


def generate_and_prove(
    task: Task,
    layout: Layout,
    neurons: Neurons,
    relaxed: Points,
    tol: float,
    deadline: float,
    rng: np.random.Generator,
    before: Round | None = None,
) -> Iterator[Round]:
    """Generate neurons, round by round, from some of them and the relaxation's dual point.

    Bounds are proven, and say by what. Ends when value and bound agree to the relative tolerance,
    in time, or where rounding leaves no more to be proven. `before` is the last round of a search
    to go on with.
    """
    num_vectors, target = len(neurons), task.target

    def price(gram: NDArray[np.float64], count: int) -> tuple[NDArray, Neurons]:
        starts = random_starts(rng, _STARTS, len(gram))
        norms, found = price_locally(gram, starts, num_vectors)
        return norms[:count], some(found, np.arange(len(norms))[:count])

    norms = np.array([max(budget_of(g, layout), tiny(np.float64)) for g in task.grams(relaxed)])
    best, gained = target.best_dual(relaxed, norms)
    bound, start = gained + task.rest, relaxed
    seconds, value = _FIRST, np.inf
    proven: tuple[Proven, ...] = ()
    if before is not None:
        neurons, start, value = before.neurons, before.dual, before.value
        if before.bound > bound:
            best, bound, proven = before.dual, before.bound, before.proven
    while True:
        for found in generate(task, price, neurons, start, _LOCALLY * tol, value, deadline):
            value = found.value
            yield dataclasses.replace(found, dual=best, bound=bound, proven=proven)
            if time.monotonic() > deadline:
                return
        proof = _Proof(task, layout, found, relaxed, rng, deadline)
        neurons, start, more = found.neurons, found.dual, proof.violating
        while len(more[0]) == 0:
            gap = (found.value - bound) / found.value if found.value > 0 else 0.0
            rest = deadline - time.monotonic()
            if gap <= tol or rest <= 0:
                return
            most, gain = seconds, _LEAST_GAIN
            if most > _OF_REST * rest:
                most, gain = _OF_REST * rest, _LAST_GAIN
            plan, takes_more = proof.chosen(gap, tol, most, deadline, gain)
            if plan is None and takes_more and most < seconds:  # nothing is lost by an attempt
                plan, _ = proof.chosen(gap, tol, rest, deadline, gain)
            if plan is None:
                if most < seconds or not takes_more:
                    return
                seconds *= _MORE
                continue
            begun = time.monotonic()
            result = proof.run(plan, deadline)
            if result is None:
                continue
            spent = time.monotonic() - begun
            scaled, gained = target.best_dual(plan.place.point, result[0])
            more, left = proof.violated(result[1]), 1.0
            if gained + task.rest > bound:
                left = (found.value - gained - task.rest) / (found.value - bound)
                best, bound = scaled, gained + task.rest
                pairs = zip(plan.place.grams, result[0].tolist(), strict=True)
                proven = tuple(Proven(gram, norm) for gram, norm in pairs)
            yield dataclasses.replace(found, dual=best, bound=bound, proven=proven)
            if left > _STALLED and len(more[0]) == 0:
                return
            seconds = max(seconds, _MORE * spent)
        neurons = joined(neurons, more)
