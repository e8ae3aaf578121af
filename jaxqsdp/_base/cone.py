"""Small symmetric matrices: the projection on the semidefinite cone, roots, definite systems."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg.lapack
from jaxtyping import Array, Float

from .types import highest_precision, namespace


@jax.custom_jvp
def positive_part(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Project a symmetric matrix on the positive semidefinite cone, in Frobenius norm.

    Its derivative is E (B ∘ (Eᵀ dM E)) Eᵀ with B_ij = (w_i⁺ − w_j⁺)/(w_i − w_j), which is finite at
    repeated eigenvalues w. Where w_i = w_j = 0 there is none, and 0 is taken. It has no second one.
    """
    return _positive_part(*jnp.linalg.eigh(matrix, symmetrize_input=False))


def _positive_part(eigenvalues: Float[Array, " d"], vectors: Float[Array, "d d"]) -> Array:
    half = vectors * jnp.sqrt(jnp.maximum(eigenvalues, 0))[None, :]
    return half @ half.T  # symmetric and positive semidefinite whatever the rounding


@positive_part.defjvp
@highest_precision
def _positive_part_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    (matrix,), (change,) = primals, tangents
    eigenvalues, vectors = _undifferentiated_eigh(matrix)
    plus, minus = jnp.maximum(eigenvalues, 0), jnp.maximum(-eigenvalues, 0)
    share = plus[:, None] + plus[None, :]
    total = share + minus[:, None] + minus[None, :]
    factor = share / jnp.where(total > 0, total, 1)
    tangent = vectors @ (factor * (vectors.T @ change @ vectors)) @ vectors.T
    return _positive_part(eigenvalues, vectors), (tangent + tangent.T) / 2


@jax.custom_jvp
def _undifferentiated_eigh(matrix: Float[Array, "d d"]) -> tuple[Array, Array]:
    eigenvalues, vectors = jnp.linalg.eigh(matrix, symmetrize_input=False)
    return eigenvalues, vectors


@_undifferentiated_eigh.defjvp
def _refuse_to_differentiate(primals: Any, tangents: Any) -> Any:
    raise NotImplementedError(
        "The projection on the cone has first derivatives only; use `adjoint=Implicit()` for "
        "derivatives of higher order."
    )


def square_root(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Symmetric square root of the positive part; unique, so reproducible across backends."""
    xp = namespace(matrix)
    eigenvalues, vectors = xp.linalg.eigh(matrix)
    return (vectors * xp.sqrt(xp.maximum(eigenvalues, 0))[None, :]) @ vectors.T


def definite_solve(matrix: Any, right: Any) -> Any:
    """Solve with a symmetric positive definite matrix; NaN if it is not."""
    return definite_solver(matrix, right)(right)


def definite_solver(matrix: Any, *others: Any) -> Callable[[Any], Any]:
    """Factor a symmetric positive definite matrix and return what solves with it, or gives NaN."""
    if namespace(matrix, *others) is jnp:
        factor = jnp.linalg.cholesky(matrix), True
        return lambda right: jax.scipy.linalg.cho_solve(factor, right)
    # LAPACK itself: around it SciPy's `cho_solve` takes ten times as long for a few numbers.
    factorize, solve = scipy.linalg.lapack.get_lapack_funcs(("potrf", "potrs"), (matrix,))
    lower, failed = factorize(matrix, lower=True, clean=False)
    if failed or not matrix.size:
        return lambda right: np.full_like(right, np.nan)
    return lambda right: solve(lower, right, lower=True)[0]
