"""Nesterov–Todd scaling of the two semidefinite cones, and how far a step may go in them."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.control_flow import fori_loop, scan
from .._base.types import Scalar, epsilon, highest_precision

LONGEST = 2.0  # step that is looked for: none longer than 1 is taken
_LANCZOS_STEPS = 12  # of the estimate of a shift ...
_BISECTIONS = 11  # ... and of its smallest Ritz value


class Scaling(eqx.Module):
    """The change of basis in which a pair P, S ≻ 0 becomes one diagonal matrix, cone by cone.

    P = T diag(λ) Tᵀ and S = T⁻ᵀ diag(λ) T⁻¹. A symmetric step dP is scaled to T⁻¹ dP T⁻ᵀ and dS to
    Tᵀ dS T. The matrix W = TTᵀ is the scaling point: W S W = P.
    """

    lower: Float[Array, "*c 2 d d"]  # Cholesky factor of P
    rotation: Float[Array, "*c 2 d d"]  # orthogonal: T = lower · rotation · diag(λ)^(−1/2)
    values: Float[Array, "*c 2 d"]  # λ

    @staticmethod
    def of(primal: Float[Array, "*c 2 d d"], slack: Float[Array, "*c 2 d d"]) -> Scaling:
        """Scale a pair; NaN where either matrix is not numerically positive definite."""
        lower = jnp.linalg.cholesky(primal, symmetrize_input=False)
        middle = lower.mT @ slack @ lower
        squares, rotation = jnp.linalg.eigh(middle)
        squares = jnp.where(squares > 0, squares, jnp.nan)
        return Scaling(lower, rotation, jnp.sqrt(squares))

    @property
    def root(self) -> Float[Array, "*c 2 d d"]:
        """T."""
        return (self.lower @ self.rotation) / jnp.sqrt(self.values)[..., None, :]

    def center(self, target: Array) -> Float[Array, "*c 2 d d"]:
        """Solve ½(λ_i + λ_j) R_ij = target_ij, the linearized complementarity condition."""
        return 2 * target / (self.values[..., :, None] + self.values[..., None, :])

    def longest_step(self, steps: Float[Array, "k *c 2 d d"]) -> Scalar:
        """Return the t ≤ 2, or a little less, to which all diag(λ) + t·step, scaled, are ⪰ 0."""
        half = jnp.sqrt(self.values)
        relative = steps / (half[..., :, None] * half[..., None, :])[None]
        parts = relative.reshape(-1, *relative.shape[-2:])
        shift = jax.vmap(lambda part: definite_shift(part, 1 / LONGEST))(parts)
        return 1 / jnp.max(shift)


@highest_precision
def definite_shift(matrix: Float[Array, "d d"], least: float) -> Scalar:
    """Estimate the smallest s ≥ `least` for which a symmetric matrix + s·1 is definite.

    That is −λmin, from above by about 1 % in up to a dozen dimensions, and beyond within some 10 %
    of ‖matrix‖, either way. It is minus the smallest Ritz value of a dozen Lanczos steps plus the
    norm of its residual: no proof, but cheaper than an eigenvalue decomposition.

    Source: Toh, *A note on the calculation of step-lengths in interior-point methods for
    semidefinite programming* (2002).
    """
    d = matrix.shape[0]
    count = min(d, _LANCZOS_STEPS)
    random = np.random.default_rng(0).standard_normal(d)
    first = jnp.asarray(random / np.linalg.norm(random), matrix.dtype)
    noise = d * epsilon(matrix.dtype) * jnp.linalg.norm(matrix)

    def step(basis: Array, index: Array) -> tuple[Array, tuple[Array, Array]]:
        image = basis[index] @ matrix
        diagonal = image @ basis[index]
        for _ in range(2):  # once leaves too much where the image is nearly a multiple
            image = image - (basis @ image) @ basis
        norm = jnp.linalg.norm(image)
        norm = jnp.where(norm > noise, norm, 0)  # else an invariant subspace is complete
        following = image / jnp.where(norm > 0, norm, 1)
        return basis.at[index + 1].set(following, mode="drop"), (diagonal, norm)

    basis = jnp.zeros((count, d), matrix.dtype).at[0].set(first)
    _, (diagonal, norms) = scan(step, basis, jnp.arange(count))
    shift, last_entry = _definite_shift_tridiagonal(diagonal, norms[:-1], least)
    return shift if count == d else shift + norms[-1] * last_entry


def _definite_shift_tridiagonal(
    diagonal: Float[Array, " k"], off_diagonal: Float[Array, " k-1"], least: float
) -> tuple[Scalar, Scalar]:
    """Return such an s for a tridiagonal T, and the last entry of the smallest eigenvector.

    By bisection on a logarithmic scale, as T + s is definite iff its pivots q_i are positive. The
    entry is about (q_k Σ_j 1/(λ_j + s))^(−½), where the sum is Σ_i q_i'/q_i.
    """
    squares = jnp.concatenate([jnp.zeros_like(diagonal[:1]), jnp.square(off_diagonal)])

    def pivots(shift: Scalar) -> tuple[Scalar, Scalar, Scalar]:
        """Return the smallest pivot of T + s, the last one, and Σ q_i'/q_i."""

        def eliminate(carry: tuple[Array, ...], row: tuple[Array, Array]) -> tuple[Any, None]:
            smallest, before, slope, total = carry
            share = row[1] / before
            pivot = (row[0] + shift) - share
            slope = (1 + share * slope) / pivot
            return (jnp.minimum(smallest, pivot), pivot, slope, total + slope), None

        zero, one = jnp.zeros_like(shift), jnp.ones_like(shift)
        start = jnp.full_like(shift, jnp.inf), one, zero, zero
        (smallest, last, _, total), _ = scan(eliminate, start, (diagonal, squares))
        return smallest, last, total

    def halve(_: int, bracket: tuple[Scalar, Scalar]) -> tuple[Scalar, Scalar]:
        low, high = bracket
        middle = jnp.sqrt(low) * jnp.sqrt(high)
        definite = pivots(middle)[0] > 0
        return jnp.where(definite, low, middle), jnp.where(definite, middle, high)

    gershgorin = 1.01 * (jnp.max(jnp.abs(diagonal)) + 2 * jnp.sqrt(jnp.max(squares)))
    low = jnp.full_like(gershgorin, least)
    _, shift = fori_loop(0, _BISECTIONS, halve, (low, jnp.maximum(2 * low, gershgorin)))
    _, last, total = pivots(shift)
    return shift, 1 / jnp.sqrt(jnp.maximum(last * total, 1))
