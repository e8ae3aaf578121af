"""The central point next to a solution, and its derivative with respect to the data.

The point of the central path with P·S₊ = N·S₋ = μ·1 is a smooth function of the data, and at small
μ next to the solution. With r = y − ŷ, λ = w∘r, G = A*(λ) and S± = (Diag(p) ∓ G)/2 it satisfies

    sym(P S₊) = sym(N S₋) = μ·1,   r + A((P − N)/2) = y,   diag(P + N)/2 = ρ·1,   1ᵀp = β

and its derivative the linearization of these, K·(dP, dN, dr, dp, dρ) = …, which stays well
conditioned as μ → 0 wherever the solution is unique and strictly complementary.

    guess ──► a few Newton steps ──► central point ──► K⁻¹ ──► derivative

K is a polynomial in the data and the point, so its solve can be differentiated any number of times
without differentiating a factorization. It is solved by the Newton system of the interior point,
whose entries are as large as 1/μ, and refined: that is exact to eps/μ, and so to eps after a
refinement or two.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float

from .._base.control_flow import fori_loop, while_loop
from .._base.lift import quadratic_forms, slacks, weighted_gram
from .._base.mesh import varying_alike
from .._base.trees import select
from .._base.types import Scalar, highest_precision, tiny
from .._loss.base import AbstractLoss
from .._solver.central_path import CentralPath, Point, no_ends
from .._solver.newton import NewtonSystem, newton_data

_PATIENCE = 12  # steps of Newton's method from the guess, then from scratch; ...
_STEPS = 52  # ... so many in all
_SHRINK = 0.1  # of μ in a step
_NEAR = 1e-2  # relative distance from which one more step is enough ...
_LOST = 0.5  # ... and from which there is no central point to speak of
_REFINEMENTS = 3


class Data(eqx.Module):
    """What the relaxation depends on, one output, in moderate units; or a change of it."""

    X: Float[Array, "n d"]
    weight: Float[Array, " n"]
    y: Float[Array, " n"]
    beta: Scalar
    loss: AbstractLoss


class Central(eqx.Module):
    """A point of the central path, or a tangent there."""

    primal: Float[Array, "2 d d"]  # P, N
    residual: Float[Array, " n"]  # r = y − A(Z), samples of zero weight included
    diagonal: Float[Array, " d"]  # p
    scale: Scalar  # ρ

    @property
    def form(self) -> Float[Array, "d d"]:
        """Z."""
        return (self.primal[0] - self.primal[1]) / 2

    @property
    def block(self) -> Float[Array, "d d"]:
        """V."""
        return (self.primal[0] + self.primal[1]) / 2

    def slack(self, data: Data) -> Float[Array, "2 d d"]:
        """S₊, S₋."""
        return _slack(weighted_gram(data.X, data.weight * self.residual), self.diagonal)


class _Conditions(eqx.Module):
    """The left-hand sides of the conditions, or what is asked of them."""

    complementarity: Float[Array, "2 d d"]
    fit: Float[Array, " n"]
    sums: Float[Array, " d"]
    budget: Scalar


def _slack(gram: Float[Array, "d d"], diagonal: Float[Array, " d"]) -> Float[Array, "2 d d"]:
    return slacks(diagonal, gram) / 2


def _symmetric(matrices: Float[Array, "2 d d"]) -> Float[Array, "2 d d"]:
    return (matrices + jnp.swapaxes(matrices, 1, 2)) / 2


def _path(data: Data) -> tuple[CentralPath, Array, Array]:
    """Return the central path with weights absorbed, its features and √w."""
    root = jnp.sqrt(data.weight)
    X = jnp.sqrt(root)[:, None] * data.X
    newton = newton_data(X)
    targets = root * data.y
    path = CentralPath(newton, newton.project(targets), data.beta, data.loss, targets)
    return path, X, root


@jax.custom_jvp
def central_point(data: Data, guess: Central, mu: Scalar) -> Central:
    """Return the point with P·S₊ = N·S₋ = μ·1, by Newton's method from a guess or from scratch.

    The guess need not be interior, nor near: it is given up after a dozen steps. NaN where the
    point was not found.
    """
    path, X, root = _path(data)
    dual = path.data.project(root * guess.residual)
    warm = Point(guess.primal, dual, guess.diagonal, no_ends(dual))
    cold = path.start(X)
    size = jnp.linalg.norm(path.y)

    def distance(point: Point, complementarity: Array) -> Scalar:
        misfit = jnp.linalg.norm(path.misfit(point)) / jnp.where(size > 0, size, 1)
        return jnp.maximum(jnp.max(jnp.abs(complementarity / mu - 1)), misfit)

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
    plus, minus = jnp.where(found, point.primal, jnp.nan)
    residual = data.y - quadratic_forms(data.X, (plus - minus) / 2)
    scale = jnp.mean(jnp.diagonal(plus + minus)) / 2
    return Central(jnp.stack([plus, minus]), residual, point.diagonal, scale)


@central_point.defjvp
@highest_precision
def _central_point_jvp(primals: Any, tangents: Any) -> tuple[Central, Central]:
    data, guess, mu = primals
    central = central_point(data, guess, mu)
    return central, Linearization.of(central, data, mu).derivative(tangents[0])


class Linearization(eqx.Module):
    """K at a point, and its approximate inverse."""

    central: Central
    data: Data
    slack: Float[Array, "2 d d"]
    inverse: _Inverse

    @staticmethod
    def of(central: Central, data: Data, mu: Scalar) -> Linearization:
        """Linearize at a central point."""
        return Linearization(central, data, central.slack(data), _Inverse.of(central, data, mu))

    def at_limit(self, mu: Scalar) -> Linearization:
        """Extrapolate the central point to μ = 0, with an error of the order of μ²."""
        eye = jnp.eye(self.central.diagonal.size, dtype=mu.dtype)
        nothing = jax.tree.map(jnp.zeros_like, self.central)
        asked = _Conditions(
            -mu * jnp.stack([eye, eye]), nothing.residual, nothing.diagonal, nothing.scale
        )
        limit = jax.tree.map(jnp.add, self.central, self._solve(asked))
        return Linearization(limit, self.data, limit.slack(self.data), self.inverse)

    def derivative(self, change: Data) -> Central:
        """Return the derivative of the point in the direction of a change of the data."""
        return self._solve(self._asked(change))

    def residual(self, step: Central, change: Data) -> Scalar:
        """Return the relative residual of a derivative."""
        asked = _vector(self._asked(change))
        size = jnp.linalg.norm(asked)
        left = jnp.linalg.norm(asked - _vector(self._conditions(step)))
        return left / jnp.where(size > 0, size, 1)

    def _asked(self, change: Data) -> _Conditions:
        central, X = self.central, self.data.X
        dual = self.data.weight * central.residual
        cross = change.X.T @ (dual[:, None] * X)
        gram = weighted_gram(X, central.residual * change.weight) + cross + cross.T
        zeros = jnp.zeros_like(central.diagonal)
        return _Conditions(
            -_symmetric(central.primal @ _slack(gram, zeros)),
            change.y - 2 * jnp.sum((change.X @ central.form) * X, axis=1),
            zeros,
            change.beta,
        )

    def _conditions(self, step: Central) -> _Conditions:
        X, primal = self.data.X, _symmetric(step.primal)
        slack = _slack(weighted_gram(X, self.data.weight * step.residual), step.diagonal)
        return _Conditions(
            _symmetric(primal @ self.slack + self.central.primal @ slack),
            step.residual + quadratic_forms(X, (primal[0] - primal[1]) / 2),
            jnp.diagonal(primal[0] + primal[1]) / 2 - step.scale,
            jnp.sum(step.diagonal),
        )

    def _solve(self, asked: _Conditions) -> Central:
        """Solve for a step; can be differentiated and transposed."""
        as_step = ravel_pytree(self.central)[1]
        # One vector, as all of what is transposed has to be linear in the change.
        vector, as_conditions = ravel_pytree(asked)

        # JAX casts what these functions read along with the vector, but knows nothing of that when
        # it traces them. So all of it is an argument, cast before, and constants are inside a jit.
        linear, vector = varying_alike((self, vector))

        @jax.jit
        def apply(linear: Linearization, step: Array) -> Array:
            return _vector(linear._conditions(as_step(step)))

        @jax.jit
        def invert(linear: Linearization, vector: Array) -> Array:
            return _vector(linear.inverse(as_conditions(vector)))

        once = functools.partial(invert, linear)

        def transposed_once(vector: Array) -> Array:
            (result,) = jax.linear_transpose(once, vector)(vector)
            return result

        step = jax.lax.custom_linear_solve(
            functools.partial(apply, linear),
            vector,
            solve=functools.partial(_refined, once),
            transpose_solve=functools.partial(_refined, transposed_once),
        )
        return as_step(step)


def _vector(tree: Central | _Conditions) -> Float[Array, " size"]:
    return ravel_pytree(tree)[0]


def _refined(
    once: Callable[[Array], Array], mv: Callable[[Array], Array], asked: Array
) -> Float[Array, " size"]:
    """Solve by an approximate inverse, refined as long as that helps."""
    step = once(asked)

    def refine(_: Array, state: tuple[Array, Array]) -> tuple[Array, Array]:
        step, left = state
        refined = step + once(left)
        still_left = asked - mv(refined)
        better = jnp.linalg.norm(still_left) < jnp.linalg.norm(left)
        return jnp.where(better, refined, step), jnp.where(better, still_left, left)

    # A loop compiles sooner than its steps, one after the other.
    return fori_loop(0, _REFINEMENTS, refine, (step, asked - mv(step)))[0]


class _Inverse(eqx.Module):
    """The inverse of K at a central point, exact to eps/μ.

    With dP = Y − W dS W, where W = P/√μ and sym(Y S) is what is asked, likewise for N, and with
    Q = ¼ Σ (XWXᵀ)∘² and B, C as in `newton`, the other conditions are

        (I + Q Diag(w)) dr − B dp = a,   Bᵀ Diag(w) dr − C dp − 1 dρ = b,   1ᵀdp = c,

    a system that is symmetric in √w∘dr.
    """

    path: CentralPath
    X: Float[Array, "n d"]
    root: Float[Array, " n"]  # √w
    points: Float[Array, "2 d d"]  # W
    basis: Float[Array, "2 d d"]  # eigenvectors of P, N, and of S
    weights: Float[Array, "2 d d"]  # 2/(s_i + s_j)
    system: NewtonSystem

    @staticmethod
    def of(central: Central, data: Data, mu: Scalar) -> _Inverse:
        """Factor, at a central point with P·S = μ·1."""
        central, data, mu = jax.lax.stop_gradient((central, data, mu))
        path, _, root = _path(data)
        points = central.primal / jnp.sqrt(mu)
        values, basis = jnp.linalg.eigh(central.primal, symmetrize_input=False)
        slack = mu / jnp.maximum(values, tiny(values.dtype) ** 0.5)
        weights = 2 / (slack[:, :, None] + slack[:, None, :])
        return _Inverse(
            path, data.X, root, points, basis, weights, NewtonSystem.of(path.data, points)
        )

    def __call__(self, asked: _Conditions) -> Central:
        transposed = jnp.swapaxes(self.basis, 1, 2)
        turned = transposed @ _symmetric(asked.complementarity) @ self.basis
        explicit = self.basis @ (self.weights * turned) @ transposed
        a = asked.fit - quadratic_forms(self.X, (explicit[0] - explicit[1]) / 2)
        b = asked.sums - jnp.diagonal(explicit[0] + explicit[1]) / 2
        inside, outside = self.path.data.split(self.root * a)
        inside, diagonal, scale = self.system.solve(inside, b, asked.budget)
        dual = self.path.data.join(inside, outside)
        slack = _slack(weighted_gram(self.X, self.root * dual), diagonal)
        implicit = self.points @ slack @ self.points
        uncounted = a + quadratic_forms(self.X, (implicit[0] - implicit[1]) / 2)
        counted = self.root > 0
        residual = jnp.where(counted, dual / jnp.where(counted, self.root, 1), uncounted)
        return Central(_symmetric(explicit - implicit), residual, diagonal, scale)
