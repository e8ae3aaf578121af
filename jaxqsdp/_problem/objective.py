"""The objective of a network, as it is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jaxtyping import Array, Float

from .._base.types import Scalar, namespace
from .._exact.powers import is_subnormal, root
from .._network.network import predictions_of

if TYPE_CHECKING:
    from .._network.network import QuantizedNetwork


def objective(
    X: Float[Array, "n d"],
    y: Float[Array, "n c"],
    weight: Float[Array, " n"],
    beta: Float[Array, " c"],
    network: QuantizedNetwork,
) -> Scalar:
    """Return ½ Σ w (f(x) − y)² + Σ_k β_k Σ_j |α_jk|."""
    alpha = network.alpha_columns.astype(X.dtype)
    xp = namespace(X, y, alpha)
    residual = root(weight)[:, None] * (predictions_of(network, X) - y)
    # Samples that do not count may overflow.
    counted = (weight != 0) | is_subnormal(weight)
    loss = xp.sum(xp.where(counted[:, None], xp.square(residual), 0)) / 2
    return loss + xp.sum(beta * xp.sum(xp.abs(alpha), axis=0))
