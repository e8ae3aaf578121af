"""How programs are compiled where numbers are concrete: cheaply, side by side, and not too many.

Under a transform everything is part of the caller's program and compiled with that. Outside, the
programs of this package are compiled here, because at first touch compilation is nearly all of the
time: of a solve, a hundredth part is computing.

- Little optimization. What takes long in them are products and factorizations, which are library
  calls; loops compiled at level 1 without XLA's fusion emitters run as fast as at level 3, and take
  a third of the time to compile, at level 0 half as fast and a tenth.
- `prepare` compiles in a thread of its own, side by side with others and with work on the host.
- Shapes are padded (`_padding`), so that near ones share a program.
- Only the programs used last are kept, so that memory does not grow with the number of shapes.
"""

from __future__ import annotations

import collections
import concurrent.futures
import ctypes
import functools
import os
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Generic, ParamSpec, TypeVar, cast

import equinox as eqx
import jax
import jaxlib.version
import numpy as np

from ._blas import one_blas_thread
from ._mesh import on_any_mesh
from ._threads import in_context
from ._types import is_concrete

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MOST_PROGRAMS = 64  # kept in memory, some 10 MB each
_MOST_COUNTED = 512
_OFTEN = 3  # calls with arguments of the same shapes
_THREADS = 3  # that compile: tracing takes turns, what XLA does is parallel


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
        compiled = self._future(arguments, in_turn=False).result()
        _compiling.seconds = seconds_spent_compiling() + time.monotonic() - start
        return compiled(_arrays(arguments))

    def is_repeated(self, *arguments: Any) -> bool:
        """Whether arguments like these came twice before; the second time it starts to compile."""
        count = _calls.add(self._key(arguments))
        if count == _OFTEN - 1:
            self.prepare(*arguments)
        return count >= _OFTEN

    def prepare(self, *arguments: Any) -> None:
        """Start to compile for arguments like these, arrays or `jax.ShapeDtypeStruct`."""
        self._future(arguments, in_turn=True)

    def _future(self, arguments: Any, in_turn: bool) -> concurrent.futures.Future[Any]:
        future, is_new = _programs.get_or_add(self._key(arguments))
        if is_new:
            work = self._compiler(arguments)
            # In another thread even if it is waited for: what the caller has set for tracing, such
            # as to evaluate at once, would hold for the program, and take long.
            if in_turn:
                _threads().submit(_run, future, work)
            else:
                threading.Thread(target=_run, args=(future, work)).start()
        return future

    def _key(self, arguments: Any) -> Any:
        leaves, structure = jax.tree.flatten(arguments)
        like = tuple((leaf.shape, leaf.dtype) if _is_array_like(leaf) else leaf for leaf in leaves)
        return self._function, self._level, structure, like, _context(), _flags()

    def _compiler(self, arguments: Any) -> Callable[[], Any]:
        shapes = jax.tree.map(_shape, _arrays(arguments))
        static = eqx.filter(arguments, _is_array_like, inverse=True)
        options = _options(self._level)

        def compile() -> Any:
            def function(arrays: Any) -> Any:
                return self._function(*eqx.combine(arrays, static))

            return jax.jit(function).lower(shapes).compile(compiler_options=options)

        return in_context(compile)


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

    def prepare(self, *arguments: Any) -> None:
        """Start to compile for arguments like these, arrays or `jax.ShapeDtypeStruct`."""
        self._once.prepare(*arguments)

    def _for(self, args: Any) -> HostProgram:
        repeated = self._often is not None and self._often.is_repeated(*args)
        return self._often if self._often is not None and repeated else self._once


def program(level: int, often: int | None = None) -> Callable[[Callable[_P, _T]], Program[_P, _T]]:
    """Make a `Program` of a function, as a decorator."""
    return lambda function: Program(function, level, often)


class _Programs:
    """The programs used last, each as a future, so that nobody compiles what another does."""

    def __init__(self) -> None:
        self._futures: collections.OrderedDict[Any, concurrent.futures.Future[Any]]
        self._futures = collections.OrderedDict()
        self._lock = threading.Lock()

    def get_or_add(self, key: Any) -> tuple[concurrent.futures.Future[Any], bool]:
        """Return the future of a program, and whether the caller is the one to compile it."""
        with self._lock:
            future = self._futures.get(key)
            if future is not None and not (future.done() and future.exception() is not None):
                self._futures.move_to_end(key)
                return future, False
            future = self._futures[key] = concurrent.futures.Future()
            dropped = len(self._futures) > _MOST_PROGRAMS
            if dropped:
                self._futures.popitem(last=False)
        if dropped:
            _give_back_memory()
        return future, True

    def __len__(self) -> int:
        return len(self._futures)

    def clear(self) -> None:
        """Forget all programs."""
        with self._lock:
            self._futures.clear()
        _give_back_memory()


class _Calls:
    """How often programs were asked for, of the last few hundred."""

    def __init__(self) -> None:
        self._counts: collections.OrderedDict[Any, int] = collections.OrderedDict()

    def clear(self) -> None:
        """Start anew."""
        self._counts.clear()

    def add(self, key: Any) -> int:
        """Count one more, and return how many there are."""
        count = self._counts.pop(key, 0) + 1
        self._counts[key] = count
        if len(self._counts) > _MOST_COUNTED:
            self._counts.popitem(last=False)
        return count


_programs, _calls = _Programs(), _Calls()
_executor: concurrent.futures.ThreadPoolExecutor | None = None
_compiling = threading.local()


def clear_programs() -> None:
    """Forget all programs that were compiled here, and how often they were asked for."""
    _programs.clear()
    _calls.clear()


def on_host(*values: Any) -> bool:
    """Whether the numbers are concrete, in reach of NumPy, and no transform is under way."""
    if not is_concrete(values) or _is_staging():
        return False
    arrays = (leaf for leaf in jax.tree.leaves(values) if isinstance(leaf, jax.Array))
    return all(len(array.devices()) == 1 and array.is_fully_addressable for array in arrays)


def _is_staging() -> bool:
    """Whether a transform such as `jit` records operations, even on concrete numbers."""
    if jax.core.trace_ctx.is_top_level():
        return False
    zero = np.float32(0)
    return isinstance(jax.lax.add(zero, zero), jax.core.Tracer)


def seconds_spent_compiling() -> float:
    """Return how long this thread has waited for programs, which time limits do not count."""
    return getattr(_compiling, "seconds", 0.0)


def _run(future: concurrent.futures.Future[Any], work: Callable[[], Any]) -> None:
    try:
        future.set_result(work())
    except BaseException as error:  # for those who wait; the caller among them raises it
        future.set_exception(error)


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


def _context() -> tuple[bool, Any]:
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
