"""Dense linear algebra on small symmetric matrices."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._exact import power_of_two
from ._types import Scalar, epsilon, tiny


def positive_part(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Project a symmetric matrix on the positive semidefinite cone, in Frobenius norm."""
    eigenvalues, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
    half = vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))[None, :]
    return half @ half.T  # symmetric and positive semidefinite whatever the rounding


def square_root(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Symmetric square root of the positive part; unique, so reproducible across backends."""
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))[None, :]) @ vectors.T


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
    eigenvalues, vectors = jnp.linalg.eigh(matrix)
    scaled = vectors * eigenvalues[None, :]
    residual = matrix - scaled @ vectors.T
    residual_error = unit * (jnp.abs(scaled) @ jnp.abs(vectors.T)) + eps * jnp.abs(matrix)
    residual_error = residual_error + tiny(matrix.dtype)
    departure = vectors.T @ vectors - jnp.eye(d, dtype=matrix.dtype)
    departure_error = unit * (jnp.abs(vectors.T) @ jnp.abs(vectors)) + eps

    smallest = jnp.min(eigenvalues)
    bound = smallest - (
        jnp.abs(smallest) * norm_above(jnp.abs(departure) + departure_error)
        + norm_above(jnp.abs(residual) + residual_error)
    )
    bound = bound - 4 * eps * jnp.abs(bound)
    return jnp.where(jnp.isfinite(bound), bound, -jnp.inf)


def norm_above(matrix: Array) -> Scalar:
    """Frobenius norm of a nonnegative matrix, rounded up."""
    rounding = 1 + 2 * (matrix.size + 4) * epsilon(matrix.dtype)
    size = power_of_two(jnp.max(matrix))  # squares of small entries would underflow
    sum_of_squares = jnp.sum(jnp.square(matrix / size)) + matrix.size * tiny(matrix.dtype)
    return jnp.sqrt(sum_of_squares) * rounding * size + tiny(matrix.dtype)
