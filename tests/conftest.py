"""A strict environment: 64-bit, two CPU devices, and no silent promotion of dtype or rank."""

import gc
import os
import platform
import tempfile

import jaxlib.version

# One worker a core: more threads in each only get in each other's way. Workers inherit this.
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
# Compilation is most of the suite, so less is spent on it than users spend; what rests on rounding
# the gate runs again as they do, with a level given from outside. The fusion emitters take three
# quarters of the time to compile; jaxlib 0.12 no longer knows the flag. Without them, code for
# processors with fused multiplication is too inexact at level 0 for tight bounds.
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2 " + os.environ.get(
    "XLA_FLAGS", ""
)
if "xla_backend_optimization_level" not in os.environ["XLA_FLAGS"]:
    os.environ["XLA_FLAGS"] += " --xla_backend_optimization_level=0"
    if jaxlib.version.__version_info__ < (0, 10) and platform.machine() == "x86_64":
        os.environ["XLA_FLAGS"] += " --xla_cpu_use_fusion_emitters=false --xla_cpu_max_isa=SSE4_2"
        # Programs in one piece: to compile several at once takes cores that other workers have.
        os.environ["XLA_FLAGS"] += " --xla_cpu_parallel_codegen_split_count=1"

# The main job keeps programs in the user's folder.
os.environ["XDG_CACHE_HOME"] = tempfile.mkdtemp()

import jax
import numpy as np
import pytest
from covering import covering

from jaxqsdp._host import programs

jax.config.update("jax_enable_x64", True)
jax.config.update("jax_numpy_dtype_promotion", "strict")
jax.config.update("jax_numpy_rank_promotion", "raise")


# What tracing makes lives until it ends: to look for garbage in it often takes a sixth longer.
gc.set_threshold(200_000, 50, 50)

# What is solved often gets a program of its own, which takes as long to compile as the first.
_OFTEN, programs._OFTEN = programs._OFTEN, 1_000_000


# Files of minutes first, or the last of them keeps one worker busy and the others idle.
_LONGEST = [
    f"test_{name}.py"
    for name in ("transforms", "losses_gradients", "losses_solve", "solve", "adjoint", "main")
]


def pytest_addoption(parser):
    parser.addoption("--every", action="store_true", help="all combinations of parameters")


def _names(marker, item):
    """Return whether a marker is for all values of a test, or for those of one of them."""
    assert not marker.args, f"{item.nodeid}: `thorough` takes values by name"
    params = item.callspec.params if hasattr(item, "callspec") else {}
    return all(params.get(key) in values for key, values in marker.kwargs.items())


def pytest_collection_modifyitems(config, items):
    def place(item):
        return _LONGEST.index(item.path.name) if item.path.name in _LONGEST else len(_LONGEST)

    items.sort(key=place)
    by_name = any("::" in argument for argument in config.args)
    if not config.getoption("--every") and not by_name:
        families, left_out = {}, set()
        for item in items:
            if any(_names(marker, item) for marker in item.iter_markers("thorough")):
                left_out.add(item)
            elif marker := item.get_closest_marker("covering"):
                family = families.setdefault(item.nodeid.partition("[")[0], (marker.args[0], []))
                family[1].append(item)
        for strength, family in families.values():
            values = [{k: repr(v) for k, v in item.callspec.params.items()} for item in family]
            kept = covering(values, strength)
            left_out |= {item for index, item in enumerate(family) if index not in kept}
        config.hook.pytest_deselected(items=list(left_out))
        items[:] = [item for item in items if item not in left_out]


@pytest.fixture
def often(monkeypatch):
    """Have what is solved often get its program, as users do."""
    monkeypatch.setattr(programs, "_OFTEN", _OFTEN)


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request):
    return request.param


@pytest.fixture(scope="module", autouse=True)
def free_programs():
    """Unload what a module compiled: the mappings of memory that a process may have are limited."""
    yield
    jax.clear_caches()
    gc.collect()
