"""Texts of results, for whatever their leaves are.

A pytree of one of our classes need not hold numbers: gradients and partitions have None in it,
`eqx.filter_eval_shape` puts shapes there, transforms tracers, and stacking more axes.
"""

from __future__ import annotations

import dataclasses
import decimal
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

_LONGEST = 60  # characters of a leaf that is no array
_SUBNORMAL = 1e-290  # nearly


def numbers_of(*leaves: Any) -> list[np.ndarray] | None:
    """Return leaves as NumPy arrays, or None unless all are real numbers that can be looked at."""
    arrays = []
    for leaf in leaves:
        array = _array_of(leaf)
        kinds = jnp.bool_, jnp.integer, jnp.floating
        if array is None or not any(jnp.issubdtype(array.dtype, kind) for kind in kinds):
            return None
        arrays.append(array)
    return arrays


def _array_of(leaf: Any) -> np.ndarray | None:
    if isinstance(leaf, jax.Array):
        seen = not isinstance(leaf, jax.core.Tracer) and not leaf.is_deleted()
        seen = seen and leaf.is_fully_addressable
        return np.asarray(leaf) if seen and not is_key(leaf) else None
    if isinstance(leaf, np.ndarray | np.generic | bool | int | float):
        return np.asarray(leaf)
    return None


def is_key(leaf: jax.Array) -> bool:
    """Whether these are random keys, which have no numbers."""
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def is_traced(*trees: Any) -> bool:
    """Whether a transform is tracing any leaf."""
    return any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(trees))


def shape_of(leaf: Any) -> tuple[int, ...] | None:
    """Return the shape of an array, tracer or shape, and None for what is none of these."""
    shape = getattr(leaf, "shape", None)
    return shape if isinstance(shape, tuple) and hasattr(leaf, "dtype") else None


def outline(module: Any) -> str:
    """Return a text that says what each field holds, whatever that is."""
    fields = ", ".join(
        f"{field.name}={_short(getattr(module, field.name, '?'))}"
        for field in dataclasses.fields(module)
    )
    return f"{type(module).__name__}({fields})"


def settings(module: Any) -> str:
    """Return a text with the numbers in the fields, for a module that holds few of them."""
    fields = ", ".join(
        f"{field.name}={_number(getattr(module, field.name, '?'))}"
        for field in dataclasses.fields(module)
    )
    return f"{type(module).__name__}({fields})"


def _number(value: Any) -> str:
    arrays = numbers_of(value)
    return f"{float(arrays[0]):g}" if arrays and arrays[0].ndim == 0 else _short(value)


def rounded_down(number: float, digits: int = 7) -> str:
    """Return so many digits of a number, none of which makes it larger: of a lower bound."""
    return _rounded(number, digits, decimal.ROUND_FLOOR)


def rounded_up(number: float, digits: int = 7) -> str:
    """Return so many digits of a number, none of which makes it smaller."""
    return _rounded(number, digits, decimal.ROUND_CEILING)


def _rounded(number: float, digits: int, rounding: str) -> str:
    number = float(number)
    if not math.isfinite(number):
        return f"{number:g}"
    exact = decimal.Context(digits, rounding).create_decimal(number)
    if abs(number) < _SUBNORMAL:  # floats are not as many digits apart
        return f"{exact:g}"
    return f"{float(exact):.{digits}g}"


def _short(value: Any) -> str:
    shape = shape_of(value)
    if shape is not None:
        return f"{value.dtype}[{','.join(map(str, shape))}]"
    text = repr(value)
    if dataclasses.is_dataclass(value) or len(text) <= _LONGEST:
        return text
    return f"{text[:_LONGEST]}…"
