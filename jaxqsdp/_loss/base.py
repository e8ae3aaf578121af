"""What a loss can say about itself."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.types import Scalar


class AbstractLoss(eqx.Module):
    """ℓ(ŷ, y) = Σ_i w_i φ(ŷ_i, y_i), a sum over samples, convex in ŷ and nowhere below zero.

    Its dual side is ψ(λ) = ℓ*(−λ), and −Σψ(λ) bounds the optimum from below where λ and p satisfy
    the constraints of the relaxation's dual. Both a primal and a dual point stay feasible when they
    are scaled, and the best factor depends on the loss alone.

    All methods take NumPy arrays, too, and then compile nothing.
    """

    @abc.abstractmethod
    def __call__(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
    ) -> Scalar:
        """Return ℓ of the predictions."""

    @abc.abstractmethod
    def best_on_primal_ray(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
        penalty: Scalar,
    ) -> Scalar:
        """Return the c ≥ 0 that minimizes ℓ(c·ŷ) + c·penalty."""

    @abc.abstractmethod
    def best_on_dual_ray(
        self,
        dual: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
        limit: Scalar,
    ) -> Scalar:
        """Return the largest −Σψ(c·λ) for 0 ≤ c ≤ limit; λ_i must be 0 where w_i is."""


def check_alike(predictions: Any, targets: Any) -> None:
    """Raise `ValueError` unless both have one shape, `TypeError` unless both are floats."""
    if np.shape(predictions) != np.shape(targets):
        raise ValueError(
            f"`predictions` and `targets` must have one shape, got {np.shape(predictions)} and "
            f"{np.shape(targets)}."
        )
    for name, array in (("predictions", predictions), ("targets", targets)):
        if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
            raise TypeError(f"`{name}` must be floating-point, got {jnp.result_type(array)}.")
