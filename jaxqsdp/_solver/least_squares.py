"""The proximal operator of a least-squares loss, factored once for every penalty.

Two factorizations of A serve. The *Gram* one decomposes the smaller of A*A and AA*: cheap, and it
never forms A. But squaring A squares its condition, and in float32 what lies below eps·‖A‖² is
lost although 2σ, the shift that makes the system regular, is often smaller than that (by a factor
of 100 on the breast-cancer data). The *thin* one, A = U diag(S) V*, loses only what lies below
eps·‖A‖.
"""

from __future__ import annotations

import abc
from typing import Protocol

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.types import Scalar, epsilon

_THIN_LIMIT = 2**27  # entries of A above which float32 makes do with the Gram form: 512 MiB


class LinearMap(Protocol):
    """A linear map with its adjoint and the smaller of its two Gram matrices."""

    @property
    def dtype(self) -> jnp.dtype:
        """The dtype of A."""

    @property
    def gram_is_primal(self) -> bool:
        """Whether `gram()` is A*A rather than AA*."""

    def mv(self, z: Array, /) -> Array:
        """A z."""

    def rmv(self, dual: Array, /) -> Array:
        """A* λ."""

    @property
    def shape(self) -> tuple[int, int]:
        """(n, dimension of the domain)."""

    def gram(self) -> Array:
        """A*A or AA*."""

    def matrix(self) -> Array:
        """A itself."""


class LeastSquares(eqx.Module):
    """The function ½‖A z − y‖² of z, ready for its proximal operator."""

    map: eqx.AbstractVar[LinearMap]
    y: eqx.AbstractVar[Array]

    @abc.abstractmethod
    def prox(self, center: Array, sigma: Scalar) -> Array:
        """Return z = argmin ½‖A z − y‖² + σ‖z − center‖²."""

    @abc.abstractmethod
    def multiplier(self, center: Array, sigma: Scalar) -> Array:
        """Return λ = y − A prox(center), which also satisfies A*λ = 2σ(z − center).

        Computed without the cancellation of forming y − A z, which has lost |y|/|λ| digits.
        """


class Factorization(eqx.Module):
    """A factored linear map. Lanes, targets and penalties that share A share it."""

    map: eqx.AbstractVar[LinearMap]

    @abc.abstractmethod
    def bind(self, y: Float[Array, " n"]) -> LeastSquares:
        """Return the loss for these targets."""


def factorize(linear_map: LinearMap) -> Factorization:
    """Choose the factorization: Gram in float64, thin in float32 unless A would not fit."""
    n, dimension = linear_map.shape
    gram = jnp.finfo(linear_map.dtype).bits == 64 or n * dimension > _THIN_LIMIT
    return GramFactorization.of(linear_map) if gram else ThinFactorization.of(linear_map)


class ThinFactorization(Factorization):
    """A = U diag(S) V* with min(n, dimension) columns in U and V."""

    map: LinearMap
    left: Float[Array, "n k"]
    values: Float[Array, " k"]
    right: Float[Array, "D k"]

    @staticmethod
    def of(linear_map: LinearMap) -> ThinFactorization:
        """Decompose A."""
        left, values, right = jnp.linalg.svd(linear_map.matrix(), full_matrices=False)
        return ThinFactorization(linear_map, left, values, right.T)

    def bind(self, y: Float[Array, " n"]) -> ThinLeastSquares:
        """Return the loss for these targets."""
        projected = self.left.T @ y
        outside = y - self.left @ projected
        outside = outside - self.left @ (self.left.T @ outside)  # clears what rounding left
        return ThinLeastSquares(self.map, y, self, projected, outside)


class ThinLeastSquares(LeastSquares):
    """Least squares in the coordinates of the singular vectors, each accurate by itself."""

    map: LinearMap
    y: Float[Array, " n"]
    factor: ThinFactorization
    projected: Float[Array, " k"]  # Uᵀy
    outside: Float[Array, " n"]  # y − U Uᵀy

    def _misfit(self, center: Array, sigma: Scalar) -> Float[Array, " k"]:
        values = self.factor.values
        misfit = self.projected - values * (self.factor.right.T @ center)
        return misfit / (jnp.square(values) + 2 * sigma)

    def prox(self, center: Array, sigma: Scalar) -> Array:
        """Return center + V S (S² + 2σ)⁻¹ (Uᵀy − S V*center)."""
        return center + self.factor.right @ (self.factor.values * self._misfit(center, sigma))

    def multiplier(self, center: Array, sigma: Scalar) -> Array:
        """Return (I − UUᵀ)y + 2σ U (S² + 2σ)⁻¹ (Uᵀy − S V*center)."""
        return self.outside + self.factor.left @ (2 * sigma * self._misfit(center, sigma))


class GramFactorization(Factorization):
    """The smaller of A*A and AA* as E diag(·) Eᵀ."""

    map: LinearMap
    values: Float[Array, " k"]
    vectors: Float[Array, "k k"]

    @staticmethod
    def of(linear_map: LinearMap) -> GramFactorization:
        """Decompose the smaller Gram matrix."""
        values, vectors = jnp.linalg.eigh(linear_map.gram(), symmetrize_input=False)
        return GramFactorization(linear_map, jnp.maximum(values, 0), vectors)

    def solve(self, rhs: Array, shift: Scalar) -> Array:
        """Return (Gram + shift·I)⁻¹ rhs."""
        return self.vectors @ (self.vectors.T @ rhs / (self.values + shift))

    def pseudo_solve(self, rhs: Array) -> Array:
        """Return Gram⁺ rhs, eigenvalues below rounding level counting as zero."""
        count, eps = self.values.size, epsilon(rhs.dtype)
        usable = self.values > self.values[-1] * count * eps
        inverse = jnp.where(usable, 1 / jnp.where(usable, self.values, 1), 0)
        return self.vectors @ (inverse * (self.vectors.T @ rhs))

    def bind(self, y: Float[Array, " n"]) -> LeastSquares:
        """Return the loss for these targets."""
        if self.map.gram_is_primal:
            return PrimalGramLeastSquares(self.map, y, self, self.vectors.T @ self.map.rmv(y))
        return DualGramLeastSquares(self.map, y, self)


class PrimalGramLeastSquares(LeastSquares):
    """Least squares through A*A; the data are not touched between two tests."""

    map: LinearMap
    y: Float[Array, " n"]
    factor: GramFactorization
    projected: Array  # Eᵀ A*y

    def _step(self, center: Array, sigma: Scalar) -> Array:
        vectors, values = self.factor.vectors, self.factor.values
        misfit = self.projected - values * (vectors.T @ center)
        return vectors @ (misfit / (values + 2 * sigma))

    def prox(self, center: Array, sigma: Scalar) -> Array:
        """Return center + (A*A + 2σI)⁻¹ A*(y − A center)."""
        return center + self._step(center, sigma)

    def multiplier(self, center: Array, sigma: Scalar) -> Array:
        """Return y − A z after two refinements λ ← λ + A (A*A)⁺ (2σ(z − center) − A*λ)."""
        step = self._step(center, sigma)
        dual = self.y - self.map.mv(center) - self.map.mv(step)
        for _ in range(2):
            error = 2 * sigma * step - self.map.rmv(dual)
            dual = dual + self.map.mv(self.factor.pseudo_solve(error))
        return dual


class DualGramLeastSquares(LeastSquares):
    """Least squares through AA*."""

    map: LinearMap
    y: Float[Array, " n"]
    factor: GramFactorization

    def _solve(self, center: Array, sigma: Scalar) -> Array:
        return self.factor.solve(self.y - self.map.mv(center), 2 * sigma)

    def prox(self, center: Array, sigma: Scalar) -> Array:
        """Return center + A*(AA* + 2σI)⁻¹ (y − A center)."""
        return center + self.map.rmv(self._solve(center, sigma))

    def multiplier(self, center: Array, sigma: Scalar) -> Array:
        """Return 2σ (AA* + 2σI)⁻¹ (y − A center)."""
        return 2 * sigma * self._solve(center, sigma)
