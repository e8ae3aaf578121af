"""A network from column generation: as many neurons as it likes, then pruned."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .._problem.host_core import HostCore
from .._relaxation.gaussian import draw
from .._relaxation.solution import Solution
from .columns import Task, generate
from .pricing import Neurons, joined, price_locally, some, with_last_sign

_STARTS_OF_PRICING = 64  # from the relaxation, and as many random ones
_MORE_ROUNDS, _MOST_ROUNDS = 2, 40  # than half the neurons
_CLOSE = 1e-4  # gap at which it ends
_PRUNED = 0.2  # of the surplus neurons, between two refits
_FIT = 1e-4  # relative gap of those
_MOST_PRUNED = 1024  # neurons of all outputs together that pruning begins with, or ...
_FACTOR, _FACTOR_IF_LATE = 8, 2  # ... so many times the neurons asked for


def generate_and_prune(
    core: HostCore,
    solution: Solution,
    rng: np.random.Generator,
    max_neurons: int,
    report: Callable[[str], None],
    is_late: Callable[[], bool],
) -> Neurons:
    """Return the neurons that remain of column generation, output by output."""
    num_vectors, k = core.activation.num_vectors, core.X.shape[1]
    normal = rng.standard_normal((num_vectors, _STARTS_OF_PRICING, k))
    drawn, _ = draw(core.activation, solution, normal)
    neurons = tuple(np.where(g >= 0, 1.0, -1.0) for g in drawn)

    def price(gram: NDArray[np.float64], count: int) -> tuple[NDArray, Neurons]:
        random = rng.choice((-1.0, 1.0), (_STARTS_OF_PRICING, k))
        starts = np.concatenate([with_last_sign(neurons[0], k), random])
        norms, found = price_locally(gram, starts, num_vectors)
        return norms[:count], some(found, np.arange(len(norms))[:count])

    tasks = Task.all_of(core)
    # Outputs share the neurons, and each gets its share of the rounds.
    most_rounds = min(max_neurons // (2 * len(tasks)) + _MORE_ROUNDS, _MOST_ROUNDS)
    parts = []
    for index, task in enumerate(tasks):
        rounds = generate(task, price, neurons, task.target.dual_of_nothing, _CLOSE)
        name = f" of output {index + 1}" if len(tasks) > 1 else ""
        for count, last in enumerate(itertools.islice(rounds, most_rounds), 1):
            report(f"column generation{name}, gap {last.gap:.1e}")
            if count < most_rounds and is_late():
                break
        columns, alpha = task.columns(last.neurons), last.alpha
        if is_late():
            most = _FACTOR_IF_LATE * max_neurons
        else:
            most = max(_FACTOR * max_neurons, _MOST_PRUNED)
            alpha = task.target.basic_weights(columns, alpha)
        size = _contributions(task, columns, alpha)
        kept = np.argsort(-size, kind="stable")[: -(-most // len(tasks))]
        kept = np.sort(kept[size[kept] > 0])
        parts.append(some(last.neurons, kept))
    return _pruned(tasks, joined(*parts), max_neurons, is_late)


def _pruned(
    tasks: list[Task],
    neurons: Neurons,
    max_neurons: int,
    is_late: Callable[[], bool],
) -> Neurons:
    """Drop the neurons that contribute least, some at a time, and refit; all at once if late."""
    first = True
    while True:
        importance = np.zeros(len(neurons[0]))
        for task in tasks:
            columns = task.columns(neurons)
            fitted = task.target.restricted(columns, task.target.dual_of_nothing, _FIT)
            alpha = fitted.alpha
            if first and not is_late():  # it spreads over more neurons than needed, some equal
                alpha = task.target.basic_weights(columns, alpha)
            importance += np.square(_contributions(task, columns, alpha))
        order = np.argsort(-importance)
        surplus = np.count_nonzero(importance) - max_neurons
        if surplus <= 0:
            return some(neurons, order[:max_neurons])
        kept = max_neurons + (0 if is_late() else int((1 - _PRUNED) * surplus))
        neurons, first = some(neurons, order[:kept]), False


def _contributions(task: Task, columns: NDArray, alpha: NDArray) -> NDArray:
    """Return the norm of what each neuron adds to the predictions, in the units of all tasks."""
    return np.abs(alpha) * np.ldexp(task.target.sizes(columns), -task.exponent)
