"""Penalties, scores and layers of a loss that couples outputs, each against direct solves."""

import functools

import jax
import numpy as np
import pytest
from test_beta_max import ABOVE, BELOW, dual_norm

import jaxqsdp as qs

N, D, C = 24, 4, 3
LOSS = qs.SoftmaxLoss()
LIMIT = {"max_steps": 1000}  # the same everywhere, so that programs are shared
PLAIN = {"key": jax.random.key(3), "folds": 4, "standardize": False, "constant": False, **LIMIT}


def data(dtype=np.float64):
    """Features, classes that they hold partly, and weights."""
    rng = np.random.default_rng(1)
    X = rng.standard_normal((N, D))
    scores = np.stack([X[:, 0] * X[:, 1], X[:, 2], np.zeros(N)], axis=1)
    y = (scores + 0.3 * rng.standard_normal((N, C))).argmax(axis=1)
    return X.astype(dtype), y, rng.uniform(0.3, 2, N).astype(dtype)


def problem_of(dtype=np.float64, beta=1.0):
    X, y, weight = data(dtype)
    return qs.Problem(X, y, beta, LOSS, weight)


def solved(problem):
    return qs.solve(problem, **LIMIT, throw=False)


def predicted(X, solution):
    """The outputs of the relaxation."""
    return np.einsum("ni,cij,nj->nc", X, solution.quadratic_form, X)


def direct(outputs, y):
    """−ln of the probability of each sample's class."""
    terms = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    return -np.log(terms[np.arange(len(y)), y] / terms.sum(axis=1))


@functools.cache
def smallest():
    """The smallest penalty of each output for Z = 0, by Clarabel."""
    X, y, weight = data()
    pulls = weight[:, None] * (np.eye(C)[y] - 1 / C)
    return np.array([dual_norm(X.T @ (pulls[:, [k]] * X)) for k in range(C)])


# The smallest penalty without neurons


def test_beta_max_is_the_largest_of_the_outputs(dtype):
    X, y, weight = data(dtype)
    result = qs.beta_max(X, y, weight, loss=LOSS)
    assert result.shape == ()
    assert result.dtype == dtype
    expected, slack = float(smallest().max()), max(1e-7, BELOW[dtype])
    assert expected * (1 - slack) <= float(result) <= expected * (1 + ABOVE[dtype])
    np.testing.assert_allclose(jax.jit(qs.beta_max)(problem_of(dtype)), result, rtol=ABOVE[dtype])
    np.testing.assert_array_equal(qs.beta_max(problem_of(dtype, beta=7.0)), result)


def test_nothing_is_best_from_beta_max_on():
    """Just below, one output has something to say; what the others would pay does not matter."""
    largest = float(qs.beta_max(problem_of()))
    above, below = (solved(problem_of(beta=factor * largest)) for factor in (1.001, 0.98))
    _, _, weight = data()
    nothing = weight.sum() * np.log(C)
    assert above.lower_bound >= nothing * (1 - 1e-6)
    assert below.value < nothing * (1 - 1e-6)
    assert np.all(above.scale <= 1e-3 * below.scale.max())


def test_beta_max_follows_units_and_rows():
    """Powers of two are exact; rows that are 1 at the class are the classes."""
    X, y, weight = data()
    base = qs.beta_max(X, y, weight, loss=LOSS)
    assert qs.beta_max(4 * X, y, 8 * weight, loss=LOSS) == 128 * base
    assert qs.beta_max(X, np.eye(C)[y], weight, loss=LOSS) == base
    # A class that no sample has pulls too: away.
    assert qs.beta_max(X, y, weight, loss=qs.SoftmaxLoss(C + 1)) != base


# Paths


@functools.cache
def path():
    betas = float(smallest().max()) * np.array([0.03, 1.01, 0.3])
    return qs.path(problem_of(), betas=betas, **LIMIT)


def test_a_path_holds_the_solution_of_each_penalty():
    found, (X, y, weight) = path(), data()
    assert found.betas.shape == found.value.shape == found.stats.gap.shape == (3,)
    assert np.all(np.diff(found.betas) < 0)
    assert found.scale.shape == (3, C)
    assert found.predictions.shape == (3, N, C)
    assert np.all(found.lower_bound <= found.value)
    for index in (1, 2):
        assert (found.status == qs.Status.solved)[index]
        expected = solved(problem_of(beta=float(found.betas[index])))
        np.testing.assert_allclose(found.value[index], expected.value, rtol=1e-6)
        problem, solution = found.problem(index), found.solution(index)
        assert problem.y.shape == (N, C)
        assert jax.tree.structure(solution) == jax.tree.structure(expected)
        for one, other in zip(jax.tree.leaves(solution), jax.tree.leaves(expected), strict=True):
            assert one.shape == other.shape
        network = qs.QuantizedNetwork.from_weights(*np.ones((2, 1, D)), np.zeros((1, C)))
        certificate = qs.certify(problem, network, solution, kind="relaxation")
        np.testing.assert_allclose(certificate.lower_bound, found.lower_bound[index], rtol=1e-6)
        terms = direct(predicted(X, solution), y)
        np.testing.assert_allclose(found.loss[index], weight @ terms, rtol=1e-9)
    total = found.loss + found.betas * found.scale.sum(axis=1)
    np.testing.assert_allclose(total, found.value, rtol=1e-9)
    np.testing.assert_allclose(jax.device_get(found).loss, found.loss, rtol=1e-12)
    with pytest.raises(IndexError, match="3 penalties"):
        found.problem(3)


def test_a_path_begins_at_beta_max_by_default():
    found = qs.path(problem_of(), num_betas=3, ratio=0.1, **LIMIT)
    np.testing.assert_allclose(found.betas, qs.beta_max(problem_of()) * np.geomspace(1, 0.1, 3))


def test_a_path_inside_jit():
    found = jax.jit(lambda problem, betas: qs.path(problem, betas=betas, **LIMIT))(
        problem_of(), path().betas
    )
    assert jax.tree.structure(found) == jax.tree.structure(path())
    np.testing.assert_allclose(found.value, path().value, rtol=1e-5)


def test_a_path_in_words_and_in_a_picture():
    found = path()
    assert "Path(3 betas: Solution(" in repr(found)
    rows = repr(found).splitlines()
    assert f"{float(found.scale[1].sum()):.5g}" in rows[3]
    axes = found.plot()
    assert len(axes.get_lines()) == 3


# Cross-validation


@functools.cache
def validated():
    return qs.cross_validate(problem_of(), betas=smallest().max() * np.array([0.3, 0.05]), **PLAIN)


def of_relaxation(problem, X):
    return predicted(X, solved(problem))


def held_out(result, index, y=None, predict=of_relaxation):
    """Outputs and classes of the samples held out, and weights, for each penalty."""
    X, classes, weight = data()
    y = classes if y is None else y
    train, test = result.fold != index, result.fold == index
    share = weight[train].sum() / weight.sum()
    for beta in result.betas:
        problem = qs.Problem(X[train], y[train], beta * share, qs.SoftmaxLoss(C), weight[train])
        yield predict(problem, X[test]), y[test], weight[test]


def test_held_out_scores_are_the_mean_loss():
    result = validated()
    assert result.metric == "loss"
    assert result.scores.shape == (4, 2)
    assert np.all(result.status == qs.Status.solved)
    expected = [np.average(direct(f, y), weights=weight) for f, y, weight in held_out(result, 1)]
    np.testing.assert_allclose(result.scores[1], expected, rtol=1e-3)
    assert result.best_beta == result.betas[np.argmin(result.mean)]


def test_accuracy_is_that_of_the_largest_output():
    result = qs.cross_validate(problem_of(), betas=validated().betas, metric="accuracy", **PLAIN)
    expected = [
        np.average(f.argmax(axis=1) == y, weights=weight) for f, y, weight in held_out(result, 2)
    ]
    np.testing.assert_allclose(result.scores[2], expected, rtol=1e-9)


def test_scores_inside_jit():
    """Where samples held out have zero weight instead."""
    found = jax.jit(lambda problem, betas: qs.cross_validate(problem, betas=betas, **PLAIN))(
        problem_of(), validated().betas
    )
    np.testing.assert_allclose(found.scores, validated().scores, rtol=1e-3)


def test_a_fold_may_lack_a_class():
    """There are as many outputs as classes in all of y."""
    X, y, weight = data()
    y = np.where(y == 2, 0, y)
    y[0] = 2
    options = {"loss": LOSS, "sample_weight": weight, **PLAIN}
    result = qs.cross_validate(X, y, betas=validated().betas, **options)
    index = int(result.fold[0])  # whose training lacks it
    expected = [
        np.average(direct(f, y), weights=weight) for f, y, weight in held_out(result, index, y)
    ]
    np.testing.assert_allclose(result.scores[index], expected, rtol=1e-3)


def test_networks_are_scored_by_the_loss():
    betas = validated().betas
    result = qs.cross_validate(problem_of(), betas=betas, score="network", num_neurons=5, **PLAIN)
    key = jax.random.split(jax.random.split(PLAIN["key"])[1], 4)[0]

    def outputs(problem, X):
        network = qs.round(problem, solved(problem), num_neurons=5, key=key)
        return np.asarray(jax.vmap(network)(X))

    found = held_out(result, 0, predict=outputs)
    expected = [np.average(direct(f, y), weights=weight) for f, y, weight in found]
    np.testing.assert_allclose(result.scores[0], expected, rtol=1e-2)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"metric": "mse"}, ValueError, '`metric="mse"` is for numbers, and SoftmaxLoss takes'),
        ({"y": np.linspace(0, 2, N)}, ValueError, "`y` must hold classes 0, 1, …"),
        ({"y": np.zeros(N, int)}, ValueError, "`y` has one class"),
        ({"y": np.full(N, "a")}, TypeError, "`y` holds text; SoftmaxLoss takes integers"),
        ({"y": -np.ones((N, C))}, ValueError, "`y` must hold classes 0, 1, …"),
    ],
)
def test_what_cross_validation_refuses(change, error, match):
    X, y, _ = data()
    with pytest.raises(error, match=match):
        qs.cross_validate(X, **({"y": y, "loss": LOSS} | PLAIN | change))


@pytest.mark.parametrize("find", [qs.beta_max, qs.path])
def test_paths_refuse_what_is_no_class(find):
    X, y, weight = data()
    with pytest.raises(ValueError, match=r"`y` must have shape \(n,\)"):
        find(X, np.eye(C)[y])
    with pytest.raises(ValueError, match="`y` must hold classes"):
        find(X, y + 0.5, sample_weight=weight, loss=LOSS)


# Everything in one call, and the layer


def test_a_fit_predicts_classes_and_their_probabilities():
    X, y, weight = data()
    options = {"beta": 2.0, "num_neurons": 6, "key": PLAIN["key"], "improve": False, **LIMIT}
    result = qs.fit(X, y, loss=LOSS, sample_weight=weight, **options)
    outputs = np.asarray(jax.vmap(result.network)(X))
    assert outputs.shape == (N, C)
    found, chances = map(np.asarray, (result.predict(X), result.predict_proba(X)))
    np.testing.assert_array_equal(found, outputs.argmax(axis=1))
    assert np.mean(found == y) > 1.2 * np.bincount(y).max() / N
    np.testing.assert_allclose(chances.sum(axis=1), 1, rtol=1e-12)
    np.testing.assert_allclose(-np.log(chances[np.arange(N), y]), direct(outputs, y), rtol=1e-9)
    certificate, penalty = result.certificate, 2.0 * np.abs(result.network.alpha).sum()
    objective = weight @ direct(outputs, y) + penalty
    np.testing.assert_allclose(certificate.objective, objective, rtol=1e-9)
    assert certificate.lower_bound <= objective < weight.sum() * np.log(C)


def test_failures_name_no_outputs_where_there_is_one_problem():
    with pytest.raises(qs.SolveError) as caught:
        qs.solve(problem_of(beta=float(smallest().max())), max_steps=2)
    assert "outputs" not in str(caught.value)


def test_layers_predict_scores_of_classes():
    X, y, weight = data()
    layer = qs.RelaxationLayer(2.0, loss=LOSS)
    solution, outputs = layer(X, y, X[:5], weight)
    expected = solved(problem_of(beta=2.0))
    np.testing.assert_allclose(solution.value, expected.value, rtol=1e-6)
    np.testing.assert_allclose(outputs, predicted(X[:5], solution), rtol=1e-9)
    fitted = layer.fit(X, y, weight)
    assert fitted(X[0]).shape == (C,)
    np.testing.assert_allclose(fitted(X[0]), outputs[0], rtol=1e-6)
    with pytest.raises(ValueError, match="`y` must hold classes"):
        layer(X, y + 0.5)


def test_layers_under_transforms_take_rows_or_the_number_of_classes():
    X, y, weight = data()

    def outputs(loss, y):
        layer = qs.RelaxationLayer(2.0, loss=loss)
        return jax.eval_shape(lambda y: layer(X, y, X[:5], weight)[1], y)

    assert outputs(LOSS, np.eye(C)[y]).shape == outputs(qs.SoftmaxLoss(C), y).shape == (5, C)
    with pytest.raises(ValueError, match="number of classes is unknown"):
        outputs(LOSS, y)
