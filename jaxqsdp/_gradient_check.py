"""Whether the derivatives of a solution are to be trusted."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from ._adjoint import Implicit, Scaling, linearization
from ._central import Central, Data, Linearization
from ._problem import Problem, check_single
from ._solution import Solution, Status, check_solution, outputs_first
from ._solve import solve
from ._solver import AbstractSolver
from ._types import Scalar, highest_precision, is_concrete

_DIRECTIONS = 4  # random changes of the data that the report tries
_MORE = 3.0  # times the smoothing
_TRUSTED = {64: 1e-3, 32: 5e-2}  # change of derivatives that comes of it
_LEAST = {64: 1e-3, 32: 3e-3}  # complementarity
_AGREES = {64: 1e-4, 32: 5e-2}  # relative error of a derivative, by the bits of the dtype
_INPUTS = {"X": "X", "y": "y", "beta": "beta", "sample_weight": "weight"}
_OUTPUTS = ("quadratic_form", "scale", "dual", "predictions", "value")
_STEP = {64: 1e-3, 32: 1e-2}  # relative, of the differences of fourth order


class AdjointStatus(eqx.Enumeration):
    """What can be said of the derivatives. `AdjointStatus[report.status]` is the text."""

    trusted: Any = "Trusted: the derivatives hardly depend on the smoothing."
    degenerate: Any = (
        "Not to be trusted: the derivatives depend on the smoothing, as the solution is not, or "
        "hardly, unique or strictly complementary, or the dtype is too coarse. Ask for those of a "
        "smooth neighbour by `adjoint=Implicit(smoothing=1e-3)`, or use float64."
    )
    failed: Any = (
        "No derivatives: the solve failed, or the point to differentiate was not found. See the "
        "solution's status; rescale or clean the data, or use float64."
    )


class AdjointReport(eqx.Module):
    """What is known of the derivatives of a solution; one of each per output.

    **Attributes:**

    - `status`: an `AdjointStatus`.
    - `residual`: ‖K·step − asked‖/‖asked‖ of the linear systems solved, the largest.
    - `condition`: how many times larger the relative changes of (Z, ρ, λ) are than those of the
      data, the largest of a few random ones.
    - `complementarity`: λmin of P/ρ₀ + S·d/β over both cones, with ρ₀ = ‖y‖/‖(‖x_i‖²)_i‖. Zero if
      the solution is not strictly complementary.
    - `dependence`: relative change of the derivatives of (Z, ρ, λ) with three times the smoothing.
      Their error is less than that.
    """

    status: Any
    residual: Scalar
    condition: Scalar
    complementarity: Scalar
    dependence: Scalar

    def __repr__(self) -> str:
        if not is_concrete(self) or self.residual.ndim > 0:
            return f"AdjointReport(shape {self.residual.shape})"
        numbers = ", ".join(
            f"{name}={getattr(self, name):.1e}"
            for name in ("residual", "condition", "complementarity", "dependence")
        )
        return f"AdjointReport({numbers}: {cast(Any, AdjointStatus)[self.status]})"


def adjoint_report(
    problem: Problem, solution: Solution, adjoint: Implicit | None = None
) -> AdjointReport:
    """Say whether the derivatives of a solution are to be trusted, and how far.

    Reverse mode cannot return a status; this does. It computes derivatives in a few random
    directions twice, with the smoothing of `adjoint` and with three times as much. Works under
    `jit` and `vmap`.

    **Arguments:**

    - `problem`, `solution`: a `Problem` and what `solve` returned for it.
    - `adjoint`: default `Implicit()`.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    check_single(problem)
    check_solution(problem, solution)
    adjoint = _checked(adjoint)
    return _report(problem, solution, adjoint)


def _checked(adjoint: Implicit | None) -> Implicit:
    if not (adjoint is None or isinstance(adjoint, Implicit)):
        raise TypeError(f"`adjoint` must be an `Implicit()`, got {adjoint!r}.")
    return Implicit() if adjoint is None else adjoint


@eqx.filter_jit
def _report(problem: Problem, solution: Solution, adjoint: Implicit) -> AdjointReport:
    def one(y: Array, beta: Scalar, solution: Solution) -> AdjointReport:
        return _report_output(Data(problem.X, problem.weight, y, beta), solution, adjoint)

    if problem.y.ndim == 1:
        return one(problem.y, problem.beta, solution)
    columns = problem.columns
    return jax.vmap(one)(columns.y.T, columns.beta, outputs_first(solution))


@highest_precision
def _report_output(data: Data, solution: Solution, adjoint: Implicit) -> AdjointReport:
    usable = (solution.status == Status.solved) | (solution.status == Status.dtype_accuracy)
    numbers = eqx.filter(solution, eqx.is_inexact_array)
    scaling, data = Scaling.of(data, usable)
    changes = random_changes(data)

    def steps(factor: float) -> tuple[Linearization, Central]:
        linear = linearization(adjoint.smoothing, data, numbers, scaling, factor)
        return linear, jax.vmap(linear.derivative)(changes)

    linear, found = steps(1.0)
    _, other = steps(_MORE)
    central, residual = linear.central, jax.vmap(linear.residual)(found, changes)
    d, bits = data.X.shape[1], jnp.finfo(data.y.dtype).bits
    # Natural sizes: what of (Z, ρ, λ) is much smaller is as good as nothing.
    energy = jnp.linalg.norm(jnp.sum(jnp.square(data.X), axis=1) * jnp.sqrt(data.weight))
    targets = jnp.linalg.norm(jnp.sqrt(data.weight) * data.y)
    target_size = jnp.where(targets > 0, targets, 1)
    form_size = target_size / jnp.where(energy > 0, energy, 1)

    def compare(step: Central, other: Central) -> tuple[Array, Array]:
        """Return relative changes of (Z, ρ, λ), and relative sizes."""
        root = jnp.sqrt(data.weight)
        parts = [
            (step.form, other.form, form_size, _norm(central.form)),
            (step.scale, other.scale, form_size, central.scale),
            (root * step.residual, root * other.residual, target_size, target_size),
        ]
        changes = [_norm(a - b) / jnp.maximum(_norm(a), size) for a, b, size, _ in parts]
        sizes = [_norm(a) / jnp.maximum(unit, size) for a, _, size, unit in parts]
        return jnp.max(jnp.stack(changes)), jnp.max(jnp.stack(sizes))

    dependence, condition = jax.tree.map(jnp.max, jax.vmap(compare)(found, other))
    together = central.primal / form_size + central.slack(data) * d / data.beta
    finite = jnp.isfinite(dependence + condition)
    complementarity = jnp.min(jnp.linalg.eigvalsh(jnp.where(finite, together, 0)))
    trusted = (dependence <= _TRUSTED[bits]) & (complementarity >= _LEAST[bits])
    status = AdjointStatus.where(trusted, AdjointStatus.trusted, AdjointStatus.degenerate)
    status = AdjointStatus.where(usable & finite, status, AdjointStatus.failed)
    return AdjointReport(status, jnp.max(residual), condition, complementarity, dependence)


def _norm(array: Array) -> Scalar:
    return jnp.linalg.norm(array.ravel())


def random_changes(data: Data) -> Data:
    """Return relative changes of all data of size 1, in a few random directions."""
    keys = jax.random.split(jax.random.key(0), _DIRECTIONS * 4).reshape(_DIRECTIONS, 4)

    def one(key: Array) -> Data:
        normal = [
            jax.random.normal(key[index], leaf.shape, leaf.dtype)
            for index, leaf in enumerate(jax.tree.leaves(data))
        ]
        return jax.tree.map(
            lambda leaf, noise: noise * _norm(leaf) / leaf.size**0.5,
            data,
            jax.tree.unflatten(jax.tree.structure(data), normal),
        )

    return jax.vmap(one)(keys)


class GradientCheck(eqx.Module):
    """Derivatives beside differences, along one random direction for each input.

    **Attributes:**

    - `errors`: relative error by input ("X", "y", "beta", "sample_weight") and output
      ("quadratic_form", "scale", "dual", "predictions", "value").
    - `tolerance`: the largest error that passes.
    """

    errors: dict[str, dict[str, float]]
    tolerance: float

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance."""
        return all(e <= self.tolerance for row in self.errors.values() for e in row.values())

    def __repr__(self) -> str:
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
    if problem.y.ndim != 1:
        raise ValueError(
            f"`problem` has targets of shape {problem.y.shape}; check one column at a time."
        )
    adjoint = _checked(adjoint)
    solution = solve(problem, solver)
    errors = _errors(problem, solution, solver, adjoint)
    bits = jnp.finfo(problem.X.dtype).bits
    check = GradientCheck(
        {given: {name: float(errors[given][name]) for name in _OUTPUTS} for given in _INPUTS},
        _AGREES[bits],
    )
    print(check)
    return check


@eqx.filter_jit
@highest_precision
def _errors(
    problem: Problem, solution: Solution, solver: AbstractSolver | None, adjoint: Implicit
) -> dict[str, dict[str, Scalar]]:
    numbers = eqx.filter(solution, eqx.is_inexact_array)
    data = Data(problem.X, problem.weight, problem.y, problem.beta)
    scaling, _ = Scaling.of(data, jnp.array(True))
    units = scaling.units

    def solved(data: Data) -> dict[str, Array]:
        problem = Problem(data.X, data.y, data.beta, sample_weight=data.weight)
        solution = solve(problem, solver, adjoint=adjoint, throw=False)
        return {name: getattr(solution, name) for name in _OUTPUTS}

    def differenced(data: Data) -> dict[str, Array]:
        scaled = scaling.scale(data)
        central = linearization(adjoint.smoothing, scaled, numbers, scaling).central
        return {
            "quadratic_form": units.restore_form(central.form),
            "scale": units.restore_form(central.scale),
            "dual": units.restore_dual(scaled.weight * central.residual),
            "predictions": units.restore_predictions(scaled.y - central.residual),
            "value": solved(data)["value"],
        }

    step = _STEP[jnp.finfo(data.y.dtype).bits]
    direction = jax.tree.map(lambda changes: changes[0], random_changes(data))
    # Weights stay positive, and zero where they are.
    noise = direction.weight / (1 + jnp.max(jnp.abs(direction.weight)))
    direction = dataclasses.replace(direction, weight=data.weight * noise)
    directions = [
        dataclasses.replace(
            jax.tree.map(jnp.zeros_like, data), **{field: getattr(direction, field)}
        )
        for field in _INPUTS.values()
    ]
    lanes: Data = jax.tree.map(lambda *leaves: jnp.stack(leaves), *directions)

    def along(direction: Data) -> tuple[dict[str, Array], dict[str, Array]]:
        """Return the derivative in one direction and the differences."""

        def at(shift: Array) -> dict[str, Array]:
            return differenced(jax.tree.map(lambda x, dx: x + shift * dx, data, direction))

        shifts = jnp.asarray([-2.0, -1.0, 1.0, 2.0], step_dtype) * step
        weights = jnp.asarray([1.0, -8.0, 8.0, -1.0], step_dtype) / (12 * step)
        values = jax.vmap(at)(shifts)
        differences = jax.tree.map(lambda v: jnp.tensordot(weights, v, axes=1), values)
        return jax.jvp(solved, (data,), (direction,))[1], differences

    step_dtype = data.y.dtype
    derivatives, differences = jax.vmap(along)(lanes)
    errors = {
        name: jax.vmap(_relative_error)(derivatives[name], differences[name]) for name in _OUTPUTS
    }
    return {
        name: {output: errors[output][index] for output in _OUTPUTS}
        for index, name in enumerate(_INPUTS)
    }


def _relative_error(derivative: Array, difference: Array) -> Scalar:
    size, error = _norm(difference), _norm(derivative - difference)
    return error / jnp.where(size > 0, size, 1)
