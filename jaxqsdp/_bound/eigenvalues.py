"""Eigenvalues and norms with a proof: what they are at least, or at most."""

from __future__ import annotations

import contextlib
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.types import Scalar, epsilon, highest_precision, namespace, tiny
from .._exact.powers import power_of_two


@highest_precision  # the proof asks for it itself, whoever calls
def smallest_eigenvalue_bound(matrix: Float[Array, "d d"]) -> Scalar:
    """Return a number proven to be at most λmin of a symmetric matrix, rounding errors included.

    With any computed eigenpairs U diag(w) Uᵀ ≈ M,

        λmin(M) ≥ w_min − |w_min| ‖UᵀU − I‖ − ‖M − U diag(w) Uᵀ‖_F,

    and both norms are computed with the a-priori error of their own evaluation added. Nothing is
    assumed of the eigenvalue routine: a bad decomposition gives a weak bound, a NaN gives −inf.
    """
    d = matrix.shape[0]
    eps = epsilon(matrix.dtype)
    unit = (d + 4) * eps  # ≥ 2 γ_{d+2}: twice the textbook constant covers emulated products
    xp = namespace(matrix)
    eigenvalues, vectors = _eigh(matrix)
    scaled = vectors * eigenvalues[None, :]
    residual = matrix - scaled @ vectors.T
    residual_error = unit * (xp.abs(scaled) @ xp.abs(vectors.T)) + eps * xp.abs(matrix)
    residual_error = residual_error + (2 * d + 2) * tiny(matrix.dtype)  # products underflow
    departure = vectors.T @ vectors - xp.eye(d, dtype=matrix.dtype)
    departure_error = unit * (xp.abs(vectors.T) @ xp.abs(vectors)) + eps

    smallest = xp.min(eigenvalues)
    bound = smallest - (
        xp.abs(smallest) * norm_above(xp.abs(departure) + departure_error)
        + norm_above(xp.abs(residual) + residual_error)
    )
    bound = bound - 4 * eps * xp.abs(bound)
    return xp.where(xp.isfinite(bound), bound, -xp.inf)


def _eigh(matrix: Any) -> tuple[Any, Any]:
    """Eigenvalues and vectors, NaN where there are none; NumPy would raise."""
    if namespace(matrix) is jnp:
        return jnp.linalg.eigh(matrix)
    if np.all(np.isfinite(matrix)):
        with contextlib.suppress(np.linalg.LinAlgError):
            return np.linalg.eigh(matrix)
    return np.full_like(matrix[0], np.nan), np.full_like(matrix, np.nan)


def norm_above(matrix: Array) -> Scalar:
    """Frobenius norm of a nonnegative matrix, rounded up."""
    rounding = 1 + 2 * (matrix.size + 4) * epsilon(matrix.dtype)
    xp = namespace(matrix)
    size = power_of_two(xp.max(matrix))  # squares of small entries would underflow
    sum_of_squares = xp.sum(xp.square(matrix / size)) + matrix.size * tiny(matrix.dtype)
    return xp.sqrt(sum_of_squares) * rounding * size + tiny(matrix.dtype)
