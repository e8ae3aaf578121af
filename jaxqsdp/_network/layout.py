"""What a relaxation makes of its two semidefinite matrices, and what their diagonals cost."""

from __future__ import annotations

import dataclasses

from jaxtyping import Array, Float

from .._base.lift import diagonal_matrices
from .._base.types import Scalar, namespace


@dataclasses.dataclass(frozen=True)
class Layout:
    """The blocks P, N ⪰ 0 of the relaxation and the slacks of its dual: data, no arrays.

        Z = gain·(P − N),   V = gain·(P + N),   diag V = ρ·1 at a price of β for ρ,
        S± = gain·(Diag(p) ∓ G) ⪰ 0,   1ᵀp ≤ β,   ⟨S, (P, N)⟩ = ⟨p, diag V⟩ − ⟨G, Z⟩

    for a form Z that predicts and G = A*(λ). Blocks and slacks have axes (…, 2, d, d). Newton
    systems, `_solver.samples`, and ADMM's splits write out two blocks with one diagonal besides.
    """

    gain: float

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

    def diagonal(self, blocks: Float[Array, "*c 2 d d"]) -> Float[Array, "*c d"]:
        """Return diag V, which is to be constant."""
        return namespace(blocks).diagonal(self.block(blocks), axis1=-2, axis2=-1)

    def level(self, diagonal: Float[Array, " d"], beta: Scalar, sigma: Scalar) -> Scalar:
        """Return ρ = argmin βρ + σ‖ρ·1 − diag V‖², ρ ≥ 0."""
        xp, d = namespace(diagonal, beta, sigma), diagonal.shape[-1]
        return xp.maximum(xp.mean(diagonal) - beta / (2 * sigma * d), 0)

    def gram(
        self, form: Float[Array, "*c d d"], block: Float[Array, "*c d d"]
    ) -> Float[Array, "*c e e"]:
        """[[V, Z], [Z, V]], which is positive semidefinite if the blocks are."""
        return namespace(form, block).block([[block, form], [form, block]])

    def constraints(
        self, diagonal: Float[Array, "*c d"], gram: Float[Array, "*c d d"]
    ) -> Float[Array, "*c 2 d d"]:
        """Diag(p) − G and Diag(p) + G, which are to be positive semidefinite."""
        # By broadcasting: jaxlib 0.12 cannot compile some products of stacks under two vmaps.
        xp = namespace(diagonal, gram)
        both, shape = gram[..., None, :, :], (2, 1, 1)
        signs = xp.asarray([-1.0, 1.0], gram.dtype).reshape((1,) * (gram.ndim - 2) + shape)
        return diagonal_matrices(diagonal)[..., None, :, :] + signs * both

    def slacks(
        self, diagonal: Float[Array, "*c d"], gram: Float[Array, "*c d d"]
    ) -> Float[Array, "*c 2 d d"]:
        """S₊, S₋."""
        return self.gain * self.constraints(diagonal, gram)

    def budget(self, diagonal: Float[Array, "*c d"]) -> Scalar:
        """1ᵀp, which is to be at most β."""
        return namespace(diagonal).sum(diagonal, axis=-1)
