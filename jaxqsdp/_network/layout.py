"""What a relaxation makes of its two semidefinite matrices, and what their diagonals cost."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Array, Bool, Float

from .._base.lift import diagonal_matrices
from .._base.types import Scalar, namespace


@dataclasses.dataclass(frozen=True)
class Layout:
    """The blocks P, N ⪰ 0 of the relaxation and the slacks of its dual: data, no arrays.

        Z = gain·(P − N),   V = gain·(P + N),   diag V = ρ·1 at a price of β for ρ,
        S± = gain·(Diag(p±) ∓ G) ⪰ 0,   1ᵀp± ≤ β

    for a form Z that predicts and G = A*(λ). With bilinear neurons both cones share one diagonal
    and p₊ = p₋ = p; with neurons of one vector each block has a constant diagonal of its own, that
    is, diag Z is constant, too, and p is (2, d). Blocks and slacks have axes (…, 2, d, d).
    """

    gain: float
    shares_diagonal: bool = True

    def form(self, blocks: Float[Array, "*c 2 d d"]) -> Float[Array, "*c d d"]:
        """Z."""
        return self.gain * (blocks[..., 0, :, :] - blocks[..., 1, :, :])

    def block(self, blocks: Float[Array, "*c 2 d d"]) -> Float[Array, "*c d d"]:
        """V."""
        return self.gain * (blocks[..., 0, :, :] + blocks[..., 1, :, :])

    def blocks(
        self, form: Float[Array, "*c d d"], block: Float[Array, "*c d d"]
    ) -> Float[Array, "*c 2 d d"]:
        """P, N of Z, V."""
        return namespace(form, block).stack([block + form, block - form], axis=-3) / (2 * self.gain)

    def diagonal(self, blocks: Float[Array, "*c 2 d d"]) -> Float[Array, "*cg d"]:
        """Return what is to be constant, to which p is the multiplier: diag V, or diag P, diag N.

        The latter times gain.
        """
        if self.shares_diagonal:
            return namespace(blocks).diagonal(self.block(blocks), axis1=-2, axis2=-1)
        return self.gain * namespace(blocks).diagonal(blocks, axis1=-2, axis2=-1)

    def raised(
        self, blocks: Float[Array, "*c 2 d d"]
    ) -> tuple[Float[Array, "*c d d"], Float[Array, "*c d d"], Float[Array, "*c"]]:
        """Return Z, V and ρ, diagonals raised until they are constant: the blocks stay ⪰ 0."""
        xp, d = namespace(blocks), blocks.shape[-1]
        form, block = self.form(blocks), self.block(blocks)
        diagonal = xp.broadcast_to(xp.eye(d, dtype=bool), form.shape)
        if self.shares_diagonal:
            scale = xp.max(xp.diagonal(block, axis1=-2, axis2=-1), axis=-1)
        else:
            largest = xp.max(self.diagonal(blocks), axis=-1)
            scale, level = largest[..., 0] + largest[..., 1], largest[..., 0] - largest[..., 1]
            form = xp.where(diagonal, level[..., None, None], form)
        return form, xp.where(diagonal, scale[..., None, None], block), scale

    def total(self, levels: Float[Array, "*cg"]) -> Float[Array, "*c"]:
        """Return ρ of the levels of `diagonal`."""
        return levels if self.shares_diagonal else namespace(levels).sum(levels, axis=-1)

    def level(self, diagonal: Float[Array, " d"], beta: Scalar, sigma: Scalar) -> Scalar:
        """Return ρ = argmin βρ + σ‖ρ·1 − diag V‖², ρ ≥ 0."""
        xp, d = namespace(diagonal, beta, sigma), diagonal.shape[-1]
        return xp.maximum(xp.mean(diagonal) - beta / (2 * sigma * d), 0)

    def gram(
        self, form: Float[Array, "*c d d"], block: Float[Array, "*c d d"]
    ) -> Float[Array, "*c e e"]:
        """[[V, Z], [Z, V]], which is positive semidefinite if the blocks are."""
        return namespace(form, block).block([[block, form], [form, block]])

    def multiplier_shape(self, d: int) -> tuple[int, ...]:
        """Return the shape of p."""
        return (d,) if self.shares_diagonal else (2, d)

    def constraints(
        self, diagonal: Float[Array, "*cg d"], gram: Float[Array, "*c d d"]
    ) -> Float[Array, "*c 2 d d"]:
        """Diag(p) − G and Diag(p) + G, which are to be positive semidefinite."""
        # By broadcasting: jaxlib 0.12 cannot compile some products of stacks under two vmaps.
        xp = namespace(diagonal, gram)
        both, shape = gram[..., None, :, :], (2, 1, 1)
        signs = xp.asarray([-1.0, 1.0], gram.dtype).reshape((1,) * (gram.ndim - 2) + shape)
        diagonals = diagonal_matrices(diagonal)
        diagonals = diagonals[..., None, :, :] if self.shares_diagonal else diagonals
        return diagonals + signs * both

    def slacks(
        self, diagonal: Float[Array, "*cg d"], gram: Float[Array, "*c d d"]
    ) -> Float[Array, "*c 2 d d"]:
        """S₊, S₋."""
        return self.gain * self.constraints(diagonal, gram)

    def lifted(
        self, diagonal: Float[Array, "*cg d"], shift: Float[Array, "*c 2"]
    ) -> Float[Array, "*cg d"]:
        """Return p, raised by what each of the constraints needs."""
        if self.shares_diagonal:
            return diagonal + namespace(shift).max(shift, axis=-1)[..., None]
        return diagonal + shift[..., None]

    def split(
        self, diagonal: Float[Array, "*cg d"]
    ) -> tuple[Float[Array, "*c d"], Float[Array, "*c d"] | None]:
        """Return the multipliers of diag V and, if that is to be constant, of diag Z."""
        if self.shares_diagonal:
            return diagonal, None
        plus, minus = diagonal[..., 0, :], diagonal[..., 1, :]
        return (plus + minus) / 2, (plus - minus) / 2

    def joined(
        self, of_block: Float[Array, "*c d"], of_form: Float[Array, "*c d"] | None
    ) -> Float[Array, "*cg d"]:
        """Inverse of `split`."""
        if of_form is None:
            return of_block
        return namespace(of_block).stack([of_block + of_form, of_block - of_form], axis=-2)

    def sums(self, diagonal: Float[Array, "*cg d"]) -> Float[Array, "*cg"]:
        """1ᵀp±, each of which is to be β."""
        return namespace(diagonal).sum(diagonal, axis=-1)

    def budget(self, diagonal: Float[Array, "*cg d"]) -> Float[Array, "*c"]:
        """1ᵀp±, the larger one, which is to be at most β."""
        sums = self.sums(diagonal)
        return sums if self.shares_diagonal else namespace(sums).max(sums, axis=-1)

    def missing(
        self, beta: Float[Array, "*c"], diagonal: Float[Array, "*cg d"]
    ) -> Float[Array, "*cg"]:
        """β − 1ᵀp±."""
        return (beta if self.shares_diagonal else beta[..., None]) - self.sums(diagonal)

    def tied(self, parts: Float[Array, "2 k d"]) -> Float[Array, "k q"]:
        """Return what p has in place of p₊ and p₋, in a row."""
        if self.shares_diagonal:
            return parts[0] + parts[1]
        return namespace(parts).concatenate([parts[0], parts[1]], axis=-1)

    def tied_forms(self, parts: Float[Array, "2 d d"]) -> Float[Array, "q q"]:
        """Return the form of p, in a row, that is the sum of forms of p₊ and p₋."""
        if self.shares_diagonal:
            return namespace(parts).sum(parts, axis=0)
        xp = namespace(parts)
        nothing = xp.zeros_like(parts[0])
        return xp.block([[parts[0], nothing], [nothing, parts[1]]])

    def owners(self, d: int) -> Bool[np.ndarray, "r q"]:
        """Return which entries of p, in a row, have a sum that is to be β."""
        if self.shares_diagonal:
            return np.ones((1, d), bool)
        return np.repeat(np.eye(2, dtype=bool), d, axis=1)
