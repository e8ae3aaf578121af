"""Anderson acceleration of a fixed-point iteration s ← s + g(s)."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import cho_factor, cho_solve
from jaxtyping import Array, Float, Int

from .._base.types import Scalar, epsilon

_LONGEST_JUMP = 1.0  # of an extrapolation, relative to the point it starts from


class Anderson(eqx.Module):
    """Memory of the last m differences of the residual g and of the map s + g, in a ring.

    The Gram matrix of the residual differences is updated by one row a step, so that a step costs
    O(m·dim + m³) whatever the memory holds.
    """

    residuals: Float[Array, "m dim"]
    images: Float[Array, "m dim"]
    gram: Float[Array, "m m"]
    last_residual: Float[Array, " dim"]
    last_image: Float[Array, " dim"]
    count: Int[Array, ""]  # evaluations since the memory was cleared

    @staticmethod
    def empty(memory: int, start: Float[Array, " dim"]) -> Anderson:
        """Return a memory of at most `memory` differences, none of them filled."""
        memory = min(memory, start.size)
        zeros = jnp.zeros((memory, start.size), start.dtype)
        gram = jnp.zeros((memory, memory), start.dtype)
        none = jnp.zeros_like(start)
        return Anderson(zeros, zeros, gram, none, none, jnp.zeros((), jnp.int32))

    def cleared(self, when: Array) -> Anderson:
        """Forget everything where `when` holds.

        Only the Gram matrix and the count need clearing: weights of empty entries come out zero.
        """
        return eqx.tree_at(
            lambda memory: (memory.gram, memory.count),
            self,
            (jnp.where(when, 0, self.gram), jnp.where(when, 0, self.count)),
        )

    def extrapolate(
        self, point: Float[Array, " dim"], residual: Float[Array, " dim"]
    ) -> tuple[Float[Array, " dim"], Anderson]:
        """Record one evaluation and return the accelerated next point (type II).

        With γ = argmin ‖g − Σ_j γ_j Δg_j‖², slightly regularized, the next point is
        s + g − Σ_j γ_j Δ(s + g)_j.
        """
        image = point + residual
        memory = self.gram.shape[0]
        if memory == 0:
            return image, self
        slot = jnp.mod(self.count - 1, memory)
        has_previous = self.count > 0
        residuals = self.residuals.at[slot].set(
            jnp.where(has_previous, residual - self.last_residual, self.residuals[slot])
        )
        images = self.images.at[slot].set(
            jnp.where(has_previous, image - self.last_image, self.images[slot])
        )
        row = jnp.where(has_previous, residuals @ residuals[slot], 0)
        filled = jnp.arange(memory, dtype=jnp.int32) < self.count
        row = jnp.where(filled, row, 0)
        gram = self.gram.at[slot, :].set(row).at[:, slot].set(row)
        weights = _regularized_weights(gram, jnp.where(filled, residuals @ residual, 0))
        candidate = image - weights @ images
        # Where the residual hardly changes, its differences are noise and the jump has no bound,
        # which the residual at the other end would not show. A NaN compares false.
        usable = norm(candidate - image) <= _LONGEST_JUMP * norm(image)
        next_point = jnp.where(usable, candidate, image)
        return next_point, Anderson(residuals, images, gram, residual, image, self.count + 1)


def _regularized_weights(gram: Float[Array, "m m"], rhs: Float[Array, " m"]) -> Array:
    """Solve the normal equations with unit diagonal and a small multiple of I added.

    The condition of the Gram matrix is the square of the differences', so the regularization,
    eps^(2/3), is what is left of the dtype's accuracy with a margin.
    """
    size = jnp.sqrt(jnp.diag(gram))
    filled = size > 0
    inverse = jnp.where(filled, 1 / jnp.where(filled, size, 1), 0)
    regularization = epsilon(gram.dtype) ** (2 / 3)
    diagonal = jnp.where(filled, 0, jnp.ones_like(size)) + regularization
    scaled = inverse[:, None] * gram * inverse[None, :] + jnp.diag(diagonal)
    return inverse * cho_solve(cho_factor(scaled), inverse * rhs)


def norm(x: Array) -> Scalar:
    """Euclidean norm."""
    return jnp.sqrt(jnp.sum(jnp.square(x)))
