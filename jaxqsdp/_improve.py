"""The best network that a number of neurons allows.

relaxation ─► Gaussian samples ─┐
              random weights ───┴─► descent on latent weights ─► the best of them ─┐
relaxation ─► column generation ─► pruning, a few neurons at a time ───────────────┤
the given network ─► pruned ───────────────────────────────────────────────────────┴─►
    local search, again after random flips ─► refit ─► the best
"""

from __future__ import annotations

import functools
import itertools
import operator
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray
from numpy.typing import NDArray

from ._columns import Task, generate
from ._latent import descend, loss_of
from ._lift import lifted_size
from ._local_search import coordinate_descent, local_search
from ._mesh import on_any_mesh
from ._network import QuantizedNetwork, pack
from ._pricing import search_signs
from ._problem import Problem, check_fits
from ._progress import progress_bar
from ._restricted import basic_weights, solve_restricted
from ._round import draw, refit
from ._solution import Solution, check_solution
from ._solve import solve
from ._solver.splitting import select
from ._types import Scalar, check_count, check_key, highest_precision, is_concrete, tiny
from ._units import moderate

_RATES = (0.01, 0.03)  # of the descent
_SIGNS_SEARCHED = 480  # starts × features that local search goes on with, at most
_NEURONS_SEARCHED = 128  # networks × neurons that are searched side by side, at most, ...
_LEAST_SIDE_BY_SIDE, _MOST_SIDE_BY_SIDE = 4, 8  # ... and networks
_SWEEPS = 3  # in a round of local search, ...
_ROUNDS = 2  # ... rounds before the first kick
_SIGNS_KICKED = 200  # kicks × features, about: with many features they hardly help
_FEWER_KICKS = 6
_MOST_KICKS = 24
_MOST_KICKED = 32  # neurons; with more, column generation is as good as it gets
_NEURONS_KICKED = 4  # one in so many ...
_SIGNS_FLIPPED = 0.1  # ... gets this share of its signs flipped
_MOST_SEARCHED = 256  # neurons
_MOST_ENTRIES = 2**26  # of the lifted samples, which column generation forms
_STARTS_OF_PRICING = 64  # from the relaxation, and as many random ones
_FEW_NEURONS = 8  # below which column generation is left out; it is for many of them
_MORE_ROUNDS, _MOST_ROUNDS = 2, 40  # than half the neurons
_CLOSE = 1e-4  # gap at which it ends
_PRUNED = 0.2  # of the surplus neurons, between two refits
_FIT = 1e-4  # relative gap of those
_ALPHA_RATE = 5.0  # of the natural size of α, relative to the rate of the signs
_COORDINATE_SWEEPS = 50


def improve(
    problem: Problem,
    network: QuantizedNetwork,
    *,
    max_neurons: int,
    key: PRNGKeyArray,
    solution: Solution | None = None,
    num_starts: int = 24,
    num_steps: int = 1000,
    progress: bool | None = None,
) -> QuantizedNetwork:
    """Find a better network of at most `max_neurons` neurons.

    Three ways, and the best of what they find: descent on latent weights, from samples of the
    relaxation and from random weights; column generation, from the relaxation, pruned, for 8
    neurons or more and up to 2^26 products of two features; and the given network. All end in a
    local search that takes out one neuron at a time, refits the others and looks for the best
    neuron in its place; with few features and neurons it goes on from random flips of the best
    networks' signs.

    Never worse than the network given, if that has no more nonzero neurons than allowed; else never
    worse than its `max_neurons` largest ones, refitted; up to the rounding of `problem.objective`.
    Changes shapes, so not under `jit`.

    **Arguments:**

    - `problem`: the training problem.
    - `network`: any network for it.
    - `max_neurons`: neurons of the result, at most. Beyond 256 there is no local search, whose time
        grows as their third power.
    - `key`: a JAX random key.
    - `solution`: a `Solution` of the problem; solved here if left out.
    - `num_starts`, `num_steps`: descents run side by side, and their steps.
    - `progress`: whether to show it; None means if tqdm is installed and there is a terminal.

    **Returns:** a `QuantizedNetwork` without zero neurons.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    # Evaluated now even inside `jit`, which would stage what its body closes over.
    with jax.ensure_compile_time_eval():
        return _improve(
            problem, network, max_neurons, key, solution, num_starts, num_steps, progress
        )


def _improve(
    problem: Problem,
    network: QuantizedNetwork,
    max_neurons: int,
    key: PRNGKeyArray,
    solution: Solution | None,
    num_starts: int,
    num_steps: int,
    progress: bool | None,
) -> QuantizedNetwork:
    check_fits(problem, network)
    for name, value in (
        ("max_neurons", max_neurons),
        ("num_starts", num_starts),
        ("num_steps", num_steps),
    ):
        check_count(value, name)
    num_starts, num_steps = operator.index(num_starts), operator.index(num_steps)
    key = check_key(key)
    if not is_concrete(problem, network, key, solution):
        raise ValueError("`improve` changes shapes; call it outside `jit` and `vmap`.")
    if not bool(jnp.all(problem.is_valid)):
        raise ValueError("`problem` has invalid numbers; see `Status.invalid_data`.")
    if solution is None:
        solution = solve(problem, throw=False)
    check_solution(problem, solution)
    network = eqx.tree_at(
        lambda network: network.alpha, network, network.alpha.astype(problem.X.dtype)
    )
    given = _largest(problem, network, operator.index(max_neurons))
    # More are never needed, by Carathéodory's theorem.
    (n, d), outputs = problem.X.shape, problem.columns.y.shape[1]
    max_neurons = min(operator.index(max_neurons), outputs * (min(n, lifted_size(d)) + 1))
    descent_key, pricing_key, search_key = jax.random.split(key, 3)
    core = _core(problem)
    with progress_bar(3, progress, "stage") as advance:
        start = _largest(problem, given, max_neurons)
        starts: list[tuple[ArrayLike, ArrayLike]] = [(start.u, start.v)]
        advance(0, "column generation")
        if max_neurons >= _FEW_NEURONS and n * lifted_size(d) <= _MOST_ENTRIES:
            report = functools.partial(advance, 0)
            starts.append(_generate(core, solution, max_neurons, pricing_key, report))
        advance(1, "descent on latent weights")
        u, v = _descend(
            core, solution, descent_key, max_neurons, num_starts, num_steps, len(starts)
        )
        advance(1, "local search")
        for some_u, some_v in starts:
            u = jnp.concatenate([u, _filled(some_u, u[:1])])
            v = jnp.concatenate([v, _filled(some_v, v[:1])])
        found = [_search(core, u, v, search_key, functools.partial(advance, 0))]
        if len(starts) > 1:  # what is generated needs the better fit to show its worth
            found.append(pack(u[-1] > 0, v[-1] > 0, found[0].alpha))
        best, lowest = given, float(problem.objective(given))
        for network in found:
            if problem.y.ndim == 1:
                alpha = network.alpha[:, 0]
                network = eqx.tree_at(lambda network: network.alpha, network, alpha)
            network = refit(problem, network)
            objective = float(problem.objective(network))
            if objective < lowest or np.isnan(lowest):
                best, lowest = network, objective
        advance(1, f"objective {lowest:.6g}")
    return best.prune()


class _Core(eqx.Module):
    """The problem in moderate units, weights absorbed."""

    X: Float[Array, "n d"]
    y: Float[Array, "n c"]
    beta: Float[Array, " c"]


@eqx.filter_jit
@on_any_mesh
@highest_precision
def _core(problem: Problem) -> _Core:
    columns = problem.columns
    samples = moderate(problem.X, problem.weight)
    # One unit for all outputs, which share their neurons.
    units = samples.units_for(jnp.max(jnp.abs(columns.y), axis=1))
    root = jnp.sqrt(samples.weight)
    y = jax.vmap(lambda y: samples.scale_targets(y, units), in_axes=1, out_axes=1)(columns.y)
    return _Core(
        jnp.sqrt(root)[:, None] * samples.X, root[:, None] * y, units.scale_diagonal(columns.beta)
    )


@eqx.filter_jit
@on_any_mesh
@highest_precision
def _descend(
    core: _Core,
    solution: Solution,
    key: PRNGKeyArray,
    max_neurons: int,
    num_starts: int,
    num_steps: int,
    others: int,
) -> tuple[Float[Array, "s m d"], Float[Array, "s m d"]]:
    """Return the signs of the best descents, half from the relaxation, half from nowhere.

    They descend in float32, whatever the dtype: only signs are taken from them.
    """
    d, dtype = core.X.shape[1], jnp.float32
    single = jax.tree.map(lambda array: array.astype(dtype), core)
    loss = loss_of(single.X, single.y, max_neurons)
    energy = jnp.sqrt(jnp.mean(jnp.square(jnp.sum(jnp.square(single.X), axis=1))))
    unit = jnp.sqrt(jnp.mean(jnp.square(single.y))) / jnp.maximum(energy, tiny(dtype) ** 0.5)

    def one(index: Array, key: PRNGKeyArray) -> tuple[Array, Array, Array]:
        drawn = draw(solution, max_neurons, key)
        drawn_u, drawn_v, alpha = (array.astype(dtype) for array in drawn)
        random = jax.random.uniform(key, (2, max_neurons, d), dtype, -1, 1)
        from_relaxation = index % 2 == 0
        latent_u = jnp.where(from_relaxation, jnp.clip(drawn_u, -1, 1), random[0])
        latent_v = jnp.where(from_relaxation, jnp.clip(drawn_v, -1, 1), random[1])
        start = latent_u, latent_v, jnp.zeros_like(alpha)
        rate = jnp.asarray(_RATES, dtype)[(index // 2) % len(_RATES)]
        latent_u, latent_v, alpha = descend(
            loss, single.beta, start, rate, _ALPHA_RATE * rate * unit, num_steps
        )
        u, v = (jnp.where(w >= 0, 1, -1).astype(core.X.dtype) for w in (latent_u, latent_v))
        return u, v, _fitted(core, u, v, alpha.astype(core.X.dtype))[1]

    indices = jnp.arange(num_starts)
    u, v, objective = jax.vmap(one)(indices, jax.random.split(key, num_starts))
    # Whole batches of local search, less the networks that come from elsewhere.
    lanes = _side_by_side(max_neurons)
    batches = max(min(_SIGNS_SEARCHED // d, _NEURONS_SEARCHED // max_neurons) // lanes, 1)
    best = jnp.argsort(objective)[: batches * lanes - others]
    return u[best], v[best]


def _fitted(core: _Core, u: Array, v: Array, alpha: Array) -> tuple[Array, Array]:
    """Return nearly the best α, and its objective."""
    phi = (core.X @ u.T) * (core.X @ v.T)
    alpha = coordinate_descent(phi.T @ phi, phi.T @ core.y, core.beta, alpha, _COORDINATE_SWEEPS)
    loss = 0.5 * jnp.sum(jnp.square(phi @ alpha - core.y))
    return alpha, loss + jnp.sum(core.beta * jnp.sum(jnp.abs(alpha), axis=0))


class _Searched(eqx.Module):
    """Networks side by side, and what they are worth."""

    u: Float[Array, "s m d"]
    v: Float[Array, "s m d"]
    alpha: Float[Array, "s m c"]
    objective: Float[Array, " s"]


def _side_by_side(max_neurons: int) -> int:
    """Return how many networks are searched at a time."""
    lanes = _NEURONS_SEARCHED // max_neurons
    return min(max(lanes, _LEAST_SIDE_BY_SIDE), _MOST_SIDE_BY_SIDE)


def _search(
    core: _Core, u: Array, v: Array, key: PRNGKeyArray, report: Callable[[str], None]
) -> QuantizedNetwork:
    """Return the neurons of the best result of local search.

    The best networks are kicked: some signs of some neurons flip, and local search goes on from
    there. What comes of it is kept if it is better.
    """
    count, m, d = u.shape
    lanes = _side_by_side(m)
    keys = iter(jax.random.split(key, -(-count // lanes) * _ROUNDS + _MOST_KICKS))
    batches = []
    for first in range(0, count, lanes):
        chosen = np.arange(first, first + lanes) % count
        some_u, some_v = u[chosen], v[chosen]
        alpha = jnp.zeros((lanes, m, core.y.shape[1]), u.dtype)
        batch = _Searched(some_u, some_v, alpha, jnp.full(lanes, jnp.inf, u.dtype))
        for _ in range(_ROUNDS):
            batch = _search_round(core, batch, jnp.zeros((), u.dtype), next(keys))
        batches.append(batch)
    found = jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *batches)
    found = _best(found, lanes)
    kicks = min(max(_SIGNS_KICKED // d - _FEWER_KICKS, 0), _MOST_KICKS)
    for index in range(kicks if m <= _MOST_KICKED else 0):
        report(f"local search, kick {index + 1}")
        found = _search_round(core, found, jnp.asarray(_SIGNS_FLIPPED, u.dtype), next(keys))
    found = _best(found, 1)
    return pack(found.u[0] > 0, found.v[0] > 0, jnp.ones_like(found.alpha[0]))


@eqx.filter_jit
@on_any_mesh
@highest_precision
def _search_round(core: _Core, found: _Searched, share: Scalar, key: PRNGKeyArray) -> _Searched:
    """Flip a share of the signs of some neurons, search, and keep what is better."""
    lanes, m, d = found.u.shape

    def one(found: _Searched, key: PRNGKeyArray) -> _Searched:
        neurons_key, signs_key, search_key = jax.random.split(key, 3)
        order = jax.random.permutation(neurons_key, m)
        chosen = (order < max(m // _NEURONS_KICKED, 1))[None, :, None]
        flipped = chosen & (jax.random.uniform(signs_key, (2, m, d), share.dtype) < share)
        turn_u, turn_v = jnp.where(flipped, -1, 1).astype(found.u.dtype)
        other = local_search(
            core.X, core.y, core.beta, turn_u * found.u, turn_v * found.v, search_key,
            _SWEEPS if m <= _MOST_SEARCHED else 0,
        )  # fmt: skip
        return select(other[-1] < found.objective, _Searched(*other), found)

    return jax.vmap(one)(found, jax.random.split(key, lanes))


def _best(found: _Searched, count: int) -> _Searched:
    """Return the best networks."""
    order = np.argsort(np.asarray(found.objective))[:count]
    return jax.tree.map(lambda leaf: leaf[order], found)


def _generate(
    core: _Core,
    solution: Solution,
    max_neurons: int,
    key: PRNGKeyArray,
    report: Callable[[str], None],
) -> tuple[NDArray, NDArray]:
    """Return the neurons that remain of column generation, output by output."""
    rng = np.random.default_rng(np.asarray(jax.random.bits(key, (4,))))
    drawn_u, drawn_v, _ = draw(solution, _STARTS_OF_PRICING, key)
    u, v = (np.where(np.asarray(g) >= 0, 1.0, -1.0) for g in (drawn_u, drawn_v))
    starts = u
    X, y, beta = (np.asarray(a, np.float64) for a in (core.X, core.y, core.beta))

    def price(gram: NDArray[np.float64], count: int) -> tuple[NDArray, NDArray]:
        random = rng.choice((-1.0, 1.0), (_STARTS_OF_PRICING, X.shape[1]))
        norms, found = search_signs(gram, np.concatenate([starts, random]))
        return norms[:count], found[:count]

    tasks = [Task.of(X, y[:, k], np.ones(len(X)), beta[k]) for k in range(y.shape[1])]
    parts = []
    for task in tasks:
        rounds = generate(task, price, u, v, task.targets, _CLOSE)
        for last in itertools.islice(rounds, min(max_neurons // 2 + _MORE_ROUNDS, _MOST_ROUNDS)):
            report(f"column generation, gap {last.gap:.1e}")
        kept = np.flatnonzero(basic_weights(task.columns(last.u, last.v), last.alpha))
        parts.append((last.u[kept], last.v[kept]))
    u, v = (np.concatenate(part) for part in zip(*parts, strict=True))
    return _pruned(tasks, u, v, max_neurons)


def _pruned(tasks: list[Task], u: NDArray, v: NDArray, max_neurons: int) -> tuple[NDArray, NDArray]:
    """Drop the neurons that contribute least, some at a time, and refit."""
    first = True
    while True:
        importance = np.zeros(len(u))
        for task in tasks:
            columns = task.columns(u, v)
            fitted = solve_restricted(columns, task.targets, task.beta, task.targets, _FIT)
            # The first fit spreads over more neurons than it needs, some of them equal.
            alpha = basic_weights(columns, fitted.alpha) if first else fitted.alpha
            size = np.ldexp(np.linalg.norm(columns, axis=0), -task.exponents[1])
            importance += np.square(np.abs(alpha) * size)
        order = np.argsort(-importance)
        surplus = np.count_nonzero(importance) - max_neurons
        if surplus <= 0:
            return u[order[:max_neurons]], v[order[:max_neurons]]
        kept = max_neurons + int((1 - _PRUNED) * surplus)
        u, v, first = u[order[:kept]], v[order[:kept]], False


def _largest(problem: Problem, network: QuantizedNetwork, count: int) -> QuantizedNetwork:
    """Return the network, cut to its largest neurons and refitted if it has too many."""
    network = network.prune()
    if network.num_neurons <= count:
        return network
    counted = np.asarray(problem.weight) > 0
    X, u, v = (np.asarray(a, np.float64) for a in (problem.X[counted], network.u, network.v))
    weight = np.asarray(problem.weight, np.float64)[counted]
    size = np.sum(np.square(np.asarray(network.alpha_columns, np.float64)), axis=1)
    energy = weight @ np.square((X @ u.T) * (X @ v.T))
    kept = np.sort(np.argsort(-size * energy)[:count])
    return refit(
        problem,
        QuantizedNetwork(
            network.packed_u[kept],
            network.packed_v[kept],
            network.alpha[kept],
            network.num_features,
        ),
    )


def _filled(signs: ArrayLike, like: Float[Array, "1 m d"]) -> Float[Array, "1 m d"]:
    """Fill up with neurons of others."""
    return like.at[0, : np.shape(signs)[0]].set(jnp.asarray(signs, like.dtype))
