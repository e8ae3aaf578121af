"""What a neuron makes of a sample: the member of the family that a problem is about."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx

from .layout import Layout


class AbstractActivation(eqx.Module):
    """A neuron, as a function of the projections xᵀs of a sample on its vectors s of signs.

    The relaxation of training with such neurons has the blocks of `layout`.
    """

    num_vectors: eqx.AbstractClassVar[int]  # of signs, for a neuron
    layout: eqx.AbstractClassVar[Layout]
    guarantee: eqx.AbstractClassVar[float]  # K: p_sdp ≤ optimum ≤ K·p_sdp

    @abc.abstractmethod
    def value(self, *projections: Any) -> Any:
        """Return what neurons give, elementwise; an argument for each vector of signs."""

    def neurons(self, X: Any, *signs: Any) -> Any:
        """Return what m neurons give on samples (n, d), (n, m), or on one, (m,); signs (m, d)."""
        return self.value(*(X @ vectors.T for vectors in signs))
