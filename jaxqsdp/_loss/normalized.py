"""One output of the softmax loss, beside which the others are a number of each sample."""

from __future__ import annotations

from typing import ClassVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .base import AbstractLoss


class NormalizedLoss(AbstractLoss):
    """φ_k(z) = exp(z − L) − y_k(z − L + 1), for targets y_k = 0 and 1.

    min_L Σ_k φ_k(ŷ_k) is the softmax loss, at the normalizer L = ln Σ exp ŷ.
    """

    level: Float[Array, " n"]  # L

    takes_labels: ClassVar[bool] = True  # which do not move

    def value(self, predictions: Array, targets: Array) -> Array:
        """Return exp(u) − y(u + 1), u = ŷ − L."""
        excess = predictions - self.level
        return jnp.exp(excess) - targets * (excess + 1)

    def slope(self, predictions: Array, targets: Array) -> Array:
        """Return exp(ŷ − L) − y."""
        return jnp.exp(predictions - self.level) - targets

    def curvature(self, predictions: Array, targets: Array) -> Array:
        """Return exp(ŷ − L)."""
        return jnp.exp(predictions - self.level)

    def conjugate(self, dual: Array, targets: Array) -> Array:
        """Return q ln q − q + y − tL, q = y − t."""
        q = targets - dual
        return jax.scipy.special.xlogy(q, q) + dual - dual * self.level

    def conjugate_slope(self, dual: Array, targets: Array) -> Array:
        """Return −ln q − L."""
        return -jnp.log(targets - dual) - self.level

    def conjugate_curvature(self, dual: Array, targets: Array) -> Array:
        """Return 1/q."""
        return 1 / (targets - dual)

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return −∞ and y."""
        return jnp.full_like(targets, -jnp.inf), targets
