"""Solve one problem whose numbers are concrete: with little to compile, or fast if it comes again.

once:   padded shape ──► program that compiles quickly ──► iterate ──► solution, by NumPy
within: begin ──► some steps, as long as there is time ──► solution
often:  the same twice, then a program for this very shape, the whole of `solve` in it
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._base.control_flow import while_loop
from .._base.lift import lifted_size
from .._base.trees import select
from .._host.blas import threads_for
from .._host.programs import HostProgram, Stopwatch
from .._host.threads import num_cores
from .._problem.problem import Problem
from .._relaxation.solution import Solution, has_status
from .._relaxation.status import Status
from .._solver import AbstractSolver, InteriorPoint, Iterate, default_solver
from .._solver.base import Report
from .padding import pad, padded_shape, unpad
from .running import Running, advance, assemble, begin, complete, finish, reached

_SLICE = 0.05  # seconds at least, or half of that, between two looks at the clock
_MUCH_WORK = 3e9  # cubes of unknowns, from which the program for many saves what it compiles


def solver_for(problem: Problem, solver: AbstractSolver | None) -> AbstractSolver:
    """Return the solver given, or the one for problems like this one, stacked or not."""
    if solver is not None:
        return solver
    n, k = problem.num_samples, problem.num_lifted
    return default_solver(n, k, problem.X.dtype, problem.loss)


def solve_often(
    problem: Problem, solver: AbstractSolver, max_steps: int, warm_start: Solution | None
) -> Solution:
    """Solve a problem, one of many of its shape perhaps: the third has a program of its own."""
    arguments: tuple[Any, Any] = jax.tree.map(np.asarray, (problem, warm_start))
    if _whole.is_repeated(*arguments, solver, max_steps):
        with threads_for(_unknowns(problem, solver)):
            return jax.block_until_ready(_whole(*arguments, solver, max_steps))
    return _by_parts(*arguments, solver, max_steps)


def solve_once(
    problem: Problem, solver: AbstractSolver | None = None, max_steps: int | None = None
) -> Solution:
    """Solve a problem for a caller to whom that is one step of several; never raises."""
    solver = solver_for(problem, solver)
    limit = solver.max_steps if max_steps is None else max_steps
    return _by_parts(jax.tree.map(np.asarray, problem), None, solver, limit)


def prepare_solve_once(
    problem: Problem, solver: AbstractSolver | None = None, max_steps: int | None = None
) -> None:
    """Start to compile what `solve_once` runs."""
    solver = solver_for(problem, solver)
    limit = solver.max_steps if max_steps is None else max_steps
    _parts.prepare(pad(problem, padded_shape(*problem.X.shape)), None, solver, limit)


def numbers(
    problem: Problem,
    shape: tuple[int, ...],
    solver: AbstractSolver,
    max_steps: int,
    warm_start: Solution | None = None,
    *,
    often: bool = False,
) -> Solution:
    """Solve a problem of NumPy arrays, padded to a shape, and return such.

    By parts, or `often` by the program that `come_often` has prepared.
    """
    arguments = pad(problem, shape), warm_start, solver, max_steps
    with threads_for(_unknowns(problem, solver)):
        outcome = jax.block_until_ready((_whole if often else _parts)(*arguments))
    outcome = jax.tree.map(np.asarray, outcome)
    if not often:
        with np.errstate(all="ignore"):  # what overflows is marked by a status
            outcome = assemble(arguments[0], solver, *outcome)
    return unpad(outcome, problem)


def come_often(
    problem: Problem, shape: tuple[int, ...], solver: AbstractSolver, max_steps: int, count: int
) -> bool:
    """Whether so many problems that look like this one are worth the program for many.

    They are if together they take longer than that takes to compile, or the third time they come.
    It starts to compile what they take, and for the third time.
    """
    arguments = pad(problem, shape), None, solver, max_steps
    solves = count * problem.num_outputs
    much = solves * _unknowns(arguments[0], solver) ** 3 >= _MUCH_WORK
    if much:
        _whole.prepare(*arguments)
    often = much or _whole.is_repeated(*arguments)
    if not often:
        _parts.prepare(*arguments)
    return often


def _by_parts(
    problem: Problem, warm_start: Solution | None, solver: AbstractSolver, max_steps: int
) -> Solution:
    # A warm start is of the shape of its problem.
    shape = problem.X.shape if warm_start is not None else padded_shape(*problem.X.shape)
    return jax.device_put(numbers(problem, shape, solver, max_steps, warm_start))


def solve_within(
    problem: Problem,
    solver: AbstractSolver,
    max_steps: int,
    warm_start: Solution | None,
    time_limit: float,
) -> Solution:
    """Solve a problem in slices of time, and stop with what there is when the time is over."""
    problem, warm_start = jax.tree.map(np.asarray, (problem, warm_start))
    shape = problem.X.shape if warm_start is not None else padded_shape(*problem.X.shape)
    given, problem = problem, pad(problem, shape)
    watch, steps, ended = Stopwatch(), 1, False
    with threads_for(_unknowns(problem, solver)):
        running = _begun(problem, warm_start, solver, max_steps)
        while not ended and watch.seconds < time_limit:
            start = watch.seconds
            running, is_over = _advanced(running, np.int32(steps))
            ended = bool(is_over)
            steps *= 2 if watch.seconds - start < _SLICE else 1
        iterates, reports = jax.tree.map(np.asarray, _reached(running))
    with np.errstate(all="ignore"):
        solution = unpad(assemble(problem, solver, iterates, reports), given)
    if not ended:
        stopped = has_status(solution, Status.max_steps)
        status = select(stopped, Status.interrupted, solution.status)
        solution = dataclasses.replace(solution, status=status)
    return jax.device_put(solution)


def threads_for_solves(solver: AbstractSolver, dtype: Any) -> int:
    """Return how many threads may solve problems at a time: one a core, on CPUs."""
    if jax.default_backend() != "cpu" or not solver.is_thread_safe(dtype):
        return 1
    return num_cores()


def _unknowns(problem: Problem, solver: AbstractSolver) -> int:
    """Return the size of the largest system of a step."""
    n, d = problem.num_samples, problem.num_lifted
    if problem.loss.couples_outputs and isinstance(solver, InteriorPoint):
        return n
    return min(n, lifted_size(d))


def _reach(
    problem: Problem, warm_start: Solution | None, solver: AbstractSolver, max_steps: int
) -> tuple[Iterate, Report]:
    return reached(complete(begin(problem, solver, max_steps, warm_start)))


def _solve(
    problem: Problem, warm_start: Solution | None, solver: AbstractSolver, max_steps: int
) -> Solution:
    return finish(complete(begin(problem, solver, max_steps, warm_start)))


def _begin(
    problem: Problem, warm_start: Solution | None, solver: AbstractSolver, max_steps: int
) -> Running:
    return begin(problem, solver, max_steps, warm_start)


def _advance(running: Running, steps: Array) -> tuple[Running, Array]:
    """Take so many steps, unless the solve ends before; return whether it has."""

    def at(state: Any) -> Running:
        return dataclasses.replace(running, state=state)

    state, _ = while_loop(
        lambda carry: ~at(carry[0]).finished & (carry[1] < steps),
        lambda carry: (advance(at(carry[0])).state, carry[1] + 1),
        (running.state, jnp.zeros_like(steps)),
    )
    return at(state), at(state).finished


_parts = HostProgram(_reach, level=0)
_whole = HostProgram(_solve, level=1)
_begun, _advanced, _reached = (HostProgram(part, level=0) for part in (_begin, _advance, reached))
