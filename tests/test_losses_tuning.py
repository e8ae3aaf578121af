"""The penalty for each loss: the largest useful one and paths, with problems in place of data."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import LOSSES, made
from losses import problem_of as planned
from test_beta_max import ABOVE, BELOW, dual_norm

import jaxqsdp as qs

SHAPE = 24, 5
# λ/w at predictions of zero, by hand.
PULLS = {
    "squared": lambda y: y,
    "absolute": np.sign,
    "quantile": lambda y: np.where(y > 0, 0.3, -0.7),
    "huber": lambda y: np.clip(y, -0.7, 0.7),
    "hinge": lambda y: y,
    "squared hinge": lambda y: y,
    "logistic": lambda y: y / 2,
}


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


def data(name, dtype=np.float64):
    """Features, targets that the loss takes, and weights."""
    X, y, _, weight = made(name, *SHAPE, dtype=dtype)
    return X, y, weight


def problem_of(name, dtype=np.float64, beta=1.0):
    return planned(name, *SHAPE, dtype=dtype).at(beta)


# The smallest penalty without neurons


def test_beta_max_equals_clarabel(name, dtype):
    loss, pull = LOSSES[name], PULLS[name]
    X, y, weight = data(name, dtype)
    result = qs.beta_max(X, y, weight, loss=loss)
    assert result.dtype == dtype
    X, y, weight = (array.astype(np.float64) for array in (X, y, weight))
    expected = dual_norm(X.T @ ((weight * pull(y))[:, None] * X))
    assert expected * (1 - max(1e-7, BELOW[dtype])) <= result <= expected * (1 + ABOVE[dtype])


def test_beta_max_follows_the_units_of_each_loss(name):
    """(aX, by, ωw) with the loss for by has a²b^(k−1)ω times the β_max; powers of two are exact."""
    X, y, weight = data(name)
    loss = LOSSES[name]
    unit = 1.0 if loss.degree is None else 2.0**-3
    other = loss.rescaled(np.float64(unit))
    size = 16 * 8 * (1.0 if loss.degree is None else unit ** (loss.degree - 1))
    base = qs.beta_max(X, y, weight, loss=loss)
    assert qs.beta_max(4 * X, unit * y, 8 * weight, loss=other) == size * base


def test_beta_max_inside_jit(name, dtype):
    problem = problem_of(name, dtype)
    outside = qs.beta_max(problem)
    np.testing.assert_allclose(jax.jit(qs.beta_max)(problem), outside, rtol=2 * ABOVE[dtype])


@pytest.mark.parametrize("name", ["absolute", "quantile"])
def test_a_kink_at_zero_pulls_nowhere(name):
    """Samples that a prediction of zero fits may be left out."""
    X, y, weight = data(name)
    loss = LOSSES[name]
    y[::3] = 0
    rest = np.where(y == 0, 0, weight)
    expected = qs.beta_max(X, y, rest, loss=loss)
    np.testing.assert_allclose(qs.beta_max(X, y, weight, loss=loss), expected, rtol=1e-9)
    assert qs.beta_max(X, 0 * y, weight, loss=loss) == 0


class Root(qs.AbstractLoss):
    """√(1 + (ŷ − y)²) − 1, with three functions and no more."""

    def value(self, predictions, targets):
        return jnp.sqrt(1 + jnp.square(predictions - targets)) - 1

    def conjugate(self, dual, targets):
        return 1 - jnp.sqrt(1 - jnp.square(dual)) - dual * targets

    def interval(self, targets):
        return -jnp.ones_like(targets), jnp.ones_like(targets)


def test_beta_max_of_a_loss_of_ones_own():
    X, y, weight = data("squared")
    pull = weight * y / np.sqrt(1 + y**2)
    expected = dual_norm(X.T @ (pull[:, None] * X))
    np.testing.assert_allclose(qs.beta_max(X, y, weight, loss=Root()), expected, rtol=2e-6)


# Paths


@functools.cache
def path_of(name):
    """From 1 % above β_max."""
    problem = problem_of(name)
    largest = float(qs.beta_max(problem))
    return qs.path(problem, betas=largest * np.array([1.01, 0.98, 0.3, 0.03]))


def test_paths_begin_at_beta_max(name):
    path, (_, y, weight) = path_of(name), data(name)
    nothing = float(LOSSES[name](np.zeros_like(y), y, weight))
    assert path.scale[0] <= 1e-7 * path.scale[-1]
    np.testing.assert_allclose(path.lower_bound[0], nothing, rtol=1e-6)
    assert np.all(np.diff(path.scale) > 0)
    assert path.scale[1] > 1e-4 * path.scale[-1]


def test_paths_separate_loss_and_penalty(name):
    path, (X, y, weight) = path_of(name), data(name)
    assert np.all(path.status == qs.Status.solved)
    assert np.all(path.lower_bound <= path.value)
    np.testing.assert_allclose(path.value, path.loss + path.betas * path.scale, rtol=1e-9)
    np.testing.assert_allclose(jax.device_get(path).loss, path.loss, rtol=1e-12)
    fitted = np.einsum("ni,kij,nj->kn", X, path.quadratic_form, X)
    each = [float(LOSSES[name](np.asarray(row), y, weight)) for row in fitted]
    np.testing.assert_allclose(path.loss, each, rtol=1e-8)
    assert type(path.problem(2).loss) is type(LOSSES[name])


def test_the_loss_of_stacked_paths():
    """Whose loss has a parameter each."""
    path = path_of("huber")
    other = jax.tree.map(lambda leaf: 2 * leaf if leaf.dtype.kind == "f" else leaf, path)
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), path, other)
    expected = np.stack([path.loss, other.loss])
    np.testing.assert_allclose(stacked.loss, expected, rtol=1e-12)
    np.testing.assert_allclose(jax.device_put(stacked).loss, expected, rtol=1e-12)


# A problem in place of data


@pytest.mark.parametrize("find", [qs.beta_max, qs.path])
def test_a_problem_stands_for_its_data(find):
    X, y, weight = data("logistic")
    loss = LOSSES["logistic"]
    options = {"num_betas": 4} if find is qs.path else {}
    expected = find(X, y, sample_weight=weight, loss=loss, **options)
    found = find(qs.Problem(X, y, 7.0, loss, weight), **options)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    if find is qs.path:
        found, expected = found.value, expected.value
    np.testing.assert_allclose(found, expected, rtol=1e-8)


@pytest.mark.parametrize("find", [qs.beta_max, qs.path])
@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"y": np.ones(SHAPE[0])}, "`y` is that of the `Problem`"),
        ({"loss": qs.HingeLoss()}, "`loss` is that of the `Problem`"),
        ({"sample_weight": np.ones(SHAPE[0])}, "`sample_weight` is that of the `Problem`"),
    ],
)
def test_a_problem_has_all_data(find, given, match):
    with pytest.raises(TypeError, match=match):
        find(problem_of("squared"), **given)


@pytest.mark.parametrize("find", [qs.beta_max, qs.path])
def test_data_that_are_missing_or_wrong(find):
    X, y, _ = data("squared")
    with pytest.raises(TypeError, match="`y` is missing"):
        find(X)
    with pytest.raises(ValueError, match="`y` must be −1 or 1 for HingeLoss"):
        find(X, y, loss=qs.HingeLoss())
    with pytest.raises(TypeError, match="`loss` must be a loss"):
        find(X, y, loss="hinge")
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), problem_of("squared"))
    with pytest.raises(ValueError, match="`problem` is stacked"):
        find(stacked)


# Another penalty


def test_another_penalty(name, dtype):
    problem = problem_of(name, dtype)
    again = problem.at(0.25)
    X, y, weight = data(name, dtype)
    expected = qs.Problem(X, y, 0.25, LOSSES[name], weight)
    assert jax.tree.structure(again) == jax.tree.structure(expected)
    for one, other in zip(jax.tree.leaves(again), jax.tree.leaves(expected), strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)
    assert jax.jit(lambda problem, beta: problem.at(beta).beta)(problem, 3.0) == 3


def test_penalties_of_columns():
    X, y, _ = data("squared")
    problem = qs.Problem(X, np.stack([y, -y], axis=1), 1.0)
    np.testing.assert_array_equal(problem.at([2.0, 3.0]).beta, [2, 3])


@pytest.mark.parametrize(
    ("beta", "error", "match"),
    [
        (0.0, ValueError, "`beta` must be positive"),
        (np.nan, ValueError, "`beta` has 1 non-finite"),
        ([1.0, 2.0], ValueError, "`beta` must have shape"),
        ("small", TypeError, "`beta` must be an array"),
    ],
)
def test_bad_penalties(beta, error, match):
    with pytest.raises(error, match=match):
        problem_of("squared").at(beta)
