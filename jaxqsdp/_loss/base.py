"""What every loss can say about itself; everything else asks it."""

from __future__ import annotations

import abc

import equinox as eqx
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
        """Return the largest −Σψ(c·λ) for 0 ≤ c ≤ limit."""
