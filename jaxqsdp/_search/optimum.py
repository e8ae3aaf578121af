"""The optimum of training, output by output, and the dual points that prove it."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._base.lift import lifted_size
from .._base.types import across
from .._bound.largest import MOST_ENUMERATED, Proven
from .._host.blas import with_one_blas_thread
from .._problem.host_core import HostCore
from .._problem.problem import Problem
from .._relaxation.gaussian import draw, shape_of_normal
from .._relaxation.solution import Solution
from .columns import Round, Task, generate
from .journal import Journal
from .pricing import Neurons, price_exactly, some
from .proving import generate_and_prove
from .target import largest

_FIRST_NEURONS = 200  # drawn from the relaxation
_NEGLIGIBLE = 1e-9  # of y: what a neuron that is dropped contributes at most
_MOST_ENTRIES = 2**27  # of what neurons give, of as many as may be needed: a gigabyte
_FIT = 1e-10  # relative gap of the last fit


@dataclasses.dataclass(frozen=True)
class Optimum:
    """What was found for one output, or for all together, in the units of the problem."""

    neurons: Neurons
    alpha: NDArray[np.float64]
    dual: NDArray[np.float64]
    history: NDArray[np.float64]  # (rounds, 2), objective and bound
    proven: tuple[Proven, ...]  # what the last bound rests on, if that was a search
    was_interrupted: bool = False  # by Ctrl-C

    @staticmethod
    def of(
        task: Task, last: Round, history: NDArray[np.float64], deadline: float = np.inf
    ) -> Optimum:
        """Keep the neurons that count, and fit them once more if there is time."""
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
            basic = target.basic_weights(used, alpha[kept])
            basis = np.flatnonzero(largest(basic != 0))
            kept, used, basic = kept[basis], used[:, basis], basic[basis]
            fitted = target.restricted(used, last.dual, _FIT, deadline=deadline).alpha
            if time.monotonic() > deadline:  # then it may not have come far
                fitted = min(fitted, basic, key=lambda each: target.objective(used, each))
            alpha[kept] = fitted
        if alpha.ndim == 2:  # a neuron may be of use to some outputs only
            alpha = np.where(counts(alpha, sizes), alpha, 0)
        dual = task.restore_dual(last.dual)
        alpha = task.restore_alpha(alpha[kept])
        return Optimum(some(last.neurons, kept), alpha, dual, history, last.proven)


def check_size(problem: Problem) -> None:
    """Raise `ValueError` if samples and neurons together take too much memory."""
    n, size = problem.num_samples, lifted_size(problem.num_lifted)
    if n * min(n, size) > _MOST_ENTRIES:
        raise ValueError(
            f"`problem` has {n} samples and may need as many as {min(n, size)} neurons; at most "
            f"{_MOST_ENTRIES:.1e} outputs of neurons are searched. Use `improve`, and `certify` "
            "without `time_limit`."
        )


@with_one_blas_thread
def find_optimum(
    core: HostCore,
    solution: Solution,
    tol: float,
    *,
    max_rounds: int | None = None,
    deadline: float = np.inf,
    report: Callable[[float], object] = lambda gap: None,
    journal: Journal | None = None,
) -> list[Optimum]:
    """Return the optimum of each output, or of all together where the loss couples them.

    From the relaxation's solution, to a relative gap, or as near as rounds and time permit, which
    outputs share. `report` is told the gap after each round. A journal keeps the rounds, and the
    search goes on from those that it has. Ctrl-C ends it as the deadline does.

    **Raises:** `KeyboardInterrupt` for Ctrl-C before the first output has a round, and for a second
    one.
    """
    rng = np.random.default_rng(0)
    normal = rng.standard_normal(
        shape_of_normal(core.activation, _FIRST_NEURONS, core.num_features)
    )
    drawn, _ = draw(core.activation, solution, normal)
    neurons = tuple(np.where(each >= 0, 1.0, -1.0) for each in drawn)
    duals = np.asarray(solution.dual, np.float64).reshape(core.y.shape)
    tasks = Task.all_of(core)
    points = [duals] if core.loss.couples_outputs else list(duals.T)
    found: list[Optimum] = []
    was_interrupted = False
    for index, (task, point) in enumerate(zip(tasks, points, strict=True)):
        now = time.monotonic()
        until = now if was_interrupted else now + (deadline - now) / (len(tasks) - index)
        history: list[list[float]] = []
        last: Round | None = None
        before = None if journal is None else journal.rounds.get(index)
        start = core, task, neurons, task.scale_dual(point), tol, rng, before
        try:
            for found_now in itertools.islice(_rounds(*start, until), max_rounds):
                last = found_now
                history.append([task.restore_value(each) for each in (last.value, last.bound)])
                report(last.gap)
                if journal is not None:
                    journal.write(index, last)
                if time.monotonic() > until:
                    break
        except KeyboardInterrupt:
            if last is None and (was_interrupted or not found):  # there is nothing to be returned
                raise
            was_interrupted = True
        if last is None:  # of this output: its first round is done again, to the end
            last = next(_rounds(*start, time.monotonic()))
            history.append([task.restore_value(each) for each in (last.value, last.bound)])
        try:
            optimum = Optimum.of(task, last, np.array(history), until)
        except KeyboardInterrupt:
            if was_interrupted:
                raise
            was_interrupted = True
            optimum = Optimum.of(task, last, np.array(history), time.monotonic())
        found.append(dataclasses.replace(optimum, was_interrupted=was_interrupted))
    return found


def _rounds(
    core: HostCore,
    task: Task,
    neurons: Neurons,
    dual: NDArray[np.float64],
    tol: float,
    rng: np.random.Generator,
    before: Round | None,
    deadline: float,
) -> Iterator[Round]:
    """Return the rounds of column generation, priced by enumeration where that is quick."""
    if task.num_lifted <= MOST_ENUMERATED:
        value = np.inf
        if before is not None:
            neurons, dual, value = before.neurons, before.dual, before.value
        price = price_exactly(core.activation.num_vectors)
        return generate(task, price, neurons, dual, tol, value, deadline)
    layout = core.activation.layout
    return generate_and_prove(task, layout, neurons, dual, tol, deadline, rng, before)


def joined_dual(problem: Problem, found: list[Optimum]) -> NDArray[np.float64]:
    """Return λ of all outputs, of the shape of y."""
    if problem.loss.couples_outputs:
        return found[0].dual
    return np.stack([output.dual for output in found], axis=1).reshape(problem.y.shape)


def joined_proofs(found: list[Optimum]) -> list[Proven]:
    """Return what the bounds of all outputs rest on."""
    return [proven for output in found for proven in output.proven]
