"""Dense linear algebra on small symmetric matrices."""

import contextlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import scipy.linalg
from jaxtyping import Array, Float

from .._exact.sums import power_of_two
from .control_flow import fori_loop, scan
from .types import Scalar, epsilon, highest_precision, namespace, tiny

_LANCZOS_STEPS = 12
_BISECTIONS = 11


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


def definite_solve(matrix: Any, right: Any) -> Any:
    """Solve with a symmetric positive definite matrix; NaN if it is not."""
    if namespace(matrix, right) is jnp:
        return jax.scipy.linalg.cho_solve((jnp.linalg.cholesky(matrix), True), right)
    with contextlib.suppress(np.linalg.LinAlgError):
        return scipy.linalg.cho_solve(
            scipy.linalg.cho_factor(matrix, lower=True, check_finite=False),
            right,
            check_finite=False,
        )
    return np.full_like(right, np.nan)


def norm_above(matrix: Array) -> Scalar:
    """Frobenius norm of a nonnegative matrix, rounded up."""
    rounding = 1 + 2 * (matrix.size + 4) * epsilon(matrix.dtype)
    xp = namespace(matrix)
    size = power_of_two(xp.max(matrix))  # squares of small entries would underflow
    sum_of_squares = xp.sum(xp.square(matrix / size)) + matrix.size * tiny(matrix.dtype)
    return xp.sqrt(sum_of_squares) * rounding * size + tiny(matrix.dtype)


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
