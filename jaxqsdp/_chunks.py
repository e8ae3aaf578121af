"""Solve the problems of a bucket, a chunk of lanes at a time.

    queue ──► begin ──► advance until most lanes have ended ──► finish ──► results
                           ▲                      │
                           └─── a chunk of them ──┴── stragglers

A vmapped loop runs until its slowest lane ends. Here a chunk ends when most of its lanes have, and
the stragglers of several chunks go on in a chunk of their own, so that a straggler costs itself
only. A chunk on a CPU is as large as its caches, and every core works at one.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import os
import threading
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool

from ._buckets import Bucket, rung
from ._lift import lifted_size
from ._problem import Problem
from ._solution import Solution
from ._solve import Running, advance, begin, complete, finish
from ._solver import AbstractSolver

_CHUNK_BYTES = {True: 2**21, False: 2**28}  # on a CPU: what stays in the caches of a core
_LANES = (8, 128)  # fewest and most on a CPU
_MOST = 7 / 8  # of the lanes of a chunk: the others are stragglers ...
_PATIENCE = 4  # ... unless they end soon, within 1/4 of the steps that most took
_STEPS = 64  # at most, between two looks at the clock

Put = Callable[[np.ndarray, Solution], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """Problems of one bucket to solve, and where to put (places, stacked solutions)."""

    bucket: Bucket
    solver: AbstractSolver
    max_steps: int
    put: Put
    deadline: float  # by `time.monotonic()`
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)

    def run(self, waiting: np.ndarray, lanes: int | None) -> None:
        """Solve what is waiting, in chunks of so many lanes; return early at the deadline."""
        threads = self._threads()
        lanes = lanes or self._default_lanes()
        if len(waiting) < 4 * lanes * threads:  # with many chunks an incomplete one is no matter
            chunks = threads * -(-len(waiting) // (lanes * threads))
            lanes = min(lanes, rung(-(-len(waiting) // chunks)))
        work = _work_on_outputs if self.bucket.shares_features else _work_on_problems
        queue = _Queue(waiting)
        if threads > 1:
            key = (work, self.bucket.signature, self.solver, self.max_steps, lanes)
            if key not in _compiled:  # here, and not in every thread
                work(self, _Queue(queue.take(lanes)), lanes)
                if not self.is_stopped:
                    _compiled.add(key)
            self._in_threads(threads, lambda: work(self, queue, lanes))
        else:
            work(self, queue, lanes)

    @property
    def is_stopped(self) -> bool:
        """Whether to end early."""
        return self.cancelled.is_set() or time.monotonic() >= self.deadline

    def _in_threads(self, count: int, work: Callable[[], None]) -> None:
        """Do the same work in so many threads, which end early if one or the caller fails."""
        # A thread does not see what the caller has set by a context manager.
        config: Any = jax.config
        double, device = config.jax_enable_x64, config.jax_default_device

        def work_in_context() -> None:
            with jax.enable_x64(double), jax.default_device(device):
                work()

        with concurrent.futures.ThreadPoolExecutor(count) as executor:
            futures = [executor.submit(work_in_context) for _ in range(count)]
            try:
                for future in concurrent.futures.as_completed(futures):
                    future.result()
            except BaseException:
                self.cancelled.set()
                raise

    def _threads(self) -> int:
        if jax.default_backend() != "cpu" or not self.solver.is_thread_safe(self.bucket.dtype):
            return 1
        return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1

    def _default_lanes(self) -> int:
        """Return how many lanes fit, by the largest arrays of either solver."""
        n, d = self.bucket.X_shape
        size, on_cpu = lifted_size(d), jax.default_backend() == "cpu"
        entries = n * d + min(n, size) * (n + size) + 128 * size
        fitting = _CHUNK_BYTES[on_cpu] // (entries * np.dtype(self.bucket.dtype).itemsize)
        return int(np.clip(fitting, *_LANES)) if on_cpu else max(fitting, 1)


_compiled: set[Any] = set()


class _Queue:
    """Places of waiting problems, which several threads take."""

    def __init__(self, places: np.ndarray):
        self._places, self._taken, self._lock = places, 0, threading.Lock()

    def take(self, count: int) -> np.ndarray:
        """Take up to so many."""
        with self._lock:
            taken = self._places[self._taken : self._taken + count]
            self._taken += len(taken)
            return taken

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return self._taken >= len(self._places)


def _work_on_problems(job: Job, queue: _Queue, lanes: int) -> None:
    """Solve problems from the queue, a chunk of so many lanes at a time."""
    stragglers: list[tuple[int, Running]] = []
    while not job.is_stopped:
        if len(stragglers) >= lanes or (stragglers and queue.is_empty):
            some, stragglers = stragglers[:lanes], stragglers[lanes:]
            owners = np.array([owner for owner, _ in some])
            padded = [lane for _, lane in some] + [some[0][1]] * (lanes - len(some))
            chunk, ended, solution = _resume(
                jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
            )
        else:
            owners = queue.take(lanes)
            if len(owners) == 0:
                return
            problem = job.bucket.fetch(np.resize(owners, lanes))
            chunk, ended, solution = _launch(problem, job.solver, job.max_steps)

        has_ended = np.asarray(ended)[: len(owners)]
        job.put(owners[has_ended], _pick(solution, np.flatnonzero(has_ended)))
        for lane in np.flatnonzero(~has_ended):
            stragglers.append((owners[lane], _pick(chunk, lane)))


def _pick(tree: Any, lanes: Any) -> Any:
    """Return one lane or some lanes, on the host, and keep nothing of the others."""
    return jax.tree.map(lambda leaf: np.array(np.asarray(leaf)[lanes]), tree)


@eqx.filter_jit
def _launch(
    problem: Problem, solver: AbstractSolver, max_steps: int
) -> tuple[Running, Bool[Array, " lanes"], Solution]:
    return _visit(jax.vmap(lambda one: begin(one, solver, max_steps))(problem))


@eqx.filter_jit
def _resume(chunk: Running) -> tuple[Running, Bool[Array, " lanes"], Solution]:
    return _visit(chunk)


def _visit(chunk: Running) -> tuple[Running, Bool[Array, " lanes"], Solution]:
    """Take steps until most lanes have ended, and some more if others then can; at most `_STEPS`.

    Returns the chunk, who has ended, and solutions, which are those of the lanes that have.
    """

    def ended(state: Any) -> Bool[Array, " lanes"]:
        return jax.vmap(lambda running: running.finished)(dataclasses.replace(chunk, state=state))

    def goes_on(carry: tuple[Any, Array, Array, Array]) -> Bool[Array, ""]:
        _, finished, steps, limit = carry
        return ~jnp.all(finished) & (steps < limit)

    def body(carry: tuple[Any, Array, Array, Array]) -> tuple[Any, Array, Array, Array]:
        state, _, steps, limit = carry
        state = jax.vmap(advance)(dataclasses.replace(chunk, state=state)).state
        finished, steps = ended(state), steps + 1
        most = jnp.mean(finished, dtype=jnp.float32) >= _MOST
        patient = steps + steps // _PATIENCE + 1
        return state, finished, steps, jnp.where(most, jnp.minimum(limit, patient), limit)

    zero = jnp.zeros((), jnp.int32)
    carry = chunk.state, ended(chunk.state), zero, jnp.full_like(zero, _STEPS)
    state, finished, _, _ = jax.lax.while_loop(goes_on, body, carry)
    chunk = dataclasses.replace(chunk, state=state)
    return chunk, finished, jax.vmap(finish)(chunk)


def _work_on_outputs(job: Job, queue: _Queue, lanes: int) -> None:
    """Solve problems that share X as outputs of one problem, so many at a time."""
    while not job.is_stopped:
        places = queue.take(lanes)
        if len(places) == 0:
            return
        problem = job.bucket.fetch(np.resize(places, lanes))
        solution = _solve_outputs(problem, job.solver, job.max_steps)
        job.put(places, _pick(solution, slice(len(places))))


@eqx.filter_jit
def _solve_outputs(problem: Problem, solver: AbstractSolver, max_steps: int) -> Solution:
    """Solve a stacked problem whose X and weights are all the same."""
    shared = jax.tree.map(lambda leaf: leaf[0], problem)

    def one(y: Array, beta: Array) -> Solution:
        single = eqx.tree_at(lambda p: (p.y, p.beta), shared, (y, beta))
        return finish(complete(begin(single, solver, max_steps)))

    return jax.vmap(one)(problem.y, problem.beta)
