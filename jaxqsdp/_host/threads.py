"""Work in several threads at a time."""

from __future__ import annotations

import concurrent.futures
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import jax

_P = ParamSpec("_P")
_T = TypeVar("_T")


def map_in_threads(function: Callable[[_T], Any], items: Iterable[_T], threads: int) -> list[Any]:
    """Apply a function to each, so many at a time; the first to fail ends it."""
    if threads == 1:
        return [function(item) for item in items]
    with concurrent.futures.ThreadPoolExecutor(threads) as executor:
        futures = [executor.submit(in_context(function), item) for item in items]
        try:
            return [future.result() for future in futures]
        except BaseException:
            executor.shutdown(cancel_futures=True)
            raise


def in_context(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return the function for another thread, which does not see what a context manager has set."""
    config: Any = jax.config
    double, device = config.jax_enable_x64, config.jax_default_device

    def in_thread(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with jax.enable_x64(double), jax.default_device(device):
            return function(*args, **kwargs)

    return in_thread
