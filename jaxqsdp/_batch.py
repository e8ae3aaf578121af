"""Solve many problems of any shapes: a lane that has ended makes room for the next in the queue.

    problems ──► buckets of one padded shape ──► pool of lanes ──► results, in the caller's order
                                                  │  ▲
                                                  └──┘ ended lanes out, waiting problems in

A vmapped loop runs until its slowest lane ends. The pool takes a few steps of all lanes at a time
instead, so that a straggler holds up nobody, and memory is bounded whatever the number of problems.
"""

from __future__ import annotations

import dataclasses
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from ._checkpoint import Checkpoint, fingerprint
from ._lift import lifted_size
from ._problem import Problem, check_single
from ._progress import progress_bar
from ._solution import Solution, Status
from ._solve import Running, advance, begin, complete, finish, solver_for
from ._solver import AbstractSolver
from ._types import check_count

_POOL_BYTES = 2**28  # of the lanes under way
_MOST_LANES = {"cpu": 64}  # more would leave the caches of a core
_GROUPS = 4  # a pool is refilled by so many groups of lanes
_STEPS = 4  # between two looks at the clock, and at who has ended


def solve_batch(
    problems: Problem | Sequence[Problem],
    solver: AbstractSolver | None = None,
    *,
    max_steps: int | None = None,
    lanes: int | None = None,
    time_limit: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Solution | list[Solution]:
    """Solve the relaxations of many problems, each as `solve` would.

    Takes a stacked problem, `jax.vmap(lambda X, y: qs.Problem(X, y, beta))(Xs, ys)`, and returns a
    stacked solution; or takes a list of problems of any shapes and returns a list in that order.
    Problems of different shapes are padded to a few common ones with zero features and samples of
    zero weight, which change nothing, and the padding is sliced off. Stacked problems that all have
    the same X and weights share its factorization.

    Nothing raises because of one problem: look at `solution.status`, one per lane. Memory on the
    device does not grow with the number of problems. The results are NumPy arrays, on the host.

    **Arguments:**

    - `problems`: a stacked `Problem`, or a sequence of problems.
    - `solver`: default as for `solve`, by shape and dtype.
    - `max_steps`: step limit of each problem; default the solver's own.
    - `lanes`: problems under way at once; default what fits the caches of a CPU, or 256 MiB.
    - `time_limit`: seconds. What is not finished by then has the status `interrupted`, value +inf
        and bound −inf; the same holds after Ctrl-C.
    - `checkpoint`: a folder. Results are written there as they come, and a later call with the same
        problems goes on from there: a kill loses the last 1024 results or five seconds at most.
    - `progress`: show a bar; by default if tqdm is installed and a terminal is there.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    _check_arguments(problems, solver, max_steps, lanes, time_limit)
    deadline = np.inf if time_limit is None else time.monotonic() + time_limit
    given: Any = problems if isinstance(problems, Problem) else list(problems)
    stacked = isinstance(given, Problem)
    buckets: list[_Bucket] = [_Stacked(given)] if stacked else _padded(given)
    solvers = [solver_for(bucket.X_shape, bucket.dtype, solver) for bucket in buckets]
    limits = [chosen.max_steps if max_steps is None else max_steps for chosen in solvers]
    results = [_Results(*one) for one in zip(buckets, solvers, limits, strict=True)]
    store = None
    if checkpoint is not None:
        store = Checkpoint(checkpoint, fingerprint(given, repr(solver), repr(max_steps)))
        for index, places, leaves in store.load():
            results[index].restore(places, leaves)

    total = sum(len(result.done) for result in results)
    with progress_bar(total, progress, "problem") as advanced:
        advanced(sum(int(np.sum(result.done)) for result in results))
        try:
            for index, bucket in enumerate(buckets):

                def put(places: np.ndarray, solution: Solution, index: int = index) -> None:
                    results[index].put(places, solution)
                    if store is not None:
                        store.add(index, places, jax.tree.leaves(solution))
                    advanced(len(places))

                waiting = np.flatnonzero(~results[index].done)
                if len(waiting):
                    work = _run_shared if bucket.shares_features else _run_pool
                    count = lanes or _default_lanes(bucket)
                    work(bucket, solvers[index], limits[index], waiting, count, deadline, put)
        except KeyboardInterrupt:
            pass  # what has not ended says so in its status
        finally:
            if store is not None:
                store.flush()
    if stacked:
        return results[0].solution
    return _in_order(buckets, results, len(given))


class _Bucket:
    """Problems of one shape, fetched as they are needed."""

    X_shape: tuple[int, ...]
    dtype: Any
    count: int
    shares_features: bool

    def fetch(self, places: np.ndarray) -> Problem:
        """Return a stacked problem, on the host."""
        raise NotImplementedError


class _Stacked(_Bucket):
    """A stacked problem."""

    def __init__(self, problem: Problem):
        self._problem = jax.tree.map(np.asarray, problem)
        self.X_shape = problem.X.shape[1:]
        self.dtype = problem.X.dtype
        self.count = problem.X.shape[0]
        shared = [a for a in (self._problem.X, self._problem.sample_weight) if a is not None]
        self.shares_features = problem.y.ndim == 2 and self.count > 1
        self.shares_features &= all(bool(np.all(array == array[:1])) for array in shared)

    def fetch(self, places: np.ndarray) -> Problem:
        """Return some of them."""
        return jax.tree.map(lambda leaf: leaf[places], self._problem)


class _Padded(_Bucket):
    """Problems from a list, padded to a common shape."""

    shares_features = False

    def __init__(self, problems: list[Problem], indices: list[int], shape: tuple[int, int]):
        self._problems = problems
        self.indices = indices
        self.X_shape = shape
        self.dtype = problems[0].X.dtype
        self.count = len(problems)

    def fetch(self, places: np.ndarray) -> Problem:
        """Pad and stack some of them."""
        padded = [_pad(self._problems[place], self.X_shape) for place in places]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)

    def slice(self, place: int, solution: Solution) -> Solution:
        """Return the solution of one problem without its padding."""
        n, d = self._problems[place].X.shape
        width = self.X_shape[1]
        kept = np.concatenate([np.arange(d), width + np.arange(d)])
        return dataclasses.replace(
            solution,
            quadratic_form=solution.quadratic_form[..., :d, :d],
            gram=solution.gram[..., kept[:, None], kept],
            dual=solution.dual[:n],
            dual_diagonal=solution.dual_diagonal[..., :d],
            predictions=solution.predictions[:n],
        )


def _pad(problem: Problem, shape: tuple[int, ...]) -> Problem:
    n, d = problem.X.shape
    rows, columns = shape[0] - n, shape[1] - d
    y = np.asarray(problem.y)
    leaves = (
        np.pad(np.asarray(problem.X), ((0, rows), (0, columns))),
        np.pad(y, ((0, rows),) + ((0, 0),) * (y.ndim - 1)),
        np.asarray(problem.beta),
        np.pad(np.asarray(problem.weight), (0, rows)),
    )
    return eqx.tree_at(
        lambda p: (p.X, p.y, p.beta, p.sample_weight),
        problem,
        leaves,
        is_leaf=lambda leaf: leaf is None,
    )


def _rung(size: int) -> int:
    """Round up to 4, 5, 6, 7 or 8 times a power of two: a quarter more at most."""
    power = max(1, 2 ** (max(size - 1, 1).bit_length() - 3))
    return -(-size // power) * power


def _padded(problems: list[Problem]) -> list[_Bucket]:
    """Sort a list of problems into buckets of a common padded shape, dtype and outputs."""
    groups: dict[Any, list[int]] = {}
    for index, problem in enumerate(problems):
        n, d = problem.X.shape
        tail = problem.y.shape[1:], problem.beta.shape, str(problem.X.dtype)
        groups.setdefault(((_rung(n), _rung(d)), *tail), []).append(index)
    return [
        _Padded([problems[index] for index in indices], indices, key[0])
        for key, indices in groups.items()
    ]


class _Results:
    """Solutions in the order of a bucket, unfinished ones marked as such."""

    def __init__(self, bucket: _Bucket, solver: AbstractSolver, max_steps: int):
        self._bucket, self._solver, self._max_steps = bucket, solver, max_steps
        self._solution: Solution | None = None
        self.done = np.zeros(bucket.count, bool)

    @property
    def solution(self) -> Solution:
        """All solutions, stacked."""
        if self._solution is None:  # nothing is finished: the shapes take a trace to find
            one = self._bucket.fetch(np.zeros(1, int))
            arguments = one, self._solver, self._max_steps
            self._solution = self._unfinished(eqx.filter_eval_shape(_solve_stacked, *arguments))
        return self._solution

    def put(self, places: np.ndarray, solution: Solution) -> None:
        """Fill in some solutions."""
        if self._solution is None:
            self._solution = self._unfinished(solution)
        jax.tree.map(lambda old, new: old.__setitem__(places, new), self._solution, solution)
        self.done[places] = True

    def restore(self, places: np.ndarray, leaves: list[np.ndarray]) -> None:
        """Fill in some solutions from a checkpoint."""
        self.put(places, jax.tree.unflatten(jax.tree.structure(self.solution), leaves))

    def _unfinished(self, like: Any) -> Solution:
        count = self._bucket.count
        empty = jax.tree.map(lambda leaf: np.zeros((count, *leaf.shape[1:]), leaf.dtype), like)
        infinity = np.full_like(empty.value, np.inf)
        return dataclasses.replace(
            empty,
            value=infinity,
            lower_bound=-infinity,
            status=jax.tree.map(
                lambda leaf, code: np.full_like(leaf, code), empty.status, Status.interrupted
            ),
            stats=dataclasses.replace(empty.stats, gap=infinity.copy()),
        )


def _in_order(buckets: list[_Bucket], results: list[_Results], count: int) -> list[Solution]:
    ordered: list[Any] = [None] * count
    for bucket, result in zip(buckets, results, strict=True):
        assert isinstance(bucket, _Padded)
        for place, index in enumerate(bucket.indices):
            one = jax.tree.map(lambda leaf, place=place: leaf[place], result.solution)
            ordered[index] = bucket.slice(place, one)
    return ordered


def _default_lanes(bucket: _Bucket) -> int:
    """Return how many lanes fit, by the largest arrays of either solver."""
    n, d = bucket.X_shape
    size = lifted_size(d)
    entries = n * d + min(n, size) * (n + size) + 128 * size
    most = _MOST_LANES.get(jax.default_backend(), _POOL_BYTES)
    return max(1, min(_POOL_BYTES // (entries * np.dtype(bucket.dtype).itemsize), most))


_Put = Callable[[np.ndarray, Solution], None]


def _first(solution: Solution, count: int) -> Solution:
    return jax.tree.map(lambda leaf: np.asarray(leaf)[:count], solution)


def _solve_stacked(problem: Problem, solver: AbstractSolver, max_steps: int) -> Solution:
    return jax.vmap(lambda one: finish(begin(one, solver, max_steps)))(problem)


@eqx.filter_jit
def _begin(problem: Problem, solver: AbstractSolver, max_steps: int) -> Running:
    return jax.vmap(lambda one: begin(one, solver, max_steps))(problem)


@eqx.filter_jit(donate="all-except-first")
def _place(arrivals: tuple[Running, Int[Array, " group"]], pool: Running) -> Running:
    """Put new lanes into slots, in place."""
    fresh, slots = arrivals
    return jax.tree.map(lambda old, new: old.at[slots].set(new), pool, fresh)


@eqx.filter_jit
def _advance(
    pool: Running, awaited: Int[Array, ""], occupied: Bool[Array, " lanes"]
) -> tuple[Any, Bool[Array, " lanes"]]:
    """Take up to a few steps of all lanes, fewer if as many as awaited have ended.

    Returns the states and who has ended.
    """

    def ended(state: Any) -> Bool[Array, " lanes"]:
        return jax.vmap(lambda running: running.finished)(dataclasses.replace(pool, state=state))

    def unfinished(carry: tuple[Any, Array, Array]) -> Bool[Array, ""]:
        _, finished, steps = carry
        return (jnp.sum(finished & occupied) < awaited) & (steps < _STEPS)

    def body(carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
        state, _, steps = carry
        state = jax.vmap(advance)(dataclasses.replace(pool, state=state)).state
        return state, ended(state), steps + 1

    zero = jnp.zeros((), jnp.int32)
    carry = pool.state, ended(pool.state), zero
    state, finished, _ = jax.lax.while_loop(unfinished, body, carry)
    return state, finished


@eqx.filter_jit
def _harvest(pool: Running, slots: Int[Array, " group"]) -> Solution:
    return jax.vmap(finish)(jax.tree.map(lambda leaf: leaf[slots], pool))


def _run_pool(
    bucket: _Bucket,
    solver: AbstractSolver,
    max_steps: int,
    waiting: np.ndarray,
    lanes: int,
    deadline: float,
    put: _Put,
) -> None:
    """Solve what is waiting, in a pool of lanes."""
    group = -(-min(lanes, len(waiting)) // _GROUPS)
    lanes = group * _GROUPS
    owner = np.full(lanes, -1)
    queue = 0
    pool = None

    def refill() -> None:
        nonlocal queue, pool
        while queue < len(waiting):
            free = np.flatnonzero(owner < 0)[:group]
            if len(free) < group:
                return
            taken = waiting[queue : queue + group]
            queue += len(taken)
            owner[free[: len(taken)]] = taken
            fresh = _begin(bucket.fetch(np.resize(taken, group)), solver, max_steps)
            if pool is None:
                pool = jax.tree.map(lambda leaf: jnp.concatenate([leaf] * _GROUPS), fresh)
            pool = _place((fresh, jnp.asarray(free)), pool)

    def harvest(ready: np.ndarray) -> None:
        for start in range(0, len(ready), group):
            slots = ready[start : start + group]
            assert pool is not None
            solution = _harvest(pool, jnp.asarray(np.resize(slots, group)))
            put(owner[slots], _first(solution, len(slots)))
            owner[slots] = -1

    refill()
    while np.any(owner >= 0) and time.monotonic() < deadline:
        occupied = owner >= 0
        # The last problems are awaited together: nobody waits for their lanes.
        awaited = group if queue < len(waiting) else int(np.sum(occupied))
        assert pool is not None
        state, finished = _advance(pool, jnp.asarray(awaited), jnp.asarray(occupied))
        pool = dataclasses.replace(pool, state=state)
        ready = np.flatnonzero(np.asarray(finished) & occupied)
        if len(ready) >= awaited:
            harvest(ready)
            refill()
    if pool is not None and np.any(owner >= 0):
        ended = np.asarray(jax.vmap(lambda running: running.finished)(pool))
        harvest(np.flatnonzero(ended & (owner >= 0)))


def _run_shared(
    bucket: _Bucket,
    solver: AbstractSolver,
    max_steps: int,
    waiting: np.ndarray,
    lanes: int,
    deadline: float,
    put: _Put,
) -> None:
    """Solve problems that share X as outputs of one problem, some at a time."""
    for start in range(0, len(waiting), lanes):
        if time.monotonic() >= deadline:
            return
        places = waiting[start : start + lanes]
        problem = bucket.fetch(np.resize(places, min(lanes, len(waiting))))
        solution = _solve_outputs(problem, solver, max_steps)
        put(places, _first(solution, len(places)))


@eqx.filter_jit
def _solve_outputs(problem: Problem, solver: AbstractSolver, max_steps: int) -> Solution:
    """Solve a stacked problem whose X and weights are all the same."""
    shared = jax.tree.map(lambda leaf: leaf[0], problem)

    def one(y: Array, beta: Array) -> Solution:
        single = eqx.tree_at(lambda p: (p.y, p.beta), shared, (y, beta))
        return finish(complete(begin(single, solver, max_steps)))

    return jax.vmap(one)(problem.y, problem.beta)


def _check_arguments(
    problems: Any,
    solver: AbstractSolver | None,
    max_steps: int | None,
    lanes: int | None,
    time_limit: float | None,
) -> None:
    if isinstance(problems, Problem):
        if problems.X.ndim != 3:
            raise ValueError(
                f"`problems` must be stacked once, X of shape (problems, n, d), got "
                f"{problems.X.shape}; pass a single problem to `solve`, or a list."
            )
        if problems.X.shape[0] == 0:
            raise ValueError("`problems` is empty.")
    else:
        problems = list(problems)
        if not problems:
            raise ValueError("`problems` is empty.")
        for problem in problems:
            if not isinstance(problem, Problem):
                raise TypeError(f"`problems` must hold `Problem`s, got {type(problem).__name__}.")
            check_single(problem)
    if not (solver is None or isinstance(solver, AbstractSolver)):
        raise TypeError(f"`solver` must be a solver such as `ADMM()`, got {solver!r}.")
    for name, count in (("max_steps", max_steps), ("lanes", lanes)):
        if count is not None:
            check_count(count, name)
    if time_limit is not None and not time_limit > 0:
        raise ValueError(f"`time_limit` must be positive, got {time_limit}.")
