"""The Newton systems of the interior-point method.

With A(Z)_i = ⟨A_i, Z⟩ and scaling points W₊, W₋ of the two cones, every step solves

    H dλ − B dp        = a,     H_ij = δ_ij + γ² Σ_± ⟨A_i, W A_j W⟩
    Bᵀdλ − C dp − 1 dρ = b,     B_ik = γ² Σ_± ±(W A_i W)_kk
    1ᵀdp               = c,     C_kl = γ² Σ_± (W_kl)²

with the gain γ of the layout, by a Cholesky factorization of [[H, −B], [−Bᵀ, C]]; H and B depend on
the form of the samples.
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

    lower: Float[Array, "k+d k+d"]
    spread: Float[Array, " k+d"]
    num_samples: int = eqx.field(static=True)  # k

    @staticmethod
    def of(
        layout: Layout, samples: AbstractSamples, scaling_points: Float[Array, "2 d d"]
    ) -> NewtonSystem:
        """Assemble and factor; NaN where that fails."""
        h, b = samples.system(layout, scaling_points)
        c = layout.gain**2 * jnp.sum(jnp.square(scaling_points), axis=0)
        k, d = b.shape
        # Rounding errors may have made H indefinite.
        h = h + _ALLOWANCE * epsilon(h.dtype) * jnp.diag(jnp.diag(h))
        lower = jnp.linalg.cholesky(jnp.block([[h, -b], [-b.T, c]]), symmetrize_input=False)
        spread = solve_triangular(lower[k:, k:], jnp.ones((d,), b.dtype), lower=True)
        return NewtonSystem(lower, jnp.pad(spread, (k, 0)), k)

    def solve(self, a: Float[Array, " k"], b: Float[Array, " d"], c: Scalar) -> tuple[Array, Array]:
        """Return (dλ, dp)."""
        return self.whole(self.half(a, b, c)[0])

    def half(
        self, a: Float[Array, " k"], b: Float[Array, " d"], c: Scalar
    ) -> tuple[Float[Array, " k+d"], Scalar]:
        """Return Lᵀ(dλ, dp) and dρ."""
        half = solve_triangular(self.lower, jnp.concatenate([a, -b]), lower=True)
        rho = (self.spread @ half - c) / (self.spread @ self.spread)
        # Before the back substitution: afterwards the two would be large, and nearly cancel.
        return half - rho * self.spread, rho

    def whole(self, half: Float[Array, " k+d"]) -> tuple[Array, Array]:
        """Return (dλ, dp)."""
        step = solve_triangular(self.lower, half, lower=True, trans=1)
        return step[: self.num_samples], step[self.num_samples :]

    def responses(self) -> Float[Array, "k+d k"]:
        """Return R, the halves for the columns of a = 1, b = 0, c = 0: then ∂λ/∂a = RᵀR."""
        k, size = self.num_samples, self.lower.shape[0]
        units = jnp.eye(size, k, dtype=self.lower.dtype)
        halves = solve_triangular(self.lower, units, lower=True)
        along = self.spread @ halves / (self.spread @ self.spread)
        return halves - self.spread[:, None] * along[None]
