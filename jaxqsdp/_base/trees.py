"""Pytrees as one value."""

from __future__ import annotations

from typing import Any

import jax

from .types import namespace


def select(condition: Any, new: Any, old: Any) -> Any:
    """Return `new` where the scalar condition holds and `old` elsewhere, leaf by leaf."""
    return jax.tree.map(lambda a, b: namespace(condition, a, b).where(condition, a, b), new, old)
