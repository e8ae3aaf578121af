"""What a solver of the relaxation takes and gives."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int

from .._types import Scalar


class CoreProblem(eqx.Module):
    """The relaxation in the form the solvers see: scaled (`_units`), weights absorbed.

    min ½‖A(Z) − y‖² + βρ  s.t.  Z = (P − N)/2,  diag(P + N)/2 = ρ·1,  P, N ⪰ 0
    """

    X: Float[Array, "n d"]
    y: Float[Array, " n"]
    beta: Scalar


class Iterate(eqx.Module):
    """A primal point and a dual point of the core problem, neither exactly feasible."""

    plus: Float[Array, "d d"]  # P, positive semidefinite
    minus: Float[Array, "d d"]  # N, positive semidefinite
    dual: Float[Array, " n"]  # λ
    dual_diagonal: Float[Array, " d"]  # p


class Report(eqx.Module):
    """How a solver ended."""

    num_steps: Int[Array, ""]
    residual: Scalar
    converged: Bool[Array, ""]  # stopped by itself, not by the step limit


class AbstractSolver(eqx.Module):
    """A solver of the core problem: a frozen configuration, `factorize` and `run`."""

    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def tolerances(self, dtype: Any) -> tuple[float, float]:
        """Return the certified relative gap and the residual at which a problem is solved."""

    @abc.abstractmethod
    def factorize(self, X: Float[Array, "n d"]) -> Any:
        """Prepare what depends on X alone; problems that share X share it."""

    @abc.abstractmethod
    def run(
        self, core: CoreProblem, factorization: Any, start: Iterate | None, max_steps: int
    ) -> tuple[Iterate, Report]:
        """Solve one problem, from scratch or from a warm start."""
