"""The training problem solved to proven global optimality."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, overload

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.linalg import block_diag

from ._base.plot import axes_for
from ._base.text import shape_of
from ._base.types import check_count, check_positive, is_concrete
from ._certify import Certificate, certify_on_host
from ._host.blas import with_one_blas_thread
from ._host.files import fingerprint
from ._host.progress import progress_bar
from ._network.network import QuantizedNetwork, pack
from ._problem.host_core import HostCore
from ._problem.problem import Problem, check_numbers, check_single
from ._relaxation.solution import Solution, check_solution
from ._round import with_best_intercept
from ._run.on_host import solve_once
from ._search.journal import Journal
from ._search.optimum import Optimum, check_size, find_optimum, joined_dual, joined_proofs
from ._search.pricing import joined

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class ExactResult(eqx.Module):
    """A network, the proof that no other is better, and the way there.

    **Attributes:**

    - `network`: of the neurons that the optimum uses.
    - `certificate`: with the combinatorial bound.
    - `dual`: λ (n,) or (n, c), which proves the bound: `certify(problem, any_network, dual=dual)`.
    - `history`: (rounds, 2), objective and bound after each round of column generation.
    - `interrupted`: whether Ctrl-C ended the search.
    """

    network: QuantizedNetwork
    certificate: Certificate
    dual: Float[Array, " n"] | Float[Array, "n c"]
    history: Float[Array, "rounds 2"]
    interrupted: bool = eqx.field(default=False, static=True)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot objective and bound against the round, on matplotlib axes (new ones if None)."""
        return plot_history(self, ax)

    def __repr__(self) -> str:
        shape = shape_of(self.history)
        rounds = shape[0] if shape else "?"
        cut = ", interrupted" if self.interrupted else ""
        return f"ExactResult(\n  {self.network!r}\n  {self.certificate!r}, {rounds} rounds{cut}\n)"


@overload
def solve_exactly(
    problem: Problem,
    *,
    tol: float = 1e-6,
    solution: Solution | None = None,
    max_rounds: int = 500,
    time_limit: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> ExactResult: ...
@overload
def solve_exactly(
    problem: Iterable[Problem],
    *,
    tol: float = 1e-6,
    solution: Sequence[Solution] | None = None,
    max_rounds: int = 500,
    time_limit: float | None = None,
    progress: bool | None = None,
) -> list[ExactResult]: ...
@jax.ensure_compile_time_eval()  # within `jit`, which would stage what its body closes over
def solve_exactly(
    problem: Any,
    *,
    tol: float = 1e-6,
    solution: Any = None,
    max_rounds: int = 500,
    time_limit: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> ExactResult | list[ExactResult]:
    """Train a network to proven global optimality, by column generation with exact pricing.

    The training problem is a LASSO over all 2^(2d−1) neurons, or 2^d polynomial ones. Its
    restriction to some neurons gives a network and a dual point λ; pricing finds the neurons with
    |uᵀGv| > β, G = Xᵀ diag(λ) X, or |ũᵀGũ| > β for polynomial ones, which are added, and scaling λ
    until there is none left gives a lower bound. It ends when the two agree. Starts from the
    relaxation.

    Up to 16 features all sign vectors u are tried. Beyond that local search prices, and a branch
    and bound, on semidefinite bounds, proves that nothing is left: at the dual point itself or,
    where that takes too long, between it and that of the relaxation, so that a gap remains that
    shrinks with the time given.

    With more levels than ±1 the optimum is the same, and neurons of ±1 reach it.

    Works on the host in float64, so not under `jit` or `vmap`. Typically 10 to 50 rounds. How long
    it takes depends on the data and the penalty: with larger penalties fewer neurons come close.
    Seconds up to 30 features or so; beyond 40 give a `time_limit`.

    **Arguments:**

    - `problem`: a `Problem`. Each of c outputs is solved by itself, unless the loss couples them.
        Or a list of them, for a list of results.
    - `tol`: the relative gap to prove. In float32 the rounding of α may leave more of it.
    - `solution`: a `Solution` of the problem to start from, or one of each; solved here if left
        out.
    - `max_rounds`, `time_limit` (seconds, from the relaxation's solution on): where to stop early,
        with the gap proven so far. A round or the last fit that is under way is finished. Of a list
        each problem has its share of the time that is left. Ctrl-C ends the search for one problem
        with what was proven by the last round, `interrupted`; that of a list raises.
    - `checkpoint`: a file (NPZ) that is written after each round, and that a later call for the
        same problem goes on from: whatever ends the first one, the round under way is lost, which
        may be a long proof. The proofs in it are believed, so keep it where others do not write.
        For one problem only.
    - `progress`: whether to show it; None means if tqdm is installed and there is a terminal.

    **Returns:** an `ExactResult`, with the rounds of this call.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    _check_limits(tol, max_rounds, time_limit)
    seconds = np.inf if time_limit is None else float(time_limit)
    if isinstance(problem, Iterable) and not isinstance(problem, str | np.ndarray | jax.Array):
        if checkpoint is not None:
            raise ValueError("`checkpoint` is for one problem; call `solve_exactly` for each.")
        return _solve_list(list(problem), solution, tol, max_rounds, seconds, progress)
    _check(problem)
    journal = None if checkpoint is None else Journal(checkpoint, fingerprint(problem))
    solution = _relaxed(problem, solution)
    deadline = time.monotonic() + seconds
    with progress_bar(None, progress, "round") as advance:

        def report(gap: float) -> None:
            advance(1, f"gap {gap:.1e}")

        return _solve_one(problem, solution, tol, max_rounds, deadline, report, journal)


def _solve_list(
    problems: list[Problem],
    solution: Any,
    tol: float,
    max_rounds: int,
    seconds: float,
    progress: bool | None,
) -> list[ExactResult]:
    """Solve one after the other, after a look at all of them."""
    if solution is not None and not isinstance(solution, list | tuple):
        raise TypeError(
            f"`solution` must be a list of solutions, as `problem` is one, got "
            f"{type(solution).__name__}."
        )
    given: list[Any] = [None] * len(problems) if solution is None else list(solution)
    if len(given) != len(problems):
        raise ValueError(
            f"`solution` must have one for each problem, {len(problems)}, got {len(given)}."
        )
    for index, (each, own) in enumerate(zip(problems, given, strict=True)):
        try:
            _check(each)
            if solution is not None:
                check_solution(each, own)
        except (TypeError, ValueError) as error:
            error.add_note(f"That is of number {index} in the list, counted from 0.")
            raise
    deadline = time.monotonic() + seconds
    results: list[ExactResult] = []
    with progress_bar(len(problems), progress, "problem") as advance:
        for each, own in zip(problems, given, strict=True):
            now, left = time.monotonic(), len(problems) - len(results)
            until = now + max(deadline - now, 0.0) / left
            results.append(_solve_one(each, _relaxed(each, own), tol, max_rounds, until))
            if results[-1].interrupted:
                raise KeyboardInterrupt
            advance(1)
    return results


def _check(problem: Problem) -> None:
    """Raise `TypeError` or `ValueError` for what cannot be solved on the host."""
    if isinstance(problem, Problem) and not is_concrete(problem):
        raise ValueError("`problem` is traced; `solve_exactly` works outside `jit` and `vmap`.")
    if isinstance(problem, Problem) and problem.X.ndim == 3:
        raise ValueError(
            f"`problem` is stacked: X has shape {problem.X.shape}; give a list of problems."
        )
    check_single(problem)
    check_numbers(problem)
    check_size(problem)


def _relaxed(problem: Problem, solution: Solution | None) -> Solution:
    """Return the solution of the relaxation, checked if it is given."""
    if solution is None:
        return solve_once(problem)
    check_solution(problem, solution)
    if not is_concrete(solution):
        raise ValueError("`solution` is traced; `solve_exactly` works outside `jit` and `vmap`.")
    return solution


@with_one_blas_thread
def _solve_one(
    problem: Problem,
    solution: Solution,
    tol: float,
    max_rounds: int,
    deadline: float,
    report: Callable[[float], object] = lambda gap: None,
    journal: Journal | None = None,
) -> ExactResult:
    found = find_optimum(
        HostCore.of(problem),
        solution,
        float(tol),
        max_rounds=max_rounds,
        deadline=deadline,
        report=report,
        journal=journal,
    )
    return _assemble(problem, solution, found)


def _assemble(problem: Problem, solution: Solution, outputs: list[Optimum]) -> ExactResult:
    """Put the outputs together: each has its own neurons, if they are not fitted together."""
    dtype, dual = problem.X.dtype, joined_dual(problem, outputs)
    if problem.loss.couples_outputs:
        alpha = outputs[0].alpha
    else:
        alpha = block_diag(*(output.alpha[:, None] for output in outputs))
    if problem.y.ndim == 1:
        alpha = alpha[:, 0]
    levels, vectors = problem.levels, joined(*(output.neurons for output in outputs))
    indices = (levels.indices(each.reshape(-1, problem.num_features)) for each in vectors)
    network = pack(
        *indices, alpha=alpha.astype(dtype), levels=levels, activation=problem.activation
    )
    if problem.fit_intercept:
        network = with_best_intercept(problem, network)
    # An output that ended earlier stays where it was.
    rounds = max(len(output.history) for output in outputs)
    history = sum(
        np.pad(output.history, ((0, rounds - len(output.history)), (0, 0)), mode="edge")
        for output in outputs
    )
    # In float64, whatever the dtype. What the search has proven is not proven again.
    known = joined_proofs(outputs)
    certificate = certify_on_host(problem, network, solution, [dual], "best", np.inf, known)
    arrays = jnp.asarray(dual, dtype), jnp.asarray(history, dtype)
    return ExactResult(network, certificate, *arrays, outputs[-1].was_interrupted)


def _check_limits(tol: float, max_rounds: int, time_limit: float | None) -> None:
    check_positive(tol, "tol")
    check_count(max_rounds, "max_rounds")
    if time_limit is not None:
        check_positive(time_limit, "time_limit")


def plot_history(result: ExactResult, ax: Axes | None = None) -> Axes:
    """Plot objective and bound of column generation, round by round."""
    ax = axes_for(ax)
    objective, bound = np.asarray(result.history).T
    rounds = np.arange(1, len(bound) + 1)
    ax.plot(rounds, objective, "o-", markersize=3, color="C0", label="objective of the network")
    ax.plot(rounds, bound, "o-", markersize=3, color="C3", label="proven lower bound")
    ax.fill_between(rounds, bound, objective, color="C3", alpha=0.08, linewidth=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("round")
    ax.set_ylabel("objective  ℓ + β‖α‖₁")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
