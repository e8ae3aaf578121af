"""Derivatives of a solution beside finite differences."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._adjoint.implicit import Implicit, Scaling, data_of, linearization
from ._adjoint.report import checked_adjoint, natural_sizes, norm, random_changes
from ._base.text import numbers_of, outline
from ._base.types import Scalar, highest_precision
from ._host.programs import program
from ._problem.core import Core
from ._problem.problem import Problem, check_single
from ._relaxation.solution import Solution
from ._solve import solve
from ._solver import AbstractSolver

_AGREES = {64: 1e-4, 32: 5e-2}  # relative error of a derivative, by the bits of the dtype
_INPUTS = {"X": "X", "y": "y", "beta": "beta", "sample_weight": "weight"}  # y: no labels
_OUTPUTS = ("quadratic_form", "scale", "dual", "predictions", "value")
_NOTHING = 1e-3  # of its natural size: a derivative as small has no relative error
_STEP = {64: 1e-3, 32: 1e-2}  # relative, of the differences of fourth order


class GradientCheck(eqx.Module):
    """Derivatives beside differences, along one random direction for each input.

    **Attributes:**

    - `errors`: relative error by input ("X", "y" unless it is labels, "beta", "sample_weight") and
      output ("quadratic_form", "scale", "dual", "predictions", "value").
    - `tolerance`: the largest error that passes.
    """

    errors: dict[str, dict[str, float]]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance."""
        return all(e <= self.tolerance for row in self.errors.values() for e in row.values())

    def __repr__(self) -> str:
        leaves = jax.tree.leaves((self.errors, self.tolerance), is_leaf=lambda leaf: leaf is None)
        arrays = numbers_of(*leaves)
        if arrays is None or any(array.ndim for array in arrays):
            return outline(self)
        names = list(next(iter(self.errors.values())))
        lines = [" " * 14 + "".join(f"{name:>16}" for name in names)]
        for given, row in self.errors.items():
            lines.append(f"{given:14}" + "".join(f"{row[name]:16.1e}" for name in names))
        verdict = "agree" if self.passed else "do NOT agree"
        lines.append(f"Derivatives and differences {verdict} to {self.tolerance:.0e}.")
        return "\n".join(lines)


def check_gradient(
    problem: Problem, *, adjoint: Implicit | None = None, solver: AbstractSolver | None = None
) -> GradientCheck:
    """Compare the derivatives of a solution with finite differences, and print the verdict.

    Differenced is the very point that is differentiated (see `Implicit`), by differences of fourth
    order. The value is that of the relaxation, whatever the smoothing. Where the two disagree,
    `adjoint_report` may say why.

    **Arguments:**

    - `problem`: a `Problem` with scalar targets.
    - `adjoint`: default `Implicit()`.
    - `solver`: as in `solve`.

    **Returns:** a `GradientCheck`.

    **Raises:** `TypeError` or `ValueError` naming the argument; `SolveError`.
    """
    check_single(problem)
    if problem.loss.couples_outputs:
        raise ValueError(
            f"`problem` has {type(problem.loss).__name__}, which couples outputs; derivatives of a "
            "single output can be checked."
        )
    if problem.y.ndim != 1:
        raise ValueError(
            f"`problem` has targets of shape {problem.y.shape}; check one column at a time."
        )
    adjoint = checked_adjoint(adjoint)
    solution = solve(problem, solver)
    errors = _errors(problem, solution, solver, adjoint)
    bits = jnp.finfo(problem.X.dtype).bits
    check = GradientCheck(
        {
            given: {name: float(row[name]) for name in _OUTPUTS}
            for given in _INPUTS
            if (row := errors.get(given))
        },
        _AGREES[bits],
    )
    print(check)
    return check


@program(level=1)
@highest_precision
def _errors(
    problem: Problem, solution: Solution, solver: AbstractSolver | None, adjoint: Implicit
) -> dict[str, dict[str, Scalar]]:
    numbers = eqx.filter(solution, eqx.is_inexact_array)
    # Moved are the numbers of the problem, not what the relaxation makes of them.
    data = Core(problem.X, problem.weight, problem.y, problem.beta, problem.loss)
    scaling, moderate = Scaling.of(data_of(problem), jnp.array(True))
    units = scaling.units
    form_size, target_size = natural_sizes(moderate)
    sizes = {
        "quadratic_form": units.restore_form(form_size),
        "scale": units.restore_form(form_size),
        "dual": units.restore_dual(target_size),
        "predictions": units.restore_predictions(target_size),
        "value": units.restore_value(jnp.square(target_size)),
    }

    def moved_to(data: Core) -> Problem:
        numbers = data.X, data.y, data.beta, data.loss, data.weight
        return Problem(*numbers, None, problem.activation, problem.fit_intercept)

    def solved(data: Core) -> dict[str, Array]:
        solution = solve(moved_to(data), solver, adjoint=adjoint, throw=False)
        return {name: getattr(solution, name) for name in _OUTPUTS}

    def differenced(data: Core) -> dict[str, Array]:
        scaled = scaling.scale(data_of(moved_to(data)))
        central = linearization(adjoint.smoothing, scaled, numbers, scaling).central
        form = scaled.layout.form(central.primal)
        return {
            "quadratic_form": units.restore_form(form),
            "scale": units.restore_form(scaled.layout.total(central.scale)),
            "dual": units.restore_dual(scaled.weight * central.dual),
            "predictions": units.restore_predictions(scaled.predictions(form, central.intercept)),
        }

    dtype = data.y.dtype
    step = _STEP[jnp.finfo(dtype).bits]
    inputs = dict(_INPUTS)
    if data.loss.takes_labels:
        del inputs["y"]
    direction = jax.tree.map(lambda changes: changes[0], random_changes(data))
    # Weights stay positive, and zero where they are.
    noise = direction.weight / (1 + jnp.max(jnp.abs(direction.weight)))
    direction = dataclasses.replace(direction, weight=data.weight * noise)
    directions = [
        dataclasses.replace(
            jax.tree.map(jnp.zeros_like, data), **{field: getattr(direction, field)}
        )
        for field in inputs.values()
    ]
    # A lane for each direction and shift along it: one program solves and differentiates them all.
    shifts = jnp.asarray([-2.0, -1.0, 0.0, 1.0, 2.0], dtype) * step
    lanes: Core = jax.tree.map(lambda *leaves: jnp.repeat(jnp.stack(leaves), 5, 0), *directions)

    def at(direction: Core, shift: Array) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return what is differenced at a point along a direction, and the derivative there."""
        moved = jax.tree.map(lambda x, dx: x + shift * dx, data, direction)
        found, derivative = jax.jvp(solved, (moved,), (direction,))
        return differenced(moved) | {"value": found["value"]}, derivative

    found = jax.vmap(at)(lanes, jnp.tile(shifts, len(directions)))
    values, slopes = jax.tree.map(lambda v: v.reshape(len(directions), 5, *v.shape[1:]), found)
    around, weights = np.array([0, 1, 3, 4]), jnp.asarray([1.0, -8.0, 8.0, -1.0], dtype)
    differences = jax.tree.map(
        lambda v: jnp.tensordot(weights / (12 * step), v[:, around], axes=(0, 1)), values
    )
    derivatives = {name: slope[:, 2] for name, slope in slopes.items()}
    errors = {
        name: jax.vmap(_relative_error, in_axes=(0, 0, None))(
            derivatives[name], differences[name], _NOTHING * sizes[name]
        )
        for name in _OUTPUTS
    }
    return {
        name: {output: errors[output][index] for output in _OUTPUTS}
        for index, name in enumerate(inputs)
    }


def _relative_error(derivative: Array, difference: Array, least: Scalar) -> Scalar:
    return norm(derivative - difference) / jnp.maximum(norm(difference), least)
