"""The splitting solver: alternating projections on two semidefinite cones and on the data."""

from __future__ import annotations

from typing import Any, cast

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from .._base.cone import positive_part
from .._base.lift import LiftedMap, diagonal_index, quadratic_forms, smat, svec
from .._base.types import Scalar, check_count, epsilon
from .._loss.base import AbstractLoss
from .._relaxation.feasible import estimated_bound, feasible_point, relative_gap
from .acceleration import norm
from .base import (
    AbstractProcess,
    AbstractSolver,
    CoreProblem,
    Iterate,
    Report,
    check_limits,
    number,
    uncertified,
    whole,
)
from .least_squares import Factorization, LeastSquares, factorize
from .splitting import AbstractSplit, Point, Splitting, State


class ADMM(AbstractSolver):
    """Douglas–Rachford splitting (ADMM) of the two-block relaxation, Anderson-accelerated.

    Alternates the projection of P and N on the positive semidefinite cone, two d × d
    eigendecompositions, with the closed-form minimization of loss + βρ subject to diag(V) = ρ·1,
    through a factorization of the lifted data made once: in float64 the smaller of their Gram
    matrices (n × n, or D × D with D = d(d+1)/2), in float32 a thin singular value decomposition.

    A problem is solved if both hold:

    - (value − bound) / max(value, 10·eps·½Σwy²) ≤ `tol`, with value and bound those of a feasible
      primal and a feasible dual point built from the iterate, rounding errors included;
    - the distance between the two sides of the splitting is at most `tol_residual`, relative.

    **Arguments:**

    - `tol`: relative gap. Default max(1e-6, 2√eps): 1e-6 in float64, 7e-4 in float32.
    - `tol_residual`: default max(1e-6, 1e3·eps): 1e-6 in float64, 1.2e-4 in float32.
    - `max_steps`: step limit, tested every `check_every` steps.
    - `relaxation`: over-relaxation, in (0, 2).
    - `memory`: differences that the acceleration keeps; 0 turns it off.
    - `check_every`: steps between two stopping tests.

    **Raises:** `ValueError` naming the argument if it is out of range.

    Source: Boyd et al., *Distributed optimization and statistical learning via ADMM* (2011);
    Zhang, O'Donoghue & Boyd, *Globally convergent type-I Anderson acceleration* (2020) for the
    idea of the safeguard.
    """

    tol: float | None = eqx.field(default=None, converter=number("tol"))
    tol_residual: float | None = eqx.field(default=None, converter=number("tol_residual"))
    max_steps: int = eqx.field(default=10_000, converter=whole)
    relaxation: float = eqx.field(default=1.6, converter=number("relaxation"))
    memory: int = eqx.field(default=30, converter=whole)
    check_every: int = eqx.field(default=10, converter=whole)

    def __check_init__(self) -> None:
        check_limits(self)
        check_count(self.check_every, "check_every")
        if not (isinstance(self.memory, int) and self.memory >= 0):
            raise ValueError(f"`memory` must be a nonnegative integer, got {self.memory}.")
        if self.relaxation is None or not 0 < self.relaxation < 2:
            raise ValueError(f"`relaxation` must lie in (0, 2), got {self.relaxation}.")

    def tolerances(self, dtype: Any) -> tuple[float, float]:
        """Return (`tol`, `tol_residual`), the defaults where they are None."""
        eps = epsilon(dtype)
        tol = max(1e-6, 2 * eps**0.5) if self.tol is None else self.tol
        residual = max(1e-6, 1e3 * eps) if self.tol_residual is None else self.tol_residual
        return tol, residual

    def is_thread_safe(self, dtype: Any) -> bool:
        """Not in float32: batches of SVDs wait for each other's threads for ever (jaxlib 0.9)."""
        return bool(jnp.finfo(dtype).bits == 64)

    def factorize(self, X: Float[Array, "n d"], loss: AbstractLoss) -> Factorization:
        """Factor the lifted data, see `least_squares`."""
        return factorize(LiftedMap(X))

    def bind(
        self, core: CoreProblem, factorization: Factorization, max_steps: int
    ) -> AbstractProcess:
        """Set out to solve one problem."""
        tol, tol_residual = self.tolerances(core.y.dtype)
        loop = Splitting(
            _RelaxationSplit(core, factorization.bind(core.y)),
            tol=uncertified(tol, core.y.dtype),
            tol_residual=tol_residual,
            relaxation=self.relaxation,
            memory=self.memory,
            check_every=self.check_every,
            max_steps=max_steps,
        )
        return _Process(loop)


class _Process(AbstractProcess):
    """The splitting loop on the relaxation."""

    loop: Splitting[Iterate]

    def start(self, warm: Iterate | None) -> State[Iterate]:
        """Return the first state."""
        sigma, s = cast(_RelaxationSplit, self.loop.split).start(warm)
        return self.loop.start(s, sigma)

    def finished(self, state: State[Iterate]) -> Bool[Array, ""]:
        """Whether the loop ends here."""
        return self.loop.finished(state)

    def step(self, state: State[Iterate]) -> State[Iterate]:
        """Take the steps up to the next stopping test, and test."""
        return self.loop.step(state)

    def result(self, state: State[Iterate]) -> tuple[Iterate, Report]:
        """Return the best iterate."""
        outcome = state.outcome
        converged = outcome.solved | outcome.stalled
        return outcome.candidate, Report(outcome.num_steps, outcome.residual, converged)


class _RelaxationSplit(AbstractSplit[Iterate]):
    """f: loss, penalty and diag(V) = ρ·1. g: P = V + Z ⪰ 0 and N = V − Z ⪰ 0.

    The variable is (svec Z, svec V), in which P and N are orthogonal coordinates up to a factor.
    """

    core: CoreProblem
    loss: LeastSquares

    @property
    def _d(self) -> int:
        return self.core.X.shape[1]

    def _split(self, s: Array) -> tuple[Array, Array]:
        half = s.size // 2
        return s[:half], s[half:]

    def prox_f(self, s: Float[Array, " dim"], sigma: Scalar) -> Float[Array, " dim"]:
        """Z through the Gram matrix; V keeps its off-diagonal; ρ = max(0, mean − β/(2σd))."""
        z, v = self._split(s)
        index = diagonal_index(self._d)
        rho = jnp.maximum(jnp.mean(v[index]) - self.core.beta / (2 * sigma * self._d), 0)
        return jnp.concatenate([self.loss.prox(z, sigma), v.at[index].set(rho)])

    def _blocks(self, s: Array) -> tuple[Array, Array]:
        """Return projections of P and N."""
        z, v = (smat(part, self._d) for part in self._split(s))
        return positive_part(v + z), positive_part(v - z)

    def prox_g(self, s: Float[Array, " dim"], sigma: Scalar) -> Float[Array, " dim"]:
        """Project on the two cones."""
        plus, minus = self._blocks(s)
        return jnp.concatenate([svec(plus - minus), svec(plus + minus)]) / 2

    def assess(self, point: Point, sigma: Scalar) -> tuple[Scalar, Iterate]:
        """Return the gap between a feasible point from z and a dual feasible point from s − x."""
        z, v = self._split(point.s)
        index = diagonal_index(self._d)
        dual = self.loss.multiplier(z, sigma)
        diagonal = 2 * sigma * (v - self._split(point.x)[1])[index]
        form, block = (smat(part, self._d) for part in self._split(point.z))
        iterate = Iterate(block + form, block - form, dual, diagonal)
        core = self.core
        weight = core.weight
        predictions = quadratic_forms(core.X, form)
        value = feasible_point(
            core.loss, predictions, core.y, weight, core.beta, iterate.plus, iterate.minus
        ).value
        bound = estimated_bound(core.loss, core.X, core.y, weight, core.beta, dual, diagonal)
        return relative_gap(core.loss, value, bound, core.y, weight), iterate

    def start(self, warm: Iterate | None) -> tuple[Scalar, Array]:
        """Return the first penalty and the first point.

        The penalty balances the guesses p ≈ β/d of the dual and ρ ≈ rms(y)/Σ_k rms(x_k)² of the
        primal; a warm start balances its own. Zero rows and columns are padding and do not count.
        """
        X, y, beta = self.core.X, self.core.y, self.core.beta
        rows = jnp.maximum(jnp.sum(jnp.any(X != 0, axis=1)), 1).astype(X.dtype)
        columns = jnp.maximum(jnp.sum(jnp.any(X != 0, axis=0)), 1).astype(X.dtype)
        mean_square = jnp.sum(jnp.square(X)) / (rows * columns)
        guess = 0.3 * beta * mean_square / (norm(y) / jnp.sqrt(rows))
        usable = jnp.isfinite(guess) & (guess > 0)
        sigma = jnp.where(usable, guess, 1)
        if warm is None:
            return sigma, jnp.zeros((2 * self.loss.map.shape[1],), X.dtype)
        form, block = (warm.plus - warm.minus) / 2, (warm.plus + warm.minus) / 2
        primal = jnp.concatenate([svec(form), svec(block)])
        # From a larger penalty the dual point is too long; bring it back along its ray.
        budget = jnp.sum(jnp.maximum(warm.dual_diagonal, 0))
        shrink = jnp.minimum(beta / jnp.where(budget > 0, budget, beta), 1)
        gradient = self.loss.map.rmv(warm.dual)
        dual = shrink * jnp.concatenate([-gradient, svec(jnp.diag(warm.dual_diagonal))])
        size = norm(primal)
        balanced = jnp.where(size > 0, norm(dual) / (2 * jnp.where(size > 0, size, 1)), 0)
        usable = jnp.isfinite(balanced) & (balanced > 0)
        sigma = jnp.where(usable, balanced, sigma)
        s = primal + dual / (2 * sigma)
        return sigma, jnp.where(jnp.all(jnp.isfinite(s)), s, 0)
