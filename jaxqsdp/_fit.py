"""Everything in one call."""

from __future__ import annotations

import equinox as eqx
from jaxtyping import ArrayLike, PRNGKeyArray

from ._certificate import Certificate, certify
from ._loss import SquaredLoss
from ._network import QuantizedNetwork
from ._problem import Problem
from ._round import round
from ._solution import Solution
from ._solve import solve
from ._solver import AbstractSolver


class FitResult(eqx.Module):
    """A trained network, the relaxation it came from, and the proof of how good it is."""

    network: QuantizedNetwork
    solution: Solution
    certificate: Certificate
    problem: Problem

    def __repr__(self) -> str:
        return (
            f"FitResult(\n  {self.problem!r}\n  {self.solution!r}\n  {self.network!r}\n"
            f"  {self.certificate!r}\n)"
        )


def fit(
    X: ArrayLike,
    y: ArrayLike,
    *,
    beta: ArrayLike,
    num_neurons: int,
    key: PRNGKeyArray,
    loss: SquaredLoss | None = None,
    sample_weight: ArrayLike | None = None,
    solver: AbstractSolver | None = None,
    max_steps: int | None = None,
    refit: bool = True,
) -> FitResult:
    """Train a quantized two-layer network and prove how close to the global optimum it is.

    Chains `Problem`, `solve`, `round`, `QuantizedNetwork.prune` and `certify`; their docstrings
    hold the formulas. It prunes, which changes shapes, so call it outside `jit` and `vmap`, and
    chain the functions yourself inside.

    **Arguments:** those of the functions named.

    **Returns:** a `FitResult` with `.network`, `.solution`, `.certificate` and `.problem`.
    Predict with `jax.vmap(result.network)(X)`.
    """
    problem = Problem(X, y, beta, loss, sample_weight)
    solution = solve(problem, solver, max_steps=max_steps)
    network = round(problem, solution, num_neurons=num_neurons, key=key, refit=refit).prune()
    return FitResult(network, solution, certify(problem, network, solution), problem)
