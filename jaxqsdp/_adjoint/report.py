"""Whether the derivatives of a solution are to be trusted."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from .._base.enumeration import ReadableMeta
from .._base.text import numbers_of, outline
from .._base.types import Scalar, highest_precision
from .._host.programs import program
from .._problem.core import Core
from .._problem.problem import Problem, check_single
from .._relaxation.solution import Solution, check_solution, outputs_first
from .conditions import Central, Linearization
from .coupled import separate_lanes, separated
from .implicit import Implicit, Scaling, data_of, each_output, is_usable, linearization

_DIRECTIONS = 4  # random changes of the data that the report tries
_MORE = 3.0  # times the smoothing
_TRUSTED = {64: 1e-3, 32: 5e-2}  # change of derivatives that comes of it
_LEAST = {64: 1e-3, 32: 1.2e-2}  # complementarity


class AdjointStatus(eqx.Enumeration, metaclass=ReadableMeta):
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
      data, the largest of a few random ones; what does not count stays.
    - `complementarity`: λmin of P/ρ₀ + S·d/β over both cones, with ρ₀ = ‖y‖/‖(‖x_i‖²)_i‖. Zero if
      the solution is not strictly complementary.
    - `dependence`: relative change of the derivatives of (Z, ρ, λ) with three times the smoothing.
      Their error is usually less than that.
    """

    status: Any
    residual: Scalar
    condition: Scalar
    complementarity: Scalar
    dependence: Scalar

    def __repr__(self) -> str:
        names = ("residual", "condition", "complementarity", "dependence")
        arrays = numbers_of(*(getattr(self, name) for name in names))
        readable = isinstance(self.status, cast(Any, AdjointStatus))
        if not readable or arrays is None or any(array.ndim for array in arrays):
            return outline(self)
        pairs = zip(names, arrays, strict=True)
        numbers = ", ".join(f"{name}={float(array):.1e}" for name, array in pairs)
        return f"AdjointReport({numbers}: {cast(Any, AdjointStatus)[self.status]})"


def adjoint_report(
    problem: Problem, solution: Solution, adjoint: Implicit | None = None
) -> AdjointReport:
    """Say whether the derivatives of a solution are to be trusted, and how far.

    Reverse mode cannot return a status; this does. It computes derivatives in a few random
    directions twice, with the smoothing of `adjoint` and with three times as much. Works under
    `jit` and `vmap`. Outputs that the loss couples are looked at one by one.

    **Arguments:**

    - `problem`, `solution`: a `Problem` and what `solve` returned for it.
    - `adjoint`: default `Implicit()`.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    check_single(problem)
    check_solution(problem, solution)
    adjoint = checked_adjoint(adjoint)
    return _report(problem, solution, adjoint)


def checked_adjoint(adjoint: Implicit | None) -> Implicit:
    """Return the adjoint given or the default one, or raise `TypeError`."""
    if not (adjoint is None or isinstance(adjoint, Implicit)):
        raise TypeError(f"`adjoint` must be an `Implicit()`, got {adjoint!r}.")
    return Implicit() if adjoint is None else adjoint


@program(level=1)
def _report(problem: Problem, solution: Solution, adjoint: Implicit) -> AdjointReport:
    def one(data: Core, solution: Solution) -> AdjointReport:
        return _report_output(data, solution, adjoint)

    data = data_of(problem)
    if problem.loss.couples_outputs:
        return each_output(one, separated(data, solution), separate_lanes(solution))
    lanes = outputs_first(solution) if solution.multi_output else solution
    return each_output(one, data, lanes)


@highest_precision
def _report_output(data: Core, solution: Solution, adjoint: Implicit) -> AdjointReport:
    usable = is_usable(solution.status)
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
    form_size, target_size = natural_sizes(data)

    def compare(step: Central, other: Central) -> tuple[Array, Array]:
        """Return relative changes of (Z, ρ, λ), and relative sizes."""
        root = jnp.sqrt(data.weight)

        def form(at: Central) -> Array:
            return data.layout.form(at.primal)

        parts = [
            (form(step), form(other), form_size, norm(form(central))),
            (step.scale, other.scale, form_size, norm(central.scale)),
            (root * step.dual, root * other.dual, target_size, target_size),
        ]
        changes = [norm(a - b) / jnp.maximum(norm(a), size) for a, b, size, _ in parts]
        sizes = [norm(a) / jnp.maximum(unit, size) for a, _, size, unit in parts]
        return jnp.max(jnp.stack(changes)), jnp.max(jnp.stack(sizes))

    dependence, condition = jax.tree.map(jnp.max, jax.vmap(compare)(found, other))
    together = central.primal / form_size + central.slack(data) * d / data.beta
    finite = jnp.isfinite(dependence + condition)
    complementarity = jnp.min(jnp.linalg.eigvalsh(jnp.where(finite, together, 0)))
    trusted = (dependence <= _TRUSTED[bits]) & (complementarity >= _LEAST[bits])
    trusted = trusted & (jnp.max(residual) <= _TRUSTED[bits])
    status = AdjointStatus.where(trusted, AdjointStatus.trusted, AdjointStatus.degenerate)
    status = AdjointStatus.where(usable & finite, status, AdjointStatus.failed)
    return AdjointReport(status, jnp.max(residual), condition, complementarity, dependence)


def natural_sizes(data: Core) -> tuple[Scalar, Scalar]:
    """Return sizes of Z and of √w∘y: what is much smaller is as good as nothing."""
    root = jnp.sqrt(data.weight)
    energy = norm(root * jnp.sum(jnp.square(data.X), axis=1))
    targets = norm(root * data.y)
    target_size = jnp.where(targets > 0, targets, 1)
    return target_size / jnp.where(energy > 0, energy, 1), target_size


def norm(array: Array) -> Scalar:
    """Return the root of the sum of squares of all entries."""
    return jnp.linalg.norm(array.ravel())


def random_changes(data: Core) -> Core:
    """Return relative changes of size 1 of all that counts, in a few random directions."""
    counted = data.weight > 0
    y, X = jnp.where(counted, data.y, 0), jnp.where(counted[:, None], data.X, 0)
    data = dataclasses.replace(data, X=X, y=y)
    count = jnp.maximum(jnp.mean(counted, dtype=y.dtype), 1 / y.size)
    keys = jax.random.split(jax.random.key(0), _DIRECTIONS * 4).reshape(_DIRECTIONS, 4)

    def one(key: Array) -> Core:
        changes = {}
        for index, name in enumerate(("X", "weight", "y", "beta")):
            leaf = getattr(data, name)
            noise = jax.random.normal(key[index], leaf.shape, leaf.dtype)
            changes[name] = noise * norm(leaf) / jnp.sqrt(leaf.size * count)
        moving = jnp.zeros_like(counted) if data.loss.takes_labels else counted
        # The constant that an activation has appended is none of the data.
        features = jnp.arange(data.X.shape[1]) < data.X.shape[1] - (data.corner is not None)
        return dataclasses.replace(
            jax.tree.map(jnp.zeros_like, data),
            X=jnp.where(counted[:, None] & features[None], changes["X"], 0),
            weight=changes["weight"],
            y=jnp.where(moving, changes["y"], 0),
            beta=changes["beta"],
        )

    return jax.vmap(one)(keys)
