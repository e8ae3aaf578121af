"""The proximal operator of a least-squares loss, factored once for every penalty."""

from __future__ import annotations

from typing import Protocol

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._types import Scalar


class LinearMap(Protocol):
    """A linear map with its adjoint and the smaller of its two Gram matrices."""

    @property
    def gram_is_primal(self) -> bool:
        """Whether `gram()` is A*A rather than AA*."""

    def mv(self, z: Array, /) -> Array:
        """A z."""

    def rmv(self, dual: Array, /) -> Array:
        """A* λ."""

    def gram(self) -> Array:
        """A*A or AA*."""


class Factorization(eqx.Module):
    """A linear map with the eigendecomposition of its smaller Gram matrix.

    It depends on A alone: targets, penalties and lanes of a batch that share the data share it,
    and the shift 2σ may change for free.
    """

    map: LinearMap
    eigenvalues: Float[Array, " k"]
    eigenvectors: Float[Array, "k k"]

    @staticmethod
    def of(linear_map: LinearMap) -> Factorization:
        """Decompose the smaller Gram matrix."""
        eigenvalues, eigenvectors = jnp.linalg.eigh(linear_map.gram(), symmetrize_input=False)
        return Factorization(linear_map, jnp.maximum(eigenvalues, 0), eigenvectors)

    def solve(self, rhs: Array, shift: Scalar) -> Array:
        """Return (Gram + shift·I)⁻¹ rhs."""
        coordinates = self.eigenvectors.T @ rhs / (self.eigenvalues + shift)
        return self.eigenvectors @ coordinates

    def pseudo_solve(self, rhs: Array) -> Array:
        """Return Gram⁺ rhs, eigenvalues below rounding level counting as zero."""
        count, eps = self.eigenvalues.size, float(jnp.finfo(rhs.dtype).eps)
        usable = self.eigenvalues > self.eigenvalues[-1] * count * eps
        inverse = jnp.where(usable, 1 / jnp.where(usable, self.eigenvalues, 1), 0)
        return self.eigenvectors @ (inverse * (self.eigenvectors.T @ rhs))


class LeastSquares(eqx.Module):
    """The function ½‖A z − y‖² of z."""

    factorization: Factorization
    y: Float[Array, " n"]
    projected: Array  # Eᵀ A*y where the Gram is A*A = E diag(·) Eᵀ, else empty

    @staticmethod
    def of(factorization: Factorization, y: Float[Array, " n"]) -> LeastSquares:
        """Bind the targets."""
        linear_map = factorization.map
        if linear_map.gram_is_primal:
            return LeastSquares(
                factorization, y, factorization.eigenvectors.T @ linear_map.rmv(y)
            )
        return LeastSquares(factorization, y, jnp.zeros((0,), y.dtype))

    def _step(self, center: Array, sigma: Scalar) -> Array:
        """Return (A*A + 2σI)⁻¹ A*(y − A center) in the coordinates of A*A, without touching A."""
        factor = self.factorization
        misfit = self.projected - factor.eigenvalues * (factor.eigenvectors.T @ center)
        return factor.eigenvectors @ (misfit / (factor.eigenvalues + 2 * sigma))

    def prox(self, center: Array, sigma: Scalar) -> Array:
        """Return argmin ½‖A z − y‖² + σ‖z − center‖²."""
        factor = self.factorization
        if factor.map.gram_is_primal:
            return center + self._step(center, sigma)
        misfit = self.y - factor.map.mv(center)
        return center + factor.map.rmv(factor.solve(misfit, 2 * sigma))

    def multiplier(self, center: Array, sigma: Scalar) -> Array:
        """Return λ = y − A prox(center) without the cancellation of forming that difference.

        In the sample form λ = 2σ (AA* + 2σI)⁻¹ (y − A center) directly. In the domain form
        y − A z has lost |y|/|λ| digits, and two steps of iterative refinement of
        A*λ = 2σ(z − center) bring them back.
        """
        factor = self.factorization
        misfit = self.y - factor.map.mv(center)
        if not factor.map.gram_is_primal:
            return 2 * sigma * factor.solve(misfit, 2 * sigma)
        step = self._step(center, sigma)
        dual = misfit - factor.map.mv(step)
        for _ in range(2):
            error = 2 * sigma * step - factor.map.rmv(dual)
            dual = dual + factor.map.mv(factor.pseudo_solve(error))
        return dual
