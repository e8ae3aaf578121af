"""Symmetric matrices as vectors, and the linear map A(Z)_i = ⟨M_i, Z⟩ to the samples."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .control_flow import scan
from .types import namespace, over_leading, record, without

_MOST_ENTRIES = 2**26  # of lifted data that are formed for a more exact Gram matrix
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


def _lifted(X: Float[Array, "n d"]) -> Float[Array, "n D"]:
    """Return svec(x_i x_iᵀ) as rows."""
    rows, columns = _triangle(X.shape[1])
    return X[:, rows] * X[:, columns] * _weights(X.shape[1], X.dtype)[None, :]


@record
class LiftedMap:
    """The map A(Z)_i = ⟨M_i, Z⟩ with M_i = ±x_i x_iᵀ, its last entry c_i if there are such.

    For the bilinear neuron M_i = x_i x_iᵀ. `mv` and what follows is in the coordinates of `svec`,
    which is what factorizations take.
    """

    X: Float[Array, "n d"]
    corner: Float[Array, " n"] | None = None  # c
    sign: float = dataclasses.field(default=1.0, metadata={"static": True})

    @property
    def shape(self) -> tuple[int, int]:
        """(n, D)."""
        n, d = self.X.shape
        return n, lifted_size(d)

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the data."""
        return self.X.dtype

    def times(self, factor: Float[Array, " n"]) -> LiftedMap:
        """Return the map with A(Z)_i times a factor ≥ 0 for each sample."""
        xp = namespace(self.X, factor)
        corner = None if self.corner is None else factor * self.corner
        return LiftedMap(xp.sqrt(factor)[:, None] * self.X, corner, self.sign)

    @property
    def offset(self) -> Float[Array, " n"]:
        """M_i = ±x_i x_iᵀ + o_i eeᵀ: o, what may be left of large numbers."""
        assert self.corner is not None
        return self.corner - self.sign * self.X[:, -1] * self.X[:, -1]

    def outputs(
        self, forms: Float[Array, "d d"] | Float[Array, "c d d"]
    ) -> Float[Array, " n"] | Float[Array, "n c"]:
        """A(Z) of one form, or of each of several."""
        if forms.ndim == 2:
            return self._output(forms)
        return over_leading(self._output, forms).T

    def _output(self, form: Float[Array, "d d"]) -> Float[Array, " n"]:
        xp, X = namespace(self.X, form), self.X
        if self.corner is None:
            return xp.sum((X @ form) * X, axis=1)
        # What the corner replaces may be far larger, and is left out from the start.
        some, last = X[:, :-1], X[:, -1]
        squares = xp.sum(
            (some @ form[:-1, :-1] + 2 * last[:, None] * form[-1:, :-1]) * some, axis=1
        )
        return self.sign * squares + self.corner * form[-1, -1]

    def turned(self, form: Float[Array, "d d"], change: Float[Array, "n d"]) -> Float[Array, " n"]:
        """Return the derivative of A(Z) in the direction of a change of X."""
        return 2 * self.sign * namespace(form).sum((change @ form) * self.X, axis=1)

    def adjoint(self, dual: Float[Array, " n"]) -> Float[Array, "d d"]:
        """A*(λ) = Σ_i λ_i M_i."""
        gram = self.X.T @ (dual[:, None] * self.X)
        if self.corner is None:
            return gram
        xp, d = namespace(gram), self.X.shape[1]
        last = xp.arange(d) == d - 1
        return xp.where(last[:, None] & last[None], xp.sum(self.corner * dual), self.sign * gram)

    def adjoint_turned(
        self, dual: Float[Array, " n"], change: Float[Array, "n d"]
    ) -> Float[Array, "d d"]:
        """Return the derivative of A*(λ) in the direction of a change of X."""
        cross = self.sign * (change.T @ (dual[:, None] * self.X))
        return cross + cross.T

    @property
    def gram_is_primal(self) -> bool:
        """Whether `gram` is A*A, on the domain, rather than AA*, on the samples."""
        n, size = self.shape
        return size <= n

    def mv(self, z: Float[Array, " D"]) -> Float[Array, " n"]:
        """A(Z)."""
        return self._output(smat(z, self.X.shape[1]))

    def rmv(self, dual: Float[Array, " n"]) -> Float[Array, " D"]:
        """A*(λ)."""
        return svec(self.adjoint(dual))

    def matrix(self) -> Float[Array, "n D"]:
        """A as a matrix: the lifted data."""
        return self._rows(self.X, self.corner)

    def _rows(self, X: Float[Array, "n d"], corner: Float[Array, " n"] | None) -> Array:
        lifted = _lifted(X)
        return lifted if corner is None else (self.sign * lifted).at[:, -1].set(corner)

    def gram(self) -> Array:
        """A*A (D × D) if that is no larger than AA* (n × n), ⟨M_i, M_j⟩, which is formed else."""
        if not self.gram_is_primal:
            squares = jnp.square(self.X @ self.X.T)
            if self.corner is None:
                return squares
            n, size = self.shape
            if n * size <= _MOST_ENTRIES:  # in which no large numbers cancel
                matrix = self.matrix()
                return matrix @ matrix.T
            cross = self.sign * self.offset[:, None] * jnp.square(self.X[:, -1])[None]
            return squares + cross + cross.T + self.offset[:, None] * self.offset[None]
        n, d = self.X.shape
        rows = min(n, _CHUNK)
        blocks: tuple[Array, Array | None] = _in_blocks(self.X, rows), None
        if self.corner is not None:
            blocks = blocks[0], _in_blocks(self.corner, rows)

        def accumulate(total: Array, block: tuple[Array, Array | None]) -> tuple[Array, None]:
            lifted = self._rows(*block)
            return total + lifted.T @ lifted, None

        size = lifted_size(d)
        total, _ = scan(accumulate, jnp.zeros((size, size), self.X.dtype), blocks)
        return total


class _Composed:
    """A map made of another one, of the same shape."""

    whole: LiftedMap | LevelMap

    @property
    def shape(self) -> tuple[int, int]:
        """(n, D)."""
        return self.whole.shape

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of the data."""
        return self.whole.dtype

    @property
    def gram_is_primal(self) -> bool:
        """Whether `gram` is A*A, on the domain, rather than AA*, on the samples."""
        return self.whole.gram_is_primal


@record
class LevelMap(_Composed):
    """The map A on forms of constant diagonal, in whose place others are brought to it."""

    whole: LiftedMap

    def mv(self, z: Float[Array, " D"]) -> Float[Array, " n"]:
        """A(Z)."""
        return self.whole.mv(leveled(z))

    def rmv(self, dual: Float[Array, " n"]) -> Float[Array, " D"]:
        """A*(λ)."""
        return leveled(self.whole.rmv(dual))

    def matrix(self) -> Float[Array, "n D"]:
        """A as a matrix."""
        return leveled(self.whole.matrix())

    def gram(self) -> Array:
        """A*A or AA*."""
        gram = self.whole.gram()
        if self.gram_is_primal:
            return leveled(leveled(gram).T)
        X, corner = self.whole.X, self.whole.corner
        diagonals = self.whole.sign * jnp.square(X)  # of M_i
        if corner is not None:
            diagonals = diagonals.at[:, -1].set(corner)
        rest = diagonals - jnp.mean(diagonals, axis=1, keepdims=True)
        return gram - rest @ rest.T


@record
class ProjectedMap(_Composed):
    """A map less what an intercept fits: P·A, P the projection on what a unit vector is not in."""

    whole: LiftedMap | LevelMap
    direction: Float[Array, " n"]

    def mv(self, z: Float[Array, " D"]) -> Float[Array, " n"]:
        """P·A(Z)."""
        return without(self.direction, self.whole.mv(z))

    def rmv(self, dual: Float[Array, " n"]) -> Float[Array, " D"]:
        """A*(Pλ)."""
        return self.whole.rmv(without(self.direction, dual))

    def matrix(self) -> Float[Array, "n D"]:
        """P·A as a matrix."""
        return without(self.direction, self.whole.matrix())

    def gram(self) -> Array:
        """A*PA or PAA*P."""
        gram = self.whole.gram()
        if self.gram_is_primal:
            along = self.whole.rmv(self.direction)
            return gram - along[:, None] * along[None]
        return without(self.direction, without(self.direction, gram).T)


def leveled(vectors: Float[Array, "*r D"]) -> Float[Array, "*r D"]:
    """Return `svec` of the nearest matrices with constant diagonals."""
    index = diagonal_index(side_of(vectors.shape[-1]))
    mean = jnp.mean(vectors[..., index], axis=-1, keepdims=True)
    return vectors.at[..., index].set(jnp.broadcast_to(mean, vectors[..., index].shape))


def side_of(size: int) -> int:
    """Return d of D."""
    return round((2 * size) ** 0.5 - 0.5)


def _in_blocks(array: Array, rows: int) -> Array:
    """Return so many rows at a time, the last of them filled up with zeros."""
    padding = ((0, -len(array) % rows),) + ((0, 0),) * (array.ndim - 1)
    return jnp.pad(array, padding).reshape(-1, rows, *array.shape[1:])
