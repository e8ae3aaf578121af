"""The conditions that a point of the central path satisfies, and their linearization.

The point with P·S₊ = N·S₋ = μ·1 is a smooth function of the data, and at small μ next to the
solution. With t = λ/w, G = A*(λ), S± = (Diag(p) ∓ G)/2 and multipliers z of the finite ends of the
loss's intervals it satisfies

    sym(P S₊) = sym(N S₋) = μ·1,   z_low·(t − low) = z_high·(high − t) = μ,
    ψ'(t) + A((P − N)/2) − z_low + z_high = 0,   diag(P + N)/2 = ρ·1,   1ᵀp = β

(with an intercept + μ in the third, and Σ w t = 0)

and its derivative the linearization of these, K·(dP, dN, dt, dz, dp, dρ) = …, which stays well
conditioned as μ → 0 wherever the solution is unique and strictly complementary. For the squared
loss, without ends, t = r = y − ŷ and ψ'(t) = t − y.

Here z is per unit of weight, and weights are at most about 1: the central point is that of the loss
with the conjugate ψ − μ log(t − low) − μ log(high − t), in which weights take no part. So samples
of any weight, zero included, are smoothed alike. An end at which ψ' is infinite needs no
multiplier.

K is a polynomial in the point and in what depends on the data, so its solve can be differentiated
any number of times without differentiating a factorization. It is solved by the Newton system of
the interior point, whose entries are as large as 1/μ, and refined: that is exact to eps/μ, and so
to eps after a refinement or two.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from .._base.control_flow import fori_loop
from .._base.mesh import varying_alike
from .._base.types import Scalar, tiny
from .._problem.core import Core
from .._solver.newton import NewtonSystem
from .._solver.samples import AbstractSamples, samples_of
from .stationarity import barred_ends, end_moves, end_slacks, end_steps, slope_step, target_move

_REFINEMENTS = 3
_LEAST_ROOM = 1e-3  # times the distance from an end at the central point is left at its limit


class Central(eqx.Module):
    """A point of the central path, or a tangent there."""

    primal: Float[Array, "2 d d"]  # P, N
    dual: Float[Array, " n"]  # t, samples of zero weight included
    diagonal: Float[Array, "*g d"]  # p
    scale: Float[Array, "*g"]  # ρ
    ends: Float[Array, "2 e"]  # z, 0 where there is no end; e = 0 for the squared loss, else n
    intercept: Scalar | None = None  # μ

    def slack(self, data: Core) -> Float[Array, "2 d d"]:
        """S₊, S₋."""
        return data.layout.slacks(self.diagonal, data.map.adjoint(data.weight * self.dual))


class _Conditions(eqx.Module):
    """The left-hand sides of the conditions, or what is asked of them."""

    complementarity: Float[Array, "2 d d"]
    fit: Float[Array, " n"]
    sums: Float[Array, "*g d"]
    budget: Float[Array, "*g"]
    ends: Float[Array, "2 e"]
    total: Scalar | None = None


def _pushed(numbers: Float[Array, " n"], ends: Float[Array, "2 e"]) -> Float[Array, " n"]:
    """Return numbers + z_low − z_high."""
    return numbers + ends[0] - ends[1] if ends.size else numbers


def _symmetric(matrices: Float[Array, "2 d d"]) -> Float[Array, "2 d d"]:
    return (matrices + jnp.swapaxes(matrices, 1, 2)) / 2


class Linearization(eqx.Module):
    """K at a point, and its approximate inverse."""

    central: Central
    data: Core
    slack: Float[Array, "2 d d"]
    end_slacks: Float[Array, "2 e"]
    inverse: _Inverse

    @staticmethod
    def of(central: Central, data: Core, mu: Scalar) -> Linearization:
        """Linearize at a central point."""
        return Linearization._at(central, data, _Inverse.of(central, data, mu))

    @staticmethod
    def _at(central: Central, data: Core, inverse: _Inverse) -> Linearization:
        slacks = end_slacks(data, central.dual)
        return Linearization(central, data, central.slack(data), slacks, inverse)

    def at_limit(self, mu: Scalar) -> Linearization:
        """Extrapolate the central point to μ = 0, with an error of the order of μ²."""
        central, data = self.central, self.data
        eye = jnp.eye(central.diagonal.shape[-1], dtype=mu.dtype)
        nothing = jax.tree.map(jnp.zeros_like, central)
        asked = _Conditions(
            -mu * jnp.stack([eye, eye]),
            nothing.dual,
            nothing.diagonal,
            nothing.scale,
            nothing.ends,
            nothing.intercept,
        )
        if central.ends.size:
            fall = jnp.where(central.ends > 0, -mu, 0)
            asked = dataclasses.replace(asked, ends=fall)
        limit = jax.tree.map(jnp.add, central, self._solve(asked))
        limit = dataclasses.replace(limit, dual=self._inside(limit.dual))
        return Linearization._at(limit, data, self.inverse)

    def _inside(self, dual: Float[Array, " n"]) -> Float[Array, " n"]:
        """Keep t off the ends, as ψ'' may be infinite there."""
        if self.data.loss.is_quadratic:
            return dual
        room = _LEAST_ROOM * self.end_slacks
        barred, low, high = barred_ends(self.data)
        dual = jnp.where(barred[0], jnp.maximum(dual, low + room[0]), dual)
        return jnp.where(barred[1], jnp.minimum(dual, high - room[1]), dual)

    def derivative(self, change: Core) -> Central:
        """Return the derivative of the point in the direction of a change of the data."""
        return self._solve(self._asked(change))

    def residual(self, step: Central, change: Core) -> Scalar:
        """Return the relative residual of a derivative."""
        asked = _vector(self._asked(change))
        size = jnp.linalg.norm(asked)
        left = jnp.linalg.norm(asked - _vector(self._conditions(step)))
        return left / jnp.where(size > 0, size, 1)

    def predictions(self, step: Central, change: Core) -> Float[Array, " n"]:
        """Return the derivative of ŷ."""
        if self.data.loss.is_quadratic:
            return change.y - step.dual
        form = self.data.layout.form(step.primal)
        return self.data.predictions(form, step.intercept) + self._turned(change)

    def _turned(self, change: Core) -> Float[Array, " n"]:
        """Return the derivative of A(Z) by X."""
        form = self.data.layout.form(self.central.primal)
        return self.data.map.turned(form, change.X)

    def _asked(self, change: Core) -> _Conditions:
        central, data, map = self.central, self.data, self.data.map
        gram = map.adjoint(central.dual * change.weight)
        gram = gram + map.adjoint_turned(data.weight * central.dual, change.X)
        zeros = jnp.zeros_like(central.diagonal)
        return _Conditions(
            -_symmetric(central.primal @ data.layout.slacks(zeros, gram)),
            target_move(data, central.dual, change) - self._turned(change),
            zeros,
            jnp.broadcast_to(change.beta, central.scale.shape),
            -central.ends * end_moves(data, central.dual, change),
            None if data.shift is None else -jnp.sum(data.shift * change.weight * central.dual),
        )

    def _conditions(self, step: Central) -> _Conditions:
        central, data, primal = self.central, self.data, _symmetric(step.primal)
        layout = data.layout
        gram = data.map.adjoint(data.weight * step.dual)
        slack = layout.slacks(step.diagonal, gram)
        complementarity = _symmetric(primal @ self.slack + central.primal @ slack)
        fit = slope_step(data, central.dual, step.dual)
        fit = fit + data.predictions(layout.form(primal), step.intercept)
        return _Conditions(
            complementarity,
            _pushed(fit, -step.ends),
            layout.diagonal(primal) - step.scale[..., None],
            layout.sums(step.diagonal),
            step.ends * self.end_slacks + central.ends * end_steps(data, step.dual),
            None if data.shift is None else jnp.sum(data.shift * data.weight * step.dual),
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

    With dP = Y − W dS W, where W = P/√μ and sym(Y S) is what is asked, likewise for N and z, and
    with Q = γ² Σ (XWXᵀ)∘², Θ = ψ'' + z_low²/μ + z_high²/μ and B, C as in `newton`, the other
    conditions are

        (Θ + Q Diag(w)) dt − B dp = a,   Bᵀ Diag(w) dt − C dp − 1 dρ = b,   1ᵀdp = c,

    a system that is symmetric in √(wΘ)∘dt, and then that of rows times (w/Θ)^¼.
    """

    data: Core
    root: Float[Array, " n"]  # √(w/Θ)
    stiffness: Float[Array, " n"]  # Θ
    points: Float[Array, "2 d d"]  # W
    basis: Float[Array, "2 d d"]  # eigenvectors of P, N, and of S
    weights: Float[Array, "2 d d"]  # 2/(s_i + s_j)
    ends: Float[Array, "2 e"]  # z
    end_slacks: Float[Array, "2 e"]  # μ/z, 1 where there is no end
    rows: AbstractSamples
    system: NewtonSystem

    @staticmethod
    def of(central: Central, data: Core, mu: Scalar) -> _Inverse:
        """Factor, at a central point with P·S = μ·1."""
        central, data, mu = jax.lax.stop_gradient((central, data, mu))
        ends = central.ends
        end_slacks = jnp.ones_like(ends)
        stiffness, unit_weight = jnp.ones_like(central.dual), data.weight
        if ends.size:
            end_slacks = jnp.where(ends > 0, mu / jnp.where(ends > 0, ends, 1), 1)
            stiffness = slope_step(data, central.dual, stiffness) + jnp.sum(ends / end_slacks, 0)
            unit_weight = unit_weight / stiffness
        root = jnp.sqrt(unit_weight)
        shift = None if data.shift is None else root * data.shift
        rows = samples_of(data.map.times(root), shift)
        points = central.primal / jnp.sqrt(mu)
        values, basis = jnp.linalg.eigh(central.primal, symmetrize_input=False)
        slack = mu / jnp.maximum(values, tiny(values.dtype) ** 0.5)
        weights = 2 / (slack[:, :, None] + slack[:, None, :])
        system = NewtonSystem.of(data.layout, rows, points)
        return _Inverse(
            data, root, stiffness, points, basis, weights, ends, end_slacks, rows, system
        )

    def __call__(self, asked: _Conditions) -> Central:
        transposed = jnp.swapaxes(self.basis, 1, 2)
        turned = transposed @ _symmetric(asked.complementarity) @ self.basis
        explicit = self.basis @ (self.weights * turned) @ transposed
        map, layout = self.data.map, self.data.layout
        a = asked.fit - map.outputs(layout.form(explicit))
        a = _pushed(a, asked.ends / self.end_slacks)
        b = asked.sums - layout.diagonal(explicit)
        inside, outside = self.rows.split(self.root * a)
        half, scale, intercept = self.system.half(inside, b, asked.budget, asked.total)
        inside, diagonal = self.system.whole(half)
        scaled = self.rows.join(inside, outside)  # √(wΘ)∘dt
        slack = layout.slacks(diagonal, map.adjoint(self.root * scaled))
        implicit = self.points @ slack @ self.points
        uncounted = a + map.outputs(layout.form(implicit))
        if intercept is not None and self.data.shift is not None:
            uncounted = uncounted - self.data.shift * intercept
        counted = self.root > 0
        dual = jnp.where(counted, scaled / jnp.where(counted, self.root, 1), uncounted)
        dual = dual / self.stiffness
        ends = asked.ends
        if ends.size:  # z = 0 where there is no end
            ends = (ends - self.ends * jnp.stack([dual, -dual])) / self.end_slacks
        primal = _symmetric(explicit - implicit)
        return Central(primal, dual, diagonal, scale, ends, intercept)
