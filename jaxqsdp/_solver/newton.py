"""The Newton systems of the interior-point method.

With A(Z)_i = ⟨A_i, Z⟩ and scaling points W₊, W₋ of the two cones, every step solves

    H dλ − B dp        = a,     H_ij = δ_ij + γ² Σ_± ⟨A_i, W A_j W⟩
    Bᵀdλ − C dp − 1 dρ = b,     B_ik = γ² Σ_± ±(W A_i W)_kk
    1ᵀdp               = c,     C_kl = γ² Σ_± (W_kl)²

with the gain γ of the layout, by a Cholesky factorization of [[H, −B], [−Bᵀ, C]]; H and B depend on
the form of the samples. Where the cones have diagonals of their own, p is both in a row, B and C
are their parts side by side, and there are two sums and a ρ for each. With an intercept, which
adds μv to the samples,

    H dλ − B dp + v dμ = a,   vᵀdλ = e.
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
    """The factored matrix [[H, −B], [−Bᵀ, C]] = LLᵀ, and L⁻¹ times what the sums are of.

    That is quicker than a factorization of H, its Schur complement and a factorization of that.
    """

    lower: Float[Array, "k+q k+q"]
    spread: list[Float[Array, " k+q"]]  # one for each sum, then that of the intercept, orthogonal
    shares: list[list[Scalar]]  # of those before that were taken out of each
    num_samples: int = eqx.field(static=True)  # k
    layout: Layout = eqx.field(static=True)
    has_intercept: bool = eqx.field(static=True)

    @staticmethod
    def of(
        layout: Layout, samples: AbstractSamples, scaling_points: Float[Array, "2 d d"]
    ) -> NewtonSystem:
        """Assemble and factor; NaN where that fails."""
        h, b = samples.system(layout, scaling_points)
        c = layout.gain**2 * layout.tied_forms(jnp.square(scaling_points))
        k, has_intercept = b.shape[0], samples.shift is not None
        # Rounding errors may have made H indefinite.
        h = h + _ALLOWANCE * epsilon(h.dtype) * jnp.diag(jnp.diag(h))
        lower = jnp.linalg.cholesky(jnp.block([[h, -b], [-b.T, c]]), symmetrize_input=False)
        rows = [
            solve_triangular(lower[k:, k:], jnp.asarray(owned, b.dtype), lower=True)
            for owned in layout.owners(scaling_points.shape[-1])
        ]
        rows = [jnp.pad(row, (k, 0)) for row in rows]
        if samples.shift is not None:
            shift = jnp.pad(samples.shift, (0, lower.shape[0] - k))
            rows.append(solve_triangular(lower, shift, lower=True))
        spread: list[Array] = []
        shares: list[list[Array]] = []
        for row in rows:
            taken: list[Array] = []
            for other in spread:
                taken.append((other @ row) / (other @ other))
                row = row - taken[-1] * other
            spread.append(row)
            shares.append(taken)
        return NewtonSystem(lower, spread, shares, k, layout, has_intercept)

    def solve(
        self,
        a: Float[Array, " k"],
        b: Float[Array, "*g d"],
        c: Float[Array, "*g"],
        e: Scalar | None,
    ) -> tuple[Array, Array, Array | None]:
        """Return (dλ, dp, dμ); e and dμ are None without an intercept."""
        half, _, intercept = self.half(a, b, c, e)
        return *self.whole(half), intercept

    def half(
        self,
        a: Float[Array, " k"],
        b: Float[Array, "*g d"],
        c: Float[Array, "*g"],
        e: Scalar | None,
    ) -> tuple[Float[Array, " k+q"], Float[Array, "*g"], Scalar | None]:
        """Return Lᵀ(dλ, dp), dρ and dμ."""
        half = solve_triangular(self.lower, jnp.concatenate([a, -b.ravel()]), lower=True)
        sums = [*c.reshape(-1)] + ([] if e is None else [e])
        # Before the back substitution: afterwards the two would be large, and nearly cancel.
        along: list[Array] = []
        for index, (row, taken) in enumerate(zip(self.spread, self.shares, strict=True)):
            for other, share in enumerate(taken):
                sums[index] = sums[index] - share * sums[other]
            along.append((row @ half - sums[index]) / (row @ row))
            half = half - along[-1] * row
        for index in reversed(range(len(along))):
            for other, share in enumerate(self.shares[index]):
                along[other] = along[other] - share * along[index]
        intercept = along.pop() if self.has_intercept else None
        rho = along[0] if self.layout.shares_diagonal else jnp.stack(along)
        return half, rho, intercept

    def whole(self, half: Float[Array, " k+q"]) -> tuple[Array, Array]:
        """Return (dλ, dp)."""
        step = solve_triangular(self.lower, half, lower=True, trans=1)
        diagonal = step[self.num_samples :]
        if not self.layout.shares_diagonal:
            diagonal = diagonal.reshape(2, -1)
        return step[: self.num_samples], diagonal

    def responses(self) -> Float[Array, "k+q k"]:
        """Return R, the halves for the columns of a = 1, all else 0: then ∂λ/∂a = RᵀR."""
        k, size = self.num_samples, self.lower.shape[0]
        units = jnp.eye(size, k, dtype=self.lower.dtype)
        halves = solve_triangular(self.lower, units, lower=True)
        for spread in self.spread:
            along = spread @ halves / (spread @ spread)
            halves = halves - spread[:, None] * along[None]
        return halves
