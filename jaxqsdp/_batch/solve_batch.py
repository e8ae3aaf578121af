"""Solve many problems of any shapes.

problems ──► buckets of one padded shape ──► chunks of lanes ──► results, in the caller's order
                                                            └──► checkpoint
"""

from __future__ import annotations

import dataclasses
import os
import threading
from collections.abc import Iterable, Sequence
from typing import Any, overload

import equinox as eqx
import jax
import numpy as np

from .._base.types import as_number, check_count, check_positive, is_concrete
from .._host.blas import one_blas_thread
from .._host.files import fingerprint
from .._host.programs import Stopwatch
from .._host.progress import progress_bar
from .._problem.problem import Problem, check_dtype, check_single
from .._relaxation.solution import Solution
from .._relaxation.status import Status
from .._run.running import begin, finish
from .._solver import AbstractSolver
from .buckets import Bucket, PaddedBucket, StackedBucket, sorted_into_buckets
from .checkpoint import Checkpoint
from .chunks import Job


@overload
def solve_batch(
    problems: Problem,
    solver: AbstractSolver | None = None,
    *,
    max_steps: int | None = None,
    lanes: int | None = None,
    time_limit: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> Solution: ...
@overload
def solve_batch(
    problems: Iterable[Problem],
    solver: AbstractSolver | None = None,
    *,
    max_steps: int | None = None,
    lanes: int | None = None,
    time_limit: float | None = None,
    checkpoint: str | os.PathLike[str] | None = None,
    progress: bool | None = None,
) -> list[Solution]: ...
def solve_batch(
    problems: Problem | Iterable[Problem],
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

    - `problems`: a stacked `Problem`, or a list of problems.
    - `solver`: default as for `solve`, by shape and dtype.
    - `max_steps`: step limit of each problem; default the solver's own.
    - `lanes`: problems in a chunk, of which every core works at one; default up to eight times
        what fits the caches of a CPU core, or 256 MiB of an accelerator.
    - `time_limit`: seconds, compilation not counted. What is not finished by then has the status
        `interrupted`, value +inf and bound −inf; the same holds after Ctrl-C.
    - `checkpoint`: a folder. Results are written there as they come, and a later call with the same
        problems goes on from there: a kill loses the last 1024 results or five seconds at most.
    - `progress`: show a bar; by default if tqdm is installed and a terminal is there.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    given: Any = problems
    stacked = isinstance(given, Problem)
    if not stacked and not isinstance(given, Iterable):
        raise TypeError(f"`problems` must be a stacked `Problem` or a list of them, got {given!r}.")
    given = _with_arrays(given) if stacked else list(map(_with_arrays, given))
    _check_arguments(given, solver, max_steps, lanes, time_limit)
    given = given.of_one_bit if stacked else [problem.of_one_bit for problem in given]
    watch, seconds = Stopwatch(), np.inf if time_limit is None else float(time_limit)
    buckets: Sequence[Bucket]
    buckets = [StackedBucket(given)] if stacked else sorted_into_buckets(given)
    solvers = [one.solver(solver) for one in buckets]
    limits = [chosen.max_steps if max_steps is None else max_steps for chosen in solvers]
    results = [_Results(*one) for one in zip(buckets, solvers, limits, strict=True)]
    store = None
    if checkpoint is not None:
        store = Checkpoint(checkpoint, fingerprint(given, repr(solver), repr(max_steps)))
        for index, places, leaves in store.load([result.leaves for result in results]):
            results[index].restore(places, leaves)

    one_at_a_time = threading.Lock()
    closed = False
    total = sum(len(result.done) for result in results)
    with progress_bar(total, progress, "problem") as advanced:
        advanced(sum(int(np.sum(result.done)) for result in results))
        try:
            for index, bucket in enumerate(buckets):

                def put(places: np.ndarray, solution: Solution, index: int = index) -> None:
                    with one_at_a_time:
                        if closed:  # the caller has left a thread behind
                            return
                        results[index].put(places, solution)
                        if store is not None:
                            store.add(index, places, jax.tree.leaves(solution))
                        advanced(len(places))

                waiting = np.flatnonzero(~results[index].done)
                if len(waiting):
                    job = Job(bucket, solvers[index], limits[index], put, watch, seconds)
                    with one_blas_thread():
                        job.run(waiting, lanes)
        except KeyboardInterrupt:
            pass  # what has not ended says so in its status
        finally:
            with one_at_a_time:
                closed = True
                if store is not None:
                    store.flush()
    if stacked:
        return results[0].solution
    return _in_order(buckets, results, len(given))


class _Results:
    """Solutions in the order of a bucket, unfinished ones marked as such."""

    def __init__(self, bucket: Bucket, solver: AbstractSolver, max_steps: int):
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

    def leaves(self) -> list[np.ndarray]:
        """Return the leaves of all solutions."""
        return jax.tree.leaves(self.solution)

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


def _in_order(buckets: Sequence[Bucket], results: list[_Results], count: int) -> list[Solution]:
    ordered: list[Any] = [None] * count
    for bucket, result in zip(buckets, results, strict=True):
        assert isinstance(bucket, PaddedBucket)
        for place, index in enumerate(bucket.indices):
            one = jax.tree.map(lambda leaf, place=place: np.asarray(leaf[place]), result.solution)
            ordered[index] = bucket.slice(place, one)
    return ordered


def _solve_stacked(problem: Problem, solver: AbstractSolver, max_steps: int) -> Solution:
    return jax.vmap(lambda one: finish(begin(one, solver, max_steps)))(problem)


def _with_arrays(problem: Any) -> Any:
    """Return the problem with an array β, one a lane, where `tree_at` has put a plain number."""
    if not isinstance(problem, Problem) or np.ndim(problem.beta) > 0 or not is_concrete(problem):
        return problem
    beta = np.full(problem.X.shape[:-2], as_number(problem.beta, "beta"), problem.X.dtype)
    return eqx.tree_at(lambda one: one.beta, problem, beta)


def _check_arguments(
    problems: Any,
    solver: AbstractSolver | None,
    max_steps: int | None,
    lanes: int | None,
    time_limit: float | None,
) -> None:
    if isinstance(problems, Problem):
        check_dtype(problems)
        if not is_concrete(problems):
            raise TypeError(
                "`solve_batch` works outside `jit`, `vmap` and `grad`; use `jax.vmap(solve)` there."
            )
        if problems.X.ndim != 3:
            raise ValueError(
                f"`problems` must be stacked once, X of shape (problems, n, d), got "
                f"{problems.X.shape}; pass a single problem to `solve`, or a list."
            )
        if problems.X.shape[0] == 0:
            raise ValueError("`problems` is empty.")
    else:
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
    if time_limit is not None:
        check_positive(time_limit, "time_limit")
