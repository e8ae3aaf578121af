"""The best network that a number of neurons allows.

relaxation ─► Gaussian samples ─┐
              random weights ───┴─► descents on latent weights ─► the best of them ─┐
relaxation ─► column generation ─► pruning, a few neurons at a time ────────────────┤
the given network ─► pruned ────────────────────────────────────────────────────────┴─►
    local search, again after random flips ─► refit ─► the best

Local search knows squares only. Another loss has a squared one for a model, at the predictions of
the best network.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Sequence

import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from numpy.typing import NDArray

from ._base.lift import lifted_size
from ._base.types import check_count, check_key, check_positive, is_concrete
from ._host.blas import with_one_blas_thread
from ._host.programs import Stopwatch
from ._host.progress import progress_bar
from ._host.random import generator
from ._network.network import QuantizedNetwork, pack
from ._problem.host_core import HostCore
from ._problem.problem import Problem, check_fits, check_numbers
from ._relaxation.solution import Solution, check_solution
from ._round import refit
from ._run.on_host import solve_once
from ._run.padding import coarse_rung, padded_shape
from ._search.descents import descend_from_many, prepare_descents
from ._search.exchange import exchange
from ._search.generated import generate_and_prune
from ._search.kicks import prepare_search, search, searched_networks
from ._search.model import predictions, quadratic_model, relaxed_predictions
from ._search.pricing import Neurons
from ._search.vectors import MOST_EXCHANGED, search_vectors

_MOST_ENTRIES = 2**26  # of the lifted samples, which column generation forms
_FEW_NEURONS = 8  # below which column generation is left out; it is for many of them
_NUM_STARTS, _NUM_STEPS = 24, 1000  # of descents
_MODELS = 4  # of a loss that is not squared
_CONSIDERED = 4  # networks that are fitted with the true loss, of descents and of each model
_RANDOM_STARTS = 2  # of that, if there are few, and ...
_RANDOM_STARTS_TOGETHER = 6  # ... where a loss couples outputs: it is fast, but easily caught
_FEW_SLOTS = 16  # to which fewer neurons are padded, so that they share programs


def improve(
    problem: Problem,
    network: QuantizedNetwork,
    *,
    max_neurons: int,
    key: PRNGKeyArray,
    solution: Solution | None = None,
    num_starts: int = _NUM_STARTS,
    num_steps: int = _NUM_STEPS,
    time_limit: float | None = None,
    progress: bool | None = None,
) -> QuantizedNetwork:
    """Find a better network of at most `max_neurons` neurons.

    Three ways, and the best of what they find: descent on latent weights, from samples of the
    relaxation and from random weights; column generation, from the relaxation, pruned, for 8
    neurons or more and up to 2^26 products of two features; and the given network. All end in a
    local search that takes out one neuron at a time, refits the others and looks for the best
    neuron in its place; with few features and neurons it goes on from random flips of the best
    networks' signs. Polynomial neurons, 32 or fewer, are exchanged for better ones, one at a time,
    from networks of column generation, samples of the relaxation and the given one.

    Weights are among the levels of the problem, all of which the three ways look for.

    Never worse than the network given, if that has no more nonzero neurons than allowed; else never
    worse than its `max_neurons` largest ones, refitted; up to the rounding of `problem.objective`.
    Changes shapes, so not under `jit`.

    **Arguments:**

    - `problem`: the training problem.
    - `network`: any network for it, whose weights are among its levels.
    - `max_neurons`: neurons of the result, at most. Beyond 256 there is no local search, whose time
        grows as their third power.
    - `key`: a JAX random key.
    - `solution`: a `Solution` of the problem; solved here if left out.
    - `num_starts`, `num_steps`: descents run side by side, and their steps; of bilinear neurons.
    - `time_limit`: seconds, compilation not counted, after which no further round of column
        generation or local search begins.
    - `progress`: whether to show it; None means if tqdm is installed and there is a terminal.

    **Returns:** a `QuantizedNetwork` without zero neurons.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    found, _ = improve_within(
        problem,
        network,
        max_neurons=max_neurons,
        key=key,
        solution=solution,
        num_starts=num_starts,
        num_steps=num_steps,
        time_limit=time_limit,
        progress=progress,
    )
    return found


@jax.ensure_compile_time_eval()  # within `jit`, which would stage what its body closes over
@with_one_blas_thread
def improve_within(
    problem: Problem,
    network: QuantizedNetwork,
    *,
    max_neurons: int,
    key: PRNGKeyArray,
    solution: Solution | None,
    time_limit: float | None,
    num_starts: int = _NUM_STARTS,
    num_steps: int = _NUM_STEPS,
    progress: bool | None = None,
) -> tuple[QuantizedNetwork, bool]:
    """Return what `improve` returns, and whether the time was over before it was done."""
    check_fits(problem, network)
    for name, value in (
        ("max_neurons", max_neurons),
        ("num_starts", num_starts),
        ("num_steps", num_steps),
    ):
        check_count(value, name)
    if time_limit is not None:
        check_positive(time_limit, "time_limit")
    num_starts, num_steps = operator.index(num_starts), operator.index(num_steps)
    key = check_key(key)
    if not is_concrete(problem, network, key, solution):
        raise ValueError("`improve` changes shapes; call it outside `jit` and `vmap`.")
    check_numbers(problem)
    core, given = HostCore.of(problem), operator.index(max_neurons)
    max_neurons, has_two = _at_most(problem, given), problem.activation.num_vectors == 2
    if has_two:
        padded, slots = _prepared(problem, core, max_neurons, num_starts, num_steps)
    network, levels = _of_levels(problem, network), problem.levels
    if solution is None:
        solution = solve_once(problem)
    check_solution(problem, solution)
    start = largest_neurons(problem, network, given)
    best, lowest = start, float(problem.objective(start))
    (n, d), rng, watch = problem.X.shape, generator(key), Stopwatch()
    generates = n * lifted_size(problem.num_lifted) <= _MOST_ENTRIES
    limit = np.inf if time_limit is None else float(time_limit)
    interrupted = False

    def is_late() -> bool:
        nonlocal interrupted
        interrupted = interrupted or watch.seconds > limit
        return interrupted

    def modelled(predictions: NDArray[np.float64]) -> HostCore:
        """Return the core with a squared loss, close to the given one at predictions."""
        return quadratic_model(core, core.scale_predictions(predictions))

    def prepared(model: HostCore) -> HostCore:
        """Return it padded."""
        return padded if model is core else _padded(problem, model)

    def consider(networks: Sequence[Neurons]) -> None:
        """Fit output weights with the true loss, and keep what is better."""
        nonlocal best, lowest
        for weights in networks:
            candidate = refit(problem, _network(problem, *weights))
            objective = float(problem.objective(candidate))
            if objective < lowest or np.isnan(lowest):
                best, lowest = candidate, objective

    if not has_two:
        with progress_bar(1, progress, "stage") as advance:
            ours = _weights(largest_neurons(problem, start, max_neurons))
            squared = modelled(relaxed_predictions(problem, solution))
            cores = core, squared if core.loss.couples_outputs else core
            report = functools.partial(advance, 0)
            consider(
                search_vectors(*cores, solution, ours, rng, max_neurons, generates, report, is_late)
            )
            advance(1, f"objective {lowest:.6g}")
        return best.prune(), interrupted
    with progress_bar(3, progress, "stage") as advance:
        report = functools.partial(advance, 0)
        starts = [_weights(largest_neurons(problem, start, max_neurons))]
        report("column generation")
        squared = modelled(relaxed_predictions(problem, solution))
        if max_neurons >= _FEW_NEURONS and generates:
            # Outputs that share neurons but no loss are priced and fitted one by one.
            separate = squared if core.loss.couples_outputs else core
            starts.append(generate_and_prune(separate, solution, rng, max_neurons, report, is_late))
        advance(1, "descents on latent weights")
        sizes = max_neurons, num_starts, num_steps, slots
        u, v = descend_from_many(padded, solution, rng, *sizes, levels)
        count = searched_networks(slots, d) - len(starts)
        filled = [_filled(weights, (u[:1], v[:1])) for weights in starts]
        u, v = (
            np.concatenate([some[:count], *others])
            for some, others in zip((u, v), zip(*filled, strict=True), strict=True)
        )
        advance(1, "local search")
        if core.loss.is_quadratic:
            found = search(padded, u, v, rng, slots, levels, report, is_late)
            consider(found.best(1).networks)
        else:
            consider(list(zip(u[:_CONSIDERED], v[:_CONSIDERED], strict=True)))
        if len(starts) > 1:  # what is generated needs the better fit to show its worth
            consider([(u[-1], v[-1])])
        # A model of another loss is good next to the predictions that it is made for.
        for index in range(0 if core.loss.is_quadratic else _MODELS):
            before = lowest
            if is_late() or best.num_neurons == 0:
                break
            report(f"local search, model {index + 1} of the loss")
            model = prepared(modelled(predictions(problem, best)))
            ours = _weights(largest_neurons(problem, best, max_neurons))
            given_again = _filled(ours, (u[:1], v[:1]))
            u, v = (
                np.concatenate([one, some[:count]])
                for one, some in zip(given_again, (u, v), strict=True)
            )
            found = search(model, u, v, rng, slots, levels, report, is_late)
            consider(found.best(_CONSIDERED).networks)
            if not lowest < before:
                break
        if not core.loss.is_quadratic and 0 < best.num_neurons <= MOST_EXCHANGED:
            report("exchange of neurons")
            wide, ours = core.lifted(levels), _weights(largest_neurons(problem, best, max_neurons))
            starts = [tuple(map(levels.to_signs, ours))]
            if max_neurons < _FEW_NEURONS:
                together = core.loss.couples_outputs
                count = _RANDOM_STARTS_TOGETHER if together else _RANDOM_STARTS
                shape = (count, 2, max_neurons, wide.X.shape[1])
                starts += map(tuple, rng.choice((-1.0, 1.0), shape))
            exchanged = [exchange(wide, signs, rng, is_late) for signs in starts]
            consider([tuple(map(levels.from_signs, signs)) for signs in exchanged])
        advance(1, f"objective {lowest:.6g}")
    return best.prune(), interrupted


def prepare_improve(problem: Problem, max_neurons: int) -> None:
    """Start to compile what `improve` runs with default options."""
    if problem.activation.num_vectors == 2:
        core, most = HostCore.of(problem), _at_most(problem, max_neurons)
        _prepared(problem, core, most, _NUM_STARTS, _NUM_STEPS)


def _at_most(problem: Problem, max_neurons: int) -> int:
    """Return how many neurons to look for: more are never needed, by Carathéodory's theorem."""
    size = lifted_size(problem.num_lifted)
    return min(max_neurons, problem.num_outputs * (min(problem.num_samples, size) + 1))


def _prepared(
    problem: Problem, core: HostCore, max_neurons: int, num_starts: int, num_steps: int
) -> tuple[HostCore, int]:
    """Return the padded core and the slots for neurons; compile."""
    slots = coarse_rung(max_neurons, 1, _FEW_SLOTS)
    padded = _padded(problem, core)
    prepare_search(padded, slots, problem.levels)
    prepare_descents(padded, num_starts, num_steps, slots, problem.levels)
    return padded, slots


def _padded(problem: Problem, core: HostCore) -> HostCore:
    return core.padded(padded_shape(*core.X.shape), problem.X.dtype)


def _of_levels(problem: Problem, network: QuantizedNetwork) -> QuantizedNetwork:
    """Return the network stored in the levels of the problem, or raise `ValueError`."""
    if network.levels == problem.levels:
        return network
    if not network.is_among(problem.levels):
        raise ValueError(
            f"`network` has weights of {network.levels!r}, which are not all among the "
            f"{problem.levels!r} of `problem`; build that with `levels={network.levels!r}`."
        )
    same = _network(problem, *_weights(network)).with_alpha(network.alpha)
    return dataclasses.replace(same, intercept=network.intercept)


def _network(problem: Problem, *vectors: NDArray) -> QuantizedNetwork:
    """Return the network of these neurons, to be refitted."""
    levels, shape = problem.levels, (len(vectors[0]), *problem.y.shape[1:])
    alpha = np.ones(shape, problem.X.dtype)
    indices = map(levels.indices, vectors)
    return pack(*indices, alpha=alpha, levels=levels, activation=problem.activation)


def _weights(network: QuantizedNetwork) -> Neurons:
    host = jax.tree.map(np.asarray, network)
    return host.vectors(host.alpha.dtype)


def largest_neurons(problem: Problem, network: QuantizedNetwork, count: int) -> QuantizedNetwork:
    """Return the network, cut to its largest neurons and refitted if it has too many."""
    network = network.prune()
    if network.num_neurons <= count:
        return refit(problem, network) if problem.fit_intercept else network
    counted = np.asarray(problem.weight) > 0
    host = jax.tree.map(lambda leaf: np.asarray(leaf), network)
    X, vectors = np.asarray(problem.X, np.float64), host.vectors(np.float64)
    weight = np.asarray(problem.weight, np.float64)[counted]
    size = np.sum(np.square(np.asarray(host.alpha_columns, np.float64)), axis=1)
    energy = weight @ np.square(problem.activation.neurons(X[counted], *vectors))
    return refit(problem, network.subset(np.sort(np.argsort(-size * energy)[:count])))


def _filled(signs: Neurons, others: tuple[NDArray, NDArray]) -> tuple[NDArray, NDArray]:
    """Fill up (k, d) with neurons of others (1, m, d)."""
    filled = tuple(np.array(other) for other in others)
    for some, other in zip(signs, filled, strict=True):
        other[0, : len(some)] = some
    return filled[0], filled[1]
