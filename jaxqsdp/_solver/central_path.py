"""The Newton steps that follow the central path of the relaxation and its dual.

Along the path P·S₊ = N·S₋ = μ·1, and the products of multipliers and slacks at the ends of the
loss's intervals are μ, too. `CentralPath` is that of the squared loss, which has none of these and
a fixed system of samples; `LossPath` (`loss_path.py`) that of any other but softmax, whose outputs
`CoupledPath` (`coupled_path.py`) joins.
"""

from __future__ import annotations

import abc
import dataclasses
from typing import Any, ClassVar, Protocol

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._base.control_flow import fori_loop
from .._base.lift import diagonal_matrices
from .._base.trees import select
from .._base.types import Scalar, unit_vector
from .._problem.core import Core
from .._relaxation.feasible import dual_value, feasible_point, relative_gap
from .newton import NewtonSystem
from .samples import AbstractSamples
from .scaling import LONGEST, Scaling

_TO_BOUNDARY = 0.98  # fraction of the way to the boundary of the cones that a step may go
_LEAST_CENTERING = 1e-6
_CORRECTIONS = 1  # of the predictor–corrector direction: some 15 % fewer steps, more save no more
_REFINEMENTS = {64: 0, 32: 1}  # of directions, by the bits of the dtype


class Point(eqx.Module):
    """Primal matrices and dual variables; the slacks S = (Diag(p) ∓ A*λ)/2 follow from these."""

    primal: Float[Array, "*c 2 d d"]  # P, N
    dual: Float[Array, "*c k"]  # λ
    diagonal: Float[Array, "*cg d"]  # p
    ends: Float[Array, "*c 2 e"]  # multipliers of the ends of the intervals of λ, 0 where none is
    intercept: Float[Array, "*c"] | None = None  # μ, the multiplier of 1ᵀλ = 0


class System(Protocol):
    """A factored Newton system."""

    def solve(
        self,
        a: Any,
        b: Float[Array, "*cg d"],
        c: Float[Array, "*cg"],
        e: Float[Array, "*c"] | None,
        /,
    ) -> tuple[Array, Array, Array | None]:
        """Return (dλ, dp, dμ) for what is left of all conditions."""


class AbstractPath(eqx.Module):
    """The central path of a problem and the predictor–corrector step along it."""

    has_ends: eqx.AbstractClassVar[bool]  # is λ kept in intervals?
    core: eqx.AbstractVar[Core]

    refines_all: ClassVar[bool] = True  # all directions in single precision, see `taken`

    @abc.abstractmethod
    def refinements(self, dtype: Any) -> int:
        """Return how often directions are refined, see `_Linearization.taken`."""

    @abc.abstractmethod
    def start(self) -> Point:
        """Return a point strictly inside all constraints."""

    @abc.abstractmethod
    def rmv(self, dual: Float[Array, "*c k"]) -> Float[Array, "*c d d"]:
        """A*(λ)."""

    @abc.abstractmethod
    def system(self, point: Point, scaling_points: Float[Array, "*c 2 d d"]) -> System:
        """Assemble and factor the Newton system; NaN where that fails."""

    @abc.abstractmethod
    def deficit(
        self,
        point: Point,
        step: Float[Array, "*c k"],
        form: Float[Array, "*c d d"],
        intercept: Float[Array, "*c"] | None,
        products: Float[Array, "*c 2 e"],
    ) -> Any:
        """Return what is left of the linearized stationarity in λ after a step of it.

        In the form that `system` takes. `form` is Z after the step and `intercept` μ, `products`
        are those asked for at the ends of the intervals.
        """

    @abc.abstractmethod
    def total(self, dual: Float[Array, "*c k"]) -> Float[Array, "*c"] | None:
        """Return 1ᵀλ, which is to be zero with an intercept; None without one."""

    @abc.abstractmethod
    def end_slacks(self, dual: Float[Array, "*c k"]) -> Float[Array, "*c 2 e"]:
        """Return the distances of λ from the ends of the intervals, 1 where there is no end."""

    @abc.abstractmethod
    def end_steps(self, step: Float[Array, "*c k"]) -> Float[Array, "*c 2 e"]:
        """Return the changes of these distances."""

    @property
    @abc.abstractmethod
    def size(self) -> Scalar:
        """The size of targets, by which misfits are measured."""

    @abc.abstractmethod
    def misfit(self, point: Point) -> Float[Array, "*c k"]:
        """Return what stationarity in λ is missed by."""

    @abc.abstractmethod
    def assess(self, point: Point) -> tuple[Scalar, Scalar]:
        """Return the relative gap of the feasible point and the dual point, and the residual."""

    @abc.abstractmethod
    def expand(self, dual: Float[Array, "*c k"]) -> Float[Array, "n ..."]:
        """Return λ of the problem."""

    def slack(self, dual: Array, diagonal: Array) -> Float[Array, "*c 2 d d"]:
        """Return (Diag(p) ∓ A*λ)/2."""
        return self.core.layout.slacks(diagonal, self.rmv(dual))

    def step(self, point: Point) -> Point:
        """Take a predictor–corrector step; NaN if a factorization failed."""
        linear = _Linearization.of(self, point)
        predictor = linear.predictor()
        length = jnp.minimum(linear.longest_step(predictor), 1)
        mu = linear.mu
        after = (1 - length) + length**2 * predictor.products.total / (linear.count * mu)
        centering = jnp.clip(jnp.square(jnp.clip(after, 0, 1)), _LEAST_CENTERING, 1)

        def correct(_: Any, found: tuple[_Direction, Scalar]) -> tuple[_Direction, Scalar]:
            direction = linear.towards(centering * mu, found[0].products)
            length = linear.longest_step(direction)
            return select(length > found[1], (direction, length), found)

        # Each asks for the products that the one before leaves out: the first, which is
        # Mehrotra's, is taken, another one only where it goes farther.
        none = jnp.full_like(length, -jnp.inf)
        found, longest = fori_loop(0, 1 + _CORRECTIONS, correct, (predictor, none))
        return linear.move(linear.taken(found), jnp.where(longest > 0, longest, jnp.nan))

    def center(
        self, point: Point, mu: Scalar, shrink: float
    ) -> tuple[Point, Float[Array, "*c 2 d"]]:
        """Take a Newton step towards the point of the path with P·S = μ·1 in both cones.

        Where that is far, towards `shrink` times the mean of the eigenvalues of P·S. Those
        eigenvalues, before the step, are returned too: its scaling has them.
        """
        linear = _Linearization.of(self, point)
        target = jnp.maximum(mu, shrink * linear.mu)
        nothing = _Products.none(point)
        direction = linear.taken(linear.towards(target, nothing))
        moved = linear.move(direction, linear.longest_step(direction))
        return moved, jnp.square(linear.scaling.values)

    def complementarity(self, point: Point) -> Float[Array, "*c 2 d"]:
        """Return the eigenvalues of P·S, cone by cone; all are μ on the central path."""
        return jnp.square(Scaling.of(point.primal, self.slack(point.dual, point.diagonal)).values)

    def is_interior(self, point: Point) -> Bool[Array, ""]:
        """Whether all matrices are numerically positive definite, and λ inside its intervals."""
        slack = self.slack(point.dual, point.diagonal)
        lower = jnp.linalg.cholesky(jnp.concatenate([point.primal, slack]), symmetrize_input=False)
        ends = jnp.all(self.end_slacks(point.dual) > 0) & jnp.all(point.ends >= 0)
        return jnp.all(jnp.isfinite(lower)) & ends


class CentralPath(AbstractPath):
    """The path of the squared loss, in the form of its samples that systems are smallest in."""

    has_ends: ClassVar[bool] = False

    samples: AbstractSamples
    core: Core  # with targets and weights of the k samples
    targets: Float[Array, " n"]  # of which those are the projection

    @staticmethod
    def of(core: Core, samples: AbstractSamples) -> CentralPath:
        """Bring targets into the form of the samples."""
        y = samples.project(core.y)
        projected = dataclasses.replace(core, y=y, weight=jnp.ones_like(y))
        return CentralPath(core=projected, samples=samples, targets=core.y)

    def start(self) -> Point:
        """P = N = τI, λ = 0, p = β/d·1: strictly inside both cones.

        ρ is at most ‖y‖²/2β, and about ‖y‖/‖(‖x_i‖²)_i‖ if the features are not correlated; τ is
        between the two. Zero rows do not count.
        """
        X, d = self.core.X, self.core.X.shape[1]
        energy = jnp.linalg.norm(jnp.sum(jnp.square(X), axis=1))
        size = self.size
        uncorrelated = size / jnp.where(energy > 0, energy, 1)
        most = jnp.maximum(jnp.square(size) / (2 * self.core.beta), uncorrelated)
        guess = jnp.sqrt(uncorrelated) * jnp.sqrt(most)
        guess = jnp.where((guess > 0) & jnp.isfinite(guess), guess, 1)
        primal = jnp.broadcast_to(guess * jnp.eye(d, dtype=X.dtype), (2, d, d))
        dual = jnp.zeros_like(self.core.y)
        diagonal = jnp.full(self.core.layout.multiplier_shape(d), self.core.beta / d)
        intercept = None if self.samples.shift is None else jnp.zeros((), X.dtype)
        return Point(primal, dual, diagonal, no_ends(dual), intercept)

    def refinements(self, dtype: Any) -> int:
        """Return none in double precision and one in single."""
        return _REFINEMENTS[jnp.finfo(dtype).bits]

    def rmv(self, dual: Float[Array, " k"]) -> Float[Array, "d d"]:
        """A*(λ)."""
        return self.samples.rmv(dual)

    def system(self, point: Point, scaling_points: Float[Array, "2 d d"]) -> System:
        """Assemble and factor the Newton system; NaN where that fails."""
        return NewtonSystem.of(self.core.layout, self.samples, scaling_points)

    def deficit(
        self,
        point: Point,
        step: Float[Array, " k"],
        form: Float[Array, "d d"],
        intercept: Scalar | None,
        products: Float[Array, "2 e"],
    ) -> Float[Array, " k"]:
        """Return y − (λ + dλ) − A(Z) − μv."""
        return self.core.y - (point.dual + step) - self._predictions(form, intercept)

    def _predictions(self, form: Float[Array, "d d"], intercept: Scalar | None) -> Array:
        outputs, shift = self.samples.mv(form), self.samples.shift
        return outputs if intercept is None or shift is None else outputs + intercept * shift

    def total(self, dual: Float[Array, " k"]) -> Scalar | None:
        """Return vᵀλ."""
        return None if self.samples.shift is None else self.samples.shift @ dual

    def end_slacks(self, dual: Float[Array, " k"]) -> Float[Array, "2 1"]:
        """Return 1: λ is free."""
        return jnp.ones_like(no_ends(dual))

    def end_steps(self, step: Float[Array, " k"]) -> Float[Array, "2 1"]:
        """Return 0."""
        return no_ends(step)

    def expand(self, dual: Float[Array, " k"]) -> Float[Array, " n"]:
        """Return λ of the problem from that of its samples as they are here."""
        return self.samples.expand(dual, self.targets)

    @property
    def size(self) -> Scalar:
        """‖y‖."""
        return jnp.linalg.norm(self.core.y)

    def misfit(self, point: Point) -> Float[Array, " k"]:
        """Return e = y − A(Z) − μv − λ."""
        form = self.core.layout.form(point.primal)
        return self.core.y - self._predictions(form, point.intercept) - point.dual

    def assess(self, point: Point) -> tuple[Scalar, Scalar]:
        """Return the relative gap of the feasible point and the dual point, and ‖(e, v̂ᵀλ)‖/‖y‖."""
        core, size = self.core, self.size
        value = feasible_point(core, self._predictions, point.primal, point.intercept).value
        bound = dual_value(core, point.dual, core.layout.budget(point.diagonal))
        residual = jnp.linalg.norm(self.misfit(point))
        if self.samples.shift is not None:
            along = unit_vector(self.samples.shift) @ point.dual
            residual = jnp.sqrt(jnp.square(residual) + jnp.square(along))
        gap = relative_gap(core, value, bound)
        return gap, residual / jnp.where(size > 0, size, 1)


def added(first: Array | None, second: Array | None) -> Array | None:
    """Return the sum of two intercepts, None if there is none."""
    return None if first is None or second is None else first + second


def no_ends(dual: Array) -> Float[Array, "2 1"]:
    """Return the multipliers of the ends of intervals where there are none.

    Not an empty array: `jax.lax.map` by batches divides by the size of what it maps.
    """
    return jnp.zeros((2, 1), dual.dtype)


class _Products(eqx.Module):
    """Products of primal and slack parts: of the cones, scaled, and of the ends of intervals."""

    cones: Float[Array, "*c 2 d d"]
    ends: Float[Array, "*c 2 e"]

    @staticmethod
    def none(point: Point) -> _Products:
        """Zeros."""
        return _Products(jnp.zeros_like(point.primal), jnp.zeros_like(point.ends))

    @property
    def total(self) -> Scalar:
        """The sum of all."""
        return jnp.sum(jnp.trace(self.cones, axis1=-2, axis2=-1)) + jnp.sum(self.ends)


class _Direction(eqx.Module):
    """A Newton step, and its primal and slack parts in the scaled space."""

    step: Point
    primal: Float[Array, "*c 2 d d"]
    slack: Float[Array, "*c 2 d d"]
    end_slacks: Float[Array, "*c 2 e"]
    centered: Float[Array, "*c 2 d d"]  # asked of the sum of both parts
    asked: Float[Array, "*c 2 e"]  # of the products at the ends of intervals

    @property
    def products(self) -> _Products:
        """What the linearization of the products leaves out."""
        return _Products(self.primal @ self.slack, self.step.ends * self.end_slacks)


class _Linearization(eqx.Module):
    """The Newton system at a point, factored, in the scaled space of that point."""

    path: AbstractPath
    point: Point
    scaling: Scaling
    root: Float[Array, "*c 2 d d"]
    system: System
    end_slacks: Float[Array, "*c 2 e"]

    @staticmethod
    def of(path: AbstractPath, point: Point) -> _Linearization:
        scaling = Scaling.of(point.primal, path.slack(point.dual, point.diagonal))
        root = scaling.root
        system = path.system(point, root @ root.mT)
        return _Linearization(path, point, scaling, root, system, path.end_slacks(point.dual))

    @property
    def mu(self) -> Scalar:
        """The mean of the eigenvalues of P·S, and of the products at ends of intervals."""
        products = jnp.sum(self.point.ends * self.end_slacks)
        return (jnp.sum(jnp.square(self.scaling.values)) + products) / self.count

    @property
    def count(self) -> Any:
        """How many products there are."""
        size, ends = self.scaling.values.size, self.point.ends
        return size + jnp.sum(ends > 0, dtype=ends.dtype) if self.path.has_ends else size

    def predictor(self) -> _Direction:
        """Return the direction to P·S = 0."""
        values = self.scaling.values
        nothing = jnp.zeros_like(self.point.ends)
        return self._direction(-diagonal_matrices(values), -self.point.primal, nothing)

    def towards(self, mu: Scalar, second_order: _Products) -> _Direction:
        """Return the direction to P·S = μ·1, up to the terms given."""
        values = self.scaling.values
        excess = diagonal_matrices(jnp.square(values) - mu)
        cones = second_order.cones
        symmetric = (cones + cones.mT) / 2
        centered = self.scaling.center(-excess - symmetric)
        ends = jnp.where(self.point.ends > 0, mu - second_order.ends, 0)
        return self._direction(centered, self._conjugated(centered), ends)

    def _direction(
        self,
        centered: Float[Array, "*c 2 d d"],
        primal_step: Float[Array, "*c 2 d d"],
        products: Float[Array, "*c 2 e"],
    ) -> _Direction:
        """Solve for a step with scaled parts that sum to `centered`; dλ = 0 gives the other.

        `products` are those asked for at the ends of intervals.
        """
        nothing = jax.tree.map(jnp.zeros_like, self.point)
        step = dataclasses.replace(nothing, primal=primal_step)
        zeros = jnp.zeros_like(centered)
        start = _Direction(step, centered, zeros, nothing.ends, centered, products)
        found = self._solved(start)
        return self._refined(found) if self._refines_all else found

    def taken(self, direction: _Direction) -> _Direction:
        """Return the direction refined.

        In double precision that hardly changes how far it may go before the end is near. In single
        precision it does, so that all are refined, and with kinked losses more problems are solved.
        """
        return direction if self._refines_all else self._refined(direction)

    @property
    def _refines_all(self) -> bool:
        return self.path.refines_all and jnp.finfo(self.point.dual.dtype).bits == 32

    def _refined(self, direction: _Direction) -> _Direction:
        """Solve again for what rounding has left, as often as the path asks for."""
        count = self.path.refinements(self.point.dual.dtype)
        if not count:
            return direction
        # A loop compiles sooner than its steps, one after the other.
        return fori_loop(0, count, lambda _, found: self._solved(found), direction)

    def _solved(self, direction: _Direction) -> _Direction:
        """Return the direction that leaves nothing of what this one leaves of the conditions."""
        path, point, layout, step = self.path, self.point, self.path.core.layout, direction.step
        blocks = point.primal + step.primal
        a = path.deficit(
            point,
            step.dual,
            layout.form(blocks),
            added(point.intercept, step.intercept),
            direction.asked,
        )
        b = -layout.diagonal(blocks)  # any multiple of 1 is taken up by dρ
        missing = layout.missing(path.core.beta, point.diagonal)
        total = path.total(point.dual + step.dual)
        left = None if total is None else -total
        dual, diagonal, intercept = self.system.solve(
            a, b, missing - layout.sums(step.diagonal), left
        )
        dual, diagonal = step.dual + dual, step.diagonal + diagonal
        intercept = added(step.intercept, intercept)
        slack = self.root.mT @ path.slack(dual, diagonal) @ self.root
        primal, end_steps = direction.centered - slack, path.end_steps(dual)
        ends = (direction.asked - point.ends * end_steps) / self.end_slacks - point.ends
        step = Point(self._conjugated(primal), dual, diagonal, ends, intercept)
        return _Direction(step, primal, slack, end_steps, direction.centered, direction.asked)

    def _conjugated(self, matrix: Float[Array, "*c 2 d d"]) -> Float[Array, "*c 2 d d"]:
        product = self.root @ matrix @ self.root.mT
        return (product + product.mT) / 2

    def longest_step(self, direction: _Direction) -> Scalar:
        """Return how far the direction stays within the constraints, at most 2."""
        longest = self.scaling.longest_step(jnp.stack([direction.primal, direction.slack]))
        if not self.path.has_ends:
            return longest
        multipliers = jnp.where(self.point.ends > 0, self.point.ends, 1)
        falls = jnp.stack(
            [direction.end_slacks / self.end_slacks, direction.step.ends / multipliers]
        )
        return jnp.minimum(longest, 1 / jnp.maximum(jnp.max(-falls), 1 / LONGEST))

    def move(self, direction: _Direction, longest: Scalar) -> Point:
        """Go in a direction, at most all the way and not to the boundary."""
        length = jnp.minimum(_TO_BOUNDARY * longest, 1)

        def along(length: Scalar) -> Point:
            return jax.tree.map(lambda x, dx: x + length * dx, self.point, direction.step)

        # The longest step is an estimate, too long by a few hundredths at worst, but for what
        # refinement has changed since.
        return along(jnp.where(self.path.is_interior(along(length)), length, length / 2))
