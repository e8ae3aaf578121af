"""Solve the problems of a bucket, a chunk of lanes at a time.

    queue ──► begin ──► advance until most lanes have ended ──► finish ──► results
                           ▲                      │
                           └─── a chunk of them ──┴── stragglers

A vmapped loop runs until its slowest lane ends. Here a chunk ends when most of its lanes have, and
the stragglers of several chunks go on in a chunk of their own, so that a straggler costs itself
only. Within a chunk, a block of lanes takes steps until half of them have ended; the others take
more in blocks that are full again. A block on a CPU is as large as its caches, and every core works
at a chunk.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import threading
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int

from .._base.control_flow import while_loop
from .._base.lift import lifted_size
from .._host.programs import HostProgram, Stopwatch, seconds_spent_compiling, wait_as_long
from .._host.threads import in_context
from .._problem.problem import Problem
from .._relaxation.solution import Solution
from .._run.on_host import threads_for_solves
from .._run.padding import rung
from .._run.running import Running, advance, begin, complete, finish
from .._solver import AbstractSolver, InteriorPoint
from .buckets import Bucket

_BLOCK_BYTES = {True: 2**21, False: 2**28}  # on a CPU: what stays in the caches of a core
_WIDTH = (2, 64)  # lanes of a block, fewest and most on a CPU
_WIDTH_SHARED = (8, 128)  # the same if they share a factorization; a chunk is one such block
_CHUNK_BYTES = 2**26  # on a CPU, unless that is less than a block ...
_BLOCKS = 8  # ... and at most so many
_LOSS = 0.03  # of a thread's time, rather than fewer blocks
_MOST = 7 / 8  # of the lanes of a chunk: the others are stragglers ...
_PATIENCE = 4  # ... unless they end soon, within 1/4 of the steps that most took
_STEPS = 64  # at most, of each block between two looks at the clock

Put = Callable[[np.ndarray, Solution], None]


@dataclasses.dataclass(frozen=True)
class Job:
    """Problems of one bucket to solve, and where to put (places, stacked solutions)."""

    bucket: Bucket
    solver: AbstractSolver
    max_steps: int
    put: Put
    watch: Stopwatch
    time_limit: float
    cancelled: threading.Event = dataclasses.field(default_factory=threading.Event)

    def run(self, waiting: np.ndarray, lanes: int | None) -> None:
        """Solve what is waiting, in chunks of so many lanes; return early at the time limit."""
        threads = threads_for_solves(self.solver, self.bucket.dtype)
        width, blocks = self._sizes(-(-len(waiting) // threads), lanes)
        work = _work_on_outputs if self.bucket.shares_features else _work_on_problems
        queue = _Queue(waiting, blocks * width)
        if threads > 1:
            key = (work, self.bucket.signature, self.solver, self.max_steps, queue.lanes, width)
            if key not in _compiled:  # here, and not in every thread
                work(self, _Queue(queue.take(), queue.lanes), width)
                if not self.is_stopped:
                    _compiled.add(key)
            self._in_threads(threads, lambda: work(self, queue, width))
        else:
            work(self, queue, width)

    @property
    def is_stopped(self) -> bool:
        """Whether to end early."""
        return self.cancelled.is_set() or self.watch.seconds >= self.time_limit

    def _in_threads(self, count: int, work: Callable[[], None]) -> None:
        """Do the same work in so many threads, which end early if one or the caller fails."""
        waited = seconds_spent_compiling()

        def work_in_thread() -> float:
            wait_as_long(waited)
            work()
            return seconds_spent_compiling()

        with concurrent.futures.ThreadPoolExecutor(count) as executor:
            futures = [executor.submit(in_context(work_in_thread)) for _ in range(count)]
            try:
                done = concurrent.futures.as_completed(futures)
                wait_as_long(max(future.result() for future in done))
            except BaseException:
                self.cancelled.set()
                raise

    def _sizes(self, share: int, lanes: int | None) -> tuple[int, int]:
        """Return the lanes of a block and the blocks of a chunk, for a thread's share of the work.

        By the largest arrays of either solver; few sizes, as programs compile for each.
        """
        n, k = self.bucket.X_shape[0], self.bucket.num_lifted
        size, on_cpu = lifted_size(k), jax.default_backend() == "cpu"
        shared = self.bucket.shares_features
        entries = n * k + min(n, size) * (n + size) + 128 * size
        if self.bucket.loss.couples_outputs:
            responses = 3 * n * n if isinstance(self.solver, InteriorPoint) else 0
            entries = self.bucket.num_outputs * (entries + responses)
        needed = entries * np.dtype(self.bucket.dtype).itemsize
        width = max(_BLOCK_BYTES[on_cpu] // needed, 1)
        if on_cpu:
            limits = _WIDTH_SHARED if shared else _WIDTH
            width = int(np.clip(2 ** (width.bit_length() - 1), *limits))
        if lanes is not None:
            lanes = min(lanes, rung(share))
            blocks = 1 if shared else -(-lanes // width)
            return lanes // blocks, blocks
        width = min(width, rung(share))
        several = on_cpu and not shared
        most = int(np.clip(_CHUNK_BYTES // (needed * width), 1, _BLOCKS)) if several else 1
        # The last chunk is incomplete, which counts if there are few.
        lost = {blocks: -share % (blocks * width) / share for blocks in range(most, 0, -1)}
        return width, next(blocks for blocks in lost if lost[blocks] <= min(lost.values()) + _LOSS)


_compiled: set[Any] = set()


class _Queue:
    """Places of waiting problems, which several threads take, so many at a time."""

    def __init__(self, places: np.ndarray, lanes: int):
        self.lanes = lanes
        self._places, self._taken, self._lock = places, 0, threading.Lock()

    def take(self) -> np.ndarray:
        """Take as many as there are lanes, or what is left."""
        with self._lock:
            taken = self._places[self._taken : self._taken + self.lanes]
            self._taken += len(taken)
            return taken

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return self._taken >= len(self._places)


def _work_on_problems(job: Job, queue: _Queue, width: int) -> None:
    """Solve problems from the queue, a chunk at a time, and stragglers a block at a time."""
    stragglers: list[tuple[int, Running]] = []
    while not job.is_stopped:
        if len(stragglers) >= width or (stragglers and queue.is_empty):
            some, stragglers = stragglers[:width], stragglers[width:]
            owners = np.array([owner for owner, _ in some])
            padded = [lane for _, lane in some] + [some[0][1]] * (width - len(some))
            stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *padded)
            chunk, ended, solution = _resume_program(stacked, np.int32(len(owners)))
        else:
            owners = queue.take()
            if len(owners) == 0:
                return
            problem = job.bucket.fetch(np.resize(owners, queue.lanes))
            count = np.int32(len(owners))
            chunk, ended, solution = _launch_program(
                problem, job.solver, job.max_steps, count, width
            )

        has_ended = np.asarray(ended)[: len(owners)]
        job.put(owners[has_ended], _pick(solution, np.flatnonzero(has_ended)))
        for lane in np.flatnonzero(~has_ended):
            stragglers.append((owners[lane], _pick(chunk, lane)))


def _pick(tree: Any, lanes: Any) -> Any:
    """Return one lane or some lanes, on the host, and keep nothing of the others."""
    return jax.tree.map(lambda leaf: np.array(np.asarray(leaf)[lanes]), tree)


def _launch(
    problem: Problem, solver: AbstractSolver, max_steps: int, count: Int[Array, ""], width: int
) -> tuple[Running, Bool[Array, " lanes"], Solution]:
    chunk = jax.lax.map(lambda one: begin(one, solver, max_steps), problem, batch_size=width)
    return _visit(chunk, count, width)


def _resume(
    chunk: Running, count: Int[Array, ""]
) -> tuple[Running, Bool[Array, " lanes"], Solution]:
    return _visit(chunk, count, chunk.problem.X.shape[0])


def _visit(
    chunk: Running, count: Int[Array, ""], width: int
) -> tuple[Running, Bool[Array, " lanes"], Solution]:
    """Take steps until most lanes have ended, and some more if others then can; limited in number.

    Lanes from `count` on are padding. Returns the chunk, who has ended, and solutions, which are
    those of the lanes that have.
    """
    lanes = chunk.problem.X.shape[0]
    blocks = lanes // width

    def at(state: Any) -> Running:
        return dataclasses.replace(chunk, state=state)

    def goes_on(carry: tuple[Any, ...]) -> Bool[Array, ""]:
        _, ended, _, steps, limit = carry
        return ~jnp.all(ended) & (steps < limit)

    def visit_block(carry: tuple[Any, ...]) -> tuple[Any, ...]:
        state, ended, visits, steps, limit = carry
        # The least visited first, so that those that others wait for meet in full blocks.
        block = jnp.argsort(jnp.where(ended, lanes, visits))[:width]
        some, over = jax.tree.map(lambda leaf: leaf[block], (at(state), ended))
        half = jnp.sum(~over) // 2

        def goes_on(carry: tuple[Any, Array, Array]) -> Bool[Array, ""]:
            _, over, steps = carry
            return (jnp.sum(~over) > half) & (steps < limit)

        def step(carry: tuple[Any, Array, Array]) -> tuple[Any, Array, Array]:
            state, over, steps = carry
            running = jax.vmap(advance)(dataclasses.replace(some, state=state))
            return running.state, over | _finished(running), steps + 1

        new_state, over, steps = while_loop(goes_on, step, (some.state, over, steps))
        state = jax.tree.map(lambda old, new: old.at[block].set(new), state, new_state)
        ended, visits = ended.at[block].set(over), visits.at[block].add(1)
        most = jnp.mean(ended, dtype=jnp.float32) >= _MOST
        patient = steps + steps // _PATIENCE + 1
        return state, ended, visits, steps, jnp.where(most, jnp.minimum(limit, patient), limit)

    zero = jnp.zeros((), jnp.int32)
    ended = _finished(chunk) | (jnp.arange(lanes, dtype=count.dtype) >= count)
    visits = jnp.zeros(lanes, jnp.int32)
    carry = chunk.state, ended, visits, zero, jnp.full_like(zero, _STEPS * blocks)
    state, ended, *_ = while_loop(goes_on, visit_block, carry)
    chunk = at(state)
    return chunk, ended, jax.lax.map(finish, chunk, batch_size=width)


def _finished(chunk: Running) -> Bool[Array, " lanes"]:
    return jax.vmap(lambda running: running.finished)(chunk)


def _work_on_outputs(job: Job, queue: _Queue, width: int) -> None:
    """Solve problems that share X as outputs of one problem, a chunk at a time."""
    while not job.is_stopped:
        places = queue.take()
        if len(places) == 0:
            return
        problem = job.bucket.fetch(np.resize(places, queue.lanes))
        solution = _outputs_program(problem, job.solver, job.max_steps)
        job.put(places, _pick(solution, slice(len(places))))


def _solve_outputs(problem: Problem, solver: AbstractSolver, max_steps: int) -> Solution:
    """Solve a stacked problem whose X and weights are all the same."""
    shared = jax.tree.map(lambda leaf: leaf[0], problem)

    def one(y: Array, beta: Array) -> Solution:
        single = eqx.tree_at(lambda p: (p.y, p.beta), shared, (y, beta))
        return finish(complete(begin(single, solver, max_steps)))

    return jax.vmap(one)(problem.y, problem.beta)


_launch_program, _resume_program, _outputs_program = (
    HostProgram(function, level=1) for function in (_launch, _resume, _solve_outputs)
)
