"""A strict environment: 64-bit, two CPU devices, and no silent promotion of dtype or rank."""

import os

# One worker a core: more threads in each only get in each other's way. Workers inherit this.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Compilation is most of the suite, so less is spent on it than users spend; what rests on rounding
# the gate runs again as they do. Flags given from outside come last and win.
os.environ["XLA_FLAGS"] = (
    "--xla_backend_optimization_level=0 --xla_force_host_platform_device_count=2 "
    + os.environ.get("XLA_FLAGS", "")
)

import jax
import numpy as np
import pytest

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(scope="module", autouse=True)
def free_programs():
    """Unload what a module compiled: the mappings of memory that a process may have are limited."""
    yield
    jax.clear_caches()
