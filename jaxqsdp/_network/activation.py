"""What a neuron makes of a sample: the member of the family that a problem is about."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx


class AbstractActivation(eqx.Module):
    """A neuron, as a function of the projections xᵀw of a sample on its vectors w of weights."""

    num_vectors: eqx.AbstractClassVar[int]  # of weights, for a neuron

    @abc.abstractmethod
    def value(self, *projections: Any) -> Any:
        """Return what neurons give, elementwise; an argument for each vector of weights."""

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
