"""Column generation: from the neurons in use to new ones that improve the network, and a bound.

    neurons ──► restricted problem ──► dual point λ ──► pricing ──► more neurons
                                            └──► λ scaled until no neuron violates it: a bound

λ alone swings from round to round. Pricing also at a point between λ and the best dual point found
so far, and many neurons a round that differ from each other, damp that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import numpy as np
from numpy.typing import NDArray

from .._bound.signs import Signs
from .._network.bilinear import neurons
from .._problem.core import Core, exponent_of
from .pricing import distinct, partners
from .restricted import solve_restricted

_EACH_ROUND = 150  # neurons added at most
_TOWARDS_BEST = 0.7  # where pricing looks, between λ and the best dual point
_EARLY = 0.1  # the restricted problem is solved to so much of the gap so far
_KEPT = 0.5  # of β: neurons of smaller |φᵀλ| are dropped when there are many ...
_MANY = 10  # ... times as many as there are samples or entries of Z

Vector = NDArray[np.float64]
Pricing = Callable[[NDArray[np.float64], int], tuple[Vector, Signs]]


@dataclasses.dataclass(frozen=True)
class Task:
    """One output of a problem on the host, in the units of its core but for y″ = 2^k·y'."""

    core: Core
    exponent: int  # k
    beta: float  # 2^k times that of the core
    left: NDArray[np.float64] | None  # (n, k) orthonormal Q; None for the identity
    rows: NDArray[np.float64]  # (k, D), Q times which are the lifted samples
    targets: Vector  # (k,) Qᵀy
    outside: Vector  # (n,) y − QQᵀy
    factor: Vector  # (D,) 1 on the diagonal of Z, √2 off it

    @staticmethod
    def of(core: Core, output: int) -> Task:
        """Prepare."""
        X, y = core.X, core.y[:, output]
        k = -exponent_of(y)
        y, beta = np.ldexp(y, k), float(np.ldexp(core.beta[output], k))
        i, j = np.triu_indices(X.shape[1])
        factor = np.where(i == j, 1.0, np.sqrt(2.0))
        rows, left, targets, outside = X[:, i] * X[:, j] * factor, None, y, np.zeros_like(y)
        if len(X) > len(factor):
            left, rows = np.linalg.qr(rows)
            targets = left.T @ y
            outside = y - left @ targets
        return Task(core, k, beta, left, rows, targets, outside, factor)

    @property
    def rest(self) -> float:
        """The loss that no network can avoid, ½‖y − QQᵀy‖²."""
        return 0.5 * float(self.outside @ self.outside)

    def restore_value(self, value: float) -> float:
        """Values back to the units of the problem."""
        return self.core.restore_value(float(np.ldexp(value, -2 * self.exponent)))

    def restore_alpha(self, alpha: Vector) -> Vector:
        """Output weights back to the units of the problem."""
        return self.core.restore_alpha(np.ldexp(alpha, -self.exponent))

    def restore_dual(self, dual: Vector) -> Vector:
        """A dual point (k,) as one of the problem, (n,)."""
        inside = dual if self.left is None else self.left @ dual
        return self.core.restore_dual(np.ldexp(inside + self.outside, -self.exponent))

    def scale_dual(self, dual: Vector) -> Vector:
        """Inverse of `restore_dual`."""
        inside = np.ldexp(self.core.scale_dual(dual), self.exponent)
        return inside if self.left is None else inside @ self.left

    def columns(self, u: Signs, v: Signs) -> NDArray[np.float64]:
        """Return what neurons (m, d) give on the rows, (k, m)."""
        if self.left is None:
            return neurons(self.core.X, u, v)
        i, j = np.triu_indices(u.shape[1])
        lifted = (u[:, i] * v[:, j] + u[:, j] * v[:, i]) * (self.factor / 2)
        return self.rows @ lifted.T

    def gram(self, dual: Vector) -> NDArray[np.float64]:
        """Return G = Xᵀ diag(λ) X for a dual point (k,)."""
        entries = (dual @ self.rows) / self.factor
        d = self.num_features
        i, j = np.triu_indices(d)
        gram = np.zeros((d, d))
        gram[i, j] = gram[j, i] = entries
        return gram

    @property
    def num_features(self) -> int:
        """Return d."""
        return self.core.X.shape[1]


@dataclasses.dataclass(frozen=True)
class Round:
    """What column generation has after a round, in the units of its task."""

    u: Signs
    v: Signs
    alpha: Vector
    dual: Vector  # (k,) the best dual point, scaled so that no neuron found violates it
    value: float  # objective of the network
    bound: float  # the dual value, a lower bound on the optimum if pricing was exact

    @property
    def gap(self) -> float:
        """The relative difference of the two."""
        return (self.value - self.bound) / self.value if self.value > 0 else 0.0


def generate(
    task: Task, price: Pricing, u: Signs, v: Signs, dual: Vector, tol: float
) -> Iterator[Round]:
    """Generate neurons, round by round, from some of them and a dual point.

    Ends when value and bound agree to the relative tolerance, or no neuron is left to add.
    """
    y, beta = task.targets, task.beta
    columns = task.columns(u, v)
    best, bound, value, early = np.zeros_like(y), -np.inf, np.inf, _EARLY

    def price_at(point: Vector) -> tuple[Signs, Signs]:
        """Price, and keep the point if its bound is better."""
        nonlocal best, bound
        gram = task.gram(point)
        norms, candidates = price(gram, _EACH_ROUND)
        scaled = scale_dual(point, y, norms[0], beta)
        gained = float(scaled @ y - 0.5 * scaled @ scaled) + task.rest
        if gained > bound:
            best, bound = scaled, gained
        return candidates, partners(gram, candidates)

    price_at(dual)
    while True:
        gap = min((value - bound) / value, 1.0) if value < np.inf else 1.0
        accuracy = max(early * gap, _EARLY * tol)
        restricted = solve_restricted(columns, y, beta, best, accuracy)
        value = min(value, restricted.value + task.rest)
        point = restricted.dual
        found = [price_at(point), price_at((1 - _TOWARDS_BEST) * point + _TOWARDS_BEST * best)]
        yield Round(u, v, restricted.alpha, best, restricted.value + task.rest, bound)
        if value - bound <= tol * value:
            return
        new_u, new_v = (np.concatenate(parts) for parts in zip(*found, strict=True))
        new = task.columns(new_u, new_v)
        violation = np.abs(point @ new)
        order = np.argsort(-violation, kind="stable")
        order = order[violation[order] > beta * (1 + 1e-9)]
        order = order[distinct(new_u[order], new_v[order], _EACH_ROUND)]
        if len(order) == 0:  # all that is left is in the restricted problem
            if accuracy <= _EARLY * tol:
                return
            early *= _EARLY
            continue
        if columns.shape[1] > _MANY * len(y):
            kept = np.abs(point @ columns) >= _KEPT * beta
            columns, u, v = columns[:, kept], u[kept], v[kept]
        columns = np.concatenate([columns, new[:, order]], axis=1)
        u, v = np.concatenate([u, new_u[order]]), np.concatenate([v, new_v[order]])


def scale_dual(point: Vector, y: Vector, norm: float, beta: float) -> Vector:
    """Return c·λ with c = clip(λᵀy/‖λ‖², 0, β/max|uᵀGv|): the best that no neuron violates."""
    square = point @ point
    if not square > 0:
        return np.zeros_like(point)
    limit = beta / norm if norm > 0 else np.inf
    return np.clip(point @ y / square, 0, limit) * point
