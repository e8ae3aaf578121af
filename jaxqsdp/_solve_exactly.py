"""The training problem solved to proven global optimality, for few features."""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray
from scipy.linalg import block_diag

from ._base.plot import axes_for
from ._base.text import shape_of
from ._base.types import across, check_count, check_positive, is_concrete
from ._bound.signs import MOST_FEATURES
from ._certify import Certificate, certify
from ._host.blas import with_one_blas_thread
from ._host.progress import progress_bar
from ._network.network import QuantizedNetwork, pack
from ._problem.host_core import HostCore
from ._problem.problem import Problem, check_numbers, check_single
from ._relaxation.solution import Solution, check_solution
from ._round import round, with_best_intercept
from ._run.on_host import solve_once
from ._search.columns import Round, Task, generate
from ._search.pricing import Neurons, joined, price_exactly, some
from ._search.target import largest

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_FIRST_NEURONS = 200  # drawn from the relaxation
_NEGLIGIBLE = 1e-9  # of y: what a neuron that is dropped contributes at most
_FIT = 1e-10  # relative gap of the last fit


class ExactResult(eqx.Module):
    """A network, the proof that no other is better, and the way there.

    **Attributes:**

    - `network`: of the neurons that the optimum uses.
    - `certificate`: with the combinatorial bound.
    - `dual`: λ (n,) or (n, c), which proves the bound: `certify(problem, any_network, dual=dual)`.
    - `history`: (rounds, 2), objective and bound after each round of column generation.
    """

    network: QuantizedNetwork
    certificate: Certificate
    dual: Float[Array, " n"] | Float[Array, "n c"]
    history: Float[Array, "rounds 2"]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot objective and bound against the round, on matplotlib axes (new ones if None)."""
        return plot_history(self, ax)

    def __repr__(self) -> str:
        shape = shape_of(self.history)
        rounds = shape[0] if shape else "?"
        return f"ExactResult(\n  {self.network!r}\n  {self.certificate!r}, {rounds} rounds\n)"


@jax.ensure_compile_time_eval()  # within `jit`, which would stage what its body closes over
@with_one_blas_thread
def solve_exactly(
    problem: Problem,
    *,
    tol: float = 1e-6,
    solution: Solution | None = None,
    max_rounds: int = 500,
    time_limit: float | None = None,
    progress: bool | None = None,
) -> ExactResult:
    """Train a network to proven global optimality, by column generation with exact pricing.

    The training problem is a LASSO over all 2^(2d−1) neurons, or 2^d polynomial ones. Its
    restriction to some neurons gives a network and a dual point λ; enumerating all sign vectors u
    finds the neurons with |uᵀGv| > β, G = Xᵀ diag(λ) X, or |ũᵀGũ| > β for polynomial ones, which
    are added, and scaling λ until there is none left gives a lower bound. It ends when the two
    agree. Starts from the relaxation.

    With more levels than ±1 the optimum is the same, and neurons of ±1 reach it.

    Works on the host in float64, so not under `jit` or `vmap`; one round takes time of the order
    of 2^d. Typically 10 to 50 rounds: seconds for d ≤ 16, a minute or two for d = 20.

    **Arguments:**

    - `problem`: a `Problem` of at most 26 features, 25 with polynomial neurons. Each of c outputs
        is solved by itself, unless the loss couples them.
    - `tol`: the relative gap to prove. In float32 the rounding of α may leave more of it.
    - `solution`: a `Solution` of the problem to start from; solved here if left out.
    - `max_rounds`, `time_limit` (seconds): where to stop early, after a round, with the gap proven
        so far. The final proof takes about a round more.
    - `progress`: whether to show it; None means if tqdm is installed and there is a terminal.

    **Returns:** an `ExactResult`.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    check_single(problem)
    if not is_concrete(problem, solution):
        raise ValueError("`problem` is traced; `solve_exactly` works outside `jit` and `vmap`.")
    if problem.num_lifted > MOST_FEATURES:
        most = MOST_FEATURES - problem.activation.num_lifted(0)
        raise ValueError(
            f"`problem` has {problem.num_features} features, at most {most} can be enumerated; use "
            "`improve` and `certify`."
        )
    check_numbers(problem)
    _check_limits(tol, max_rounds, time_limit)
    if solution is None:
        solution = solve_once(problem)
    check_solution(problem, solution)
    deadline = time.monotonic() + (np.inf if time_limit is None else float(time_limit))
    drawn = round(problem, solution, num_neurons=_FIRST_NEURONS, key=jax.random.key(0), refit=False)
    core, solved = HostCore.of(problem), []
    first = jax.tree.map(np.asarray, drawn).vectors(np.float64)
    with progress_bar(None, progress, "round") as advance:
        duals = np.asarray(solution.dual, np.float64).reshape(core.y.shape)
        together = core.loss.couples_outputs
        for task, dual in zip(Task.all_of(core), [duals] if together else duals.T, strict=True):
            price = price_exactly(problem.activation.num_vectors)
            rounds = generate(task, price, first, task.scale_dual(dual), float(tol))
            history = []
            for last in itertools.islice(rounds, max_rounds):
                history.append([task.restore_value(last.value), task.restore_value(last.bound)])
                advance(1, f"gap {last.gap:.1e}")
                if time.monotonic() > deadline:
                    break
            solved.append(_Output.of(task, last, np.array(history)))
    return _assemble(problem, solution, solved)


@dataclasses.dataclass(frozen=True)
class _Output:
    """What was found for one output, or for all together."""

    neurons: Neurons
    alpha: NDArray[np.float64]
    dual: NDArray[np.float64]
    history: NDArray[np.float64]

    @staticmethod
    def of(task: Task, last: Round, history: NDArray[np.float64]) -> _Output:
        """Keep the neurons that count, and fit them once more."""
        columns = task.columns(last.neurons)
        target = task.target
        sizes = target.sizes(columns)
        least = _NEGLIGIBLE * np.linalg.norm(across(np.sqrt(target.weight), target.y) * target.y)
        kept, alpha = np.arange(len(sizes)), last.alpha

        def counts(alpha: NDArray[np.float64], sizes: NDArray[np.float64]) -> Any:
            return np.abs(alpha) * across(sizes, alpha) > least

        for _ in range(2):
            kept = kept[largest(counts(alpha[kept], sizes[kept]))]
            if len(kept) == 0:
                break
            used = columns[:, kept]
            basis = np.flatnonzero(largest(target.basic_weights(used, alpha[kept]) != 0))
            kept = kept[basis]
            fitted = target.restricted(used[:, basis], last.dual, _FIT)
            alpha[kept] = fitted.alpha
        if alpha.ndim == 2:  # a neuron may be of use to some outputs only
            alpha = np.where(counts(alpha, sizes), alpha, 0)
        dual = task.restore_dual(last.dual)
        return _Output(some(last.neurons, kept), task.restore_alpha(alpha[kept]), dual, history)


def _assemble(problem: Problem, solution: Solution, outputs: list[_Output]) -> ExactResult:
    """Put the outputs together: each has its own neurons, if they are not fitted together."""
    dtype = problem.X.dtype
    if problem.loss.couples_outputs:
        alpha, dual = outputs[0].alpha, outputs[0].dual
    else:
        alpha = block_diag(*(output.alpha[:, None] for output in outputs))
        dual = np.stack([output.dual for output in outputs], axis=1)
    if problem.y.ndim == 1:
        alpha, dual = alpha[:, 0], dual[:, 0]
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
    certificate = certify(problem, network, solution, dual=dual)  # in float64, whatever the dtype
    return ExactResult(network, certificate, jnp.asarray(dual, dtype), jnp.asarray(history, dtype))


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
