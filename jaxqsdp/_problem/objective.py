"""The objective of a network, as it is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Array, Float

from .._base.types import Scalar, across, namespace
from .._exact.powers import is_subnormal, root
from .._network.network import predictions_of

if TYPE_CHECKING:
    from .._loss.base import AbstractLoss
    from .._network.network import QuantizedNetwork


def objective(
    X: Float[Array, "n d"],
    y: Float[Array, "n c"],
    weight: Float[Array, " n"],
    beta: Float[Array, " c"],
    network: QuantizedNetwork,
    loss: AbstractLoss,
) -> Scalar:
    """Return ℓ(f(X), y) + Σ_k β_k Σ_j |α_jk|."""
    alpha = network.alpha_columns.astype(X.dtype)
    xp = namespace(X, y, alpha)
    each = loss.weighted(predictions_of(network, X), y, root(weight))
    # Samples that do not count may overflow.
    counted = (weight != 0) | is_subnormal(weight)
    total = xp.sum(xp.where(across(counted, each), each, 0))
    return total + xp.sum(beta * xp.sum(xp.abs(alpha), axis=0))
