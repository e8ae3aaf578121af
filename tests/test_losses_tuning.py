"""The penalty for each loss: the largest useful one and paths, with problems in place of data."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import LOSSES, STOOD_FOR, made
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


pytestmark = pytest.mark.thorough(name=STOOD_FOR)


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


@pytest.mark.covering(1)
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
    with pytest.raises(TypeError, match="`loss` must be `SquaredLoss"):
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


# Cross-validation


KEY = jax.random.key(3)
PLAIN = {"key": KEY, "folds": 3, "standardize": False, "constant": False}


def held_out(name, result, fold, predict):
    """The weighted mean of the loss on held-out samples, after training on the others."""
    X, y, weight = data(name)
    train, test = result.fold != fold, result.fold == fold
    share = weight[train].sum() / weight.sum()
    scores = []
    for beta in result.betas:
        problem = qs.Problem(X[train], y[train], beta * share, LOSSES[name], weight[train])
        predictions = np.asarray(predict(problem, X[test]))
        each = LOSSES[name].value(predictions, y[test])
        scores.append(np.average(each, weights=weight[test]))
    return scores


def test_held_out_scores_are_those_of_the_loss(name):
    def predict(problem, X):
        return np.einsum("ni,ij,nj->n", X, qs.solve(problem).quadratic_form, X)

    problem = problem_of(name)
    betas = float(qs.beta_max(problem)) * np.array([0.1, 0.4])
    result = qs.cross_validate(problem, betas=betas, metric="loss", **PLAIN)
    assert result.metric == "loss"
    assert np.all(result.status == qs.Status.solved)
    np.testing.assert_allclose(result.scores[1], held_out(name, result, 1, predict), rtol=1e-3)
    assert result.best_beta == result.betas[np.argmin(result.mean)]


def test_networks_are_scored_by_the_loss():
    def predict(problem, X):
        key = jax.random.split(jax.random.split(KEY)[1], 3)[0]
        return jax.vmap(qs.round(problem, qs.solve(problem), num_neurons=6, key=key))(X)

    problem = problem_of("logistic")
    betas = float(qs.beta_max(problem)) * np.array([0.1, 0.4])
    result = qs.cross_validate(problem, betas=betas, score="network", num_neurons=6, **PLAIN)
    expected = held_out("logistic", result, 0, predict)
    np.testing.assert_allclose(result.scores[0], expected, rtol=1e-3)


def test_data_of_a_loss_and_their_grid():
    """The same scores as of the problem; without a metric those of the loss; β_max by it."""
    X, y, weight = data("huber")
    loss = LOSSES["huber"]
    options = {"key": KEY, "folds": 3, "num_betas": 3, "constant": 2.0}
    result = qs.cross_validate(X, y, loss=loss, sample_weight=weight, **options)
    found = qs.cross_validate(qs.Problem(X, y, 5.0, loss, weight), metric="loss", **options)
    np.testing.assert_allclose(found.scores, result.scores, rtol=1e-6)
    mean = np.average(X, axis=0, weights=weight)
    spread = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weight))
    features = qs.with_constant((X - mean) / spread, 2.0)
    largest = qs.beta_max(features, y, weight, loss=loss)
    np.testing.assert_allclose(result.betas, largest * np.geomspace(1, 1e-3, 3), rtol=3e-6)
    jitted = jax.jit(lambda problem: qs.cross_validate(problem, **options))(problem_of("huber"))
    np.testing.assert_allclose(jitted.betas, result.betas, rtol=3e-6)
    np.testing.assert_allclose(jitted.scores, result.scores, rtol=1e-4)


def test_accuracy_of_labels():
    name = "hinge"
    X, y, weight = data(name)
    betas = [1.0, 3.0]
    result = qs.cross_validate(problem_of(name), betas=betas, metric="accuracy", **PLAIN)
    assert np.all((result.scores >= 0) & (result.scores <= 1))
    assert result.mean[result.best_index] == np.max(result.mean)
    train, test = result.fold != 2, result.fold == 2
    share = weight[train].sum() / weight.sum()
    problem = qs.Problem(X[train], y[train], 3.0 * share, LOSSES[name], weight[train])
    predictions = np.einsum("ni,ij,nj->n", X, qs.solve(problem).quadratic_form, X)[test]
    right = np.average((predictions > 0) == (y[test] > 0), weights=weight[test])
    np.testing.assert_allclose(result.scores[2, 0], right, rtol=1e-12)


def test_the_squared_loss_is_half_the_squared_error():
    problem = problem_of("squared")
    plain = qs.cross_validate(problem, betas=[1.0, 3.0], **PLAIN)
    halves = qs.cross_validate(problem, betas=[1.0, 3.0], metric="loss", **PLAIN)
    assert plain.metric == "mse"
    np.testing.assert_allclose(halves.scores, plain.scores / 2, rtol=1e-9)
    assert "loss of the relaxation" in repr(halves)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"metric": "mse"}, ValueError, '`metric="mse"` is for numbers, and LogisticLoss takes'),
        ({"metric": "log"}, ValueError, "`metric` must be one of"),
        ({"y": np.ones(SHAPE[0])}, TypeError, "`y` is that of the `Problem`"),
        ({"loss": qs.HingeLoss()}, TypeError, "`loss` is that of the `Problem`"),
    ],
)
def test_cross_validation_of_a_problem_refuses(change, error, match):
    with pytest.raises(error, match=match):
        qs.cross_validate(problem_of("logistic"), **PLAIN, **change)


# Everything in one call, and the layer


@functools.cache
def fitted(name):
    X, y, weight = data(name)
    return qs.fit(X, y, beta=3.0, num_neurons=6, key=KEY, loss=LOSSES[name], sample_weight=weight)


def test_fit_takes_any_loss(name):
    result, problem = fitted(name), problem_of(name, beta=3.0)
    assert type(result.problem.loss) is type(LOSSES[name])
    certificate = result.certificate
    assert (
        certificate.lower_bound
        <= certificate.objective
        <= problem.objective(result.network) * (1 + 1e-9)
    )
    nothing = qs.QuantizedNetwork.from_weights(*np.ones((2, 1, SHAPE[1])), np.zeros(1))
    assert certificate.objective < problem.objective(nothing)
    assert (repr(LOSSES[name]) in repr(result)) == (name != "squared")


def test_predictions_of_a_fit(name):
    X, y, _ = data(name)
    result = fitted(name)
    outputs = jax.vmap(result.network)(X)
    found = result.predict(X)
    if LOSSES[name].takes_labels:
        np.testing.assert_array_equal(found, np.where(outputs >= 0, 1, -1))
        assert np.mean(found == y) > 0.7
    else:
        np.testing.assert_allclose(found, outputs, rtol=1e-9)
    np.testing.assert_allclose(jax.jit(lambda X: result.predict(X))(X), found, rtol=1e-9)
    assert LOSSES[name].has_probabilities == (name == "logistic")
    if name == "logistic":
        probability = result.predict_proba(X)
        np.testing.assert_allclose(probability, 1 / (1 + np.exp(-outputs)), rtol=1e-9)
        np.testing.assert_array_equal(found > 0, probability >= 0.5)
    else:
        with pytest.raises(TypeError, match=f"{type(LOSSES[name]).__name__} has no probabilities"):
            result.predict_proba(X)


def test_predictions_of_several_outputs():
    X, y, _ = data("logistic")
    both = np.stack([y, -y], axis=1)
    result = qs.fit(X, both, beta=3.0, num_neurons=6, key=KEY, loss=qs.LogisticLoss())
    assert result.predict(X).shape == result.predict_proba(X).shape == both.shape
    assert np.mean(result.predict(X) == both) > 0.7


@pytest.mark.parametrize("X", [np.ones(5), np.ones((3, 4)), np.ones((2, 3, 5))])
def test_predictions_of_wrong_shapes(X):
    with pytest.raises(ValueError, match=r"`X` must have shape \(n, 5\)"):
        fitted("squared").predict(X)


def test_layers_take_any_loss(name):
    X, y, weight = data(name)
    layer = qs.RelaxationLayer(3.0, loss=LOSSES[name])
    solution = qs.solve(problem_of(name, beta=3.0))
    fitted = layer.fit(X, y, weight)
    np.testing.assert_allclose(fitted.quadratic_form, solution.quadratic_form, atol=1e-4)
    with pytest.raises(TypeError, match="`loss` must be `SquaredLoss"):
        qs.RelaxationLayer(3.0, loss="hinge")


@pytest.mark.parametrize("name", ["logistic", "huber"])
def test_layers_of_other_losses_are_trained(name):
    """By the penalty and the features; numbers that the loss depends on stay."""
    X, y, weight = map(jnp.asarray, data(name))
    solver = qs.InteriorPoint(tol=1e-12, tol_residual=1e-10)
    layer = qs.RelaxationLayer(3.0, loss=LOSSES[name], solver=solver)

    def misfit(layer, X):
        return jnp.sum(jnp.square(layer(X, y, None, weight)[1] - y))

    slopes, toward_X = jax.jit(jax.grad(misfit, argnums=(0, 1)))(layer, X)
    assert np.all(np.isfinite(toward_X))
    for leaf in jax.tree.leaves(slopes.loss):
        assert leaf == 0
    step = 3e-3  # solves stop where the dtype stops, and not all are of one program

    def moved(by):
        return eqx.tree_at(lambda layer: layer.log_beta, layer, layer.log_beta + by)

    difference = (misfit(moved(step), X) - misfit(moved(-step), X)) / (2 * step)
    np.testing.assert_allclose(slopes.log_beta, difference, rtol=1e-4)
