"""The splitting solver: alternating projections on two semidefinite cones and on the data."""

from __future__ import annotations

from typing import Any, cast

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool

from .._base.lift import LevelMap, ProjectedMap
from .._base.types import check_count, epsilon, unit_vector, without
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
from .cone_splits import AbstractConeSplit, LossSplit, SquaredSplit
from .coupled_split import CoupledSplit
from .least_squares import Factorization, factorize
from .splitting import Splitting, State


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

    def factorize(self, core: Core) -> Factorization:
        """Factor the lifted data, see `least_squares`."""
        map: Any = core.map if core.layout.shares_diagonal else LevelMap(core.map)
        direction = unit_vector(core.shift)
        return factorize(map if direction is None else ProjectedMap(map, direction))

    def bind(self, core: Core, factorization: Factorization, max_steps: int) -> AbstractProcess:
        """Set out to solve one problem."""
        tol, tol_residual = self.tolerances(core.y.dtype)
        split: AbstractConeSplit | CoupledSplit
        if core.loss.couples_outputs:
            split = CoupledSplit.of(core, factorization)
        elif core.loss.is_quadratic:
            split = SquaredSplit(core, factorization.bind(without(unit_vector(core.shift), core.y)))
        else:
            split = LossSplit.of(core, factorization)
        loop = Splitting(
            split,
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
        sigma, s = cast(AbstractConeSplit | CoupledSplit, self.loop.split).start(warm)
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
