"""The Newton steps that follow the central path of the relaxation and its dual."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._base.lift import slacks
from .._base.types import Scalar
from .._loss.base import AbstractLoss
from .._relaxation.feasible import dual_value, feasible_point, relative_gap
from .newton import NewtonData, NewtonSystem
from .scaling import Scaling

_TO_BOUNDARY = 0.98  # fraction of the way to the boundary of the cones that a step may go
_LEAST_CENTERING = 1e-6
_REFINEMENTS = {64: 0, 32: 1}  # of every direction, by the bits of the dtype


class Point(eqx.Module):
    """Primal matrices and dual variables; the slacks S = (Diag(p) ∓ A*λ)/2 follow from these."""

    primal: Float[Array, "2 d d"]  # P, N
    dual: Float[Array, " k"]  # λ
    diagonal: Float[Array, " d"]  # p


class CentralPath(eqx.Module):
    """The predictor–corrector step on a problem in the form of its Newton data."""

    data: NewtonData
    y: Float[Array, " k"]
    beta: Scalar
    loss: AbstractLoss

    def start(self, X: Float[Array, "n d"]) -> Point:
        """P = N = τI, λ = 0, p = β/d·1: strictly inside both cones.

        ρ is at most ‖y‖²/2β, and about ‖y‖/‖(‖x_i‖²)_i‖ if the features are not correlated; τ is
        between the two. Zero rows do not count.
        """
        d = X.shape[1]
        energy = jnp.linalg.norm(jnp.sum(jnp.square(X), axis=1))
        size = jnp.linalg.norm(self.y)
        uncorrelated = size / jnp.where(energy > 0, energy, 1)
        most = jnp.maximum(jnp.square(size) / (2 * self.beta), uncorrelated)
        guess = jnp.sqrt(uncorrelated) * jnp.sqrt(most)
        guess = jnp.where((guess > 0) & jnp.isfinite(guess), guess, 1)
        primal = jnp.broadcast_to(guess * jnp.eye(d, dtype=X.dtype), (2, d, d))
        return Point(primal, jnp.zeros_like(self.y), jnp.full((d,), self.beta / d))

    def slack(self, dual: Array, diagonal: Array) -> Float[Array, "2 d d"]:
        """Return (Diag(p) ∓ A*λ)/2."""
        return slacks(diagonal, self.data.rmv(dual)) / 2

    def misfit(self, point: Point) -> Float[Array, " k"]:
        """Return e = y − A(Z) − λ."""
        form = (point.primal[0] - point.primal[1]) / 2
        return self.y - self.data.mv(form) - point.dual

    def assess(self, point: Point) -> tuple[Scalar, Scalar]:
        """Return the relative gap of the feasible point and the dual point, and ‖e‖/‖y‖."""
        plus, minus = point.primal
        weight = jnp.ones_like(self.y)
        predictions = self.data.mv((plus - minus) / 2)
        value = feasible_point(self.loss, predictions, self.y, weight, self.beta, plus, minus).value
        bound = dual_value(self.loss, self.y, self.beta, point.dual, jnp.sum(point.diagonal))
        size = jnp.linalg.norm(self.y)
        residual = jnp.linalg.norm(self.y - predictions - point.dual)
        gap = relative_gap(self.loss, value, bound, self.y, weight)
        return gap, residual / jnp.where(size > 0, size, 1)

    def step(self, point: Point) -> Point:
        """Take a predictor–corrector step; NaN if a factorization failed."""
        linear = _Linearization.of(self, point)
        values = linear.scaling.values
        d = point.diagonal.size
        eye = jnp.eye(d, dtype=values.dtype)[None]
        mu = linear.mu
        predictor = linear.direction(-values[:, :, None] * eye, -point.primal)
        length = jnp.minimum(linear.longest_step(predictor), 1)
        product = predictor.primal @ predictor.slack
        after = (1 - length) + length**2 * jnp.sum(jnp.trace(product, axis1=1, axis2=2)) / (
            2 * d * mu
        )
        exponent = jnp.maximum(1, 3 * length**2)
        centering = jnp.clip(jnp.clip(after, 0, 1) ** exponent, _LEAST_CENTERING, 1)
        second_order = (product + jnp.swapaxes(product, 1, 2)) / 2
        return linear.move(linear.towards(centering * mu, second_order))

    def center(self, point: Point, mu: Scalar, shrink: float) -> tuple[Point, Float[Array, "2 d"]]:
        """Take a Newton step towards the point of the path with P·S = μ·1 in both cones.

        Where that is far, towards `shrink` times the mean of the eigenvalues of P·S. Those
        eigenvalues, before the step, are returned too: its scaling has them.
        """
        linear = _Linearization.of(self, point)
        target = jnp.maximum(mu, shrink * linear.mu)
        moved = linear.move(linear.towards(target, jnp.zeros_like(point.primal)))
        return moved, jnp.square(linear.scaling.values)

    def complementarity(self, point: Point) -> Float[Array, "2 d"]:
        """Return the eigenvalues of P·S, cone by cone; all are μ on the central path."""
        return jnp.square(Scaling.of(point.primal, self.slack(point.dual, point.diagonal)).values)

    def is_interior(self, point: Point) -> Bool[Array, ""]:
        """Whether all matrices are numerically positive definite."""
        slack = self.slack(point.dual, point.diagonal)
        lower = jnp.linalg.cholesky(jnp.concatenate([point.primal, slack]), symmetrize_input=False)
        return jnp.all(jnp.isfinite(lower))


class _Direction(eqx.Module):
    """A Newton step, and its primal and slack parts in the scaled space."""

    step: Point
    primal: Float[Array, "2 d d"]
    slack: Float[Array, "2 d d"]


class _Linearization(eqx.Module):
    """The Newton system at a point, factored, in the scaled space of that point."""

    path: CentralPath
    point: Point
    scaling: Scaling
    root: Float[Array, "2 d d"]
    system: NewtonSystem

    @staticmethod
    def of(path: CentralPath, point: Point) -> _Linearization:
        scaling = Scaling.of(point.primal, path.slack(point.dual, point.diagonal))
        root = scaling.root
        system = NewtonSystem.of(path.data, root @ jnp.swapaxes(root, 1, 2))
        return _Linearization(path, point, scaling, root, system)

    @property
    def mu(self) -> Scalar:
        """The mean of the eigenvalues of P·S."""
        return jnp.mean(jnp.square(self.scaling.values))

    def towards(self, mu: Scalar, second_order: Float[Array, "2 d d"]) -> _Direction:
        """Return the direction to P·S = μ·1, up to the term given."""
        values = self.scaling.values
        excess = (jnp.square(values) - mu)[:, :, None] * jnp.eye(
            values.shape[1], dtype=values.dtype
        )[None]
        centered = self.scaling.center(-excess - second_order)
        return self.direction(centered, self._conjugated(centered))

    def direction(
        self, centered: Float[Array, "2 d d"], primal_step: Float[Array, "2 d d"]
    ) -> _Direction:
        """Solve for a step with scaled parts that sum to `centered`; dλ = 0 gives the other."""
        path, point = self.path, self.point
        budget = path.beta - jnp.sum(point.diagonal)
        transposed = jnp.swapaxes(self.root, 1, 2)
        dual, diagonal = jnp.zeros_like(point.dual), jnp.zeros_like(point.diagonal)
        for _ in range(1 + _REFINEMENTS[jnp.finfo(dual.dtype).bits]):
            plus, minus = point.primal + primal_step
            a = path.y - (point.dual + dual) - path.data.mv((plus - minus) / 2)
            b = -jnp.diagonal(plus + minus) / 2  # any multiple of 1 is taken up by dρ
            more_dual, more_diagonal, _ = self.system.solve(a, b, budget - jnp.sum(diagonal))
            dual, diagonal = dual + more_dual, diagonal + more_diagonal
            slack = transposed @ path.slack(dual, diagonal) @ self.root
            primal_step = self._conjugated(centered - slack)
        return _Direction(Point(primal_step, dual, diagonal), centered - slack, slack)

    def _conjugated(self, matrix: Float[Array, "2 d d"]) -> Float[Array, "2 d d"]:
        product = self.root @ matrix @ jnp.swapaxes(self.root, 1, 2)
        return (product + jnp.swapaxes(product, 1, 2)) / 2

    def longest_step(self, direction: _Direction) -> Scalar:
        """Return how far the direction stays within the cones, at most 2."""
        return self.scaling.longest_step(jnp.stack([direction.primal, direction.slack]))

    def move(self, direction: _Direction) -> Point:
        """Go in a direction, at most all the way and not to the boundary."""
        length = jnp.minimum(_TO_BOUNDARY * self.longest_step(direction), 1)

        def along(length: Scalar) -> Point:
            return jax.tree.map(lambda x, dx: x + length * dx, self.point, direction.step)

        # The longest step is an estimate, too long by a few hundredths at worst.
        return along(jnp.where(self.path.is_interior(along(length)), length, length / 2))
