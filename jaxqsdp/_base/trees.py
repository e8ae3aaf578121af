"""Pytrees as one value."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

from .types import namespace


def select(condition: Any, new: Any, old: Any) -> Any:
    """Return `new` where the scalar condition holds and `old` elsewhere, leaf by leaf."""
    return jax.tree.map(lambda a, b: namespace(condition, a, b).where(condition, a, b), new, old)


def unstacked(tree: Any) -> list[Any]:
    """Return the trees that are stacked in one, by the first axis of all leaves, on the host."""
    leaves, structure = jax.tree.flatten(jax.tree.map(np.asarray, tree))
    return [jax.tree.unflatten(structure, each) for each in zip(*leaves, strict=True)]
