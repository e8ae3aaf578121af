"""How a solution is differentiated with respect to its problem."""

from __future__ import annotations

import abc
import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.custom_derivatives import SymbolicZero
from jaxtyping import Array, Bool, Float

from .._base.types import (
    Scalar,
    across,
    as_number,
    epsilon,
    highest_precision,
    is_concrete,
    is_inexact,
    tiny,
)
from .._exact.units import Units, moderate
from .._host.programs import program
from .._loss.base import AbstractLoss
from .._problem.core import Core
from .._problem.problem import Problem
from .._relaxation.solution import Solution, outputs_first, outputs_last, solution_like
from .._relaxation.status import Status
from .central import central_point
from .conditions import Central, Linearization
from .coupled import joined, separate_lanes, separated, with_change_of_level
from .linear_program import LinearProgram
from .stationarity import no_multipliers

# By the bits of the dtype. The point is as exact as eps/smoothing.
_LEAST = {64: 1e-10, 32: 1e-4}  # smoothing that can be followed
_EXTRAPOLATED = {64: 1e-7, 32: 3e-4}  # smoothing from which none is extrapolated

_COLUMNS = 64  # of what couples outputs, formed at once

_T = TypeVar("_T")


class AbstractAdjoint(eqx.Module):
    """A way to differentiate a solution with respect to X, y, β and weights."""

    @abc.abstractmethod
    def attach_numbers(self, data: Core, numbers: Solution, status: Status) -> Solution:
        """Return the numbers of a solution, with derivatives for each output that was solved."""

    def prepare(self, problem: Problem) -> None:
        """Start to compile what the derivatives at concrete numbers take, if that is known."""

    def attach(self, problem: Problem, solution: Solution) -> Solution:
        """Return the solution, with derivatives."""
        numbers, rest = eqx.partition(solution, eqx.is_inexact_array)
        return eqx.combine(self.attach_numbers(data_of(problem), numbers, solution.status), rest)


def data_of(problem: Problem) -> Core:
    """Return what the relaxation depends on, and can move: labels are no numbers."""
    has_labels = problem.loss.takes_labels or problem.loss.takes_classes
    y = jax.lax.stop_gradient(problem.y) if has_labels else problem.y
    map, layout = problem.map, problem.activation.layout
    weight, beta, loss = problem.weight, problem.beta, problem.loss
    shift = jnp.ones_like(weight) if problem.fit_intercept else None
    return Core(map.X, weight, y, beta, loss, map.corner, shift, map.sign, layout)


def is_usable(status: Status) -> Bool[Array, ...]:
    """Whether an output was solved, as well as the dtype allows."""
    return (status == Status.solved) | (status == Status.dtype_accuracy)


def each_output(function: Callable[..., _T], data: Core, *lanes: Any) -> _T:
    """Apply a function of the data of one output to the columns of y (n, c), or to y (n,).

    The other arguments, and what is returned, have the outputs first.
    """
    if data.y.ndim == 1:
        return function(data, *lanes)

    def one(y: Array, beta: Scalar, *lanes: Any) -> _T:
        return function(dataclasses.replace(data, y=y, beta=beta), *lanes)

    betas = jnp.broadcast_to(data.beta, data.y.shape[1:])
    return jax.vmap(one)(data.y.T, betas, *lanes)


def _number(smoothing: Any) -> float:
    return as_number(smoothing, "smoothing")


class Implicit(AbstractAdjoint):
    """Derivatives from the optimality conditions, whichever solver ran and however it got there.

    - `value`: by the envelope theorem, ∂β = ρ, ∂w = φ(ŷ, y), ∂x_i = −2λ_i Z x_i and ∂y = −w∂ψ/∂y,
      which is λ where φ is a function of ŷ − y; no linear solve, and as exact as the solution.
      `lower_bound` has the same derivative: both equal p_sdp.
    - `quadratic_form`, `scale`, `dual`, `predictions`: of the point of the central path with
      P·S = μ·1 in both cones, μ = smoothing·value/(2d), reached by a few Newton steps: finite and
      smooth wherever the solution has no derivative. With smoothing 0, of what a point of small μ
      extrapolates to, which is exact where the solution is unique and strictly complementary. The
      kinks of a loss, and those of its slope, are smoothed likewise: by −μ log(distance) at the
      ends of its interval, weights being in units of the largest, to a factor of two.
    - `gram`, `dual_diagonal`: likewise if smoothing > 0; else zero, as they may not be unique.

    Forward and reverse mode, any number of times, under `jit` and `vmap`. Derivatives with respect
    to labels are zero; parameters of a loss have some, by `problem.loss`. The solution itself is
    not smoothed. A failed solve has zero derivatives; NaN where the central point was not found.

    **Arguments:**

    - `smoothing`: dimensionless. If not 0, at least 1e-10 in float64 and 1e-4 in float32 is used,
      which is what rounding errors allow.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """

    smoothing: float = eqx.field(default=0.0, static=True, converter=_number)

    def __check_init__(self) -> None:
        if not 0 <= self.smoothing < 1:
            raise ValueError(f"`smoothing` must be at least 0 and below 1, got {self.smoothing}.")

    def attach_numbers(self, data: Core, numbers: Solution, status: Status) -> Solution:
        """Return the numbers of a solution, with derivatives for each output that was solved."""
        return _with_derivatives(self.smoothing, data, numbers, status)

    def prepare(self, problem: Problem) -> None:
        """Start to compile what the derivatives at concrete numbers take."""
        solution = solution_like(problem)
        data = data_of(problem)
        like = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), data)
        # What is traced here is, but for rare cases, what derivatives are taken by.
        change = jax.tree.map(lambda x, like: None if is_concrete(x) else like, data, like)
        numbers = eqx.filter(solution, is_inexact)

        def prepare_transpose(places: _Places) -> None:
            _tangents.prepare_transpose((places, like, numbers), change)

        _places.prepare(self.smoothing, like, numbers, solution.status, then=prepare_transpose)


@functools.partial(jax.custom_jvp, nondiff_argnums=(0,))
def _with_derivatives(smoothing: float, data: Core, numbers: Solution, status: Status) -> Solution:
    """Return the numbers of a solution, a function of the data."""
    return numbers


@functools.partial(_with_derivatives.defjvp, symbolic_zeros=True)
def _with_derivatives_jvp(
    smoothing: float, primals: Any, tangents: Any
) -> tuple[Solution, Solution]:
    data, numbers, status = primals
    numbers = _with_derivatives(smoothing, data, numbers, status)
    places = _places(smoothing, data, numbers, status)
    change = jax.tree.map(lambda t: None if isinstance(t, SymbolicZero) else t, tangents[0])
    return numbers, _tangents((places, data, numbers), change)


class _Place(eqx.Module):
    """Where the derivatives of an output are taken: all that they depend on but the change."""

    scaling: Scaling
    data: Core  # in moderate units
    linear: Linearization
    is_smooth: bool = eqx.field(static=True)

    def dual_step(self, change: Core) -> Array:
        """Return the derivative of t = λ/w."""
        return self.linear.derivative(self.scaling.scale(change)).dual


class _Places(eqx.Module):
    """Those of all outputs, and what couples them."""

    each: _Place
    coupling: Float[Array, "n n"] | None  # Σ_k ∂t_k/∂L


@program(level=0, often=1)
@highest_precision
def _places(smoothing: float, data: Core, numbers: Solution, status: Status) -> _Places:
    def place(data: Core, numbers: Solution, usable: Bool[Array, ""]) -> _Place:
        scaling, data = Scaling.of(data, usable)
        linear = linearization(smoothing, data, numbers, scaling)
        return _Place(scaling, data, linear, smoothing > 0)

    usable = is_usable(status)
    if not data.loss.couples_outputs:
        return _Places(each_output(place, data, _lanes(numbers), usable), None)
    data, lanes = separated(data, numbers), separate_lanes(numbers)
    each = each_output(place, data, lanes, jnp.broadcast_to(usable, numbers.scale.shape))
    still = jax.tree.map(jnp.zeros_like, data)

    def column(level: Array) -> Array:
        change = with_change_of_level(still, level)
        return jnp.sum(each_output(lambda change, at: at.dual_step(change), change, each), axis=0)

    units = jnp.eye(data.X.shape[0], dtype=data.X.dtype)
    coupling = jax.lax.map(column, units, batch_size=_COLUMNS).T
    if data.shift is not None:  # intercepts take up equal changes of L: of those there are none
        coupling = coupling + jnp.mean(jnp.diagonal(coupling)) / len(coupling)
    return _Places(each, coupling)


@LinearProgram
@highest_precision
def _tangents(fixed: tuple[_Places, Core, Solution], change: Core) -> Solution:
    """Return the derivative of the numbers by a change of the data, None where there is none."""
    places, data, numbers = fixed
    change = jax.tree.map(
        lambda like, leaf: jnp.zeros_like(like) if leaf is None else leaf, data, change
    )

    def tangent(change: Core, place: _Place, numbers: Solution) -> Solution:
        change = place.scaling.scale(change)
        step = place.linear.derivative(change)
        value = _envelope(place.data, change, numbers, place.scaling)
        zeros = jax.tree.map(jnp.zeros_like, numbers)
        restore, smooth = place.scaling.units, place.is_smooth
        layout = place.data.layout
        form = restore.restore_form(layout.form(step.primal))
        block = restore.restore_form(layout.block(step.primal))
        central = place.linear.central
        dual = place.data.weight * step.dual + central.dual * change.weight
        diagonal = restore.restore_diagonal(step.diagonal)
        return dataclasses.replace(
            zeros,
            value=restore.restore_value(value),
            lower_bound=restore.restore_value(value),
            quadratic_form=form,
            scale=restore.restore_form(layout.total(step.scale)),
            gram=layout.gram(form, block) if smooth else zeros.gram,
            dual=restore.restore_dual(dual),
            dual_diagonal=diagonal if smooth else zeros.dual_diagonal,
            predictions=restore.restore_predictions(place.linear.predictions(step, change)),
            intercept=_restored(restore, step.intercept),
        )

    if places.coupling is None:
        lanes = each_output(tangent, change, places.each, _lanes(numbers))
        return outputs_last(lanes) if numbers.multi_output else lanes
    still = with_change_of_level(change, jnp.zeros_like(change.weight))
    steps = each_output(lambda change, at: at.dual_step(change), still, places.each)
    level = -jnp.linalg.solve(places.coupling, jnp.sum(steps, axis=0))
    change = with_change_of_level(change, level)
    return joined(each_output(tangent, change, places.each, separate_lanes(numbers)))


def _restored(units: Units, intercept: Scalar | None) -> Scalar | None:
    return None if intercept is None else units.restore_predictions(intercept)


def _lanes(numbers: Solution) -> Solution:
    return outputs_first(numbers) if numbers.multi_output else numbers


def _envelope(data: Core, change: Core, numbers: Solution, units: Scaling) -> Scalar:
    """Return the derivative of the value by that of the Lagrangian at the solution."""
    scale = units.units
    predictions = numbers.predictions * scale.target
    predictions = predictions if units.center is None else predictions - units.center
    moved = data.map.turned(scale.scale_form(numbers.quadratic_form), change.X)
    dual = scale.scale_dual(numbers.dual)
    value = (
        scale.scale_form(numbers.scale) * change.beta
        + jnp.sum(dual * (change.y - moved))
        + jnp.sum(change.weight * data.loss.value(predictions, data.y))
    )
    if data.loss.is_quadratic:
        return value
    return value + jnp.sum(data.weight * _other_moves(data, change, predictions, dual))


def _other_moves(data: Core, change: Core, predictions: Array, dual: Array) -> Array:
    """Return what the loss moves φ by, and y beyond what it does where φ is one of ŷ − y."""
    counted = data.weight > 0
    unit = dual / jnp.where(counted, data.weight, 1)
    unit = jnp.where(counted, jnp.clip(unit, *data.loss.interval(data.y)), 0)

    def by_loss(loss: AbstractLoss) -> Array:
        return loss.value(predictions, data.y)

    def beyond_shifts(y: Array) -> Array:
        return -(data.loss.conjugate(unit, y) + unit * y)

    moves = jax.jvp(by_loss, (data.loss,), (change.loss,))[1]
    if not data.loss.takes_labels:
        moves = moves + jax.jvp(beyond_shifts, (data.y,), (change.y,))[1]
    return jnp.where(counted, moves, 0)


class Scaling(eqx.Module):
    """The change to moderate units, a constant as far as derivatives are concerned."""

    units: Units
    kept: Core  # of booleans: what may be of any size, as it does not count, is dropped
    center: Scalar | None = None  # subtracted from targets, with an intercept

    @staticmethod
    def of(data: Core, usable: Bool[Array, ""]) -> tuple[Scaling, Core]:
        """Choose the units of `solve`; return the data in them, harmless ones if not usable."""
        fixed = jax.lax.stop_gradient(data)
        samples = moderate(jnp.where(usable, fixed.X, 0), jnp.where(usable, fixed.weight, 1))
        y, center = jnp.where(usable, fixed.y, 0), None
        if fixed.shift is not None:
            counted = across(samples.counted, y)
            center = fixed.loss.center(jnp.where(counted, y, 0), samples.weight)
            y = y - center
        units = samples.units_for(y, fixed.loss.degree)
        largest = float(jnp.finfo(fixed.X.dtype).max) ** (1 / 8)  # of what is raised to powers
        kept = jax.tree.map(lambda x: usable & (jnp.abs(x) <= largest), _scaled(fixed, units))
        whole = jax.tree.map(lambda x: jnp.ones_like(x, bool), fixed.loss)
        kept = dataclasses.replace(kept, loss=whole)
        scaled_center = None if center is None else center * units.target
        scaling = Scaling(units, kept, scaled_center)
        data = scaling.scale(data)
        # Zero, but not for derivatives.
        weight = data.weight - jnp.where(samples.counted, 0, jax.lax.stop_gradient(data.weight))
        beta = jnp.where(usable, data.beta, 1)
        y = data.y if scaling.center is None else data.y - scaling.center
        if data.loss.takes_labels:
            y = jnp.where(usable & samples.counted, y, data.loss.any_target)
        return scaling, dataclasses.replace(data, weight=weight, y=y, beta=beta)

    def scale(self, data: Core) -> Core:
        """Return data, or a change of them, in these units."""
        scaled = _scaled(data, self.units)
        return jax.tree.map(lambda kept, x: jnp.where(kept, x, 0), self.kept, scaled)


def _scaled(data: Core, units: Units) -> Core:
    return dataclasses.replace(
        data,
        X=data.X * units.feature,
        corner=None if data.corner is None else data.corner * units.feature * units.feature,
        weight=data.weight * units.weight,
        y=data.y * units.target,
        beta=units.scale_diagonal(data.beta),
        loss=data.loss.rescaled(units.target),
    )


def linearization(
    smoothing: float, data: Core, numbers: Solution, scaling: Scaling, factor: float = 1.0
) -> Linearization:
    """Linearize the conditions at the point, next to a solution, that is differentiated.

    The factor changes the smoothing, to see how much hangs on it.
    """
    numbers, fixed = jax.lax.stop_gradient((numbers, data))
    bits = jnp.finfo(fixed.y.dtype).bits
    used = factor * (_EXTRAPOLATED[bits] if smoothing == 0 else max(smoothing, _LEAST[bits]))
    mu = used * _size(fixed, scaling.units, numbers) / (2 * fixed.X.shape[1])
    central = central_point(data, _guess(used, fixed, numbers, scaling), mu)
    linear = Linearization.of(central, data, mu)
    return linear.at_limit(mu) if smoothing == 0 else linear


def _size(data: Core, units: Units, numbers: Solution) -> Scalar:
    """Return the value, or a small number of its units where that is nothing."""
    value = jnp.where(jnp.isfinite(numbers.value), numbers.value, 0)
    value = value * units.target * units.weight
    value = value * units.target if units.degree == 2 else value
    energy = jnp.sum(data.weight * jnp.square(jnp.sum(jnp.square(data.X), axis=1)))
    least = jnp.square(data.beta) / jnp.where(energy > 0, energy, 1)
    eps = epsilon(value.dtype)
    return jnp.maximum(jnp.maximum(value, eps**0.5 * least), tiny(value.dtype) ** 0.5)


def _guess(smoothing: float, data: Core, numbers: Solution, scaling: Scaling) -> Central:
    """Return the solution, pushed a little into the cones."""
    units, d = scaling.units, data.X.shape[1]
    form, block = units.scale_form(numbers.quadratic_form), units.scale_form(numbers.block)
    blocks, scale = data.layout.blocks(form, block), units.scale_form(numbers.scale)
    push = jnp.maximum(smoothing, jnp.minimum(numbers.stats.gap, 1))
    more = push * scale * jnp.eye(d, dtype=form.dtype)[None]
    counted = data.weight > 0
    dual = units.scale_dual(numbers.dual)
    dual = jnp.where(counted, dual / jnp.where(counted, data.weight, 1), 0)
    diagonal = units.scale_diagonal(numbers.dual_diagonal) + push * data.beta / d
    levels = jnp.mean(data.layout.diagonal(blocks), axis=-1)
    intercept = None
    if numbers.intercept is not None and scaling.center is not None:
        intercept = numbers.intercept * units.target - scaling.center
    return Central(blocks + more, dual, diagonal, levels, no_multipliers(dual), intercept)
