"""Column generation: from the neurons in use to new ones that improve the network, and a bound.

    neurons ──► restricted problem ──► dual point λ ──► pricing ──► more neurons
                                            └──► λ scaled until no neuron violates it: a bound

λ alone swings from round to round. Pricing also at a point between λ and the best dual point found
so far, and many neurons a round that differ from each other, damp that.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from .._base.lift import lifted_size
from .._bound.largest import Proven
from .._problem.host_core import HostCore, exponent_of
from .pricing import Neurons, Pricing, distinct, joined, some, with_last_sign
from .target import Points, Target

EACH_ROUND = 150  # neurons added at most
_TOWARDS_BEST = 0.7  # where pricing looks, between λ and the best dual point
_EARLY = 0.1  # the restricted problem is solved to so much of the gap so far
_VIOLATED = 1e-9  # relative: what is no rounding
_KEPT = 0.5  # of β: neurons of smaller |φᵀλ| are dropped when there are many ...
_MANY = 10  # ... times as many as there are samples or entries of Z ...
_MOST_ENTRIES = 2**25  # ... or a quarter of a gigabyte of them
_BLOCK = 1024  # samples or neurons lifted at a time

Vector = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Task:
    """One output of a problem on the host, in the units of its core but for y″ = 2^k·y'.

    All outputs together where the loss couples them. Where there are more samples than entries of
    Z, and the loss is quadratic, samples are rotated: QR are the lifted ones.
    """

    core: HostCore
    exponent: int  # k
    target: Target  # what is fitted, y or Qᵀy
    rotated: tuple[NDArray[np.float64], NDArray[np.float64]] | None  # Q (n, D) and R (D, D)
    outside: Points  # y − QQᵀy, or zeros

    @staticmethod
    def all_of(core: HostCore) -> list[Task]:
        """Prepare one for each target of the core."""
        rotated = None
        if len(core.X) > lifted_size(core.X.shape[1]) and core.loss.is_quadratic:
            # In place, as this is the most memory that a search takes.
            rotated = linalg.qr(
                _lifted(core), mode="economic", overwrite_a=True, check_finite=False
            )
        return [Task._of(core, target, rotated) for target in Target.all_of(core)]

    @staticmethod
    def _of(core: HostCore, target: Target, rotated: Any) -> Task:
        k = 0 if core.loss.degree is None else -exponent_of(target.y)
        target = target.rescaled(k)
        outside = np.zeros_like(target.y)
        if rotated is not None:
            left, _ = rotated
            inside = left.T @ target.y
            outside = target.y - left @ inside
            target = dataclasses.replace(target, y=inside, weight=np.ones(len(inside)))
        return Task(core, k, target, rotated, outside)

    @property
    def rest(self) -> float:
        """The loss that no network can avoid, ½‖y − QQᵀy‖²."""
        return 0.5 * float(np.vdot(self.outside, self.outside))

    @property
    def _degree(self) -> int:
        return self.core.loss.degree or 0

    def restore_value(self, value: float) -> float:
        """Values back to the units of the problem."""
        return self.core.restore_value(float(np.ldexp(value, -self._degree * self.exponent)))

    def restore_alpha(self, alpha: Points) -> Points:
        """Output weights back to the units of the problem."""
        return self.core.restore_alpha(np.ldexp(alpha, -self.exponent))

    def restore_dual(self, dual: Points) -> Points:
        """A dual point (k,) as one of the problem, (n,)."""
        inside = dual if self.rotated is None else self.rotated[0] @ dual
        dual = np.ldexp(inside + self.outside, -(self._degree - 1) * self.exponent)
        return self.core.restore_dual(dual)

    def scale_dual(self, dual: Points) -> Points:
        """Inverse of `restore_dual`."""
        inside = np.ldexp(self.core.scale_dual(dual), (self._degree - 1) * self.exponent)
        return inside if self.rotated is None else inside @ self.rotated[0]

    def columns(self, neurons: Neurons) -> NDArray[np.float64]:
        """Return what neurons (m, d) give, (k, m)."""
        if self.rotated is None:
            return self.core.neurons(*neurons)
        u, *others = (with_last_sign(each, self.num_lifted) for each in neurons)
        (v,) = others or (u,)
        i, j = np.triu_indices(self.num_lifted)
        half, columns = _factor(self.num_lifted) / 2, np.empty((len(i), len(u)))
        for block in _blocks(len(u)):
            a, b = u[block], v[block]
            lifted = (a[:, i] * b[:, j] + a[:, j] * b[:, i]) * half
            columns[:, block] = self.rotated[1] @ lifted.T
        return columns

    def grams(self, dual: Points) -> list[NDArray[np.float64]]:
        """Return G = A*(λ) for a dual point (k,), or for each output's (k, c)."""
        return [self._gram(one) for one in np.atleast_2d(dual.T)]

    def _gram(self, dual: Vector) -> NDArray[np.float64]:
        if self.rotated is None:
            gram: Any = self.core.map.adjoint(self.core.rest(dual))
            return (gram + gram.T) / 2
        entries = (dual @ self.rotated[1]) / _factor(self.num_lifted)
        i, j = np.triu_indices(self.num_lifted)
        gram = np.zeros((self.num_lifted, self.num_lifted))
        gram[i, j] = gram[j, i] = entries
        return gram

    @property
    def num_lifted(self) -> int:
        """The size of Z."""
        return self.core.X.shape[1]


def _factor(d: int) -> Vector:
    """Return 1 for entries of the diagonal of Z, √2 for those off it."""
    i, j = np.triu_indices(d)
    return np.where(i == j, 1.0, np.sqrt(2.0))


def _blocks(count: int) -> list[slice]:
    """Return so many items in blocks, of which the lifted ones take little memory."""
    return [slice(start, start + _BLOCK) for start in range(0, count, _BLOCK)]


def _lifted(core: HostCore) -> NDArray[np.float64]:
    """Return svec of the lifted samples (n, D), for LAPACK to overwrite."""
    (n, d), direction = core.X.shape, core.direction
    i, j = np.triu_indices(d)
    factor, rows = core.map.sign * _factor(d), np.empty((n, len(i)), order="F")
    for block in _blocks(n):
        X = core.X[block]
        rows[block] = X[:, i] * X[:, j] * factor
    if core.corner is not None:
        rows[:, -1] = core.corner
    if direction is not None:
        along = direction @ rows
        for block in _blocks(n):
            rows[block] -= np.outer(direction[block], along)
    return rows


@dataclasses.dataclass(frozen=True)
class Round:
    """What column generation has after a round, in the units of its task."""

    neurons: Neurons
    alpha: Points
    dual: Points  # the best dual point, scaled so that no neuron that is known violates it
    value: float  # objective of the network
    bound: float  # the dual value, a lower bound on the optimum if pricing was exact
    proven: tuple[Proven, ...] = ()  # what the bound rests on, if that was a search

    @property
    def gap(self) -> float:
        """The relative difference of the two."""
        return (self.value - self.bound) / self.value if self.value > 0 else 0.0


def generate(
    task: Task,
    price: Pricing,
    neurons: Neurons,
    dual: Points,
    tol: float,
    value: float = np.inf,
    deadline: float = np.inf,
) -> Iterator[Round]:
    """Generate neurons, round by round, from some of them, of a value if known, and a dual point.

    Ends when value and bound agree to the relative tolerance, no neuron is left to add or, after
    the first round, it is late.
    """
    target, columns = task.target, task.columns(neurons)
    best, bound, early = np.zeros_like(target.y), -np.inf, _EARLY

    def keep(point: Points, norms: Vector) -> None:
        """Keep a point, scaled, if its bound is better."""
        nonlocal best, bound
        scaled, gained = target.best_dual(point, norms)
        if gained + task.rest > bound:
            best, bound = scaled, gained + task.rest

    def price_at(point: Points) -> Neurons:
        """Price, and keep the point if its bound is better."""
        point = target.admissible(point)
        priced = [price(gram, EACH_ROUND) for gram in task.grams(point)]
        # Local search may miss what is known.
        keep(point, np.maximum(target.norms(point, columns), [found[0] for found, _ in priced]))
        return joined(*(found for _, found in priced))

    price_at(dual)
    is_first = True
    while True:
        gap = min((value - bound) / value, 1.0) if value < np.inf else 1.0
        accuracy = max(early * gap, _EARLY * tol)
        until = np.inf if is_first else deadline
        restricted = target.restricted(columns, best, accuracy, deadline=until)
        if time.monotonic() > until:  # it may not have come far
            return
        is_first = False
        value = min(value, restricted.value + task.rest)
        point = restricted.dual
        found = [price_at(point), price_at((1 - _TOWARDS_BEST) * point + _TOWARDS_BEST * best)]
        priced = joined(*found)
        new = task.columns(priced)
        # The best point may violate what pricing missed there and has found by now; then others,
        # which seemed to be worse, may be better.
        norms = target.norms(best, new)
        if np.any(norms > target.beta * (1 + _VIOLATED)):
            bound = -np.inf
            keep(best, np.maximum(norms, target.beta))
            inside = target.admissible(point)
            keep(inside, np.maximum(target.norms(inside, columns), target.norms(inside, new)))
        yield Round(neurons, restricted.alpha, best, restricted.value + task.rest, bound)
        if value - bound <= tol * value:
            return
        violation = target.correlation(point, new)
        order = np.argsort(-violation, kind="stable")
        order = order[violation[order] > target.limit * (1 + _VIOLATED)]
        order = order[distinct(some(priced, order), EACH_ROUND)]
        if len(order) == 0:  # all that is left is in the restricted problem
            if accuracy <= _EARLY * tol:
                return
            early *= _EARLY
            continue
        if columns.shape[1] > _MANY * len(target.y) or columns.size > _MOST_ENTRIES:
            kept = target.correlation(point, columns) >= _KEPT * target.limit
            columns, neurons = columns[:, kept], some(neurons, kept)
        columns = np.concatenate([columns, new[:, order]], axis=1)
        neurons = joined(neurons, some(priced, order))
