"""A solve in parts: begin, advance step by step, and turn what was reached into a solution.

    begin ──► advance … advance ──► reached ──► assemble
                                       └── finish ──┘

`solve` runs them in one program, the scheduler of batches one at a time for many problems, and
where the numbers are concrete NumPy takes over `assemble`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._base.control_flow import while_loop
from .._base.trees import select
from .._base.types import (
    Scalar,
    across,
    across_outputs,
    highest_precision,
    is_inexact,
    namespace,
    over_leading,
    tiny,
)
from .._bound.relaxation import dual_bound
from .._exact.powers import rescaled
from .._exact.powers import root as root_of
from .._exact.units import Units
from .._problem.problem import Problem
from .._relaxation.feasible import feasible_point, relative_gap
from .._relaxation.solution import Solution, Stats, outputs_first, outputs_last
from .._relaxation.status import Status
from .._solver import AbstractSolver, Iterate
from .._solver.base import AbstractProcess, Report
from .scaled import Scaled, ScaledSamples


class Running(eqx.Module):
    """A solve under way, one process and one state per output if there are several.

    Outputs that the loss couples are one.
    """

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
        return function if _is_one(self.problem) else jax.vmap(function)


def _is_one(problem: Problem) -> bool:
    """Whether a problem is solved as one, and not output by output."""
    return problem.y.ndim == 1 or problem.loss.couples_outputs


def _whole(problem: Problem) -> Problem:
    """Return a problem that is solved as one, with a penalty for each output if it has several."""
    return problem if problem.y.ndim == 1 else problem.columns


@highest_precision
def begin(
    problem: Problem, solver: AbstractSolver, max_steps: int, warm_start: Solution | None = None
) -> Running:
    """Prepare a solve: everything before the first step."""
    samples = ScaledSamples.of(problem)

    def begin_output(
        y: Array, beta: Scalar, usable: Array, warm_start: Solution | None
    ) -> tuple[AbstractProcess, Any]:
        scaled = Scaled.of(samples, y, beta, usable, problem.loss)
        core = scaled.core.absorbed
        # Of X and weights alone, so that outputs share it under `vmap`.
        process = solver.bind(core, solver.factorize(core), max_steps)
        start = None if warm_start is None else _start(warm_start, scaled)
        return process, process.start(start)

    if _is_one(problem):
        one = _whole(problem)
        process, state = begin_output(one.y, one.beta, one.is_valid, warm_start)
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
def reached(running: Running) -> tuple[Iterate, Report]:
    """Return the best iterate of a solve, and how it ended, one for each output if several."""
    return running._each(type(running.process).result)(running.process, running.state)


@highest_precision
def finish(running: Running) -> Solution:
    """Turn what a solve has reached into a solution with its certificate."""
    return assemble(running.problem, running.solver, *reached(running))


def assemble(
    problem: Problem, solver: AbstractSolver, iterates: Iterate, reports: Report
) -> Solution:
    """Build the feasible point, the bound and the status of iterates; in NumPy if all are its."""
    samples = ScaledSamples.of(problem)

    def left_out(y: Array, form: Array, intercept: Array | None, units: Units) -> Scalar:
        """Loss of samples whose weights are so small that the solver takes them for zero."""
        xp, weight = namespace(y, form), problem.weight
        scale = xp.where(samples.counted, 0, root_of(weight)) * xp.sqrt(units.weight)
        map, targets = samples.map_of(problem.X), rescaled(y, units.target)
        loss = problem.loss.rescaled(units.target)
        predictions = map.outputs(form)
        if intercept is not None:
            predictions = predictions + across_outputs(intercept, predictions)
        each = loss.weighted(predictions, targets, scale)
        return xp.sum(xp.where(scale > 0, each, 0))

    tol, tol_residual = solver.tolerances(problem.X.dtype)

    def assemble_output(
        y: Array, beta: Scalar, usable: Array, iterate: Iterate, report: Report
    ) -> Solution:
        xp = namespace(y, iterate.dual)
        scaled = Scaled.of(samples, y, beta, usable, problem.loss)
        targets = xp.where(usable, y, problem.loss.any_target)
        targets = targets if scaled.center is None else targets - scaled.center
        core, units = scaled.core, scaled.units
        dual = across(core.root, iterate.dual) * iterate.dual
        point = feasible_point(core, core.predictions, iterate.blocks, iterate.intercept)
        if problem.loss.couples_outputs and point.intercept is not None:
            middle = xp.mean(point.intercept)  # which changes no probability
            point = dataclasses.replace(
                point,
                intercept=point.intercept - middle,
                predictions=point.predictions - middle,
            )
        value = point.value + left_out(targets, point.form, point.intercept, units)
        data = samples.homogeneous.X, core.y, core.weight, core.beta, dual, iterate.dual_diagonal
        has_center = core.shift is not None
        bound = dual_bound(*data, core.loss, core.layout, samples.mask, has_center, has_center)
        gap = relative_gap(core, value, bound)
        solved = (gap <= tol) & (report.residual <= tol_residual)
        status = select(report.converged, Status.dtype_accuracy, Status.max_steps)
        status = select(solved, Status.solved, status)
        form = units.restore_form(point.form)

        def restored(predictions: Array) -> Array:
            found = units.restore_predictions(predictions)
            return found if scaled.center is None else found + scaled.center

        # Predictions for samples that do not count: no part of the problem, so 0 on overflow.
        other = problem.map.outputs(form)
        if point.intercept is not None:
            other = other + across_outputs(restored(point.intercept), other)
        other = xp.where(xp.isfinite(other), other, 0)
        counted = across(samples.counted, other)
        predictions = xp.where(counted, restored(point.predictions), other)
        solution = Solution(
            value=units.restore_value(value),
            lower_bound=units.restore_bound(bound),
            quadratic_form=form,
            scale=units.restore_form(point.scale),
            gram=units.restore_form(core.layout.gram(point.form, point.block)),
            dual=units.restore_dual(dual),
            dual_diagonal=units.restore_diagonal(iterate.dual_diagonal),
            predictions=predictions,
            intercept=None if point.intercept is None else restored(point.intercept),
            status=status,
            stats=Stats(report.num_steps, gap, report.residual),
            multi_output=problem.loss.couples_outputs,
        )
        underflown = (value > 0) & (solution.value < tiny(solution.value.dtype))
        numbers = [leaf for leaf in jax.tree.leaves(solution) if is_inexact(leaf)]
        finite = [xp.all(xp.isfinite(number)) for number in numbers]
        representable = xp.all(xp.stack(finite)) & ~underflown
        return _marked_invalid(solution, ~(scaled.usable & representable))

    if _is_one(problem):
        one = _whole(problem)
        return assemble_output(one.y, one.beta, one.is_valid, iterates, reports)
    columns = problem.columns
    arguments = columns.y.T, columns.beta, columns.is_valid, iterates, reports
    return outputs_last(over_leading(assemble_output, *arguments))


def _start(solution: Solution, scaled: Scaled) -> Iterate:
    """Express a solution as the solver's iterate, in the solver's units."""
    units = scaled.units
    form, block = units.scale_form(solution.quadratic_form), units.scale_form(solution.block)
    dual = units.scale_dual(solution.dual)
    root = across(scaled.core.root, dual)
    counted = root > 0
    return Iterate(
        blocks=scaled.core.layout.blocks(form, block),
        dual=jnp.where(counted, dual / jnp.where(counted, root, 1), 0),
        dual_diagonal=units.scale_diagonal(solution.dual_diagonal),
        intercept=scaled.scaled_intercept(solution.intercept),
    )


def _marked_invalid(solution: Solution, invalid: Bool[Array, ""]) -> Solution:
    """Replace what an invalid lane computed by +inf, −inf and zeros."""
    xp = namespace(invalid)
    cleared = jax.tree.map(xp.zeros_like, solution)
    infinity = xp.full_like(solution.value, xp.inf)
    marked = dataclasses.replace(
        cleared,
        value=infinity,
        lower_bound=-infinity,
        status=Status.invalid_data,
        stats=dataclasses.replace(cleared.stats, gap=infinity),
    )
    return select(invalid, marked, solution)
