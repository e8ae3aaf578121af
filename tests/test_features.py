"""The constant feature: its scale, its dtypes, and what it is for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqsdp as qs


@pytest.mark.parametrize("kind", [np.asarray, jnp.asarray, lambda X: X.tolist()])
def test_appends_the_rule_or_the_scale(kind):
    X = np.random.default_rng(0).standard_normal((5, 4))
    for scale, expected in ((None, 3.0), (0.5, 0.5), (np.float32(2), 2.0), (7, 7.0)):
        result = qs.with_constant(kind(X), scale)
        np.testing.assert_allclose(result, np.column_stack([X, np.full(5, expected)]), rtol=1e-7)
        assert isinstance(result, jax.Array) == isinstance(kind(X), jax.Array)


def test_one_sample_and_stacks_get_the_scale_of_all():
    X = np.random.default_rng(0).standard_normal((3, 5, 9))
    every = qs.with_constant(X)
    assert every.shape == (3, 5, 10)
    np.testing.assert_array_equal(every[..., -1], 4.5)
    np.testing.assert_array_equal(qs.with_constant(X[0, 0]), every[0, 0])
    np.testing.assert_array_equal(qs.with_constant(X[0]), every[0])


def test_transforms():
    X = jnp.arange(12.0).reshape(3, 4)
    expected = qs.with_constant(X)
    np.testing.assert_array_equal(jax.jit(qs.with_constant)(X), expected)
    np.testing.assert_array_equal(jax.vmap(qs.with_constant)(X), expected)
    np.testing.assert_array_equal(jax.jit(qs.with_constant)(X, 3.0), expected)
    scales = jnp.array([1.0, 2.0])
    many = jax.vmap(qs.with_constant, in_axes=(None, 0))(X, scales)
    assert many.shape == (2, 3, 5)
    np.testing.assert_array_equal(many[1, :, -1], 2)
    host = jax.vmap(lambda scale: qs.with_constant(np.asarray(X), scale))(scales)
    np.testing.assert_array_equal(host, many)
    slope = jax.grad(lambda scale: jnp.sum(qs.with_constant(X, scale)))(2.0)
    assert slope == len(X)


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [
        (np.float64, np.float64),
        (np.float32, np.float32),
        (np.float16, np.float32),
        (jnp.bfloat16, np.float32),
        (np.int64, np.float64),
        (np.int8, np.float32),
        (np.bool_, np.float32),
    ],
)
def test_dtypes_on_the_host(dtype, expected):
    assert qs.with_constant(np.ones((2, 3), dtype)).dtype == expected


def test_host_floats_stay_double_in_32_bit_mode():
    X = np.array([[1 + 2**-40, 2**53 + 2]])
    with jax.enable_x64(False):
        np.testing.assert_array_equal(qs.with_constant(X)[:, :2], X)
        assert qs.with_constant(jnp.ones((2, 3))).dtype == np.float32
        assert qs.with_constant(jnp.ones((2, 3), int)).dtype == np.float32


def test_tables():
    pd = pytest.importorskip("pandas")
    table = pd.DataFrame({"a": [1, 2], "b": [0.5, True], "c": [1.0, 2], "d": [3, 4]})
    result = qs.with_constant(table)
    np.testing.assert_array_equal(result, [[1, 0.5, 1, 3, 3], [2, 1, 2, 4, 3]])


def test_linear_terms_are_cheap():
    """A linear target needs a fraction of the penalty and the loss that a constant 1 leaves."""
    X = np.random.default_rng(0).standard_normal((60, 9))
    y = X @ np.array([1, -1, 1, 1, -1, 1, -1, -1, 1])
    starved = qs.solve(qs.Problem(qs.with_constant(X, 1.0), y, 10.0))
    fed = qs.solve(qs.Problem(qs.with_constant(X), y, 10.0))
    assert fed.value < 0.4 * starved.lower_bound


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"X": 3.0}, ValueError, "`X` must have shape"),
        ({"X": np.ones((3, 0))}, ValueError, "`X` must have shape"),
        ({"X": jnp.ones((3, 0))}, ValueError, "`X` must have shape"),
        ({"X": np.ones((3, 2), complex)}, TypeError, "`X` must hold real"),
        ({"X": [["a", "b"]]}, TypeError, "`X` must hold real"),
        ({"X": np.array([["a", 1]], object)}, TypeError, "`X` must hold real"),
        ({"scale": 0}, ValueError, "`scale` must be a positive"),
        ({"scale": -1.0}, ValueError, "`scale` must be a positive"),
        ({"scale": np.nan}, ValueError, "`scale` must be a positive"),
        ({"scale": True}, ValueError, "`scale` must be a positive"),
        ({"scale": "8"}, ValueError, "`scale` must be a positive"),
        ({"scale": [1.0, 2.0]}, ValueError, "`scale` must be a positive"),
    ],
)
def test_with_constant_bad_inputs(change, error, match):
    with pytest.raises(error, match=match):
        qs.with_constant(**({"X": np.ones((3, 2))} | change))


def test_traced_scale_is_one_number():
    with pytest.raises(ValueError, match="`scale` must be one number"):
        jax.jit(qs.with_constant)(jnp.ones((3, 2)), jnp.ones(2))
