"""Solve the semidefinite relaxation of a training problem."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from ._adjoint import AbstractAdjoint, Implicit
from ._bound import dual_bound
from ._control_flow import while_loop
from ._exact import rescaled
from ._exact import root as root_of
from ._lift import quadratic_forms
from ._mesh import on_any_mesh
from ._problem import Problem, check_single
from ._residuals import feasible_point, relative_gap
from ._solution import (
    Solution,
    Stats,
    Status,
    check_solution,
    outputs_first,
    outputs_last,
    status_text,
)
from ._solver import AbstractSolver, Iterate, default_solver
from ._solver.base import AbstractProcess, CoreProblem
from ._solver.splitting import select
from ._types import Scalar, check_count, highest_precision, is_concrete, tiny
from ._units import Samples, Units, moderate


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
    throw: bool = True,
) -> Solution:
    """Solve the semidefinite relaxation, with a proven lower bound on the training problem.

        min ½ Σ w (ŷ − y)² + βρ   s.t.  ŷ_i = x_iᵀ Z x_i,  [[V, Z], [Z, V]] ⪰ 0,  diag V = ρ·1

    Its value p_sdp is at most that of the training problem, and any (λ, p) the solver reaches gives
    `lower_bound` ≤ p_sdp, rounding errors included. Targets (n, c) are c such problems that share
    X and its factorization. Works under `jit` and `vmap` (over X, y, beta, or y with X shared), in
    `jax.shard_map` and on meshes of any type (derivatives on explicit ones under `jax.set_mesh`),
    and lowers to CPU, GPU and TPU without callbacks; it compiles once per shape and dtype.

    **Arguments:**

    - `problem`: a single `Problem`; stacked ones go through `jax.vmap(solve)`.
    - `solver`: `InteriorPoint()` or `ADMM()`; by default `InteriorPoint()` where it is faster,
        which is up to about 2,000 samples or 60 features, and less in float32.
    - `max_steps`: step limit; default the solver's own. ADMM ends at a stopping test, so it takes
        the last multiple of `check_every` that is not above it.
    - `warm_start`: a `Solution` of a problem of the same shapes. `InteriorPoint` needs none and
        ignores it.
    - `adjoint`: how the solution is differentiated with respect to X, y, beta and sample_weight.
    - `throw`: raise `SolveError` if the solve failed (step limit, invalid data) and the status can
        be looked at, that is, outside every transform. Otherwise read `solution.status`.

    **Raises:** `TypeError` or `ValueError` naming the argument; `SolveError`.

    Source: Bartan & Pilanci, ICML 2021 (arXiv 2105.01420), re-derived.
    """
    _check_arguments(problem, solver, max_steps, warm_start, adjoint)
    solver = solver_for(problem.X.shape, problem.X.dtype, solver)
    limit = solver.max_steps if max_steps is None else operator.index(max_steps)
    solution = _solve(problem, solver, limit, warm_start, adjoint)
    if throw and is_concrete(solution):
        _raise_if_failed(solution)
    return solution


def solver_for(shape: tuple[int, ...], dtype: Any, solver: AbstractSolver | None) -> AbstractSolver:
    """Return the solver given, or the one for problems with X of this shape and dtype."""
    n, d = shape
    return default_solver(n, d, dtype) if solver is None else solver


class Running(eqx.Module):
    """A solve under way, one process and one state per output if there are several."""

    problem: Problem
    process: AbstractProcess
    state: Any
    solver: AbstractSolver = eqx.field(static=True)

    @property
    def finished(self) -> Bool[Array, ""]:
        """Whether every output has ended."""
        return jnp.all(self._each(type(self.process).finished)(self.process, self.state))

    def _each(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """Map over outputs, if there are several."""
        return function if self.problem.y.ndim == 1 else jax.vmap(function)


def _prepared(problem: Problem) -> tuple[Samples, Float[Array, " n"]]:
    """Return the samples in moderate units, valid ones in place of invalid ones, and √weight."""
    X, weight = problem.X, problem.weight
    valid = jnp.all(jnp.isfinite(X)) & jnp.all(jnp.isfinite(weight) & (weight >= 0))
    samples = moderate(jnp.where(valid, X, 0), jnp.where(valid, weight, 1))
    return samples, jnp.sqrt(samples.weight)


class _Output(eqx.Module):
    """One output of a problem in the solver's units, harmless numbers in place of invalid ones."""

    y: Float[Array, " n"]
    beta: Scalar
    units: Units
    usable: Bool[Array, ""]

    @staticmethod
    def of(samples: Samples, y: Array, beta: Scalar, usable: Array) -> _Output:
        y, beta = jnp.where(usable, y, 0), jnp.where(usable, beta, 1)
        units = samples.units_for(y)
        y, beta = samples.scale_targets(y, units), units.scale_beta(beta)
        usable = usable & (beta > 0)
        return _Output(y, jnp.where(usable, beta, 1), units, usable)


@highest_precision
def begin(
    problem: Problem, solver: AbstractSolver, max_steps: int, warm_start: Solution | None = None
) -> Running:
    """Prepare a solve: everything before the first step."""
    samples, root = _prepared(problem)
    core_X = jnp.sqrt(root)[:, None] * samples.X
    factorization = solver.factorize(core_X)

    def begin_output(
        y: Array, beta: Scalar, usable: Array, warm_start: Solution | None
    ) -> tuple[AbstractProcess, Any]:
        output = _Output.of(samples, y, beta, usable)
        core = CoreProblem(core_X, root * output.y, output.beta)
        process = solver.bind(core, factorization, max_steps)
        start = None if warm_start is None else _start(warm_start, output.units, root)
        return process, process.start(start)

    if problem.y.ndim == 1:
        process, state = begin_output(problem.y, problem.beta, problem.is_valid, warm_start)
    else:
        columns = problem.columns
        warm_start = None if warm_start is None else outputs_first(warm_start)
        arguments = columns.y.T, columns.beta, columns.is_valid, warm_start
        process, state = jax.vmap(begin_output)(*arguments)
    return Running(problem, process, state, solver)


@highest_precision
def advance(running: Running) -> Running:
    """Take a step of every output that has not ended."""

    def step(process: AbstractProcess, state: Any) -> Any:
        return select(process.finished(state), state, process.step(state))

    state = running._each(step)(running.process, running.state)
    return dataclasses.replace(running, state=state)


def complete(running: Running) -> Running:
    """Take steps until every output has ended."""
    state = while_loop(
        lambda state: ~dataclasses.replace(running, state=state).finished,
        lambda state: advance(dataclasses.replace(running, state=state)).state,
        running.state,
    )
    return dataclasses.replace(running, state=state)


@highest_precision
def finish(running: Running) -> Solution:
    """Turn what a solve has reached into a solution with its certificate."""
    problem, X = running.problem, running.problem.X
    samples, root = _prepared(problem)

    def left_out(y: Array, form: Array, units: Units) -> Scalar:
        """Loss of samples whose weights are so small that the solver takes them for zero."""
        weight = problem.weight
        scale = jnp.where(samples.counted, 0, root_of(weight)) * jnp.sqrt(units.weight)
        misfit = quadratic_forms(rescaled(X, units.feature), form) - rescaled(y, units.target)
        return 0.5 * jnp.sum(jnp.where(scale > 0, jnp.square(scale * misfit), 0))

    tol, tol_residual = running.solver.tolerances(X.dtype)

    def finish_output(
        y: Array, beta: Scalar, usable: Array, process: AbstractProcess, state: Any
    ) -> Solution:
        output, targets = _Output.of(samples, y, beta, usable), jnp.where(usable, y, 0)
        y, beta, units = output.y, output.beta, output.units
        iterate, report = process.result(state)
        dual = root * iterate.dual
        plus, minus = iterate.plus, iterate.minus
        predictions = quadratic_forms(samples.X, (plus - minus) / 2)
        point = feasible_point(predictions, y, samples.weight, beta, plus, minus)
        value = point.value + left_out(targets, point.form, units)
        bound = dual_bound(samples.X, y, samples.weight, beta, dual, iterate.dual_diagonal)
        gap = relative_gap(value, bound, y, samples.weight)
        solved = (gap <= tol) & (report.residual <= tol_residual)
        status = Status.where(report.converged, Status.dtype_accuracy, Status.max_steps)
        status = Status.where(solved, Status.solved, status)
        gram = jnp.block([[point.block, point.form], [point.form, point.block]])
        form = units.restore_form(point.form)
        # Predictions for samples that do not count: no part of the problem, so 0 on overflow.
        other = quadratic_forms(X, form)
        other = jnp.where(jnp.isfinite(other), other, 0)
        predictions = jnp.where(
            samples.counted, units.restore_predictions(point.predictions), other
        )
        solution = Solution(
            value=units.restore_value(value),
            lower_bound=units.restore_bound(bound),
            quadratic_form=form,
            scale=units.restore_form(point.scale),
            gram=units.restore_form(gram),
            dual=units.restore_dual(dual),
            dual_diagonal=units.restore_diagonal(iterate.dual_diagonal),
            predictions=predictions,
            status=status,
            stats=Stats(report.num_steps, gap, report.residual),
            multi_output=False,
        )
        underflown = (value > 0) & (solution.value < tiny(X.dtype))
        numbers = eqx.filter(solution, eqx.is_inexact_array)
        finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(numbers)]
        representable = jnp.all(jnp.stack(finite)) & ~underflown
        return _marked_invalid(solution, ~(output.usable & representable))

    process, state = running.process, running.state
    if problem.y.ndim == 1:
        return finish_output(problem.y, problem.beta, problem.is_valid, process, state)
    columns = problem.columns
    arguments = columns.y.T, columns.beta, columns.is_valid, process, state
    return outputs_last(jax.vmap(finish_output)(*arguments))


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


def _start(solution: Solution, units: Units, root_weight: Float[Array, " n"]) -> Iterate:
    """Express a solution as the solver's iterate, in the solver's units."""
    form, block = units.scale_form(solution.quadratic_form), units.scale_form(solution.block)
    dual = units.scale_dual(solution.dual)
    counted = root_weight > 0
    return Iterate(
        plus=block + form,
        minus=block - form,
        dual=jnp.where(counted, dual / jnp.where(counted, root_weight, 1), 0),
        dual_diagonal=units.scale_diagonal(solution.dual_diagonal),
    )


def _marked_invalid(solution: Solution, invalid: Bool[Array, ""]) -> Solution:
    """Replace what an invalid lane computed by +inf, −inf and zeros."""
    cleared = jax.tree.map(lambda leaf: jnp.where(invalid, jnp.zeros_like(leaf), leaf), solution)
    infinity = jnp.full_like(solution.value, jnp.inf)
    return dataclasses.replace(
        cleared,
        value=jnp.where(invalid, infinity, solution.value),
        lower_bound=jnp.where(invalid, -infinity, solution.lower_bound),
        status=Status.where(invalid, Status.invalid_data, solution.status),
        stats=dataclasses.replace(
            cleared.stats, gap=jnp.where(invalid, infinity, solution.stats.gap)
        ),
    )


def _check_arguments(
    problem: Problem,
    solver: AbstractSolver | None,
    max_steps: int | None,
    warm_start: Solution | None,
    adjoint: AbstractAdjoint,
) -> None:
    if not isinstance(adjoint, AbstractAdjoint):
        raise TypeError(f"`adjoint` must be an adjoint such as `Implicit()`, got {adjoint!r}.")
    check_single(problem)
    if not (solver is None or isinstance(solver, AbstractSolver)):
        raise TypeError(f"`solver` must be a solver such as `ADMM()`, got {solver!r}.")
    if max_steps is not None:
        check_count(max_steps, "max_steps")
    if warm_start is None:
        return
    check_solution(problem, warm_start, "warm_start")
    if warm_start.dual.dtype != problem.y.dtype:
        raise ValueError(
            f"`warm_start` has dtype {warm_start.dual.dtype}, `problem` {problem.y.dtype}."
        )


def _raise_if_failed(solution: Solution) -> None:
    for failure in (Status.invalid_data, Status.max_steps):
        failed = np.atleast_1d(np.asarray(solution.status == failure))
        if np.any(failed):
            outputs = ""
            if solution.multi_output:
                outputs = f" (outputs {', '.join(map(str, np.flatnonzero(failed)))})"
            gap = np.max(np.atleast_1d(np.asarray(solution.stats.gap))[failed])
            message = f"{status_text(failure)}{outputs} [relative gap {gap:.1e}]"
            raise SolveError(message, solution)
