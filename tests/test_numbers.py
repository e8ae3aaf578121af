"""User numbers of every kind: rounded once, on the host, and never wrapped around."""

import decimal
import fractions
import json
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

import jaxqsdp as qs
from jaxqsdp._base.types import as_float_array, cast

LARGE = [1e9, 2**31, 2**32, 2**33 + 7, 3e18]  # all beyond int32 but for the first


@pytest.fixture(params=[False, True], ids=["32-bit mode", "64-bit mode"])
def wide(request):
    """Run in both modes of JAX; gives the dtype of its numbers."""
    with jax.enable_x64(request.param):
        yield np.float64 if request.param else np.float32


FORMS = {
    "int64": lambda values: np.array(values, np.int64),
    "uint64": lambda values: np.array(values, np.uint64),
    "list of Python integers": lambda values: [int(value) for value in values],
    "objects": lambda values: np.array([int(value) for value in values], object),
    "DataFrame column": lambda values: pd.Series(np.array(values, np.int64)),
    "nullable column": lambda values: pd.Series(np.array(values, np.int64)).astype("Int64"),
    "fractions": lambda values: [fractions.Fraction(value) for value in values],
    "decimals": lambda values: [decimal.Decimal(value) for value in values],
    "long doubles": lambda values: np.array(values, np.longdouble),
    "doubles": lambda values: np.array(values, np.float64),
    "NumPy scalars": lambda values: [np.int64(value) for value in values],
}


@pytest.mark.parametrize("form", list(FORMS))
def test_large_numbers_are_rounded_not_wrapped(form, wide):
    found = as_float_array(FORMS[form](LARGE), "y")
    assert found.dtype == wide
    np.testing.assert_array_equal(np.asarray(found), np.array(LARGE, wide))


def test_tables_and_integers_beyond_64_bits(wide):
    frame = pd.DataFrame({"a": [2**40, 1], "b": [True, False], "c": [0.5, 2.0]})
    expected = np.array([[2**40, 1, 0.5], [1, 0, 2]], wide)
    np.testing.assert_array_equal(np.asarray(as_float_array(frame, "X")), expected)
    for value in (2**70, np.array(2**70, object), [2**70, -1]):
        assert np.ravel(np.asarray(as_float_array(value, "y")))[0] == wide(2.0**70)


def test_narrow_numbers_and_dtypes(wide):
    for dtype in (np.float16, jnp.bfloat16, np.float32):
        assert as_float_array(np.ones(2, dtype), "X").dtype == np.float32
        assert as_float_array(jnp.ones(2, dtype), "X").dtype == np.float32
    for value in (True, 3, 2.5, np.float16(2), np.int8(2), np.bool_(True)):
        found = as_float_array(value, "beta")
        assert (found.shape, float(found)) == ((), float(value))
    assert as_float_array(np.float32(0.1), "beta").dtype == np.float32


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (10**400, ValueError),
        ([1, -(10**400)], ValueError),
        ([1, "2"], TypeError),
        (np.array([1, "2"], object), TypeError),
        (np.array([1, None], object), TypeError),
        (np.array([1, 1j], object), TypeError),
        (np.array(["2020-01-01"], "datetime64[D]"), TypeError),
        (np.array([1], "timedelta64[D]"), TypeError),
        (np.ma.masked_array([1.0, 2.0], [0, 1]), TypeError),
        ({"a": 1}, TypeError),
        (np.zeros(2, [("a", float)]), TypeError),
        (np.longdouble("1e4000"), ValueError),
    ],
)
def test_what_is_no_number_is_refused_by_name(value, error, wide):
    with pytest.raises(error, match="`sample_weight`"):
        as_float_array(value, "sample_weight")


def test_too_large_for_single_precision():
    X, y = np.ones((3, 1)), np.array([1.0, 1e39, 2.0])
    with jax.enable_x64(False):
        with pytest.raises(ValueError, match=r"`y` has values too large for float32 .*\(1,\)"):
            qs.Problem(X, y, 1.0)
        with pytest.raises(ValueError, match=r"`beta` has values too large for float32; resc"):
            qs.Problem(X, [1, 2, 3], 10**40)
    narrow = X.astype(np.float32)
    with pytest.raises(ValueError, match=r"`beta` has values too large for float32"):
        qs.Problem(narrow, np.float32([1, 2, 3]), 1e39)
    with pytest.raises(ValueError, match=r"`betas` has values too large for float32"):
        qs.path(narrow, np.float32([1, 2, 3]), betas=[1e39])
    with pytest.raises(ValueError, match=r"`query` has values too large for float32"):
        qs.RelaxationLayer(1.0)(narrow, np.float32([1, 2, 3]), np.full((1, 1), 1e39))
    with pytest.raises(ValueError, match="`beta` is too small for float32"):
        qs.Problem(narrow, np.float32([1, 2, 3]), 1e-39)  # subnormal
    assert qs.Problem(X, y, 1.0).y.dtype == np.float64


def test_widening_keeps_subnormal_numbers():
    X, y = np.full((2, 1), 1e-40, np.float32), np.ones(2)
    for narrow in (X, jnp.asarray(X)):
        np.testing.assert_array_equal(np.asarray(qs.Problem(narrow, y, 1.0).X), X.astype(float))


def test_cast_keeps_the_devices():
    devices = jax.sharding.Mesh(jax.devices()[:2], "a")
    sharding = jax.sharding.NamedSharding(devices, jax.sharding.PartitionSpec("a"))
    array = jax.device_put(np.arange(4, dtype=np.float32), sharding)
    assert cast(array, np.float64, "X").sharding == sharding


def test_tracers_pass():
    def total(x):
        return jnp.sum(as_float_array([x, 2, x], "y"))

    assert jax.jit(total)(1) == jax.vmap(total)(jnp.ones(1))[0] == 4
    assert jax.jit(lambda y: as_float_array(y, "y"))(np.int8(3)).dtype == np.float64


_FALSE_BOUND = """
import json, sys
import numpy as np
import jaxqsdp as qs
X, beta = np.array([[1, 1], [1, 2], [1, 3], [1, 4], [1, 5]]), 1
y = np.array([1, 2, 3, 4, 5]) * 10**9
u, v = [[1, 1], [1, -1]], [[1, 1], [1, 1]]
bounds = []
for y, weight, beta in (
    (y, None, 1),
    (y.astype(np.uint64), np.full(5, 2**32), 2**33 + 7),
):
    problem = qs.Problem(X, y, beta, sample_weight=weight)
    solution = qs.solve(problem, throw=False)
    network = qs.QuantizedNetwork.from_weights([[1, 1]], [[1, 1]], [0])
    proof = qs.certify(problem, network, solution)
    again = qs.certify(problem, network, solution, dual=y.astype(object))
    bounds.append([float(b) for b in (solution.lower_bound, proof.lower_bound, again.lower_bound,
        proof.objective, problem.objective(network))])
print(json.dumps(bounds))
"""


def test_large_integers_in_32_bit_mode_get_true_bounds():
    """In a process as users have it, where `enable_x64` never was on."""
    done = subprocess.run(
        [sys.executable, "-c", _FALSE_BOUND], capture_output=True, text=True, check=True
    )
    # β‖α‖₁ ≤ 5e8·β for an exact network: y = ¼(x₁ + x₂)² − ¼(x₁ − x₂)², in units of 1e9.
    y = 1e9 * np.arange(1, 6)
    zero = 0.5 * np.sum(y**2)
    for (solved, proven, again, above, objective), weight, beta in zip(
        json.loads(done.stdout), (1, 2**32), (1, 2**33 + 7), strict=True
    ):
        for bound in (solved, proven, again):
            assert 0 < bound <= 5e8 * beta
        assert proven > 0.5 * 5e8 * beta  # in float64
        assert above >= weight * zero * (1 - 1e-6)
        np.testing.assert_allclose([above, objective], weight * zero, rtol=1e-6)
