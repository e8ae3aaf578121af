"""The best output weights for fixed neurons: a LASSO, to a duality gap."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.types import Scalar, epsilon, highest_precision, tiny
from .._exact.powers import power_of_two
from .._loss.base import AbstractLoss
from .._loss.squared import SquaredLoss
from .acceleration import norm
from .least_squares import LeastSquares, factorize
from .splitting import AbstractSplit, Point, Splitting

_MAX_STEPS = 5_000


class _DenseMap(eqx.Module):
    values: Float[Array, "n m"]

    @property
    def shape(self) -> tuple[int, int]:
        n, m = self.values.shape
        return n, m

    @property
    def dtype(self) -> jnp.dtype:
        return self.values.dtype

    def matrix(self) -> Float[Array, "n m"]:
        return self.values

    @property
    def gram_is_primal(self) -> bool:
        n, m = self.shape
        return m <= n

    def mv(self, z: Float[Array, " m"]) -> Float[Array, " n"]:
        return self.values @ z

    def rmv(self, dual: Float[Array, " n"]) -> Float[Array, " m"]:
        return dual @ self.values

    def gram(self) -> Array:
        return self.values.T @ self.values if self.gram_is_primal else self.values @ self.values.T


class _LassoSplit(AbstractSplit[Array]):
    """f: ½‖Φα − y‖². g: β‖α‖₁."""

    fit: LeastSquares
    beta: Scalar
    loss: AbstractLoss

    def prox_f(self, s: Float[Array, " m"], sigma: Scalar) -> Float[Array, " m"]:
        """Least squares."""
        return self.fit.prox(s, sigma)

    def prox_g(self, s: Float[Array, " m"], sigma: Scalar) -> Float[Array, " m"]:
        """Soft thresholding, which returns exact zeros."""
        return jnp.sign(s) * jnp.maximum(jnp.abs(s) - self.beta / (2 * sigma), 0)

    def assess(self, point: Point, sigma: Scalar) -> tuple[Scalar, Array]:
        """Return the gap to the best dual point c·λ with c‖Φᵀλ‖_∞ ≤ β."""
        y, linear_map = self.fit.y, self.fit.map
        dual = self.fit.multiplier(point.s, sigma)
        weight = jnp.ones_like(y)
        value = self.loss(linear_map.mv(point.z), y, weight)
        value = value + self.beta * jnp.sum(jnp.abs(point.z))
        correlation = jnp.max(jnp.abs(linear_map.rmv(dual)))
        limit = jnp.where(correlation > 0, self.beta / correlation, jnp.inf)
        gap = value - self.loss.best_on_dual_ray(dual, y, weight, limit)
        return gap / jnp.maximum(value, tiny(y.dtype)), point.z


@highest_precision
def lasso(
    features: Float[Array, "n m"],
    y: Float[Array, "n c"],
    weight: Float[Array, " n"],
    beta: Float[Array, " c"],
) -> Float[Array, "m c"]:
    """Minimize ½ Σ_i w_i (Φα − y)_i² + β‖α‖₁ for each column of y, sharing one factorization.

    The accelerated splitting of the relaxation with soft thresholding in place of the cone: zeros
    are exact. Stops at a relative duality gap of 1e-9 (float64) or 30 eps (float32), or where the
    dtype stops.
    """
    root = jnp.sqrt(weight)[:, None]
    features, y = root * features, root * y
    unit = 1 / power_of_two(jnp.max(jnp.abs(features)))
    scaled = features * unit
    factorization = factorize(_DenseMap(scaled))
    eps = epsilon(y.dtype)

    def fit_output(y: Float[Array, " n"], beta: Scalar) -> Float[Array, " m"]:
        target = 1 / power_of_two(jnp.max(jnp.abs(y)))
        y, beta = y * target, beta * unit * target
        start = jnp.zeros((features.shape[1],), features.dtype)
        split = _LassoSplit(factorization.bind(y), beta, SquaredLoss())
        # Balance |Φᵀλ| ≤ β against |α| ≈ ‖y‖ / (m · column norm), as in the relaxation.
        size = norm(scaled)
        guess = 0.3 * beta * jnp.sqrt(1.0 * features.shape[1]) * size / norm(y)
        sigma = jnp.where(jnp.isfinite(guess) & (guess > 0), guess, 1)
        loop: Splitting[Array] = Splitting(
            split,
            tol=max(1e-9, 30 * eps),
            tol_residual=max(1e-7, 1e3 * eps),
            relaxation=1.6,
            memory=20,
            check_every=10,
            max_steps=_MAX_STEPS,
        )
        candidate = loop.run(start, sigma).candidate
        # From β_max = ‖Φᵀy‖_∞ on the minimizer is zero, which a gap of 1e-9 need not show.
        zero = jnp.max(jnp.abs(y @ scaled)) <= beta
        return jnp.where(zero, 0, candidate * unit / target)

    return jax.vmap(fit_output, in_axes=(1, 0), out_axes=1)(y, beta)
