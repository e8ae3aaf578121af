"""How programs are compiled where numbers are concrete: cheaply, side by side, and not too many.

Under a transform everything is part of the caller's program and compiled with that. Outside, the
programs of this package are compiled here, because at first touch compilation is nearly all of the
time: of a solve, a hundredth part is computing.

- Little optimization. What takes long in them are products and factorizations, which are library
  calls; loops compiled at level 1 without XLA's fusion emitters run as fast as at level 3, and take
  a third of the time to compile, at level 0 half as fast and a tenth.
- `prepare` compiles in a thread of its own, side by side with others and with work on the host.
- Shapes are padded (`_run.padding`), so that near ones share a program.
- Only the programs used last are kept, so that memory does not grow with the number of shapes.
"""

from __future__ import annotations

import collections
import concurrent.futures
import contextlib
import ctypes
import functools
import gc
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, Generic, ParamSpec, TypeVar, cast

import equinox as eqx
import jax
import jaxlib.version
import numpy as np
from jax._src import core

from .._base.mesh import on_any_mesh
from .._base.types import is_concrete
from .blas import one_blas_thread
from .threads import in_context

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MOST_PROGRAMS = 64  # kept in memory, some 10 MB each
_MOST_COUNTED = 512
_OFTEN = 3  # calls with arguments of the same shapes
_SWITCH_INTERVAL = 1e-4  # seconds
_THREADS = 3  # that compile: what XLA does is parallel


class HostProgram:
    """A pure function of pytrees as a compiled program: NumPy arrays in, JAX arrays out.

    What is not an array is static and has to be hashable. One program for each combination of
    shapes, dtypes and static values, as for `jax.jit`. Not for use under transforms.

    **Arguments:** `function`: what to compile, returning a pytree of arrays; `level`: of XLA's
    optimization on CPUs, 0 for what runs once or twice and 1 for what runs often or long.
    """

    def __init__(self, function: Callable[..., Any], level: int):
        self._function, self._level = function, level

    def __call__(self, *arguments: Any) -> Any:
        """Run the program, compiling it first where that has not been done."""
        start = time.monotonic()
        compiled = _wait_for(self._job(arguments))
        _compiling.seconds = seconds_spent_compiling() + time.monotonic() - start
        return compiled(_arrays(arguments))

    def is_repeated(self, *arguments: Any) -> bool:
        """Whether arguments like these came twice before; the second time it starts to compile."""
        count = _calls.add(self._key(arguments))
        if count == _OFTEN - 1:
            self.prepare(*arguments)
        return count >= _OFTEN

    def prepare(self, *arguments: Any, then: Callable[[Any], None] | None = None) -> None:
        """Start to compile for arguments like these, arrays or `jax.ShapeDtypeStruct`.

        If that is new, `then` is called with what the results look like, as soon as that is known.
        """
        self._job(arguments, then)

    def _job(self, arguments: Any, then: Callable[[Any], None] | None = None) -> _Job:
        key, called = self._key(arguments), then and in_context(then)
        return _programs.get_or_add(key, lambda: _Job(*self._stages(arguments), called))

    def _key(self, arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        like = tuple((leaf.shape, leaf.dtype) if _is_array_like(leaf) else leaf for leaf in leaves)
        return self._function, self._level, structure, like, context(), _flags()

    def _stages(self, arguments: Any) -> tuple[Callable[[], Any], Callable[[Any], Any]]:
        """Return functions that trace the program, and that compile what is traced."""
        shapes = jax.tree.map(_shape, _arrays(arguments))
        static = eqx.filter(arguments, _is_array_like, inverse=True)
        options = _options(self._level)

        def function(arrays: Any) -> Any:
            return self._function(*eqx.combine(arrays, static))

        def trace() -> Any:
            return jax.jit(function).lower(shapes)

        def compile(traced: Any) -> Any:
            return traced.compile(compiler_options=options)

        return in_context(trace), in_context(compile)


class _Job:
    """A program to compile, in a thread of its own.

    Not in the one that waits for it: what the caller has set for tracing, such as to evaluate at
    once, would hold for the program, and take long.
    """

    def __init__(
        self,
        trace: Callable[[], Any],
        compile: Callable[[Any], Any],
        then: Callable[[Any], None] | None,
    ):
        self._trace, self._compile, self._then = trace, compile, then
        self._started, self._lock = False, threading.Lock()
        self.future: concurrent.futures.Future[Any] = concurrent.futures.Future()
        self.is_urgent = False

    def run(self) -> None:
        """Compile, unless another thread does."""
        with self._lock:
            if self._started:
                return
            self._started = True
        try:
            with _turns.take(self):
                traced = self._trace()
            if self._then is not None:
                self._then(jax.tree.map(_shape, traced.out_info))
            self.future.set_result(self._compile(traced))
        except BaseException as error:  # for those who wait
            self.future.set_exception(error)


class _Turns:
    """Jobs trace in turn, as Python works at one only, and first those that are waited for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting: list[_Job] = []
        self._busy = False

    @contextlib.contextmanager
    def take(self, job: _Job) -> Iterator[None]:
        """Wait for the turn of a job, which ends with the context."""
        with self._changed:
            self._waiting.append(job)
            self._changed.wait_for(lambda: self._is_next(job))
            self._waiting.remove(job)
            self._busy = True
        # Whoever compiles beside it releases the interpreter often, and would wait 5 ms each time.
        interval = sys.getswitchinterval()
        sys.setswitchinterval(_SWITCH_INTERVAL)
        # What tracing makes lives until it ends: to look for garbage in it takes a tenth longer.
        collects = gc.isenabled()
        gc.disable()
        try:
            yield
        finally:
            if collects:
                gc.enable()
            sys.setswitchinterval(interval)
            with self._changed:
                self._busy = False
                self._changed.notify_all()

    def hurry(self, job: _Job) -> None:
        """Let a job go first."""
        with self._changed:
            job.is_urgent = True
            self._changed.notify_all()

    def _is_next(self, job: _Job) -> bool:
        urgent = [other for other in self._waiting if other.is_urgent]
        return not self._busy and job is (urgent or self._waiting)[0]


def _wait_for(job: _Job) -> Any:
    """Return the compiled program of a job, which is not left to wait for others."""
    if not job.future.done():
        _turns.hurry(job)
        threading.Thread(target=job.run).start()
    return job.future.result()


class Program(Generic[_P, _T]):
    """A function that is a `HostProgram` where numbers are concrete, else part of its caller's.

    **Arguments:** `function`, `level`: as those of `HostProgram`; `often`: another level, for the
    third call with the same shapes and later ones.
    """

    def __init__(self, function: Callable[_P, _T], level: int, often: int | None):
        functools.update_wrapper(self, function)
        self._traced = eqx.filter_jit(on_any_mesh(function))
        self._once = HostProgram(function, level)
        self._often = None if often is None else HostProgram(function, often)

    def __call__(self, *args: _P.args, **kwargs: _P.kwargs) -> _T:
        """Apply the function."""
        if kwargs or not on_host(args):
            return self._traced(*args, **kwargs)
        with one_blas_thread():
            return cast(_T, jax.block_until_ready(self._for(args)(*args)))

    def prepare(self, *arguments: Any, then: Callable[[Any], None] | None = None) -> None:
        """Start to compile, as `HostProgram.prepare` does."""
        self._once.prepare(*arguments, then=then)

    def _for(self, args: Any) -> HostProgram:
        repeated = self._often is not None and self._often.is_repeated(*args)
        return self._often if self._often is not None and repeated else self._once


def program(level: int, often: int | None = None) -> Callable[[Callable[_P, _T]], Program[_P, _T]]:
    """Make a `Program` of a function, as a decorator."""
    return lambda function: Program(function, level, often)


class _Programs:
    """The programs used last, each as a job, so that nobody compiles what another does."""

    def __init__(self) -> None:
        self._jobs: collections.OrderedDict[Any, _Job] = collections.OrderedDict()
        self._lock = threading.Lock()

    def get_or_add(self, key: Any, make: Callable[[], _Job]) -> _Job:
        """Return the job of a program, which is made and set to run if there is none."""
        with self._lock:
            job = self._jobs.get(key)
            if job is not None and not (job.future.done() and job.future.exception() is not None):
                self._jobs.move_to_end(key)
                return job
            job = self._jobs[key] = make()
            dropped = len(self._jobs) > _MOST_PROGRAMS
            if dropped:
                self._jobs.popitem(last=False)
        if dropped:
            _give_back_memory()
        _threads().submit(job.run)
        return job

    def __len__(self) -> int:
        return len(self._jobs)

    def clear(self) -> None:
        """Forget all programs."""
        with self._lock:
            self._jobs.clear()
        _give_back_memory()


class _Calls:
    """How often programs were asked for, of the last few hundred."""

    def __init__(self) -> None:
        self._counts: collections.OrderedDict[Any, int] = collections.OrderedDict()
        self._lock = threading.Lock()

    def clear(self) -> None:
        """Start anew."""
        self._counts.clear()

    def add(self, key: Any) -> int:
        """Count one more, and return how many there are."""
        with self._lock:
            count = self._counts.pop(key, 0) + 1
            self._counts[key] = count
            if len(self._counts) > _MOST_COUNTED:
                self._counts.popitem(last=False)
        return count


_programs, _calls, _turns = _Programs(), _Calls(), _Turns()
_executor: concurrent.futures.ThreadPoolExecutor | None = None
_compiling = threading.local()


def clear_programs() -> None:
    """Forget all programs that were compiled here, and how often they were asked for."""
    _programs.clear()
    _calls.clear()


def on_host(*values: Any) -> bool:
    """Whether the numbers are concrete, where programs run, and no transform is under way."""
    config: Any = jax.config
    if not is_concrete(values) or config.jax_disable_jit or _is_staging():
        return False
    arrays = [leaf for leaf in jax.tree.leaves(values) if isinstance(leaf, jax.Array)]
    if not all(len(array.devices()) == 1 and array.is_fully_addressable for array in arrays):
        return False
    given = config.jax_default_device
    default = given if isinstance(given, jax.Device) else jax.local_devices(backend=given)[0]
    return all(array.devices() == {default} for array in arrays)


def _is_staging() -> bool:
    """Whether a transform such as `jit` records operations, even on concrete numbers."""
    if core.trace_ctx.is_top_level():  # no public function tells
        return False
    zero = np.float32(0)
    return isinstance(jax.lax.add(zero, zero), jax.core.Tracer)


def seconds_spent_compiling() -> float:
    """Return how long this thread has waited for programs."""
    return getattr(_compiling, "seconds", 0.0)


class Stopwatch:
    """Seconds since it was made, but for those that were spent waiting for programs.

    That is what time limits count. Of threads that look at the same one, each has waited for its
    own: see `wait_as_long`.
    """

    def __init__(self) -> None:
        self._start = time.monotonic() - seconds_spent_compiling()

    @property
    def seconds(self) -> float:
        """What has passed."""
        return time.monotonic() - seconds_spent_compiling() - self._start


def wait_as_long(seconds: float) -> None:
    """Let this thread have waited as long for programs as another one, which it goes on for."""
    _compiling.seconds = seconds


def _threads() -> concurrent.futures.Executor:
    global _executor
    if _executor is None:
        _executor = concurrent.futures.ThreadPoolExecutor(_THREADS, "jaxqsdp-compile")
    return _executor


def _options(level: int) -> dict[str, Any]:
    """Return compiler options for the default backend, unless the user has set a level."""
    if jax.default_backend() != "cpu" or "xla_backend_optimization_level" in _flags():
        return {}
    options: dict[str, Any] = {"xla_backend_optimization_level": level}
    if jaxlib.version.__version_info__ < (0, 10):  # later ones do not know the flag
        options["xla_cpu_use_fusion_emitters"] = False
    return options


def _flags() -> str:
    return os.environ.get("XLA_FLAGS", "")


def context() -> tuple[bool, Any]:
    """Return what programs depend on besides their arguments."""
    config: Any = jax.config
    return config.jax_enable_x64, config.jax_default_device


def _is_array_like(leaf: Any) -> bool:
    return isinstance(leaf, (np.ndarray, np.generic, jax.Array, jax.ShapeDtypeStruct))


def _arrays(arguments: Any) -> Any:
    return eqx.filter(arguments, _is_array_like)


def _shape(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


def _give_back_memory() -> None:
    """Return freed memory to the system, which the allocator of glibc keeps otherwise."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)
