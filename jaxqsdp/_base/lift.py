"""Symmetric matrices as vectors, and the linear map A(Z)_i = x_iᵀ Z x_i to the samples."""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .control_flow import scan
from .types import namespace, over_leading

_CHUNK = 4096  # rows lifted at once, so that the lifted data (n, D) never exist for large n


def lifted_size(d: int) -> int:
    """D = d(d + 1)/2, the number of free entries of a symmetric d × d matrix."""
    return d * (d + 1) // 2


def _triangle(d: int) -> tuple[np.ndarray, np.ndarray]:
    return np.triu_indices(d)


def _weights(d: int, dtype: jnp.dtype) -> Array:
    rows, columns = _triangle(d)
    return jnp.asarray(np.where(rows == columns, 1.0, np.sqrt(2.0)), dtype)


def svec(matrix: Float[Array, "d d"]) -> Float[Array, " D"]:
    """Stack the upper triangle, off-diagonal entries times √2: ⟨svec A, svec B⟩ = ⟨A, B⟩."""
    d = matrix.shape[-1]
    rows, columns = _triangle(d)
    return matrix[rows, columns] * _weights(d, matrix.dtype)


def smat(vector: Float[Array, " D"], d: int) -> Float[Array, "d d"]:
    """Inverse of `svec`."""
    index = np.zeros((d, d), np.int32)
    rows, columns = _triangle(d)
    index[rows, columns] = index[columns, rows] = np.arange(len(rows))
    return (vector / _weights(d, vector.dtype))[index]


def diagonal_matrices(vectors: Float[Array, "*c d"]) -> Float[Array, "*c d d"]:
    """Return Diag(p) of each vector."""
    xp, d = namespace(vectors), vectors.shape[-1]
    rows = xp.broadcast_to(vectors[..., None, :], (*vectors.shape, d))
    return xp.where(xp.broadcast_to(xp.eye(d, dtype=bool), rows.shape), rows, xp.zeros_like(rows))


def diagonal_index(d: int) -> np.ndarray:
    """Positions of the diagonal within `svec`."""
    rows, columns = _triangle(d)
    return np.flatnonzero(rows == columns)


def quadratic_forms(X: Float[Array, "n d"], Z: Float[Array, "d d"]) -> Float[Array, " n"]:
    """A(Z)_i = x_iᵀ Z x_i."""
    return namespace(X, Z).sum((X @ Z) * X, axis=1)


def outputs_of(
    X: Float[Array, "n d"], forms: Float[Array, "d d"] | Float[Array, "c d d"]
) -> Float[Array, " n"] | Float[Array, "n c"]:
    """A(Z) of one form, or of each of several."""
    if forms.ndim == 2:
        return quadratic_forms(X, forms)
    return over_leading(lambda form: quadratic_forms(X, form), forms).T


def weighted_gram(X: Float[Array, "n d"], dual: Float[Array, " n"]) -> Float[Array, "d d"]:
    """A*(λ) = Σ_i λ_i x_i x_iᵀ."""
    return X.T @ (dual[:, None] * X)


def _lifted(X: Float[Array, "n d"]) -> Float[Array, "n D"]:
    """Return svec(x_i x_iᵀ) as rows."""
    rows, columns = _triangle(X.shape[1])
    return X[:, rows] * X[:, columns] * _weights(X.shape[1], X.dtype)[None, :]


class LiftedMap(eqx.Module):
    """The map A in the coordinates of `svec`, which is what the factorizations take."""

    X: Float[Array, "n d"]

    @property
    def shape(self) -> tuple[int, int]:
        """(n, D)."""
        n, d = self.X.shape
        return n, lifted_size(d)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the data."""
        return self.X.dtype

    @property
    def gram_is_primal(self) -> bool:
        """Whether `gram` is A*A, on the domain, rather than AA*, on the samples."""
        n, size = self.shape
        return size <= n

    def mv(self, z: Float[Array, " D"]) -> Float[Array, " n"]:
        """A(Z)."""
        return quadratic_forms(self.X, smat(z, self.X.shape[1]))

    def rmv(self, dual: Float[Array, " n"]) -> Float[Array, " D"]:
        """A*(λ)."""
        return svec(weighted_gram(self.X, dual))

    def matrix(self) -> Float[Array, "n D"]:
        """A as a matrix: the lifted data."""
        return _lifted(self.X)

    def gram(self) -> Array:
        """A*A (D × D) if that is no larger than AA* = (XXᵀ)∘(XXᵀ) (n × n), which is formed else."""
        if not self.gram_is_primal:
            return jnp.square(self.X @ self.X.T)
        n, d = self.X.shape
        rows = min(n, _CHUNK)
        padding = -n % rows
        blocks = jnp.pad(self.X, ((0, padding), (0, 0))).reshape(-1, rows, d)

        def accumulate(total: Array, block: Array) -> tuple[Array, None]:
            lifted = _lifted(block)
            return total + lifted.T @ lifted, None

        size = lifted_size(d)
        total, _ = scan(accumulate, jnp.zeros((size, size), self.X.dtype), blocks)
        return total
