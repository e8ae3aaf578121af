"""One thread for BLAS, whose threads spin while they wait for a core that others use."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator
from typing import Any, ParamSpec, TypeVar

from threadpoolctl import ThreadpoolController

_P = ParamSpec("_P")
_T = TypeVar("_T")

_MANY_UNKNOWNS = 1024  # from which factorizations take their time and a second thread halves it

_lock = threading.Lock()
_entered = 0
_limit: Any = None


@functools.cache
def _controller() -> ThreadpoolController:
    """Find the libraries once, which takes longer than a small solve."""
    return ThreadpoolController().select(user_api="blas")


@contextlib.contextmanager
def one_blas_thread() -> Iterator[None]:
    """Let BLAS and LAPACK, NumPy's and SciPy's, use one thread within.

    Matrices here are small, so more threads gain little on a quiet machine. Next to one busy
    process they made a solve fifty times slower, and those of a batch, which works on every core
    itself, fight each other. The setting is one for the process, so the first to enter makes it
    and the last to leave takes it back.
    """
    global _entered, _limit
    with _lock:
        if _entered == 0:
            _limit = _controller().limit(limits=1)
        _entered += 1
    try:
        yield
    finally:
        with _lock:
            _entered -= 1
            if _entered == 0:
                _limit.restore_original_limits()


def threads_for(unknowns: int) -> contextlib.AbstractContextManager[None]:
    """Return `one_blas_thread` for systems of so many unknowns, unless more threads are of use."""
    return one_blas_thread() if unknowns <= _MANY_UNKNOWNS else contextlib.nullcontext()


def with_one_blas_thread(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Run `function` within `one_blas_thread`."""

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with one_blas_thread():
            return function(*args, **kwargs)

    return wrapped
