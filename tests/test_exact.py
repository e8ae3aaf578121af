"""Inner products that are exact up to their last bit, against rational arithmetic."""

from fractions import Fraction

import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from referee import integers

from jaxqsdp._exact.powers import is_subnormal, power_of_two, power_with_exponent, rescaled, root
from jaxqsdp._exact.sums import _BLOCK, inner, over_blocks, scale_rows, to_digits

LEFT, RIGHT = 3, 2
ROWS = [1, 30, 1025, 2500]  # one exact product sums 1024 rows


def multiply_digits(x, y):
    return inner(to_digits(x), to_digits(y))


def multiply_weighted(w, x):
    return inner(scale_rows(to_digits(w[:, None]), to_digits(x)), to_digits(x))


# Traced by JAX, and as NumPy computes it on the host.
split = {"traced": jax.jit(to_digits), "host": to_digits}
multiply = {"traced": jax.jit(multiply_digits), "host": multiply_digits}
weighted = {"traced": jax.jit(multiply_weighted), "host": multiply_weighted}


@pytest.fixture(params=["traced", "host"])
def where(request):
    return request.param


def drawn(kind, rows, columns, dtype, seed):
    """Return numbers with many bits, scaled in one of the ways that break plain summation."""
    rng = np.random.default_rng((seed, rows, columns))
    x = rng.standard_normal((rows, columns))
    if kind == "columns far apart":
        x = x * 2.0 ** rng.integers(-40, 1, columns)
    elif kind == "rows far apart":
        x = x * 2.0 ** rng.integers(-40, 1, (rows, columns))
    elif kind == "cancelling":
        x[rows // 2 :] = -x[: rows - rows // 2] * (1 + 1e-7 * x[rows // 2 :])
    elif kind == "powers of two":
        x = np.sign(x) * 2.0 ** rng.integers(-5, 5, (rows, columns))
    elif kind == "sparse":
        x = x * (rng.random((rows, columns)) < 0.1)
    return x.astype(dtype)


KINDS = [
    "moderate", "columns far apart", "rows far apart", "cancelling", "powers of two", "sparse"
]  # fmt: skip


def exact_products(left, right):
    """Return Σ_i left_ij right_ik as fractions."""
    a, a_exponent = integers(left)
    b, b_exponent = integers(right)
    products = a.T @ b
    scale = Fraction(2) ** (a_exponent + b_exponent)
    return np.array([[int(entry) * scale for entry in row] for row in products], object)


def fractions(array):
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array, np.float64))


def allowance(exact, scales, rows, dtype):
    """Return four last bits, and what lies below the digits of each factor's largest entries."""
    eps, tiny = (Fraction(float(getattr(np.finfo(dtype), name))) for name in ("eps", "tiny"))
    surplus = Fraction(2) ** (-34 if dtype == np.float32 else -58)
    return 4 * eps * np.abs(exact) + surplus * rows * scales + 2 * tiny


def largest(x):
    """Largest magnitude of each column; columns of zeros count as 1."""
    peaks = np.abs(x).max(axis=0)
    return fractions(np.where(peaks > 0, peaks, 1))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", KINDS)
def test_inner_is_within_its_error_and_the_error_is_small(kind, rows, dtype, where):
    left, right = drawn(kind, rows, LEFT, dtype, 0), drawn(kind, rows, RIGHT, dtype, 1)
    total, error = map(fractions, multiply[where](left, right))
    exact = exact_products(left, right)
    assert np.all(np.abs(total - exact) <= error)
    scales = np.multiply.outer(largest(left), largest(right))
    assert np.all(error <= allowance(exact, scales, rows, dtype))


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize("kind", KINDS)
def test_weighted_gram_is_within_its_error_and_the_error_is_small(kind, rows, dtype, where):
    weight, x = drawn(kind, rows, 1, dtype, 2)[:, 0], drawn(kind, rows, LEFT, dtype, 3)
    total, error = map(fractions, weighted[where](weight, x))
    scaled, exponent = integers(weight)
    whole, own = integers(x)
    exact = whole.T @ (scaled[:, None] * whole)
    exact = exact * Fraction(2) ** (exponent + 2 * own)
    assert np.all(np.abs(total - exact) <= error)
    scales = np.multiply.outer(largest(x), largest(x)) * largest(weight[:, None])
    assert np.all(error <= allowance(exact, scales, rows, dtype))


def test_inner_does_not_depend_on_the_order_of_rows(dtype, where):
    left, right = (drawn("rows far apart", 2500, k, dtype, k) for k in (LEFT, RIGHT))
    order = np.random.default_rng(0).permutation(2500)
    products = multiply[where](left, right), multiply[where](left[order], right[order])
    for one, other in zip(*products, strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("kind", KINDS)
def test_digits_are_small_integers_that_add_up(kind, dtype, where):
    x = drawn(kind, 30, LEFT, dtype, 4)
    split_x = split[where](x)
    bits = 1 - split_x.lead
    digits, scale = np.asarray(split_x.digits, np.float64), fractions(split_x.scale)
    np.testing.assert_array_equal(digits, np.round(digits))
    assert np.abs(digits).max() <= 2 ** (bits - 1)
    assert 1024 * 2 ** (2 * bits - 2) <= 2 ** (np.finfo(dtype).nmant + 1)
    places = [Fraction(2) ** (split_x.lead - bits * t) for t in range(len(digits))]
    summed = sum(fractions(d) * place for d, place in zip(digits, places, strict=True)) * scale
    assert np.all(np.abs(summed - fractions(x)) <= Fraction(split_x.remainder) * scale)


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(st.floats(width=32))
def test_power_of_two_brackets(x):
    for dtype in (np.float32, np.float64):
        for number in (jnp.asarray(x, dtype), np.array(x, dtype)):
            power = float(power_of_two(number))
            mantissa, exponent = np.frexp(power)
            assert mantissa == 0.5
            assert abs(exponent) <= -np.finfo(dtype).minexp
            if not np.isfinite(x) or x == 0:
                assert power == 1
            elif 2.0**-124 <= abs(x) < 2.0**124:
                assert 3 * power / 8 <= abs(x) <= 3 * power / 4


def test_powers_of_two_are_those_of_numpy(dtype):
    """Half-way between two of them as well."""
    numbers = np.multiply.outer([1, 1.25, 1.5, 1.75], 2.0 ** np.arange(-120, 120)).astype(dtype)
    np.testing.assert_array_equal(power_of_two(numbers), power_of_two(jnp.asarray(numbers)))


def test_many_rows_a_block_at_a_time(dtype):
    rows = 2 * _BLOCK + 100
    left, right = (
        drawn("rows far apart", rows, LEFT, dtype, 0),
        drawn("moderate", rows, 1, dtype, 1),
    )
    total, error = map(fractions, over_blocks(multiply_digits, left, right))
    exact = exact_products(left, right)
    assert np.all(np.abs(total - exact) <= error)
    scales = np.multiply.outer(largest(left), largest(right))
    # Three blocks are added in floating point.
    rounding = fractions(np.finfo(dtype).eps) * exact_products(np.abs(left), np.abs(right))
    assert np.all(error <= 4 * rounding + allowance(exact, scales, rows, dtype))


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(
    st.floats(width=32, allow_nan=False, allow_infinity=False), st.integers(-120, 120)
)
def test_rescaling_and_roots_at_any_scale(x, exponent):
    """Subnormal numbers included, which XLA takes for zero."""
    for dtype in (np.float32, np.float64):
        numbers = np.array([x, x * float(np.finfo(dtype).tiny)], dtype)
        power, smallest = dtype(2.0**exponent), float(np.finfo(dtype).tiny)
        size = np.abs(numbers).astype(np.longdouble)
        subnormal = (size < smallest) & (size != 0)
        for array in (jnp.asarray(numbers), numbers):
            with np.errstate(all="ignore"):
                found = np.asarray(rescaled(array, power))
                exact = (numbers.astype(np.longdouble) * np.longdouble(power)).astype(dtype)
                roots = np.asarray(root(abs(array)), np.longdouble)
            flushed = (np.abs(exact) < smallest) & (found == 0)
            np.testing.assert_array_equal(found[~flushed], exact[~flushed])
            assert np.all(np.abs(roots**2 - size) <= 4 * np.finfo(dtype).eps * size)
            np.testing.assert_array_equal(np.asarray(is_subnormal(array)), subnormal)


def test_powers_with_all_exponents_are_exact(dtype):
    """Where `jnp.ldexp` is not, as in double precision on GPUs, bounds fell to zero."""
    info = np.finfo(dtype)
    exponents = np.arange(info.minexp, info.maxexp)
    found = jax.jit(power_with_exponent, static_argnums=1)(exponents, dtype)
    np.testing.assert_array_equal(np.asarray(found), np.ldexp(dtype(1), exponents))
    assert "pow" not in str(jax.make_jaxpr(lambda e: power_with_exponent(e, dtype))(exponents))
