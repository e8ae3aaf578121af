"""What ADMM alternates between: the cones P, N ⪰ 0, and the data with their loss.

Squared loss: the data side minimizes loss and penalty in closed form. Any other loss is on the
side of the cones, which its predictions ŷ meet as a variable of their own; the data side then
projects on ŷ = A(Z), with the factorization that squared loss takes.
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.cone import positive_part
from .._base.lift import diagonal_index, leveled, smat, svec
from .._base.types import Scalar, unit_vector, without
from .._problem.core import Core
from .._relaxation.feasible import estimated_bound, feasible_point, relative_gap
from .acceleration import norm
from .base import Iterate
from .least_squares import Factorization, LeastSquares
from .splitting import AbstractSplit, Point


class AbstractConeSplit(AbstractSplit[Iterate]):
    """f: the data, penalty and diag(V) = ρ·1. g: P = V + Z ⪰ 0 and N = V − Z ⪰ 0.

    If the layout asks for a constant diagonal of Z, f has that, too.

    The variable begins with (svec Z, svec V), in which P and N are orthogonal coordinates up to a
    factor.
    """

    core: eqx.AbstractVar[Core]

    @property
    @abc.abstractmethod
    def _more(self) -> int:
        """How many entries the variable has beyond Z and V."""

    @abc.abstractmethod
    def fitted_of(self, point: Point) -> Float[Array, " n"]:
        """Return what predictions are to be at a point: an intercept is the best for these."""

    @abc.abstractmethod
    def _dual_of(self, point: Point, sigma: Scalar) -> Float[Array, " n"]:
        """Return λ at a point."""

    @abc.abstractmethod
    def joined(self, z: Array, v: Array, predictions: Array) -> Float[Array, " dim"]:
        """Return the variable at Z, V and predictions."""

    @abc.abstractmethod
    def _joined_dual(self, z: Array, v: Array, dual: Array) -> Float[Array, " dim"]:
        """Return the subgradient of f that belongs to a dual point."""

    @property
    def _d(self) -> int:
        return self.core.X.shape[1]

    def split(self, s: Array) -> tuple[Array, Array, Array]:
        """Return Z, V and what follows."""
        half = (s.size - self._more) // 2
        return s[:half], s[half : 2 * half], s[2 * half :]

    def _leveled(self, v: Array, sigma: Scalar) -> Array:
        """Return argmin βρ + σ‖V − v‖²: V keeps its off-diagonal."""
        index = diagonal_index(self._d)
        return v.at[index].set(self.core.layout.level(v[index], self.core.beta, sigma))

    def _level_form(self, z: Array) -> Array:
        """Return Z with a constant diagonal, where that is asked for."""
        return z if self.core.layout.shares_diagonal else leveled(z)

    def multiplier(self, dual: Array, z: Array, v: Array) -> Array:
        """Return p of λ and the subgradient of f: Diag p, and Diag q − A*(λ) with q of diag Z."""
        layout, index = self.core.layout, diagonal_index(self._d)
        if layout.shares_diagonal:
            return v[index]
        return layout.joined(v[index], z[index] + jnp.diagonal(self.core.map.adjoint(dual)))

    def projected(self, z: Array, v: Array) -> tuple[Array, Array]:
        """Project on the two cones."""
        layout = self.core.layout
        plus, minus = layout.blocks(smat(z, self._d), smat(v, self._d))
        blocks = jnp.stack([positive_part(plus), positive_part(minus)])
        return svec(layout.form(blocks)), svec(layout.block(blocks))

    def assess(self, point: Point, sigma: Scalar) -> tuple[Scalar, Iterate]:
        """Return the gap between a feasible point from z and a dual feasible point from s − x."""
        z, v, _ = self.split(2 * sigma * (point.s - point.x))
        dual = self._dual_of(point, sigma)
        diagonal = self.multiplier(dual, z, v)
        form, block = (smat(part, self._d) for part in self.split(point.z)[:2])
        core = self.core
        intercept = core.fitted_intercept(self.fitted_of(point), form)
        iterate = Iterate(core.layout.blocks(form, block), dual, diagonal, intercept)
        value = feasible_point(core, core.predictions, iterate.blocks, intercept).value
        return relative_gap(core, value, estimated_bound(core, dual, diagonal)), iterate

    def start(self, warm: Iterate | None) -> tuple[Scalar, Array]:
        """Return the first penalty and the first point, a warm start's own if there is one."""
        sigma = self.guess()
        if warm is None:
            count = self._d * (self._d + 1) + self._more
            return sigma, jnp.zeros((count,), self.core.X.dtype)
        primal, dual = self.sides(warm)
        size = norm(primal)
        balanced = jnp.where(size > 0, norm(dual) / (2 * jnp.where(size > 0, size, 1)), 0)
        usable = jnp.isfinite(balanced) & (balanced > 0)
        sigma = jnp.where(usable, balanced, sigma)
        s = primal + dual / (2 * sigma)
        return sigma, jnp.where(jnp.all(jnp.isfinite(s)), s, 0)

    def guess(self) -> Scalar:
        """Return a first penalty.

        It balances the guesses p ≈ β/d of the dual and ρ ≈ rms(y)/Σ_k rms(x_k)² of the primal.
        Zero rows and columns are padding and do not count.
        """
        X, y, beta = self.core.X, self.core.y, self.core.beta
        rows = jnp.maximum(jnp.sum(jnp.any(X != 0, axis=1)), 1).astype(X.dtype)
        columns = jnp.maximum(jnp.sum(jnp.any(X != 0, axis=0)), 1).astype(X.dtype)
        mean_square = jnp.sum(jnp.square(X)) / (rows * columns)
        guess = 0.3 * beta * mean_square / (norm(y) / jnp.sqrt(rows))
        usable = jnp.isfinite(guess) & (guess > 0)
        return jnp.where(usable, guess, 1)

    def sides(self, warm: Iterate) -> tuple[Array, Array]:
        """Return a warm start's primal point and dual one, a subgradient of f."""
        beta, layout, map = self.core.beta, self.core.layout, self.core.map
        form, block = layout.form(warm.blocks), layout.block(warm.blocks)
        primal = self.joined(svec(form), svec(block), self.core.predictions(form, warm.intercept))
        # From a larger penalty the dual point is too long; bring it back along its ray.
        of_block, of_form = layout.split(warm.dual_diagonal)
        budget = jnp.sum(jnp.maximum(of_block, 0))
        shrink = jnp.minimum(beta / jnp.where(budget > 0, budget, beta), 1)
        gradient = -map.adjoint(warm.dual)
        gradient = gradient if of_form is None else gradient + jnp.diag(of_form)
        diagonal = svec(jnp.diag(of_block))
        return primal, shrink * self._joined_dual(svec(gradient), diagonal, warm.dual)


class SquaredSplit(AbstractConeSplit):
    """Squared loss: f has it, and Z through the Gram matrix."""

    core: Core
    loss: LeastSquares

    @property
    def _more(self) -> int:
        return 0

    def prox_f(self, s: Float[Array, " dim"], sigma: Scalar) -> Float[Array, " dim"]:
        """Z through the Gram matrix; V level on its diagonal."""
        z, v, _ = self.split(s)
        z = self.loss.prox(self._level_form(z), sigma)
        return jnp.concatenate([z, self._leveled(v, sigma)])

    def prox_g(self, s: Float[Array, " dim"], sigma: Scalar) -> Float[Array, " dim"]:
        """Project on the two cones."""
        z, v, _ = self.split(s)
        return jnp.concatenate(self.projected(z, v))

    def fitted_of(self, point: Point) -> Float[Array, " n"]:
        return self.core.y

    def _dual_of(self, point: Point, sigma: Scalar) -> Float[Array, " n"]:
        return self.loss.multiplier(self._level_form(self.split(point.s)[0]), sigma)

    def joined(self, z: Array, v: Array, predictions: Array) -> Float[Array, " dim"]:
        return jnp.concatenate([z, v])

    def _joined_dual(self, z: Array, v: Array, dual: Array) -> Float[Array, " dim"]:
        return jnp.concatenate([z, v])


class LossSplit(AbstractConeSplit):
    """Any other loss: the variable is (svec Z, svec V, ŷ/unit), g has the loss of ŷ."""

    core: Core
    factorization: Factorization
    unit: Scalar

    @staticmethod
    def of(core: Core, factorization: Factorization) -> LossSplit:
        """Choose the unit of predictions so that A is about 1 in it, per direction."""
        n, size = factorization.map.shape
        squares = jnp.sum(jnp.square(jnp.sum(jnp.square(core.X), axis=1)))  # ‖A‖² in all
        unit = jnp.sqrt(squares / min(n, size))
        return LossSplit(core, factorization, jnp.where(unit > 0, unit, 1))

    @property
    def _more(self) -> int:
        return self.core.y.size

    def prox_f(self, s: Float[Array, " dim"], sigma: Scalar) -> Float[Array, " dim"]:
        """Project on ŷ = A(Z); V level on its diagonal."""
        z, v, predictions = self.split(s)
        predictions = self.unit * predictions
        rest = without(unit_vector(self.core.shift), predictions)
        fit = self.factorization.bind(rest)
        z = fit.prox(self._level_form(z), jnp.square(self.unit) / 2)
        fitted = self.factorization.map.mv(z) + (predictions - rest)
        return self.joined(z, self._leveled(v, sigma), fitted)

    def fitted_of(self, point: Point) -> Float[Array, " n"]:
        return self.unit * self.split(point.z)[2]

    def prox_g(self, s: Float[Array, " dim"], sigma: Scalar) -> Float[Array, " dim"]:
        """Project on the two cones, and take the loss's proximal point."""
        z, v, predictions = self.split(s)
        core, center = self.core, self.unit * predictions
        step = core.weight * jnp.square(self.unit) / (2 * sigma)
        counted = step > 0
        moved = core.loss.prox(center, core.y, jnp.where(counted, step, 1))
        return self.joined(*self.projected(z, v), jnp.where(counted, moved, center))

    def _dual_of(self, point: Point, sigma: Scalar) -> Float[Array, " n"]:
        _, _, center = self.split(2 * point.x - point.s)
        dual = 2 * sigma / self.unit * (self.split(point.z)[2] - center)
        core = self.core
        if core.shift is not None:
            return core.loss.balanced_dual(dual, core.y, core.weight)
        return core.loss.clip_dual(dual, core.y, core.weight)

    def joined(self, z: Array, v: Array, predictions: Array) -> Float[Array, " dim"]:
        return jnp.concatenate([z, v, predictions / self.unit])

    def _joined_dual(self, z: Array, v: Array, dual: Array) -> Float[Array, " dim"]:
        return jnp.concatenate([z, v, dual * self.unit])
