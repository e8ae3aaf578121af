"""Loss functions of the predictions."""

import equinox as eqx
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from .._base.types import Scalar


class SquaredLoss(eqx.Module):
    """ℓ(ŷ, y) = ½ Σ_i w_i (ŷ_i − y_i)², a sum over samples, not a mean.

    Doubling the data therefore doubles the loss; scale β along with it to keep the balance.
    """

    def __call__(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
    ) -> Scalar:
        """Return the loss of the predictions."""
        return jnp.sum(weight * optax.l2_loss(predictions, targets))
