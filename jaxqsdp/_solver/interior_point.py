"""The interior-point solver: few steps, whatever the problem."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from .._residuals import dual_value, feasible_point, relative_gap
from .._types import Scalar, epsilon
from .base import (
    AbstractProcess,
    AbstractSolver,
    CoreProblem,
    Iterate,
    Report,
    check_limits,
    uncertified,
)
from .newton import NewtonData, NewtonSystem, newton_data
from .scaling import Scaling
from .splitting import select

_TO_BOUNDARY = 0.98  # fraction of the way to the boundary of the cones that a step may go
_LEAST_CENTERING = 1e-6
_REFINEMENTS = {64: 0, 32: 1}  # of every direction, by the bits of the dtype
_PROGRESS = 0.5  # factor by which the merit must fall within ...
_PATIENCE = 5  # ... so many steps, or else the accuracy of the dtype is reached
_FAR = 1e-2  # gap or residual above which any decrease of the merit will do: ...
_PROGRESS_FAR = 0.99  # ... the first steps on badly scaled data are small


class InteriorPoint(AbstractSolver):
    """Primal–dual predictor–corrector method with Nesterov–Todd scaling.

    Every step solves one Newton system of min(n, D) + d + 1 unknowns, D = d(d+1)/2; about a dozen
    steps suffice whatever the problem, so a batch has no stragglers. The dual iterate is strictly
    feasible throughout, and the primal one up to e = y − A(Z) − λ.

    A problem is solved if both hold:

    - (value − bound) / max(value, 10·eps·½Σwy²) ≤ `tol`, with value and bound those of a feasible
      primal and a feasible dual point built from the iterate, rounding errors included;
    - ‖e‖ ≤ `tol_residual`·‖y‖.

    **Arguments:**

    - `tol`: relative gap. Default 1e-9 in float64, 7e-4 = 2√eps in float32.
    - `tol_residual`: default max(1e-8, 5e3·eps): 1e-8 in float64, 6e-4 in float32.
    - `max_steps`: step limit.

    **Raises:** `ValueError` naming the argument if it is out of range.

    Source: Nesterov & Todd, *Self-scaled barriers and interior-point methods* (1997); Todd, Toh &
    Tütüncü, *On the Nesterov–Todd direction in semidefinite programming* (1998).
    """

    tol: float | None = None
    tol_residual: float | None = None
    max_steps: int = 50

    def __check_init__(self) -> None:
        check_limits(self)

    def tolerances(self, dtype: Any) -> tuple[float, float]:
        """Return (`tol`, `tol_residual`), the defaults where they are None."""
        eps = epsilon(dtype)
        double = jnp.finfo(dtype).bits == 64
        tol = (1e-9 if double else 2 * eps**0.5) if self.tol is None else self.tol
        residual = max(1e-8, 5e3 * eps) if self.tol_residual is None else self.tol_residual
        return tol, residual

    def is_thread_safe(self, dtype: Any) -> bool:
        """Yes: it takes no singular value decomposition."""
        return True

    def factorize(self, X: Float[Array, "n d"]) -> NewtonData:
        """Prepare the Newton systems, see `newton`."""
        return newton_data(X)

    def bind(self, core: CoreProblem, factorization: NewtonData, max_steps: int) -> AbstractProcess:
        """Set out to solve one problem. Warm starts are not used: they are near the boundary."""
        tol, tol_residual = self.tolerances(core.y.dtype)
        tol = uncertified(tol, core.y.dtype)
        newton = _Newton(factorization, factorization.project(core.y), core.beta)
        return _Process(newton, core, tol, tol_residual, max_steps)


class _Point(eqx.Module):
    """Primal matrices and dual variables; the slacks S = (Diag(p) ∓ A*λ)/2 follow from these."""

    primal: Float[Array, "2 d d"]  # P, N
    dual: Float[Array, " k"]  # λ
    diagonal: Float[Array, " d"]  # p


class _State(eqx.Module):
    point: _Point
    best: _Point
    merit: Scalar
    residual: Scalar
    reference: Scalar  # the merit at the last sign of progress
    steps: Int[Array, ""]
    idle: Int[Array, ""]
    broken: Bool[Array, ""]


class _Process(AbstractProcess):
    """Newton steps, the best point so far, and signs of progress."""

    newton: _Newton
    core: CoreProblem
    tol: float = eqx.field(static=True)
    tol_residual: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def _judge(self, point: _Point) -> tuple[Scalar, Scalar, Bool[Array, ""]]:
        """Return the merit, at most 1 if the tolerances hold, the residual, and if it is far."""
        gap, residual = self.newton.assess(point)
        merit = jnp.maximum(gap / self.tol, residual / self.tol_residual)
        far = jnp.maximum(gap, residual) > _FAR
        return jnp.where(jnp.isfinite(merit), merit, jnp.inf), residual, far

    def start(self, warm: Iterate | None) -> _State:
        """Return the state at the strictly feasible start."""
        point = self.newton.start(self.core.X)
        merit, residual, _ = self._judge(point)
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return _State(point, point, merit, residual, merit, zero, zero, no)

    def step(self, state: _State) -> _State:
        """Take a Newton step and judge where it led."""
        point = self.newton.step(state.point)
        merit, residual, far = self._judge(point)
        # A failed factorization makes NaN of the point, and so an infinite merit of it.
        broken = ~jnp.isfinite(merit)
        better = merit < state.merit
        progress = merit < jnp.where(far, _PROGRESS_FAR, _PROGRESS) * state.reference
        return _State(
            select(broken, state.point, point),
            select(better, point, state.best),
            jnp.where(better, merit, state.merit),
            jnp.where(better, residual, state.residual),
            jnp.where(progress, merit, state.reference),
            state.steps + 1,
            jnp.where(progress, 0, state.idle + 1),
            broken,
        )

    def _converged(self, state: _State) -> Bool[Array, ""]:
        return (state.merit <= 1) | state.broken | (state.idle >= _PATIENCE)

    def finished(self, state: _State) -> Bool[Array, ""]:
        """Whether the tolerances, the dtype's accuracy or the step limit are reached."""
        return self._converged(state) | (state.steps >= self.max_steps)

    def result(self, state: _State) -> tuple[Iterate, Report]:
        """Return the best iterate."""
        best = state.best
        dual = self.newton.data.expand(best.dual, self.core.y)
        iterate = Iterate(best.primal[0], best.primal[1], dual, best.diagonal)
        return iterate, Report(state.steps, state.residual, self._converged(state))


class _Direction(eqx.Module):
    """A Newton step, and its primal and slack parts in the scaled space."""

    step: _Point
    primal: Float[Array, "2 d d"]
    slack: Float[Array, "2 d d"]


class _Newton(eqx.Module):
    """The predictor–corrector step on a problem in the form of its Newton data."""

    data: NewtonData
    y: Float[Array, " k"]
    beta: Scalar

    def start(self, X: Float[Array, "n d"]) -> _Point:
        """P = N = τI, λ = 0, p = β/d·1: strictly inside both cones.

        ρ is at most ‖y‖²/2β, and about ‖y‖/‖(‖x_i‖²)_i‖ if the features are not correlated; τ is
        between the two. Zero rows do not count.
        """
        d = X.shape[1]
        energy = jnp.linalg.norm(jnp.sum(jnp.square(X), axis=1))
        size = jnp.linalg.norm(self.y)
        uncorrelated = size / jnp.where(energy > 0, energy, 1)
        most = jnp.maximum(jnp.square(size) / (2 * self.beta), uncorrelated)
        guess = jnp.sqrt(uncorrelated) * jnp.sqrt(most)
        guess = jnp.where((guess > 0) & jnp.isfinite(guess), guess, 1)
        primal = jnp.broadcast_to(guess * jnp.eye(d, dtype=X.dtype), (2, d, d))
        return _Point(primal, jnp.zeros_like(self.y), jnp.full((d,), self.beta / d))

    def slack(self, dual: Array, diagonal: Array) -> Float[Array, "2 d d"]:
        """Return (Diag(p) ∓ A*λ)/2."""
        gram, diagonal = self.data.rmv(dual), jnp.diag(diagonal)
        return jnp.stack([diagonal - gram, diagonal + gram]) / 2

    def misfit(self, point: _Point) -> Float[Array, " k"]:
        """Return e = y − A(Z) − λ."""
        form = (point.primal[0] - point.primal[1]) / 2
        return self.y - self.data.mv(form) - point.dual

    def assess(self, point: _Point) -> tuple[Scalar, Scalar]:
        """Return the relative gap of the feasible point and the dual point, and ‖e‖/‖y‖."""
        plus, minus = point.primal
        weight = jnp.ones_like(self.y)
        predictions = self.data.mv((plus - minus) / 2)
        value = feasible_point(predictions, self.y, weight, self.beta, plus, minus).value
        bound = dual_value(self.y, self.beta, point.dual, jnp.sum(point.diagonal))
        size = jnp.linalg.norm(self.y)
        residual = jnp.linalg.norm(self.y - predictions - point.dual)
        gap = relative_gap(value, bound, self.y, weight)
        return gap, residual / jnp.where(size > 0, size, 1)

    def step(self, point: _Point) -> _Point:
        """Take a predictor–corrector step; NaN if a factorization failed."""
        d = point.diagonal.size
        scaling = Scaling.of(point.primal, self.slack(point.dual, point.diagonal))
        root = scaling.root
        transposed = jnp.swapaxes(root, 1, 2)
        system = NewtonSystem.of(self.data, root @ transposed)
        misfit = self.misfit(point)
        sums = jnp.diagonal(point.primal[0] + point.primal[1]) / 2
        budget = self.beta - jnp.sum(point.diagonal)

        squares = jnp.square(scaling.values)
        mu = jnp.sum(squares) / (2 * d)

        def conjugated(matrix: Array) -> Array:
            product = root @ matrix @ transposed
            return (product + jnp.swapaxes(product, 1, 2)) / 2

        def direction(centered: Array, primal_step: Array) -> _Direction:
            """Solve for a step with scaled parts that sum to `centered`; dλ = 0 gives the other."""
            dual, diagonal = jnp.zeros_like(misfit), jnp.zeros_like(sums)
            for _ in range(1 + _REFINEMENTS[jnp.finfo(mu.dtype).bits]):
                a = misfit - self.data.mv((primal_step[0] - primal_step[1]) / 2) - dual
                # Any multiple of 1 is taken up by dρ.
                b = -sums - jnp.diagonal(primal_step[0] + primal_step[1]) / 2
                more = system.solve(a, b, budget - jnp.sum(diagonal))
                dual, diagonal = dual + more[0], diagonal + more[1]
                slack = transposed @ self.slack(dual, diagonal) @ root
                primal_step = conjugated(centered - slack)
            return _Direction(_Point(primal_step, dual, diagonal), centered - slack, slack)

        eye = jnp.eye(d, dtype=mu.dtype)[None]
        predictor = direction(-scaling.values[:, :, None] * eye, -point.primal)
        parts = jnp.stack([predictor.primal, predictor.slack])
        length = jnp.minimum(scaling.longest_step(parts), 1)
        product = predictor.primal @ predictor.slack
        after = (1 - length) + length**2 * jnp.sum(jnp.trace(product, axis1=1, axis2=2)) / (
            2 * d * mu
        )
        exponent = jnp.maximum(1, 3 * length**2)
        centering = jnp.clip(jnp.clip(after, 0, 1) ** exponent, _LEAST_CENTERING, 1)

        second_order = (product + jnp.swapaxes(product, 1, 2)) / 2
        complementarity = (squares[:, :, None] - centering * mu) * eye
        centered = scaling.center(-complementarity - second_order)
        corrector = direction(centered, conjugated(centered))
        parts = jnp.stack([corrector.primal, corrector.slack])
        length = jnp.minimum(_TO_BOUNDARY * scaling.longest_step(parts), 1)

        def along(length: Scalar) -> _Point:
            return jax.tree.map(lambda x, dx: x + length * dx, point, corrector.step)

        # The longest step is an estimate, too long by a few hundredths at worst.
        return along(jnp.where(self._is_interior(along(length)), length, length / 2))

    def _is_interior(self, point: _Point) -> Bool[Array, ""]:
        slack = self.slack(point.dual, point.diagonal)
        lower = jnp.linalg.cholesky(jnp.concatenate([point.primal, slack]), symmetrize_input=False)
        return jnp.all(jnp.isfinite(lower))
