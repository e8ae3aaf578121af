"""The central path of the softmax loss, whose outputs are one problem.

Given the normalizer L of each sample its outputs are problems of their own, with `NormalizedLoss`,
and Newton's steps solve the systems of `LossPath` for each. What couples them is Σ_k t_k = 0, that
is, Σ_k q_k = 1, to which w·L is the multiplier: stationarity in t holds up to what is the same for
all outputs. So L is no unknown of a point, only of a step:

    (Σ_k ∂t_k/∂a)(w·dL) = −Σ_k (t_k + dt_k),   with dt_k at fixed L,

n equations whatever the number of outputs. They are next to singular where forms of all outputs can
move alike, which changes no probability, and exactly so for two classes. Hence an allowance on
their diagonal, a refinement more, and a sum of t that is zero only in the limit.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve
from jaxtyping import Array, Float

from .._base.types import Scalar, epsilon
from .._loss.normalized import NormalizedLoss
from .._problem.core import Core
from .._relaxation.feasible import scaled_gap
from .central_path import AbstractPath, Point, System, added
from .loss_path import LossPath, WeightedSystem

_REFINEMENTS = {64: 2, 32: 3}  # of directions, by the bits of the dtype
_ALLOWANCE = 256  # units of rounding added to the diagonal of Σ_k ∂t_k/∂a


class CoupledPath(AbstractPath):
    """The path of all outputs. Their axis comes first, in t and its steps as well."""

    has_ends: ClassVar[bool] = True
    refines_all: ClassVar[bool] = False  # solves with ten classes stopped sooner

    core: Core

    def _each(self, function: Callable[..., Any], *lanes: Any) -> Any:
        """Map over outputs a function of the path of one, L that of no network."""
        level = jnp.full_like(self.core.weight, math.log(self.core.y.shape[1]))

        def one(y: Array, beta: Scalar, *lane: Any) -> Any:
            core = dataclasses.replace(self.core, y=y, beta=beta, loss=NormalizedLoss(level))
            return function(_OutputPath(core), *lane)

        return jax.vmap(one)(self.core.y.T, self.core.beta, *lanes)

    def refinements(self, dtype: Any) -> int:
        """Return more than for an output by itself."""
        return _REFINEMENTS[jnp.finfo(dtype).bits]

    def start(self) -> Point:
        """Return the starts of outputs, t as far from that of no network for all of them."""
        middle = self._each(lambda path: path.middle)
        share = jnp.min(self._each(LossPath.share_within, middle))
        return self._each(LossPath.start_at, share * middle)

    def rmv(self, dual: Float[Array, "c n"]) -> Float[Array, "c d d"]:
        """A*(t)."""
        return self._each(LossPath.rmv, dual)

    def system(self, point: Point, scaling_points: Float[Array, "c 2 d d"]) -> System:
        """Assemble and factor the Newton systems; NaN where that fails."""
        return _CoupledSystem.of(self._each(LossPath.system, point, scaling_points))

    def deficit(
        self,
        point: Point,
        step: Float[Array, "c n"],
        form: Float[Array, "c d d"],
        intercept: Float[Array, " c"] | None,
        products: Float[Array, "c 2 n"],
    ) -> _Deficit:
        """Return what is left of stationarity, less its mean by q, and of Σ_k t_k."""
        left = self._each(LossPath.deficit, point, step, form, intercept, products)
        shares = self.core.y.T - point.dual
        left = left - jnp.sum(shares * left, axis=0, keepdims=True)
        total = jnp.sum(point.dual + step, axis=0)
        return _Deficit(left, jnp.where(self.core.weight > 0, total, 0))

    def total(self, dual: Float[Array, "c n"]) -> Float[Array, " c"] | None:
        """Return Σ_i w_i t_i of each output."""
        return self._each(LossPath.total, dual)

    def end_slacks(self, dual: Float[Array, "c n"]) -> Float[Array, "c 2 n"]:
        """Return (1, q)."""
        return self._each(LossPath.end_slacks, dual)

    def end_steps(self, step: Float[Array, "c n"]) -> Float[Array, "c 2 n"]:
        """Return (0, dq)."""
        return self._each(LossPath.end_steps, step)

    @property
    def size(self) -> Scalar:
        """The size of weighted targets, by which residuals are measured."""
        return jnp.linalg.norm(self.core.weight)

    def misfit(self, point: Point) -> Float[Array, "c n"]:
        """Return w(p − q), what t = −φ'(ŷ) is missed by."""
        form = self.core.layout.form(point.primal)
        predictions = self.core.predictions(form, point.intercept)
        slope = self.core.loss.slope(predictions, self.core.y)
        return self.core.weight[None] * (slope.T + point.dual)

    def assess(self, point: Point) -> tuple[Scalar, Scalar]:
        """Return the relative gap of the feasible point and the dual point, and a residual."""
        core, dual, size = self.core, self.expand(point.dual), self.size
        moved = dual.T - core.weight[None] * point.dual
        # p raised by what G may have moved with λ.
        gram = jax.vmap(core.map.adjoint)(moved)
        norms = jnp.linalg.norm(gram, axis=(1, 2))
        raised = core.layout.lifted(point.diagonal, jnp.stack([norms, norms], axis=-1))
        gap, _ = scaled_gap(core, point.primal, point.intercept, dual, raised)
        return gap, jnp.linalg.norm(self.misfit(point)) / jnp.where(size > 0, size, 1)

    def expand(self, dual: Float[Array, "c n"]) -> Float[Array, "n c"]:
        """Return λ = w·t, outputs last, whose sums are zero exactly."""
        core, dual = self.core, self.core.weight[:, None] * dual.T
        if core.shift is not None:
            dual = core.loss.balanced_dual(dual, core.y, core.weight)
        return core.loss.clip_dual(dual, core.y, core.weight)


class _OutputPath(LossPath):
    """The path of one of the outputs."""

    @property
    def middle(self) -> Float[Array, " n"]:
        """The t of no network."""
        return -self.core.loss.slope(jnp.zeros_like(self.core.y), self.core.y)

    @property
    def size(self) -> Scalar:
        """Of the t of no network: there may be no sample of a class."""
        return jnp.linalg.norm(self.core.weight * self.middle)


class _Deficit(eqx.Module):
    """What is left of the linearized conditions that have t in them."""

    stationarity: Float[Array, "c n"]  # up to multiples of 1 in each sample
    total: Float[Array, " n"]  # Σ_k (t_k + dt_k), 0 for samples that do not count


class _CoupledSystem(eqx.Module):
    """The Newton systems of all outputs, and of L."""

    outputs: WeightedSystem
    responses: Float[Array, "c k+d k"]
    unit: Float[Array, " n"]  # of a
    lower: Float[Array, "n n"]  # Cholesky factor of Σ_k ∂t_k/∂a in these units

    @staticmethod
    def of(outputs: WeightedSystem) -> _CoupledSystem:
        """Add up what outputs respond to L, and factor it."""
        responses = jax.vmap(lambda one: one.inner.responses())(outputs)
        slope = jnp.sum(jax.vmap(WeightedSystem.slope)(outputs, responses), axis=0)
        unit = 1 / jnp.sqrt(jnp.diag(slope))
        eye = jnp.eye(unit.size, dtype=unit.dtype)
        slope = unit[:, None] * slope * unit[None] + _ALLOWANCE * epsilon(unit.dtype) * eye
        lower = jnp.linalg.cholesky(slope, symmetrize_input=False)
        return _CoupledSystem(outputs, responses, unit, lower)

    def solve(
        self,
        a: _Deficit,
        b: Float[Array, "*cg d"],
        c: Float[Array, "*cg"],
        e: Float[Array, " c"] | None,
        /,
    ) -> tuple[Array, Array, Array | None]:
        """Return (dt, dp, dμ)."""
        alone = jax.vmap(WeightedSystem.solve)(self.outputs, a.stationarity, b, c, e)
        dual, diagonal, intercept = alone
        excess = self.unit * (a.total + jnp.sum(dual, axis=0))
        change = -self.unit * cho_solve((self.lower, True), excess)
        if intercept is None or e is None:
            respond = jax.vmap(WeightedSystem.respond, in_axes=(0, 0, None))
            more_dual, more_diagonal = respond(self.outputs, self.responses, change)
            return dual + more_dual, diagonal + more_diagonal, None
        nothing = jax.tree.map(jnp.zeros_like, (b, c, e))
        solve = jax.vmap(WeightedSystem.solve, in_axes=(0, None, 0, 0, 0))
        more = solve(self.outputs, change, *nothing)
        return dual + more[0], diagonal + more[1], added(intercept, more[2])
