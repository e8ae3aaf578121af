"""What ADMM alternates between for a loss that couples outputs: the splits of all of them at once.

Everything but the proximal point of the loss is each output's own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.lift import smat
from .._base.types import Scalar, across
from .._problem.core import Core
from .._relaxation.feasible import estimated_bound, feasible_point, relative_gap
from .base import Iterate
from .cone_splits import LossSplit
from .least_squares import Factorization
from .splitting import AbstractSplit, Point


class CoupledSplit(AbstractSplit[Iterate]):
    """The variable is that of `LossSplit`, one output after the other."""

    core: Core
    factorization: Factorization
    unit: Scalar  # of predictions

    @staticmethod
    def of(core: Core, factorization: Factorization) -> CoupledSplit:
        """Choose the unit of predictions, which depends on X alone."""
        return CoupledSplit(core, factorization, LossSplit.of(core, factorization).unit)

    @property
    def _count(self) -> int:
        return self.core.y.shape[1]

    def _each(self, function: Callable[..., Any], *arrays: Any) -> Any:
        """Map over outputs a function of the split of one and a lane of arrays."""

        def one(y: Array, beta: Scalar, *lane: Any) -> Any:
            core = dataclasses.replace(self.core, y=y, beta=beta)
            return function(LossSplit(core, self.factorization, self.unit), *lane)

        return jax.vmap(one)(self.core.y.T, self.core.beta, *arrays)

    def _rows(self, s: Float[Array, " dim"]) -> Float[Array, "c dim_of_one"]:
        return s.reshape(self._count, -1)

    def _split(self, s: Float[Array, " dim"]) -> tuple[Array, Array, Array]:
        return self._each(LossSplit.split, self._rows(s))

    def prox_f(self, s: Float[Array, " dim"], sigma: Scalar) -> Float[Array, " dim"]:
        """Project on ŷ = A(Z); V level on its diagonal."""
        return self._each(lambda split, s: split.prox_f(s, sigma), self._rows(s)).ravel()

    def prox_g(self, s: Float[Array, " dim"], sigma: Scalar) -> Float[Array, " dim"]:
        """Project on the cones, and take the loss's proximal point of all outputs."""
        z, v, predictions = self._split(s)
        core, center = self.core, self.unit * predictions.T
        step = core.weight * jnp.square(self.unit) / (2 * sigma)
        counted = step > 0
        moved = core.loss.prox(center, core.y, jnp.where(counted, step, 1))
        moved = jnp.where(across(counted, moved), moved, center).T
        z, v = self._each(LossSplit.projected, z, v)
        return self._each(LossSplit.joined, z, v, moved).ravel()

    def assess(self, point: Point, sigma: Scalar) -> tuple[Scalar, Iterate]:
        """Return the gap between a feasible point from z and a dual feasible point from s − x."""
        core = self.core
        loss, y, weight, d = core.loss, core.y, core.weight, core.X.shape[1]
        z, v, predictions = self._split(point.z)
        # What the proximal point has, from its slope: differences would lose digits of it.
        dual = loss.clip_dual(loss.dual_at(self.unit * predictions.T, y, weight), y, weight)
        subgradient = self._split(2 * sigma * (point.s - point.x))[:2]
        diagonal = self._each(LossSplit.multiplier, dual.T, *subgradient)
        form, block = (jax.vmap(lambda part: smat(part, d))(part) for part in (z, v))
        intercept = None
        if core.shift is not None:
            fitted = self.unit * predictions
            intercept = jax.vmap(core.fitted_intercept)(fitted, form)
        iterate = Iterate(core.layout.blocks(form, block), dual, diagonal, intercept)
        value = feasible_point(core, core.predictions, iterate.blocks, intercept).value
        return relative_gap(core, value, estimated_bound(core, dual, diagonal)), iterate

    def start(self, warm: Iterate | None) -> tuple[Scalar, Array]:
        """Return the first penalty, the mean of what outputs would choose, and the first point."""
        if warm is None:
            sigma, s = self._each(lambda split: split.start(None))
            return jnp.exp(jnp.mean(jnp.log(sigma))), s.ravel()
        lanes = Iterate(warm.blocks, warm.dual.T, warm.dual_diagonal, warm.intercept)
        sigma, _ = self._each(LossSplit.start, lanes)
        sigma = jnp.exp(jnp.mean(jnp.log(sigma)))
        primal, dual = self._each(LossSplit.sides, lanes)
        s = (primal + dual / (2 * sigma)).ravel()
        return sigma, jnp.where(jnp.all(jnp.isfinite(s)), s, 0)
