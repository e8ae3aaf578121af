"""Bounds on logarithms and exponentials, against decimal arithmetic with digits enough."""

import decimal
import functools
from decimal import Decimal

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jaxqsdp._exact.elementary import (
    entropy_above,
    log_one_plus_exp_above,
    log_sum_exp_above,
    x_log_x_above,
)

_CONTEXT = decimal.Context(prec=60, Emin=-(10**6), Emax=10**6)
_SMALL = Decimal("1e-15")  # where three terms of a series are right to 45 digits
LENGTH = 64  # of all arrays, so that little is compiled


def log_one_plus(x):
    """ln(1 + x), also for x so small that 1 + x has more digits than there are."""
    if abs(x) < _SMALL:
        return x - x * x / 2 + x * x * x / 3
    return (1 + x).ln()


def entropy(q):
    """q ln q + (1 − q) ln(1 − q) of one floating-point number, exactly."""
    with decimal.localcontext(_CONTEXT):
        small = Decimal(float(q))
        if small > Decimal("0.5"):
            small = 1 - small  # exact: at most 53 digits after the point count
        if small == 0:
            return Decimal(0)
        return small * small.ln() + (1 - small) * log_one_plus(-small)


def log_one_plus_exp(x):
    """ln(1 + e^x) of one floating-point number, exactly."""
    with decimal.localcontext(_CONTEXT):
        x = Decimal(float(x))
        return max(x, Decimal(0)) + log_one_plus((-abs(x)).exp())


def x_log_x(q):
    """q ln q of one floating-point number, exactly."""
    with decimal.localcontext(_CONTEXT):
        q = Decimal(float(q))
        if q == 0:
            return Decimal(0)
        return q * (log_one_plus(q - 1) if 2 * q > 1 else q.ln())


FUNCTIONS = {
    "entropy": (entropy_above, entropy),
    "x ln x": (x_log_x_above, x_log_x),
    "softplus": (log_one_plus_exp_above, log_one_plus_exp),
}


def _ulps(name, x):
    """By how much a bound may be above: more where e^x has to be small, or x itself is rounded."""
    if name == "x ln x":
        return 80 + 4 / max(abs(_log_of(x)), Decimal("1e-18"))
    return 48 + (4 * abs(Decimal(float(x))) if name == "softplus" and x < 0 else 0)


def _log_of(q):
    with decimal.localcontext(_CONTEXT):
        q = Decimal(float(q))
        return log_one_plus(q - 1) if 2 * q > 1 else q.ln() if q > 0 else Decimal(1)


def _floor(name, x, tiny):
    """What bounds may add where results are not far from the smallest normal number."""
    if name == "softplus":  # e^x is that of −0.9·|ln tiny| from there on
        return Decimal(1.01 * tiny**0.9 if x < 0.9 * np.log(tiny) else tiny)
    return 20 * Decimal(tiny) * (1 - Decimal(tiny).ln())  # q ln q becomes 0


@functools.cache
def compiled(name):
    return jax.jit(FUNCTIONS[name][0])


def check(name, arguments, dtype):
    """Both NumPy and JAX are never below, and little above except next to the smallest numbers."""
    arguments = np.asarray(arguments, dtype)
    filled = np.resize(arguments, -(-arguments.size // LENGTH) * LENGTH)
    function, exactly = FUNCTIONS[name]
    exact = [exactly(x) for x in arguments]
    info = np.finfo(dtype)
    rows = filled.reshape(-1, LENGTH)
    ways = {
        "NumPy": _quietly(function, filled),
        "JAX": np.concatenate([np.asarray(compiled(name)(row)) for row in rows]),
    }
    for way, found in ways.items():
        assert found.dtype == dtype
        for x, bound, value in zip(arguments, found[: arguments.size], exact, strict=True):
            with decimal.localcontext(_CONTEXT):
                bound, slack = (
                    Decimal(float(bound)),
                    _ulps(name, x) * Decimal(float(info.eps)) * abs(value),
                )
                assert bound >= value, (way, x)
                most = value + slack + _floor(name, x, float(info.tiny))
                overflows = bound.is_infinite() and most > Decimal(float(info.max))
                assert bound <= most or overflows, (way, x, bound - value, value)


def _quietly(function, *arguments):
    with np.errstate(all="ignore"):  # the largest number overflows, rightly
        return function(*arguments)


def edges(dtype):
    """Arguments of both functions where something changes."""
    info = np.finfo(dtype)
    tiny, eps = float(info.tiny), float(info.eps)
    falling = -np.log(tiny)
    q = [0, tiny * eps, tiny / 2, tiny, 2 * tiny, 16 * tiny, 17 * tiny, 1e-30, eps, 2**-12, 0.125]
    q += [1 / 3, 0.375, 0.5 - eps, 0.5, 0.5 + eps, 2 / 3, 0.75, 1 - 2**-12, 1 - eps, 1 - eps / 2, 1]
    x = [0, tiny * eps, tiny, 1e-30, eps, 0.1, 0.3465, 0.3466, np.log(2), 1, 10, 36, 37, 38]
    x += [0.89 * falling, 0.9 * falling, 0.91 * falling, falling, 1.1 * falling, 1e4, info.max]
    return np.array(q, dtype), np.array([*x, *(-one for one in x)], dtype)


def test_at_the_edges(dtype):
    q, x = edges(dtype)
    check("entropy", q, dtype)
    check("x ln x", q, dtype)
    check("softplus", x, dtype)


def test_exact_where_it_can_be(dtype):
    ends = np.array([0, 1], dtype)
    assert np.all(entropy_above(ends) == 0)
    assert np.all(np.asarray(compiled("entropy")(np.resize(ends, LENGTH))) == 0)
    infinite = np.array([np.inf], dtype)
    for function in (log_one_plus_exp_above, compiled("softplus")):
        assert function(np.resize(infinite, LENGTH))[0] == np.inf
        assert 0 <= function(np.resize(-infinite, LENGTH))[0] <= 2 * np.finfo(dtype).tiny ** 0.9


def test_outside_as_at_the_ends(dtype):
    """Enclosures of numbers in [0, 1] may stick out by a rounding error."""
    outside = np.resize(np.array([-1e-7, 1 + 1e-6, -1.0, 7.0], dtype), LENGTH)
    assert np.all(entropy_above(outside) == 0)
    assert np.all(np.asarray(compiled("entropy")(outside)) == 0)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_nan_bounds_nothing(name, dtype):
    nothing = np.full(LENGTH, np.nan, dtype)
    found = _quietly(FUNCTIONS[name][0], nothing)
    for bound in (found, compiled(name)(nothing)):
        assert not np.any(np.isfinite(bound))


def test_at_many_numbers(dtype):
    rng = np.random.default_rng(0)
    q = rng.uniform(size=1000)
    far = np.exp(rng.uniform(np.log(float(np.finfo(dtype).tiny)), 0, 500))
    eps = float(np.finfo(dtype).eps)
    near = 1 - np.exp(rng.uniform(np.log(eps), 0, 500))
    check("entropy", np.concatenate([q, far, near]), dtype)
    check("x ln x", np.concatenate([q, far, near]), dtype)
    x = np.concatenate([3 * rng.standard_normal(1000), rng.uniform(-80, 80, 1000)])
    check("softplus", x, dtype)


def floats(dtype, **limits):
    return st.floats(width=np.finfo(dtype).bits, allow_nan=False, **limits)


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_at_any_numbers(dtype):
    @settings(max_examples=100, deadline=None, derandomize=True)
    @given(
        st.lists(floats(dtype, min_value=0, max_value=1), min_size=1, max_size=LENGTH),
        st.lists(floats(dtype, allow_infinity=False), min_size=1, max_size=LENGTH),
    )
    def holds(q, x):
        check("entropy", q, dtype)
        check("x ln x", q, dtype)
        check("softplus", x, dtype)

    holds()


def log_sum_exp(numbers):
    """ln Σ e^x of one row of floating-point numbers, exactly."""
    with decimal.localcontext(_CONTEXT):
        numbers = [Decimal(float(x)) for x in numbers]
        largest = max(numbers)
        others = sum(((x - largest).exp() for x in numbers), Decimal(-1))
        return largest + log_one_plus(others)


@pytest.mark.parametrize("count", [2, 10])
@pytest.mark.parametrize("spread", [1e-3, 1.0, 30.0, 300.0])
def test_sums_of_exponentials(count, spread, dtype):
    rng = np.random.default_rng(count)
    x = (spread * rng.standard_normal((LENGTH, count))).astype(dtype)
    x[:, 0] = np.maximum(x[:, 0], 0)
    x[: LENGTH // 2, 0] = 0
    x[::4] = -np.abs(x[::4])  # and then 0 is the largest of them
    x[::4, 0] = 0
    info = np.finfo(dtype)
    for bounds in (log_sum_exp_above(x), jax.jit(log_sum_exp_above)(x)):
        assert bounds.dtype == dtype
        for row, bound in zip(x, np.asarray(bounds), strict=True):
            exact = log_sum_exp(row)
            assert exact <= Decimal(float(bound))
            size = abs(exact) * (60 + 4 * count) + sum(
                12 * Decimal(float(max(row) - one)) * (Decimal(float(one - max(row)))).exp()
                for one in row
            )
            floor = Decimal(2 * count * float(info.tiny) ** 0.9)
            assert Decimal(float(bound)) <= exact + size * Decimal(float(info.eps)) + floor
