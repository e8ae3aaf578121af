"""The Newton systems of the interior-point method.

With A(Z)_i = ⟨A_i, Z⟩ and scaling points W₊, W₋ of the two cones, every step solves

    H dλ − B dp        = a,     H_ij = δ_ij + γ² Σ_± ⟨A_i, W A_j W⟩
    Bᵀdλ − C dp − 1 dρ = b,     B_ik = γ² Σ_± ±(W A_i W)_kk
    1ᵀdp               = c,     C_kl = γ² Σ_± (W_kl)²

with the gain γ of the layout, by a Cholesky factorization of [[H, −B], [−Bᵀ, C]]; H and B depend on
the form of the samples. Where the cones have diagonals of their own, p is both in a row, B and C
are their parts side by side, and there are two sums and a ρ for each.
"""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
from jax.scipy.linalg import solve_triangular
from jaxtyping import Array, Float

from .._base.types import Scalar, epsilon
from .._network.layout import Layout
from .samples import AbstractSamples

_ALLOWANCE = 8  # units of rounding added to the diagonal of H


class NewtonSystem(eqx.Module):
    """The factored matrix [[H, −B], [−Bᵀ, C]] = LLᵀ, and L⁻¹(0, 1).

    That is quicker than a factorization of H, its Schur complement and a factorization of that.
    """

    lower: Float[Array, "k+q k+q"]
    spread: list[Float[Array, " k+q"]]  # one for each sum, orthogonal to each other
    share: Scalar  # of the first that was taken out of the second, if there is one
    num_samples: int = eqx.field(static=True)  # k
    layout: Layout = eqx.field(static=True)

    @staticmethod
    def of(
        layout: Layout, samples: AbstractSamples, scaling_points: Float[Array, "2 d d"]
    ) -> NewtonSystem:
        """Assemble and factor; NaN where that fails."""
        h, b = samples.system(layout, scaling_points)
        c = layout.gain**2 * layout.tied_forms(jnp.square(scaling_points))
        k = b.shape[0]
        # Rounding errors may have made H indefinite.
        h = h + _ALLOWANCE * epsilon(h.dtype) * jnp.diag(jnp.diag(h))
        lower = jnp.linalg.cholesky(jnp.block([[h, -b], [-b.T, c]]), symmetrize_input=False)
        spread: list[Array] = []
        share = jnp.zeros((), b.dtype)
        for owned in layout.owners(scaling_points.shape[-1]):
            each = solve_triangular(lower[k:, k:], jnp.asarray(owned, b.dtype), lower=True)
            if spread:
                share = (spread[0][k:] @ each) / (spread[0] @ spread[0])
                each = each - share * spread[0][k:]
            spread.append(jnp.pad(each, (k, 0)))
        return NewtonSystem(lower, spread, share, k, layout)

    def solve(
        self, a: Float[Array, " k"], b: Float[Array, "*g d"], c: Float[Array, "*g"]
    ) -> tuple[Array, Array]:
        """Return (dλ, dp)."""
        return self.whole(self.half(a, b, c)[0])

    def half(
        self, a: Float[Array, " k"], b: Float[Array, "*g d"], c: Float[Array, "*g"]
    ) -> tuple[Float[Array, " k+q"], Float[Array, "*g"]]:
        """Return Lᵀ(dλ, dp) and dρ."""
        half = solve_triangular(self.lower, jnp.concatenate([a, -b.ravel()]), lower=True)
        # Before the back substitution: afterwards the two would be large, and nearly cancel.
        first, *others = self.spread
        if not others:
            rho = (first @ half - c) / (first @ first)
            return half - rho * first, rho
        second, share = others[0], self.share
        along = (first @ half - c[0]) / (first @ first)
        other = (second @ half - (c[1] - share * c[0])) / (second @ second)
        half = half - along * first - other * second
        return half, jnp.stack([along - share * other, other])

    def whole(self, half: Float[Array, " k+q"]) -> tuple[Array, Array]:
        """Return (dλ, dp)."""
        step = solve_triangular(self.lower, half, lower=True, trans=1)
        diagonal = step[self.num_samples :]
        if not self.layout.shares_diagonal:
            diagonal = diagonal.reshape(2, -1)
        return step[: self.num_samples], diagonal

    def responses(self) -> Float[Array, "k+q k"]:
        """Return R, the halves for the columns of a = 1, b = 0, c = 0: then ∂λ/∂a = RᵀR."""
        k, size = self.num_samples, self.lower.shape[0]
        units = jnp.eye(size, k, dtype=self.lower.dtype)
        halves = solve_triangular(self.lower, units, lower=True)
        for spread in self.spread:
            along = spread @ halves / (spread @ spread)
            halves = halves - spread[:, None] * along[None]
        return halves
