"""What a neuron makes of a sample: the member of the family that a problem is about."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from .._base.lift import LiftedMap
from .layout import Layout


class AbstractActivation(eqx.Module):
    """A neuron, as a function of the projections xᵀw of a sample on its vectors w of weights."""

    num_vectors: eqx.AbstractClassVar[int]  # of weights, for a neuron
    has_levels: eqx.AbstractClassVar[bool]  # trained with other weights than ±1, see `Levels`
    guarantee: eqx.AbstractClassVar[float]  # K: p_sdp ≤ optimum ≤ K·p_sdp
    layout: eqx.AbstractClassVar[Layout]  # of the relaxation of training

    @abc.abstractmethod
    def value(self, *projections: Any) -> Any:
        """Return what neurons give, elementwise; an argument for each vector of weights."""

    @abc.abstractmethod
    def num_lifted(self, d: int) -> int:
        """Return k, the size of the blocks of the relaxation for d features."""

    @abc.abstractmethod
    def lifted(self, X: Float[Array, "n d"]) -> LiftedMap:
        """Return the map to what the relaxation predicts, A(Z) = Σ_j α_j f_j(x), Z (k, k)."""

    @property
    @abc.abstractmethod
    def sign(self) -> float:
        """The sign of the squares in that map."""

    @property
    @abc.abstractmethod
    def mask(self) -> tuple[float, float, float] | None:
        """Numbers of the mask: for two features, one and the constant, and it alone; None: ones."""

    @abc.abstractmethod
    def homogeneous(self, X: Float[Array, "n d"]) -> Float[Array, "n k"]:
        """Return rows h with A*(λ) = mask ∘ Σ_i λ_i h_i h_iᵀ, rounded nowhere: proofs use them."""

    def neurons(self, X: Any, *weights: Any) -> Any:
        """Return what m neurons give on samples (n, d), (n, m), or on one, (m,); weights (m, d)."""
        return self.value(*(X @ vectors.T for vectors in weights))


def check_activation(activation: AbstractActivation) -> AbstractActivation:
    """Return the activation, or raise `TypeError`."""
    if not isinstance(activation, AbstractActivation):
        raise TypeError(
            f"`activation` must be `Bilinear()` or `Polynomial(a, b, c)`, got {activation!r}."
        )
    return activation
