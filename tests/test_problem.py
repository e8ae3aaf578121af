"""Validation where problems are built: one bad input per check, and the dtype policy."""

import os

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqsdp as qs

N, D = 6, 3
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((N, D)), RNG.standard_normal(N)


def with_entry(array, value, dtype=None):
    array = np.array(array, dtype)
    array[(1,) * array.ndim] = value
    return array


BAD = [
    ({"X": X[0]}, ValueError, r"`X` must have shape \(n, d\)"),
    ({"X": X[None]}, ValueError, r"`X` must have shape \(n, d\)"),
    ({"X": X[:0], "y": Y[:0]}, ValueError, "`X` is empty"),
    ({"X": X[:, :0]}, ValueError, "`X` is empty"),
    ({"X": with_entry(X, np.nan)}, ValueError, r"`X` has 1 non-finite value .*\(1, 1\)"),
    ({"X": X + 1j}, TypeError, "`X` is complex"),
    ({"X": "data"}, TypeError, "`X`"),
    ({"X": None}, TypeError, "`X`"),
    ({"X": [[1.0], [1.0, 2.0]]}, TypeError, "`X`"),
    ({"y": Y[:-1]}, ValueError, r"`y` must have shape \(6,\)"),
    ({"y": Y[:, None, None]}, ValueError, r"`y` must have shape \(6,\)"),
    ({"y": np.zeros((N, 0))}, ValueError, "`y` has no columns"),
    ({"y": 1.0}, ValueError, "`y` must have shape"),
    ({"y": with_entry(Y, np.inf)}, ValueError, r"`y` has 1 non-finite value .*\(1,\)"),
    ({"y": np.full(N, np.nan)}, ValueError, "`y` has 6 non-finite values"),
    ({"y": Y * 1j}, TypeError, "`y` is complex"),
    ({"beta": 0.0}, ValueError, "`beta` must be positive"),
    ({"beta": -1.0}, ValueError, "`beta` must be positive"),
    ({"beta": np.nan}, ValueError, "`beta` has 1 non-finite value"),
    ({"beta": np.inf}, ValueError, "`beta` has 1 non-finite value"),
    ({"beta": np.ones(1)}, ValueError, "`beta` must have shape"),
    ({"beta": np.ones(2), "y": np.ones((N, 3))}, ValueError, "`beta` must have shape"),
    ({"beta": 1j}, TypeError, "`beta` is complex"),
    ({"beta": None}, TypeError, "`beta`"),
    ({"loss": "squared"}, TypeError, "`loss`"),
    ({"sample_weight": np.ones(N - 1)}, ValueError, "`sample_weight` must have shape"),
    ({"sample_weight": np.ones((N, 1))}, ValueError, "`sample_weight` must have shape"),
    ({"sample_weight": with_entry(np.ones(N), -1)}, ValueError, "`sample_weight` has negative"),
    ({"sample_weight": np.zeros(N)}, ValueError, "`sample_weight` is zero everywhere"),
    ({"sample_weight": with_entry(np.ones(N), np.nan)}, ValueError, "`sample_weight` has 1 non-f"),
    ({"sample_weight": np.ones(N) * 1j}, TypeError, "`sample_weight` is complex"),
]


@pytest.mark.parametrize(("changes", "error", "match"), BAD)
def test_bad_input_is_named(changes, error, match):
    with pytest.raises(error, match=match):
        qs.Problem(**{"X": X, "y": Y, "beta": 1.0, **changes})


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (("float64", "float64"), "float64"),
        (("float32", "float32"), "float32"),
        (("float32", "float64"), "float64"),
        (("float16", "float16"), "float32"),
        (("bfloat16", "float32"), "float32"),
        (("float16", "float64"), "float64"),
        (("int32", "float32"), "float64"),  # integers become JAX's default float, 64-bit here
        (("bool", "int8"), "float64"),
    ],
)
def test_data_promote_to_one_dtype_that_beta_follows(dtypes, expected):
    if "float16" in dtypes and "SSE4_2" in os.environ.get("XLA_FLAGS", ""):
        pytest.skip(
            "conftest's instruction set has no half precision; the gate tests it as users do"
        )
    X_dtype, y_dtype = map(jnp.dtype, dtypes)
    for weight in (None, np.ones(N, X_dtype)):
        problem = qs.Problem(X.astype(X_dtype), Y.astype(y_dtype), 2, sample_weight=weight)
        for leaf in jax.tree.leaves(problem):
            assert leaf.dtype == expected
        assert problem.beta == 2


def test_lists_are_data():
    problem = qs.Problem([[1, 2], [3, 4]], [1.0, 2.0], 1)
    assert problem.X.shape == (2, 2)
    assert (problem.num_samples, problem.num_features, problem.num_outputs) == (2, 2, 1)


def test_weights_default_to_ones():
    problem = qs.Problem(X, Y, 1.0)
    assert problem.sample_weight is None
    np.testing.assert_array_equal(problem.weight, np.ones(N))
    weighted = qs.Problem(X, Y, 1.0, sample_weight=np.arange(N))
    np.testing.assert_array_equal(weighted.weight, np.arange(N))


def test_columns_give_every_output_its_penalty():
    scalar = qs.Problem(X, Y, 2.0).columns
    assert scalar.y.shape == (N, 1)
    np.testing.assert_array_equal(scalar.beta, [2.0])
    shared = qs.Problem(X, np.stack([Y, -Y], axis=1), 2.0).columns
    np.testing.assert_array_equal(shared.beta, [2.0, 2.0])
    own = qs.Problem(X, np.stack([Y, -Y], axis=1), np.array([1.0, 3.0])).columns
    np.testing.assert_array_equal(own.beta, [1.0, 3.0])
    assert own.num_outputs == 2


def test_stacking_and_unflattening_do_not_validate():
    targets = np.stack([Y, Y * np.nan])
    stacked = jax.vmap(lambda y: qs.Problem(X, y, 1.0))(targets)
    assert stacked.y.shape == (2, N)
    assert stacked.num_outputs == 1
    leaves, structure = jax.tree.flatten(stacked)
    rebuilt = jax.tree.unflatten(structure, [object() for _ in leaves])
    assert isinstance(rebuilt, qs.Problem)
    negative = jax.jit(lambda beta: qs.Problem(X, Y, beta))(-1.0)
    assert negative.beta == -1


U, V = RNG.choice((-1, 1), (2, 2, D))
FEATURES = (X @ U.T) * (X @ V.T)


@pytest.mark.parametrize("weight", [None, np.arange(N) / 2.0])
def test_objective_is_loss_plus_penalty(weight):
    alpha = np.array([0.5, -2.0])
    losses = 0.5 * (FEATURES @ alpha - Y) ** 2
    expected = np.sum(losses if weight is None else weight * losses) + 3 * 2.5
    network = qs.QuantizedNetwork.from_weights(U, V, alpha)
    problem = qs.Problem(X, Y, 3.0, sample_weight=weight)
    np.testing.assert_allclose(problem.objective(network), expected, rtol=1e-12)


def test_objective_sums_over_outputs():
    alpha, beta = np.array([[0.5, 1.0], [-2.0, 0.0]]), np.array([1.0, 10.0])
    targets = np.stack([Y, -Y], axis=1)
    expected = 0.5 * np.sum((FEATURES @ alpha - targets) ** 2) + 1 * 2.5 + 10 * 1.0
    problem = qs.Problem(X, targets, beta)
    network = qs.QuantizedNetwork.from_weights(U, V, alpha)
    np.testing.assert_allclose(problem.objective(network), expected, rtol=1e-12)
    for other in (
        qs.QuantizedNetwork.from_weights(U, V, alpha[:, 0]),
        qs.QuantizedNetwork.from_weights(U[:, :2], V[:, :2], alpha),
    ):
        with pytest.raises(ValueError, match="`network`"):
            problem.objective(other)


def test_repr_says_what_matters():
    assert repr(qs.Problem(X, Y, 0.25)) == "Problem(n=6, d=3, beta=0.25, float64)"
    weighted = qs.Problem(X, np.stack([Y, Y], axis=1), 1.0, sample_weight=np.ones(N))
    assert "outputs=2" in repr(weighted)
    assert "weighted" in repr(weighted)
    stacked = jax.vmap(lambda y: qs.Problem(X, y, 1.0))(np.stack([Y, Y, Y]))
    assert "n=6, d=3" in repr(stacked)
    assert "stacked=(3,)" in repr(stacked)
    assert "outputs" not in repr(stacked)


def test_a_bad_penalty_is_named_where_the_data_are_traced():
    X, y = np.eye(3), np.arange(3.0)
    for beta in (0.0, -1.0):
        with pytest.raises(ValueError, match="`beta` must be positive"):
            jax.grad(lambda y, beta=beta: jnp.sum(qs.Problem(X, y, beta).y))(y)
