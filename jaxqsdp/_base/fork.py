"""Processes that were forked while JAX was at work."""

from __future__ import annotations

import os

from jax._src import xla_bridge

_at_work = False  # JAX, in this process as it forks
_is_broken = False  # JAX, in this process, as threads do not survive a fork


def check_process() -> None:
    """Raise `RuntimeError` where JAX would wait for ever for threads that are not there."""
    if _is_broken:
        raise RuntimeError(
            "this process was forked from one in which JAX was at work already, and JAX would hang "
            'here. Start processes by `multiprocessing.get_context("spawn")`, or as joblib does by '
            "default; or fork before anything is computed."
        )


def _before() -> None:
    global _at_work
    # No public function tells. JAX itself warns of a fork under the same condition.
    _at_work = xla_bridge.backends_are_initialized()


def _after_in_child() -> None:
    global _is_broken
    _is_broken = _is_broken or _at_work


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before, after_in_child=_after_in_child)
