"""Work in several threads at a time."""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import jax

_P = ParamSpec("_P")
_T = TypeVar("_T")

_BEFORE_THREADS = 8  # items: work that ends with them is not worth any


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


def num_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work_off(function: Callable[[_T], list[_T]], first: _T, deadline: float) -> bool:
    """Apply a function, on all cores, to an item and to those that it returns, the last ones first.

    Return whether none is left at the deadline. Threads are there once there is work for them.
    """
    stack, threads, done = [first], num_cores(), 0
    while stack and (threads == 1 or len(stack) < 2 or done < _BEFORE_THREADS):
        if time.monotonic() > deadline:
            return False
        stack += function(stack.pop())
        done += 1
    if not stack:
        return True
    with concurrent.futures.ThreadPoolExecutor(threads) as executor:
        running: set[concurrent.futures.Future[list[_T]]] = set()
        while stack or running:
            if time.monotonic() > deadline:
                return False
            while stack and len(running) <= threads:  # one waits
                running.add(executor.submit(function, stack.pop()))
            over, running = concurrent.futures.wait(
                running, return_when=concurrent.futures.FIRST_COMPLETED
            )
            for one in over:
                stack += one.result()
    return True


def in_context(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Return the function for another thread, which does not see what a context manager has set."""
    config: Any = jax.config
    double, device = config.jax_enable_x64, config.jax_default_device

    def in_thread(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with jax.enable_x64(double), jax.default_device(device):
            return function(*args, **kwargs)

    return in_thread
