"""The central point next to a solution, and its derivative with respect to the data.

    guess ──► a few Newton steps ──► central point ──► K⁻¹ ──► derivative

What defines the point, and K, is in `conditions.py`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._base.control_flow import while_loop
from .._base.trees import select
from .._base.types import Scalar, epsilon, highest_precision, tiny
from .._loss.base import least
from .._problem.core import Core
from .._solver.central_path import AbstractPath, CentralPath, Point, no_ends
from .._solver.loss_path import LossPath, finite_ends
from .._solver.samples import samples_of
from .conditions import Central, Linearization
from .stationarity import barred_ends, no_multipliers

_PATIENCE = 12  # steps of Newton's method from the guess, then from scratch; ...
_STEPS = 52  # ... so many in all
_SHRINK = 0.1  # of μ in a step
_NEAR = 1e-2  # relative distance from which one more step is enough ...
_ROUNDING = 4  # units in the last place of t that its distance from an end is wrong by
_LITTLE = 1e-6  # of μ, where an end needs none
_LOST = 0.5  # ... and from which there is no central point to speak of


@jax.custom_jvp
def central_point(data: Core, guess: Central, mu: Scalar) -> Central:
    """Return the point with P·S₊ = N·S₋ = μ·1, by Newton's method from a guess or from scratch.

    The guess need not be interior, nor near: it is given up after a dozen steps. NaN where the
    point was not found.
    """
    search = _QuadraticSearch(data) if data.loss.is_quadratic else _Search(data, mu)
    path = search.path
    warm, cold = search.point(guess), path.start()
    size = path.size

    def distance(point: Point, complementarity: Array) -> Scalar:
        misfit = jnp.linalg.norm(path.misfit(point)) / jnp.where(size > 0, size, 1)
        products = jnp.maximum(jnp.max(jnp.abs(complementarity / mu - 1)), misfit)
        if data.loss.is_quadratic:
            return products
        slacks = path.end_slacks(point.dual)
        rounding = _ROUNDING * epsilon(mu.dtype) * point.ends * jnp.abs(point.dual)[None]
        off = jnp.abs(point.ends * slacks - mu) - rounding
        return jnp.maximum(products, jnp.max(jnp.where(point.ends > 0, off / mu, 0)))

    def goes_on(carry: tuple[Point, Scalar, Array]) -> Bool[Array, ""]:
        _, before, steps = carry
        return ~(before <= _NEAR) & (steps < _STEPS)

    def step(carry: tuple[Point, Scalar, Array]) -> tuple[Point, Scalar, Array]:
        point, _, steps = carry
        point = select(steps == _PATIENCE, cold, point)
        moved, complementarity = path.center(point, mu, _SHRINK)
        return moved, distance(point, complementarity), steps + 1

    start = select(path.is_interior(warm), warm, cold)
    carry = start, jnp.full_like(mu, jnp.inf), jnp.zeros((), jnp.int32)
    point, _, _ = while_loop(goes_on, step, carry)
    found = distance(point, path.complementarity(point)) <= _LOST
    blocks = jnp.where(found, point.primal, jnp.nan)
    predictions = data.predictions(data.layout.form(blocks), point.intercept)
    dual, ends = search.dual(point, predictions)
    scale = jnp.mean(data.layout.diagonal(blocks), axis=-1)
    return Central(blocks, dual, point.diagonal, scale, ends, point.intercept)


@central_point.defjvp
@highest_precision
def _central_point_jvp(primals: Any, tangents: Any) -> tuple[Central, Central]:
    data, guess, mu = primals
    central = central_point(data, guess, mu)
    return central, Linearization.of(central, data, mu).derivative(tangents[0])


class _QuadraticSearch:
    """The path of the squared loss, its weights absorbed, and what is particular to it."""

    def __init__(self, data: Core):
        self.data, absorbed = data, data.absorbed
        self.samples = samples_of(absorbed.map, absorbed.shift)
        self.path: AbstractPath = CentralPath.of(absorbed, self.samples)

    def point(self, guess: Central) -> Point:
        """Return the guess as a point of the path."""
        dual = self.samples.project(self.data.root * guess.dual)
        return Point(guess.primal, dual, guess.diagonal, no_ends(dual), guess.intercept)

    def dual(self, point: Point, predictions: Float[Array, " n"]) -> tuple[Array, Array]:
        """Return t = y − ŷ, and no multipliers."""
        return self.data.y - predictions, no_multipliers(predictions)


class _SmoothedPath(LossPath):
    """The path with products at the ends in proportion to the weights.

    Where an end has no multiplier, as ψ' is infinite there, Newton's method still wants one, but a
    product that is next to nothing.
    """

    ends: Bool[Array, "2 n"]  # with multipliers

    @property
    def end_unit(self) -> Float[Array, "2 n"]:
        """Weights, or a little of them."""
        return self._used_weight[None] * jnp.where(self.ends, 1, _LITTLE)


class _Search:
    """The path of any other loss, and what is particular to it."""

    def __init__(self, data: Core, mu: Scalar):
        self.data, self.mu, self.counted = data, mu, data.weight > 0
        self.ends, self.low, self.high = barred_ends(data)
        self.nu = mu * jnp.where(self.ends, 1, _LITTLE)
        self.path: AbstractPath = _SmoothedPath(data, self.ends)

    def point(self, guess: Central) -> Point:
        """Return the guess as a point of the path, t where that puts it if near an end."""
        loss, y, nu = self.data.loss, self.data.y, self.nu
        predictions = self.data.predictions(self.data.layout.form(guess.primal), guess.intercept)
        by_predictions = self._smoothed(jnp.where(self.counted, predictions, 0), nu)
        inside = jnp.all(self.path.end_slacks(guess.dual) >= jnp.sqrt(nu), axis=0)
        dual = jnp.where(self.counted & inside, guess.dual, by_predictions)
        ends = jnp.where(finite_ends(loss, y)[0], self.mu / self.path.end_slacks(dual), 0)
        return Point(guess.primal, dual, guess.diagonal, ends, guess.intercept)

    def dual(self, point: Point, predictions: Float[Array, " n"]) -> tuple[Array, Array]:
        """Return t, also of samples of zero weight, and multipliers per unit of weight."""
        other = self._smoothed(predictions, jnp.where(self.ends, self.nu, 0))
        barred = jnp.all(self.ends | ~finite_ends(self.data.loss, self.data.y)[0], axis=0)
        dual = jnp.where(self.counted & barred, point.dual, other)
        others = self.nu / self.path.end_slacks(other)
        ends = jnp.where(self.counted[None], point.ends * (self.nu / self.mu), others)
        return dual, jnp.where(self.ends, ends, 0)

    def _smoothed(
        self, predictions: Float[Array, " n"], nu: Float[Array, "2 n"]
    ) -> Float[Array, " n"]:
        """Return the t with ψ'(t) + ŷ = ν/(t − low) − ν/(high − t)."""
        loss, y = self.data.loss, self.data.y
        finite, low, high = finite_ends(loss, y)
        low, high = jnp.where(finite[0], low, -jnp.inf), jnp.where(finite[1], high, jnp.inf)
        start = jnp.clip(-loss.slope(predictions, y), low, high)

        def force(dual: Float[Array, " n"]) -> Float[Array, " n"]:
            up, down = jnp.where(nu > 0, nu / self.path.end_slacks(dual), 0)
            return up - down - loss.conjugate_slope(dual, y) - predictions

        side = jnp.sign(force(start))

        def beyond(distance: Float[Array, " n"]) -> Bool[Array, " n"]:
            return ~(side * force(start + side * distance) > 0)

        dual = start + side * least(beyond, jnp.where(side > 0, high - start, start - low))
        # Not onto an end, where rounding may put it.
        least_room = jnp.full_like(dual, tiny(dual.dtype))
        room = jnp.maximum(_ROUNDING * epsilon(dual.dtype) * jnp.abs(start), least_room)
        return jnp.clip(dual, low + room, high - room)
