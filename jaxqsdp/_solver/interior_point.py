"""The interior-point solver: few steps, whatever the problem."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int

from .._base.trees import select
from .._base.types import Scalar, epsilon
from .._problem.core import Core
from .base import (
    AbstractProcess,
    AbstractSolver,
    Iterate,
    Report,
    check_limits,
    number,
    uncertified,
    whole,
)
from .central_path import AbstractPath, CentralPath, Point
from .coupled_path import CoupledPath
from .loss_path import LossPath
from .samples import AbstractSamples, samples_of

_PROGRESS = 0.5  # factor by which the merit must fall within ...
_PATIENCE = 5  # ... so many steps, or else the accuracy of the dtype is reached
_FAR = 1e-2  # gap or residual above which any decrease of the merit will do: ...
_PROGRESS_FAR = 0.99  # ... the first steps on badly scaled data are small


class InteriorPoint(AbstractSolver):
    """Primal–dual predictor–corrector method with Nesterov–Todd scaling.

    Every step solves one Newton system of min(n, D) + d + 1 unknowns, D = d(d+1)/2; for softmax one
    for each output, and one of n unknowns. About a dozen steps suffice whatever the problem, so a
    batch has no stragglers. The dual iterate is strictly feasible throughout (for softmax up to the
    sums Σ_k t_k, which rounding leaves), the primal one up to e = y − A(Z) − λ.

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
    Tütüncü, *On the Nesterov–Todd direction in semidefinite programming* (1998); Carpenter, Lustig,
    Mulvey & Shanno, *Higher-order predictor–corrector interior point methods* (1993).
    """

    tol: float | None = eqx.field(default=None, converter=number("tol"))
    tol_residual: float | None = eqx.field(default=None, converter=number("tol_residual"))
    max_steps: int = eqx.field(default=50, converter=whole)

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

    def factorize(self, core: Core) -> AbstractSamples:
        """Prepare the Newton systems of the squared loss, see `newton`; others do not use it."""
        return samples_of(core.map, core.shift)

    def bind(self, core: Core, factorization: AbstractSamples, max_steps: int) -> AbstractProcess:
        """Set out to solve one problem. Warm starts are not used: they are near the boundary."""
        tol, tol_residual = self.tolerances(core.y.dtype)
        tol = uncertified(tol, core.y.dtype)
        return _Process(path_of(core, factorization), tol, tol_residual, max_steps)


def path_of(core: Core, data: AbstractSamples) -> AbstractPath:
    """Return the central path of a problem."""
    if core.loss.couples_outputs:
        return CoupledPath(core)
    if not core.loss.is_quadratic:
        return LossPath(core)
    return CentralPath.of(core, data)


class _State(eqx.Module):
    point: Point
    best: Point
    merit: Scalar
    residual: Scalar
    reference: Scalar  # the merit at the last sign of progress
    steps: Int[Array, ""]
    idle: Int[Array, ""]
    broken: Bool[Array, ""]


class _Process(AbstractProcess):
    """Newton steps, the best point so far, and signs of progress."""

    path: AbstractPath
    tol: float = eqx.field(static=True)
    tol_residual: float = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def _judge(self, point: Point) -> tuple[Scalar, Scalar, Bool[Array, ""]]:
        """Return the merit, at most 1 if the tolerances hold, the residual, and if it is far."""
        gap, residual = self.path.assess(point)
        merit = jnp.maximum(gap / self.tol, residual / self.tol_residual)
        far = jnp.maximum(gap, residual) > _FAR
        return jnp.where(jnp.isfinite(merit), merit, jnp.inf), residual, far

    def _excess(self, point: Point) -> Scalar:
        """Return 1ᵀp / β − 1."""
        core = self.path.core
        return jnp.max(core.layout.budget(point.diagonal) / core.beta) - 1

    def start(self, warm: Iterate | None) -> _State:
        """Return the state at the strictly feasible start."""
        point = self.path.start()
        merit, residual, _ = self._judge(point)
        zero, no = jnp.zeros((), jnp.int32), jnp.zeros((), bool)
        return _State(point, point, merit, residual, merit, zero, zero, no)

    def step(self, state: _State) -> _State:
        """Take a Newton step and judge where it led."""
        point = self.path.step(state.point)
        merit, residual, far = self._judge(point)
        # A failed factorization makes NaN of the point, and so an infinite merit of it.
        broken = ~jnp.isfinite(merit)
        better = merit < state.merit
        progress = merit < jnp.where(far, _PROGRESS_FAR, _PROGRESS) * state.reference
        # A gap near 1 says little, and the residual may grow while 1ᵀp is far above β.
        excess, before = self._excess(point), self._excess(state.point)
        closer = (before > _FAR) & (excess < _PROGRESS_FAR * before)
        progress = progress | (far & (closer | (residual < _PROGRESS_FAR * state.residual)))
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
        dual = self.path.expand(best.dual)
        return Iterate(best.primal, dual, best.diagonal, best.intercept), Report(
            state.steps, state.residual, self._converged(state)
        )
