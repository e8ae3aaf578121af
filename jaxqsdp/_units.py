"""Exact changes of units, so that results do not depend on how large X and y are."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._exact import power_of_two
from ._types import Scalar


class Units(eqx.Module):
    """Powers of two a, b that bring the data (a·X, b·y, a²b·β) to moderate size.

    The scaled problem is the exact image of the given one: its value is b² times as large, its
    quadratic form Z is b/a², its dual λ is b, and its diagonal p is a²b times the original's.
    Multiplying by a power of two rounds nothing, so a bound proven there holds here.
    """

    feature: Scalar  # a
    target: Scalar  # b

    def scale_beta(self, beta: Scalar) -> Scalar:
        """Return a²b·β."""
        return beta * self.feature * self.target * self.feature

    def restore_dual(self, dual: Array) -> Array:
        """λ and ŷ back to the original units."""
        return dual / self.target

    def restore_value(self, value: Array) -> Array:
        """Values and bounds back to the original units."""
        return value / self.target / self.target

    def restore_form(self, form: Array) -> Array:
        """Z, V and ρ back to the original units."""
        return form * self.feature / self.target * self.feature

    def scale_form(self, form: Array) -> Array:
        """Inverse of `restore_form`."""
        return form / self.feature * self.target / self.feature

    def scale_diagonal(self, diagonal: Array) -> Array:
        """Inverse of `restore_diagonal`."""
        return diagonal * self.feature * self.target * self.feature

    def restore_diagonal(self, diagonal: Array) -> Array:
        """P back to the original units."""
        return diagonal / self.feature / self.target / self.feature


def feature_unit(X: Float[Array, "n d"], weight: Float[Array, " n"]) -> Scalar:
    """Return the power of two a that brings the weighted features to at most 1 in magnitude.

    Maxima, unlike means, do not change when zero features or zero-weight samples are added.
    """
    return 1 / power_of_two(jnp.max(jnp.abs(jnp.sqrt(jnp.sqrt(weight))[:, None] * X)))


def target_unit(y: Float[Array, " n"], weight: Float[Array, " n"]) -> Scalar:
    """Return the power of two b that brings the weighted targets to at most 1 in magnitude."""
    return 1 / power_of_two(jnp.max(jnp.abs(jnp.sqrt(weight) * y)))
