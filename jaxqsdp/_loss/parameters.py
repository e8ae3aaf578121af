"""Numbers that a loss depends on: leaves of its pytree, so that they can be batched and traced."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from .._base.types import as_number, host_numbers, is_concrete


def positive(name: str, below: float = float("inf")) -> Callable[[Any], Any]:
    """Return what converts a parameter to an array, and raises `ValueError` where it is not
    between 0 and `below`.
    """

    def convert(value: Any) -> Any:
        if not is_concrete(value):
            return value
        many = isinstance(value, np.ndarray | jax.Array) and value.ndim > 0  # for `jax.vmap`
        number = np.asarray(host_numbers(value, name) if many else as_number(value, name), float)
        if not np.all((number > 0) & (number < below)):
            remedy = "be positive and finite" if np.isinf(below) else f"lie between 0 and {below:g}"
            raise ValueError(f"`{name}` must {remedy}, got {value!r}.")
        return number

    return convert
