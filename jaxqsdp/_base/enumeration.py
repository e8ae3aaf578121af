"""Enumerations whose text can be had for any leaf, NumPy's included."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import numpy as np

from .text import numbers_of

_Meta: Any = type(eqx.Enumeration)


class ReadableMeta(_Meta):
    """`Kind[item]`: the text of one item, a line for each kind of many, or "unknown"."""

    def __getitem__(cls, item: Any) -> str:
        if not isinstance(item, cls):
            raise ValueError(f"index by an item of {cls.__name__}, got {type(item).__name__}.")
        leaves = jax.tree.leaves(item)
        if any(isinstance(leaf, jax.core.Tracer) for leaf in leaves):
            return "traced"
        counts = count_items(cls, item)
        if counts is None:
            return "unknown"
        texts: list[str] = cls._index_to_message
        found = [(count, text) for count, text in zip(counts.values(), texts, strict=True) if count]
        if getattr(leaves[0], "ndim", 0) == 0:
            return found[0][1]
        return "\n".join(f"{count} × {text}" for count, text in found)


def count_items(kind: Any, items: Any) -> dict[str, int] | None:
    """Return how often each item of an enumeration occurs, or None where that cannot be seen."""
    leaves = numbers_of(*jax.tree.leaves(items))
    names = list(kind._name_to_item)
    if leaves is None or len(leaves) != 1 or not np.all(np.isin(leaves[0], range(len(names)))):
        return None
    return {name: int((leaves[0] == code).sum()) for code, name in enumerate(names)}
