"""The samples as the Newton systems of the interior point take them: one by one, or compressed.

With few samples A_i = M_i. With many, A = QR with orthonormal Q and R of D = d(d+1)/2 rows,
and the equivalent problem with A replaced by R, y by Qᵀy has no more than D + 1 samples.

The rows of R are sorted by size, so H is graded, and the rounding errors of its large entries,
which would swamp I, do not reach the small ones. With the R of a plain QR decomposition the method
stops at a residual of 1e-2 on the breast-cancer data in float32, and at a gap of 1e-1 in float64 on
features that span four orders of magnitude. Float32 takes this form with few samples too: on nearly
collinear features the other one stops at gaps of 20 to 80 %.
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.lift import LiftedMap, side_of, smat, svec
from .._network.layout import Layout

_MOST_GRADED = 1024  # entries of Z in the graded form with few samples, which costs more


class AbstractSamples(eqx.Module):
    """The map A in the form in which its Newton systems are smallest."""

    @property
    @abc.abstractmethod
    def shift(self) -> Float[Array, " k"] | None:
        """What an intercept of 1 adds to k samples; None without one."""

    @abc.abstractmethod
    def project(self, y: Float[Array, " n"]) -> Float[Array, " k"]:
        """Return the targets of the equivalent problem with k samples."""

    @abc.abstractmethod
    def split(self, y: Float[Array, " n"]) -> tuple[Array, Array]:
        """Return what k samples see of n numbers, and the rest, on which H is the identity."""

    @abc.abstractmethod
    def join(self, inside: Float[Array, " k"], outside: Float[Array, " n"]) -> Array:
        """Inverse of `split`."""

    @abc.abstractmethod
    def join_map(self, inside: Float[Array, "k k"]) -> Float[Array, "n n"]:
        """Return the map of n numbers that is this one on what k samples see, else 1."""

    @abc.abstractmethod
    def expand(self, dual: Float[Array, " k"], y: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the multiplier of the given problem from that of the equivalent one."""

    @abc.abstractmethod
    def mv(self, form: Float[Array, "d d"]) -> Float[Array, " k"]:
        """A(Z)."""

    @abc.abstractmethod
    def rmv(self, dual: Float[Array, " k"]) -> Float[Array, "d d"]:
        """A*(λ)."""

    @abc.abstractmethod
    def system(self, layout: Layout, scaling_points: Float[Array, "2 d d"]) -> tuple[Array, Array]:
        """Return H and B."""


def samples_of(
    map: LiftedMap, shift: Float[Array, " n"] | None, *, for_one_system: bool = False
) -> AbstractSamples:
    """Choose the smaller systems, and graded ones in float32 while they are affordable.

    For one system only, the decomposition is worth less: at n = 2D it costs what it saves.
    """
    (n, size), is_single = map.shape, jnp.finfo(map.dtype).bits == 32
    # Lifted rows, in which nothing cancels, where something may.
    graded = (is_single or map.corner is not None) and size <= _MOST_GRADED
    most = 2 * size if for_one_system and not is_single else size
    compressed = most < n or graded
    return CompressedSamples.of(map, shift) if compressed else PlainSamples(map, shift)


class PlainSamples(AbstractSamples):
    """One row a sample."""

    map: LiftedMap
    shift: Float[Array, " n"] | None = None

    def project(self, y: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return y itself."""
        return y

    def split(self, y: Float[Array, " n"]) -> tuple[Array, Array]:
        """Return y and zeros."""
        return y, jnp.zeros_like(y)

    def join(self, inside: Float[Array, " n"], outside: Float[Array, " n"]) -> Array:
        """Return the sum."""
        return inside + outside

    def join_map(self, inside: Float[Array, "n n"]) -> Float[Array, "n n"]:
        """Return the map itself."""
        return inside

    def expand(self, dual: Float[Array, " n"], y: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return λ itself."""
        return dual

    def mv(self, form: Float[Array, "d d"]) -> Float[Array, " n"]:
        """A(Z)."""
        return self.map.outputs(form)

    def rmv(self, dual: Float[Array, " n"]) -> Float[Array, "d d"]:
        """A*(λ)."""
        return self.map.adjoint(dual)

    def system(self, layout: Layout, scaling_points: Float[Array, "2 d d"]) -> tuple[Array, Array]:
        """Return H = I + γ² Σ_± ⟨M_i, W M_j W⟩ and B: (XWXᵀ)∘² and (XW)∘² for M = xxᵀ."""
        X, sign = self.map.X, self.map.sign
        images = X @ scaling_points
        h, b = jnp.square(images @ X.T), jnp.square(images)
        if self.map.corner is not None:
            offset = self.map.offset
            last = scaling_points[:, -1]  # We
            cross = sign * offset[None, :, None] * b[:, None, :, -1]
            corner = jnp.square(last[:, -1])[:, None, None] * (offset[:, None] * offset[None])[None]
            h = h + cross + cross.mT + corner
            b = sign * b + offset[None, :, None] * jnp.square(last)[:, None, :]
        eye = jnp.eye(X.shape[0], dtype=X.dtype)
        square = layout.gain**2
        plus, minus = h
        return eye + square * (plus + minus), square * _tied(layout, b)


class CompressedSamples(AbstractSamples):
    """The rows of R in A = QR, and one row of zeros for what of y is outside A's range."""

    left: Float[Array, "n m"]  # Q, m = min(n, D)
    rows: Float[Array, "k D"]  # R and a row of zeros
    shift: Float[Array, " k"] | None = None

    @staticmethod
    def of(map: LiftedMap, shift: Float[Array, " n"] | None = None) -> CompressedSamples:
        """Decompose A = QR with graded R.

        The longer side of A is sorted by norm first. Float64 needs no more, float32 the pivoted
        QLP decomposition: A = QR, R = LPᵀ, L = UT with rows of T that fall off nearly as the
        singular values do. (Those themselves, or eigenvectors, are no better and cost more.)

        Source: Stewart, *The QLP approximation to the singular value decomposition* (1999).
        """
        lifted = map.matrix()
        if shift is not None:
            lifted = jnp.column_stack([lifted, shift])
        n, size = lifted.shape
        if n > size:
            order = jnp.argsort(-jnp.sum(jnp.square(lifted), axis=0))
            left, rows = jnp.linalg.qr(lifted[:, order])
            rows = rows[:, jnp.argsort(order)]
        else:
            order = jnp.argsort(-jnp.sum(jnp.square(lifted), axis=1))
            left, rows = jnp.eye(n, dtype=map.dtype)[:, order], lifted[order]
        if jnp.finfo(map.dtype).bits == 32:
            right, lower = jnp.linalg.qr(rows.T)
            turn, upper = jnp.linalg.qr(lower.T)
            left, rows = left @ turn, upper @ right.T
        rows = jnp.pad(rows, ((0, 1), (0, 0)))
        if shift is None:
            return CompressedSamples(left, rows)
        return CompressedSamples(left, rows[:, :-1], rows[:, -1])

    def _outside(self, y: Float[Array, " n"]) -> tuple[Array, Array]:
        inside = self.left.T @ y
        outside = y - self.left @ inside
        more = self.left.T @ outside  # what rounding left inside
        return inside + more, outside - self.left @ more

    def split(self, y: Float[Array, " n"]) -> tuple[Array, Array]:
        """Return (Qᵀy, 0) and y − QQᵀy."""
        inside, outside = self._outside(y)
        return jnp.append(inside, 0), outside

    def join(self, inside: Float[Array, " k"], outside: Float[Array, " n"]) -> Array:
        """Return Q times the first numbers plus the rest."""
        return self.left @ inside[:-1] + outside

    def join_map(self, inside: Float[Array, "k k"]) -> Float[Array, "n n"]:
        """Return QMQᵀ, and 1 beside the range of Q."""
        m, n = inside.shape[0] - 1, self.left.shape[0]
        if m == n:  # nothing is beside it; small entries of M would be lost
            return (self.left @ inside[:m, :m]) @ self.left.T
        lost = jnp.eye(m, dtype=inside.dtype) - inside[:m, :m]
        return jnp.eye(n, dtype=inside.dtype) - (self.left @ lost) @ self.left.T

    def project(self, y: Float[Array, " n"]) -> Float[Array, " k"]:
        """Return (Qᵀy, ‖y − QQᵀy‖)."""
        inside, outside = self._outside(y)
        return jnp.append(inside, jnp.linalg.norm(outside))

    def expand(self, dual: Float[Array, " k"], y: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return Qλ + the same multiple of y − QQᵀy as λ's last entry is of its norm."""
        outside = self._outside(y)[1]
        size = jnp.linalg.norm(outside)
        return self.left @ dual[:-1] + outside * (dual[-1] / jnp.where(size > 0, size, 1))

    def mv(self, form: Float[Array, "d d"]) -> Float[Array, " k"]:
        """R svec(Z)."""
        return self.rows @ svec(form)

    def rmv(self, dual: Float[Array, " k"]) -> Float[Array, "d d"]:
        """Smat(Rᵀλ)."""
        return smat(self.rows.T @ dual, side_of(self.rows.shape[1]))

    def system(self, layout: Layout, scaling_points: Float[Array, "2 d d"]) -> tuple[Array, Array]:
        """Return H = I + γ²R(W₊⊗W₊ + W₋⊗W₋)Rᵀ, ⊗ being the symmetric Kronecker product, and B."""
        plus, minus = scaling_points
        kronecker = _symmetric_kronecker(plus) + _symmetric_kronecker(minus)
        square = layout.gain**2
        h = square * (self.rows @ (kronecker @ self.rows.T))
        eye = jnp.eye(h.shape[0], dtype=h.dtype)
        b = square * (self.rows @ _tied(layout, jax.vmap(_column_squares)(scaling_points)))
        return eye + (h + h.T) / 2, b


def _tied(layout: Layout, squares: Float[Array, "2 k d"]) -> Float[Array, "k q"]:
    """Return what p feels of both cones, in which λ has opposite signs."""
    return layout.tied(jnp.stack([squares[0], -squares[1]]))


def _symmetric_kronecker(W: Float[Array, "d d"]) -> Float[Array, "D D"]:
    """Return the matrix of svec(Y) ↦ svec(W Y W)."""
    rows, columns = np.triu_indices(W.shape[0])
    factor = jnp.asarray(np.where(rows == columns, np.sqrt(0.5), 1.0), W.dtype)
    by_rows, by_columns = W[rows], W[columns]
    products = by_rows[:, rows] * by_columns[:, columns] + by_rows[:, columns] * by_columns[:, rows]
    return factor[:, None] * products * factor[None, :]


def _column_squares(W: Float[Array, "d d"]) -> Float[Array, "D d"]:
    """Return the matrix of p ↦ svec(W Diag(p) W)."""
    rows, columns = np.triu_indices(W.shape[0])
    factor = jnp.asarray(np.where(rows == columns, 1.0, np.sqrt(2.0)), W.dtype)
    return factor[:, None] * W[rows] * W[columns]
