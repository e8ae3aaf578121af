"""What a solver of the relaxation takes and gives."""

from __future__ import annotations

import abc
import operator
from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, Float, Int

from .._base.types import Scalar, as_number, check_count, check_positive, epsilon
from .._problem.core import Core


class Iterate(eqx.Module):
    """A primal point and a dual point of the core problem, neither exactly feasible."""

    blocks: Float[Array, "*c 2 d d"]  # P, N, positive semidefinite
    dual: Float[Array, "n ..."]  # λ
    dual_diagonal: Float[Array, "*cg d"]  # p
    intercept: Float[Array, "*c"] | None = None  # μ


class Report(eqx.Module):
    """How a solver ended."""

    num_steps: Int[Array, ""]
    residual: Scalar
    converged: Bool[Array, ""]  # stopped by itself, not by the step limit


class AbstractProcess(eqx.Module):
    """A solver at work on one problem: a state, a step and a stopping test, each traceable."""

    @abc.abstractmethod
    def start(self, warm: Iterate | None) -> Any:
        """Return the first state, from scratch or from a warm start."""

    @abc.abstractmethod
    def finished(self, state: Any) -> Bool[Array, ""]:
        """Whether the process ends at this state."""

    @abc.abstractmethod
    def step(self, state: Any) -> Any:
        """Return the next state."""

    @abc.abstractmethod
    def result(self, state: Any) -> tuple[Iterate, Report]:
        """Return the best iterate so far, and how it ended."""


class AbstractSolver(eqx.Module):
    """A solver of the core problem: a frozen configuration."""

    max_steps: eqx.AbstractVar[int]

    @abc.abstractmethod
    def tolerances(self, dtype: Any) -> tuple[float, float]:
        """Return the certified relative gap and the residual at which a problem is solved."""

    @abc.abstractmethod
    def is_thread_safe(self, dtype: Any) -> bool:
        """Whether two of its programs may run on the CPU at a time."""

    @abc.abstractmethod
    def factorize(self, core: Core) -> Any:
        """Prepare what depends on samples and weights alone; problems that share these share it."""

    @abc.abstractmethod
    def bind(self, core: Core, factorization: Any, max_steps: int) -> AbstractProcess:
        """Set out to solve one problem."""


def number(name: str) -> Callable[[Any], float | None]:
    """Return what converts an option to a plain number, which can be hashed; None stays."""
    return lambda value: None if value is None else as_number(value, name)


def whole(value: Any) -> Any:
    """Convert an integer of any kind to Python's; leave anything else for the checks."""
    is_integer = hasattr(value, "__index__") and not isinstance(value, bool)
    return operator.index(value) if is_integer else value


def check_limits(solver: Any) -> None:
    """Raise `ValueError` unless the tolerances and the step limit make sense."""
    for name in ("tol", "tol_residual"):
        value = getattr(solver, name)
        if value is not None:
            check_positive(value, name)
    check_count(solver.max_steps, "max_steps")


def uncertified(tol: float, dtype: Any) -> float:
    """Return the gap to aim at, which leaves room for the certificate's rounding allowance."""
    return max(tol / 2, tol - epsilon(dtype) ** 0.5)
