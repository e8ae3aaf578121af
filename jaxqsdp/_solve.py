"""Solve the semidefinite relaxation of a training problem."""

from __future__ import annotations

import operator
from typing import Any

import equinox as eqx
import jax
import numpy as np

from ._adjoint.implicit import AbstractAdjoint, Implicit
from ._base.mesh import on_any_mesh
from ._base.types import check_count, check_positive, is_concrete
from ._host.programs import on_host
from ._problem.problem import Problem, check_single
from ._relaxation.solution import Solution, check_solution, has_status
from ._relaxation.status import Status, status_text
from ._run.on_host import solve_often, solve_within, solver_for
from ._run.running import begin, complete, finish
from ._solver import AbstractSolver


class SolveError(RuntimeError):
    """A concrete solve ended without a solution; `solution` holds what there is."""

    def __init__(self, message: str, solution: Solution):
        super().__init__(message)
        self.solution = solution

    def __reduce__(self) -> tuple[Any, ...]:  # or pickle would rebuild it from the message alone
        return type(self), (*self.args, self.solution), self.__dict__


def solve(
    problem: Problem,
    solver: AbstractSolver | None = None,
    *,
    max_steps: int | None = None,
    warm_start: Solution | None = None,
    adjoint: AbstractAdjoint = Implicit(),
    time_limit: float | None = None,
    throw: bool = True,
) -> Solution:
    """Solve the semidefinite relaxation, with a proven lower bound on the training problem.

        min ℓ(ŷ, y) + βρ   s.t.  ŷ_i = x_iᵀ Z x_i,  [[V, Z], [Z, V]] ⪰ 0,  diag V = ρ·1

    Its value p_sdp is at most that of the training problem, and any (λ, p) the solver reaches gives
    `lower_bound` ≤ p_sdp, rounding errors included. Targets (n, c) are c such problems that share
    X and its factorization. Works under `jit` and `vmap` (over X, y, beta, or y with X shared), in
    `jax.shard_map` and on meshes of any type (derivatives on explicit ones under `jax.set_mesh`),
    and lowers to CPU, GPU and TPU without callbacks; it compiles once per shape and dtype.

    **Arguments:**

    - `problem`: a single `Problem`; stacked ones go through `jax.vmap(solve)`.
    - `solver`: `InteriorPoint()` or `ADMM()`; by default `InteriorPoint()` where it is faster,
        which is up to about 2,000 samples or 60 features, 500 samples where the loss couples
        outputs, and less in float32.
    - `max_steps`: step limit; default the solver's own. ADMM ends at a stopping test, so it takes
        the last multiple of `check_every` that is not above it.
    - `warm_start`: a `Solution` of a problem of the same shapes. `InteriorPoint` needs none and
        ignores it.
    - `adjoint`: how the solution is differentiated with respect to X, y, beta and sample_weight.
    - `time_limit`: seconds, compilation not counted, outside transforms only. The solve ends with
        the step that is under way then, with the status `interrupted` and bounds that hold.
    - `throw`: raise `SolveError` if the solve failed (step or time limit, invalid data) and the
        status can be looked at, that is, outside every transform. Otherwise read `solution.status`.

    **Raises:** `TypeError` or `ValueError` naming the argument; `SolveError`.

    Source: Bartan & Pilanci, ICML 2021 (arXiv 2105.01420), re-derived.
    """
    check_arguments(problem, solver, max_steps, warm_start, adjoint)
    problem = problem.of_one_bit
    solver = solver_for(problem, solver)
    limit = solver.max_steps if max_steps is None else operator.index(max_steps)
    if time_limit is not None:
        time_limit = check_positive(time_limit, "time_limit")
        if not on_host(problem, warm_start):
            raise ValueError("`time_limit` works outside transforms only; use `max_steps` inside.")
        solution = solve_within(problem, solver, limit, warm_start, time_limit)
    elif on_host(problem, warm_start):
        solution = solve_often(problem, solver, limit, warm_start)
    elif on_host(fixed := jax.lax.stop_gradient((problem, warm_start))):
        # Inside `jax.grad` alone, where numbers can be looked at but for their changes.
        adjoint.prepare(problem)
        solution = adjoint.attach(problem, solve_often(fixed[0], solver, limit, fixed[1]))
    else:
        solution = _solve(problem, solver, limit, warm_start, adjoint)
    if throw and is_concrete(solution):
        raise_if_failed(solution)
    return solution


@eqx.filter_jit
@on_any_mesh
def _solve(
    problem: Problem,
    solver: AbstractSolver,
    max_steps: int,
    warm_start: Solution | None,
    adjoint: AbstractAdjoint,
) -> Solution:
    fixed, warm_start = jax.lax.stop_gradient((problem, warm_start))
    return adjoint.attach(problem, finish(complete(begin(fixed, solver, max_steps, warm_start))))


def check_arguments(
    problem: Problem,
    solver: AbstractSolver | None,
    max_steps: int | None,
    warm_start: Solution | None,
    adjoint: AbstractAdjoint,
) -> None:
    if not isinstance(adjoint, AbstractAdjoint):
        raise TypeError(f"`adjoint` must be an adjoint such as `Implicit()`, got {adjoint!r}.")
    check_single(problem)
    check_limits(solver, max_steps)
    if warm_start is None:
        return
    check_solution(problem, warm_start, "warm_start")
    if warm_start.dual.dtype != problem.y.dtype:
        raise ValueError(
            f"`warm_start` has dtype {warm_start.dual.dtype}, `problem` {problem.y.dtype}."
        )


def check_limits(solver: AbstractSolver | None, max_steps: int | None) -> None:
    """Raise `TypeError` or `ValueError` unless these can be used."""
    if not (solver is None or isinstance(solver, AbstractSolver)):
        raise TypeError(f"`solver` must be a solver such as `ADMM()`, got {solver!r}.")
    if max_steps is not None:
        check_count(max_steps, "max_steps")


def raise_if_failed(solution: Solution, *, in_time: bool = True) -> None:
    """Raise `SolveError` if an output of a concrete solution was not solved, or not in time."""
    failures = [Status.invalid_data, Status.max_steps, *([Status.interrupted] if in_time else [])]
    for failure in failures:
        failed = np.atleast_1d(has_status(solution, failure))
        if np.any(failed):
            outputs = ""
            if np.ndim(solution.value):
                outputs = f" (outputs {', '.join(map(str, np.flatnonzero(failed)))})"
            gap = np.max(np.atleast_1d(np.asarray(solution.stats.gap))[failed])
            message = f"{status_text(failure)}{outputs} [relative gap {gap:.1e}]"
            raise SolveError(message, solution)
