"""The loops of `jax.lax`, to be used in place of these: they start inside `jax.shard_map` as well.

With its checks on, JAX wants what goes round a loop to vary along the same axes of the mesh before
and after a step. What starts from constants, as most does, varies along none before, and along
those of the data after; or a step makes constants of what varied. Here start and steps are cast to
the axes along which either varies. Elsewhere nothing changes.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from .mesh import Axes, axes_of, cast, in_shard_map

_T = TypeVar("_T")


def while_loop(
    goes_on: Callable[[_T], Any], step: Callable[[_T], _T], start: _T, xp: Any = jnp
) -> _T:
    """As `jax.lax.while_loop`; a loop of Python's if `xp` is NumPy."""
    if xp is np:
        while goes_on(start):
            start = step(start)
        return start
    start, alike = _settled(step, start)
    return jax.lax.while_loop(goes_on, lambda carry: alike(step(carry)), start)


def fori_loop(first: Any, end: Any, step: Callable[[Any, _T], _T], start: _T, xp: Any = jnp) -> _T:
    """As `jax.lax.fori_loop`; a loop of Python's if `xp` is NumPy."""
    if xp is np:
        for index in range(first, end):
            start = step(index, start)
        return start
    start, alike = _settled(lambda carry: step(first, carry), start)
    return jax.lax.fori_loop(first, end, lambda index, carry: alike(step(index, carry)), start)


def scan(
    step: Callable[[_T, Any], tuple[_T, Any]],
    start: _T,
    items: Any = None,
    length: int | None = None,
) -> tuple[_T, Any]:
    """As `jax.lax.scan`."""

    def first_step(carry: _T) -> _T:
        return step(carry, jax.tree.map(lambda array: array[0], items))[0]

    start, alike = _settled(first_step, start)

    def following(carry: _T, item: Any) -> tuple[_T, Any]:
        after, found = step(carry, item)
        return alike(after), found

    return jax.lax.scan(following, start, items, length=length)


def _settled(step: Callable[[_T], _T], start: _T) -> tuple[_T, Callable[[_T], _T]]:
    """Cast the start so that a step adds nothing to the axes along which it varies.

    And return what casts the carry after a step so that it lacks none of these.
    """
    if not in_shard_map():
        return start, lambda carry: carry
    leaves, structure = jax.tree.flatten(start)

    def axes_after(leaves: list[Any]) -> list[Axes]:
        axes: list[Axes] = []

        def probe(leaves: list[Any]) -> None:
            axes.extend(map(axes_of, jax.tree.leaves(step(jax.tree.unflatten(structure, leaves)))))

        jax.eval_shape(probe, leaves)
        return axes

    def alike(carry: _T) -> _T:
        leaves, found = jax.tree.flatten(carry)
        if len(leaves) != len(settled):
            return carry  # JAX says so
        return jax.tree.unflatten(found, cast(leaves, settled))

    # What is added to one leaf may pass to another in the next step.
    while True:
        settled = list(map(axes_of, leaves))
        after = axes_after(leaves)
        if all(new <= old for new, old in zip(after, settled, strict=True)):
            return jax.tree.unflatten(structure, leaves), alike
        leaves = cast(leaves, after)
