"""Random numbers on the host that are those of a JAX key, or follow from it."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import PRNGKeyArray
from numpy.typing import NDArray

from .programs import HostProgram


def normal_numbers(key: PRNGKeyArray, shape: tuple[int, ...], dtype: Any) -> NDArray:
    """Return `jax.random.normal(key, shape, dtype)`, from one of a few programs.

    Threefry, in the form that is JAX's default, numbers its blocks: a longer vector begins with the
    shorter one.
    """
    size = int(np.prod(shape))
    config: Any = jax.config
    if config.jax_threefry_partitionable and str(jax.random.key_impl(key)) == "threefry2x32":
        numbers = _program(key, 2 ** max(size - 1, 2**10).bit_length(), np.dtype(dtype).name)
        return np.asarray(numbers)[:size].reshape(shape)
    return np.asarray(jax.random.normal(key, shape, dtype))


def generator(key: PRNGKeyArray) -> np.random.Generator:
    """Return NumPy's generator seeded by a JAX key."""
    data = key if key.dtype == np.uint32 else jax.random.key_data(key)
    return np.random.default_rng(np.asarray(data))


_program = HostProgram(lambda key, size, dtype: jax.random.normal(key, (size,), dtype), level=0)
