"""Accelerated Douglas–Rachford splitting (ADMM in one variable).

    minimize f(x) + g(z)  subject to  x = z

The relaxation (`admm.py`) and the refit (`lasso.py`) say what f, g and the certified gap are; the
iteration, its acceleration, its penalty and its stopping test are written here once.
"""

from __future__ import annotations

import abc
from typing import Generic, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._base.control_flow import scan, while_loop
from .._base.trees import select
from .._base.types import Scalar, epsilon
from .acceleration import Anderson, norm

_Candidate = TypeVar("_Candidate")

_SAFEGUARD = 2.0  # an accelerated point is taken back if the residual at it grew by more than this
_BALANCE_EVERY = 2  # tests between two looks at the penalty
_BALANCE_FACTOR = 3.0  # primal and dual sizes may differ by this before the penalty changes
_PATIENCE = 10  # tests without progress, near the dtype's accuracy, before giving up
_NEAR_EPS = 1e3  # "near the dtype's accuracy": residual below this many eps


class AbstractSplit(eqx.Module, Generic[_Candidate]):
    """What is split: two proximal operators and a test of how good a point is."""

    @abc.abstractmethod
    def prox_f(self, s: Float[Array, " dim"], sigma: Scalar) -> Float[Array, " dim"]:
        """Return argmin f(x) + σ‖x − s‖²."""

    @abc.abstractmethod
    def prox_g(self, s: Float[Array, " dim"], sigma: Scalar) -> Float[Array, " dim"]:
        """Return argmin g(z) + σ‖z − s‖²."""

    @abc.abstractmethod
    def assess(self, point: Point, sigma: Scalar) -> tuple[Scalar, _Candidate]:
        """Return a relative duality gap and the candidate solution that attains it."""


class Point(eqx.Module):
    """One evaluation of the iteration: x = prox_f(s) and z = prox_g(2x − s).

    2σ(s − x) is a subgradient of f at x, and minus it belongs to g at z up to 2σ(x − z).
    """

    s: Float[Array, " dim"]
    x: Float[Array, " dim"]
    z: Float[Array, " dim"]


class Outcome(eqx.Module, Generic[_Candidate]):
    """The best candidate found, and how the loop ended."""

    candidate: _Candidate
    gap: Scalar
    residual: Scalar
    num_steps: Int[Array, ""]
    solved: Bool[Array, ""]
    stalled: Bool[Array, ""]


class _Sweep(eqx.Module):
    """State of the inner iteration."""

    s: Float[Array, " dim"]
    fallback: Float[Array, " dim"]
    reference: Scalar  # residual norm at the last accepted point
    memory: Anderson
    point: Point


class State(eqx.Module, Generic[_Candidate]):
    """State of the loop between two tests."""

    sweep: _Sweep
    sigma: Scalar
    tests: Int[Array, ""]
    best_merit: Scalar
    progress_at: Int[Array, ""]
    outcome: Outcome[_Candidate]


class Splitting(eqx.Module, Generic[_Candidate]):
    """The loop: what is split, and how.

    Each step evaluates both proximal operators once, s⁺ = s + relaxation·(z − x), extrapolated by
    Anderson acceleration of the given memory. A step whose residual ‖z − x‖ exceeds twice that of
    the last accepted one is taken back and the memory cleared, so the plain, convergent iteration
    is what remains in the worst case. Every `check_every` steps the loop stops if

        gap ≤ tol   and   ‖z − x‖ ≤ tol_residual · max(‖x‖, ‖z‖, ‖s − x‖),

    and otherwise, every second time, brings ‖x‖ (primal) and ‖s − x‖ (dual, over 2σ) to equal size
    by changing σ where they differ by more than a factor of three.
    """

    split: AbstractSplit[_Candidate]
    tol: float = eqx.field(static=True)
    tol_residual: float = eqx.field(static=True)
    relaxation: float = eqx.field(static=True)
    memory: int = eqx.field(static=True)
    check_every: int = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def start(self, s: Array, sigma: Scalar) -> State[_Candidate]:
        """Return the state at s with initial penalty σ, before any step."""
        infinity = jnp.full((), jnp.inf, s.dtype)
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        point = Point(s, s, s)
        _, shapes = jax.eval_shape(self.split.assess, point, sigma)
        empty = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), shapes)
        sweep = _Sweep(s, s, infinity, Anderson.empty(self.memory, s), point)
        outcome = Outcome(empty, infinity, infinity, zero, no, no)
        return State(sweep, sigma, zero, infinity, zero, outcome)

    @property
    def _stride(self) -> int:
        return min(self.check_every, self.max_steps)

    def finished(self, state: State[_Candidate]) -> Bool[Array, ""]:
        """Whether the loop ends here."""
        ended = state.outcome.solved | state.outcome.stalled
        return ended | (state.tests >= self.max_steps // self._stride)

    def step(self, state: State[_Candidate]) -> State[_Candidate]:
        """Take the steps up to the next stopping test, and test."""

        def step(sweep: _Sweep, _: None) -> tuple[_Sweep, None]:
            return _step(self.split, self.relaxation, state.sigma, sweep), None

        sweep, _ = scan(step, state.sweep, None, length=self._stride)
        return self._test(eqx.tree_at(lambda state: state.sweep, state, sweep))

    def run(self, s: Array, sigma: Scalar) -> Outcome[_Candidate]:
        """Iterate from s until finished."""
        final = while_loop(
            lambda state: ~self.finished(state),
            lambda state: self.step(state),  # a bound method of a module is not hashable
            self.start(s, sigma),
        )
        return final.outcome

    def _test(self, state: State[_Candidate]) -> State[_Candidate]:
        point, sigma = state.sweep.point, state.sigma
        gap, candidate = self.split.assess(point, sigma)
        primal = jnp.maximum(norm(point.x), norm(point.z))
        dual = norm(point.s - point.x)
        size = jnp.maximum(primal, dual)
        residual = norm(point.x - point.z)
        residual = jnp.where(residual > 0, residual / jnp.where(size > 0, size, 1), 0)
        merit = jnp.maximum(gap / self.tol, residual / self.tol_residual)
        merit = jnp.where(jnp.isfinite(merit), merit, jnp.inf)

        tests = state.tests + 1
        better = merit < state.best_merit
        progress_at = jnp.where(merit < 0.9 * state.best_merit, tests, state.progress_at)
        solved = merit <= 1
        # Measured by the smaller side: a far start makes the other one huge for a while.
        at_accuracy = norm(point.x - point.z) <= _NEAR_EPS * epsilon(point.s.dtype) * jnp.minimum(
            primal, dual
        )
        stalled = (tests - progress_at >= _PATIENCE) & at_accuracy & ~solved
        outcome = Outcome(
            select(better, candidate, state.outcome.candidate),
            jnp.where(better, gap, state.outcome.gap),
            jnp.where(better, residual, state.outcome.residual),
            tests * self._stride,
            solved,
            stalled,
        )
        ratio = dual / jnp.where(primal > 0, primal, 1)
        due = (tests % _BALANCE_EVERY == 0) & (primal > 0) & (dual > 0)
        change = due & ((ratio > _BALANCE_FACTOR) | (ratio < 1 / _BALANCE_FACTOR))
        new_sigma = jnp.where(change, sigma * jnp.clip(ratio, 1e-3, 1e3), sigma)
        sweep = _restarted(state.sweep, change, sigma / new_sigma)
        best_merit = jnp.minimum(merit, state.best_merit)
        return State(sweep, new_sigma, tests, best_merit, progress_at, outcome)


def _step(split: AbstractSplit, relaxation: float, sigma: Scalar, sweep: _Sweep) -> _Sweep:
    x = split.prox_f(sweep.s, sigma)
    z = split.prox_g(2 * x - sweep.s, sigma)
    residual = relaxation * (z - x)
    size = norm(residual)
    # A NaN compares false, hence the negation.
    rejected = ~(size <= _SAFEGUARD * sweep.reference)
    extrapolated, memory = sweep.memory.extrapolate(sweep.s, residual)
    accepted = _Sweep(extrapolated, sweep.s + residual, size, memory, Point(sweep.s, x, z))
    infinity = jnp.full_like(size, jnp.inf)
    back = _Sweep(sweep.fallback, sweep.fallback, infinity, memory.cleared(rejected), sweep.point)
    return select(rejected, back, accepted)


def _restarted(sweep: _Sweep, when: Array, ratio: Scalar) -> _Sweep:
    """Re-express s = primal + dual/(2σ) for a new penalty, and forget the old map's history."""
    point = sweep.point
    s = jnp.where(when, point.z + (point.s - point.x) * ratio, sweep.s)
    return _Sweep(
        s,
        jnp.where(when, s, sweep.fallback),
        jnp.where(when, jnp.inf, sweep.reference),
        sweep.memory.cleared(when),
        point,
    )
