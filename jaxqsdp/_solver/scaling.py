"""Nesterov–Todd scaling of the two semidefinite cones, and how far a step may go in them."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.cone import definite_shift
from .._base.types import Scalar

_LONGEST = 2.0  # step that is looked for: none longer than 1 is taken


class Scaling(eqx.Module):
    """The change of basis in which a pair P, S ≻ 0 becomes one diagonal matrix, cone by cone.

    P = T diag(λ) Tᵀ and S = T⁻ᵀ diag(λ) T⁻¹. A symmetric step dP is scaled to T⁻¹ dP T⁻ᵀ and dS to
    Tᵀ dS T. The matrix W = TTᵀ is the scaling point: W S W = P.
    """

    lower: Float[Array, "2 d d"]  # Cholesky factor of P
    rotation: Float[Array, "2 d d"]  # orthogonal: T = lower · rotation · diag(λ)^(−1/2)
    values: Float[Array, "2 d"]  # λ

    @staticmethod
    def of(primal: Float[Array, "2 d d"], slack: Float[Array, "2 d d"]) -> Scaling:
        """Scale a pair; NaN where either matrix is not numerically positive definite."""
        lower = jnp.linalg.cholesky(primal, symmetrize_input=False)
        middle = jnp.swapaxes(lower, 1, 2) @ slack @ lower
        squares, rotation = jnp.linalg.eigh(middle)
        squares = jnp.where(squares > 0, squares, jnp.nan)
        return Scaling(lower, rotation, jnp.sqrt(squares))

    @property
    def root(self) -> Float[Array, "2 d d"]:
        """T."""
        return (self.lower @ self.rotation) / jnp.sqrt(self.values)[:, None, :]

    def center(self, target: Array) -> Float[Array, "2 d d"]:
        """Solve ½(λ_i + λ_j) R_ij = target_ij, the linearized complementarity condition."""
        return 2 * target / (self.values[:, :, None] + self.values[:, None, :])

    def longest_step(self, steps: Float[Array, "k 2 d d"]) -> Scalar:
        """Return the t ≤ 2, or a little less, to which all diag(λ) + t·step, scaled, are ⪰ 0."""
        half = jnp.sqrt(self.values)
        relative = steps / (half[:, :, None] * half[:, None, :])[None]
        shift = jax.vmap(jax.vmap(lambda part: definite_shift(part, 1 / _LONGEST)))(relative)
        return 1 / jnp.max(shift)
