"""Cross-validation along paths. Four features and a constant one make the shape of all of them."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from clarabel_reference import reference
from matplotlib import pyplot as plt
from problems import SMALL, planted

import jaxqsdp as qs
from jaxqsdp._cross_validation import _assign, _prepared, _select

mpl.use("Agg")

KEY = jax.random.key(3)
FOLDS, NUM_BETAS, NUM_NEURONS = 4, 6, 20
TIGHT = qs.InteriorPoint(tol=1e-12)  # a gap of 1e-12 is an error of 1e-6 in predictions


@functools.cache
def noisy():
    """Return the data, weighted, that all results below share: one neuron and much noise."""
    data = planted(0, SMALL[0], SMALL[1] - 1, neurons=1, noise=0.5)
    X = 3 * data.X + [5, 0, -1, 2]
    return X, data.y, 1 + 0.5 * np.cos(np.arange(SMALL[0]))


@functools.cache
def validated(score):
    X, y, weight = noisy()
    return qs.cross_validate(
        X,
        y,
        key=KEY,
        folds=FOLDS,
        num_betas=NUM_BETAS,
        sample_weight=weight,
        score=score,
        num_neurons=NUM_NEURONS if score == "network" else None,
        solver=TIGHT,
    )


def standardized(X, weight, rows):
    """Prepare X by some of its rows, plainly."""
    mean = np.average(X[rows], axis=0, weights=weight[rows])
    spread = np.sqrt(np.average((X[rows] - mean) ** 2, axis=0, weights=weight[rows]))
    return np.column_stack([(X - mean) / np.where(spread > 0, spread, 1), np.ones(len(X))])


def folds_of(result):
    """Yield the training and held-out rows of each fold."""
    for index in range(FOLDS):
        held_out = np.asarray(result.fold) == index
        yield np.flatnonzero(~held_out), np.flatnonzero(held_out)


def test_relaxation_equals_dropping_rows():
    X, y, weight = noisy()
    result = validated("relaxation")
    scores = np.empty((FOLDS, NUM_BETAS))
    for row, (train, held_out) in zip(scores, folds_of(result), strict=True):
        features = standardized(X, weight, train)
        share = weight[train].sum() / weight.sum()
        for index, beta in enumerate(np.asarray(result.betas)):
            optimum = reference(features[train], y[train], beta * share, weight[train], tol=1e-12)
            predictions = np.einsum("ni,ij,nj->n", features, optimum.form, features)
            squares = (predictions - y)[held_out] ** 2
            row[index] = np.average(squares, weights=weight[held_out])
    np.testing.assert_allclose(result.scores, scores, rtol=1e-5)
    np.testing.assert_allclose(result.mean, scores.mean(0), rtol=1e-5)
    expected = scores.std(0, ddof=1) / np.sqrt(FOLDS)
    np.testing.assert_allclose(result.standard_error, expected, rtol=1e-4)
    assert result.gap <= 1e-9
    assert np.all(result.status != qs.Status.invalid_data)


def test_network_equals_dropping_rows():
    X, y, weight = noisy()
    result = validated("network")
    keys = jax.random.split(jax.random.split(KEY)[1], FOLDS)
    scores = np.empty((FOLDS, NUM_BETAS))
    for row, key, (train, held_out) in zip(scores, keys, folds_of(result), strict=True):
        features = standardized(X, weight, train)
        share = weight[train].sum() / weight.sum()
        for index, beta in enumerate(np.asarray(result.betas)):
            problem = qs.Problem(
                features[train], y[train], beta * share, sample_weight=weight[train]
            )
            solution = qs.solve(problem, TIGHT)
            network = qs.round(problem, solution, num_neurons=NUM_NEURONS, key=key)
            predictions = jax.vmap(network)(jnp.asarray(features))
            squares = np.asarray(predictions - y)[held_out] ** 2
            row[index] = np.average(squares, weights=weight[held_out])
    np.testing.assert_allclose(result.scores, scores, rtol=1e-5)
    assert not np.allclose(result.scores, validated("relaxation").scores, rtol=1e-3)


def test_grid_is_that_of_the_full_data():
    X, y, weight = noisy()
    features = standardized(X, weight, np.arange(len(y)))
    expected = qs.beta_max(features, y, weight)
    for score in ("relaxation", "network"):
        betas = validated(score).betas
        np.testing.assert_allclose(betas, expected * np.geomspace(1, 1e-3, NUM_BETAS), rtol=3e-6)


def test_best_penalty_generalizes():
    """On fresh samples, the best penalty beats the largest and the smallest."""
    X, y, weight = noisy()
    result = validated("relaxation")
    assert 0 < result.best_index < NUM_BETAS - 1
    train = np.arange(len(y))
    path = qs.path(standardized(X, weight, train), y, result.betas, sample_weight=weight)
    # Fresh samples of the same distribution, and the same neuron without its noise.
    rng = np.random.default_rng(5)
    raw = rng.standard_normal((2000, X.shape[1]))
    fresh = 3 * raw + [5, 0, -1, 2]
    both = standardized(np.vstack([X, fresh]), np.append(weight, np.zeros(len(raw))), train)[24:]
    u, v = neuron()
    truth = (raw @ u) * (raw @ v)
    predictions = np.einsum("ni,kij,nj->kn", both, path.quadratic_form, both)
    correlation = [np.corrcoef(row, truth)[0, 1] if row.any() else 0.0 for row in predictions]
    best = correlation[int(result.best_index)]
    assert best > correlation[-1] + 0.05
    assert best > correlation[0] + 0.05
    # Held-out scores say the same.
    assert result.mean[result.best_index] < 0.8 * min(result.mean[0], result.mean[-1])


def neuron():
    """Return the planted neuron of `noisy`, drawn again."""
    n, d = SMALL[0], SMALL[1] - 1
    rng = np.random.default_rng((0, n, d))
    rng.standard_normal((n, d))
    u, v = rng.choice((-1.0, 1.0), (2, 1, d))
    sign = np.sign(rng.standard_normal(1))
    return sign * u[0], v[0]


SCORES = np.array([[4.0, 2.0, 1.0, 3.0], [4.2, 2.4, 2.0, 3.2], [4.4, 2.2, 3.0, 3.4]])
BETAS = jnp.array([8.0, 4.0, 2.0, 1.0])


def select(scores, metric="mse"):
    nothing = jnp.zeros((3,), jnp.int32)
    scores = jnp.asarray(scores)
    return _select(BETAS, scores, nothing, qs.Status.solved, scores[0, 0], "relaxation", metric)


def test_choices_by_hand():
    """Means 4.2, 2.2, 2, 3.2; the best has error 1/√3 = 0.58, so 4 is within it and 8 is not."""
    result = select(SCORES)
    np.testing.assert_allclose(result.mean, [4.2, 2.2, 2.0, 3.2])
    np.testing.assert_allclose(result.standard_error, np.array([0.2, 0.2, 1, 0.2]) / np.sqrt(3))
    assert (result.best_beta, result.beta_one_standard_error) == (2, 4)
    mirrored = select(-SCORES, "accuracy")
    assert (mirrored.best_beta, mirrored.beta_one_standard_error) == (2, 4)
    steady = select(SCORES * [1, 1, 0, 1] + [0, 0, 2, 0])
    assert (steady.best_beta, steady.beta_one_standard_error) == (2, 2)
    equals = select(np.ones((3, 4)))
    assert (equals.best_beta, equals.beta_one_standard_error) == (8, 8)
    failed = select(SCORES * [np.nan, 1, 1, 1])
    assert (failed.best_beta, failed.beta_one_standard_error) == (2, 4)


def test_folds_partition_the_samples():
    for n, folds in ((24, 5), (24, 24), (7, 2)):
        fold = np.asarray(_assign(n, folds, KEY))
        sizes = np.bincount(fold, minlength=folds)
        assert len(sizes) == folds
        assert sizes.max() - sizes.min() <= 1
    others = _assign(24, 5, jax.random.key(4))
    assert not np.array_equal(_assign(24, 5, KEY), others)
    np.testing.assert_array_equal(np.bincount(validated("network").fold), [6] * FOLDS)
    np.testing.assert_array_equal(validated("network").fold, validated("relaxation").fold)


def test_preparation(dtype):
    X, _, weight = (part.astype(dtype) for part in noisy())
    X[:, 1] = 0.1  # constant where it counts, though not in rounded arithmetic
    weight[:5], X[:5] = 0, 1e6
    rows = np.arange(5, len(X))
    expected = standardized(X.astype(float), weight.astype(float), [0, 1, *rows])[rows]
    expected[:, 1] = 0
    prepared = _prepared(jnp.asarray(X), jnp.asarray(weight), standardize=True, constant=True)
    assert prepared.dtype == dtype
    np.testing.assert_allclose(prepared[5:], expected, atol=1e-6 if dtype == np.float32 else 1e-12)
    np.testing.assert_array_equal(prepared[:, 1], np.zeros(len(X)))
    for constant in (False, True):
        plain = _prepared(jnp.asarray(X), jnp.asarray(weight), False, constant)
        np.testing.assert_array_equal(plain[:, :4], X)
        assert plain.shape[1] == 4 + constant


def test_traces_in_single_precision():
    X, y, _ = (part.astype(np.float32) for part in noisy())

    def validate(X, y, key):
        options = {"folds": 3, "constant": False, "score": "network", "num_neurons": 7}
        result = qs.cross_validate(X, y, key=key, **options)
        assert repr(result) == "CrossValidation(traced)"
        return result

    result = jax.eval_shape(validate, X, y, KEY)
    assert result.scores.shape == (3, 20)
    for leaf in (result.betas, result.scores, result.mean, result.standard_error, result.gap):
        assert leaf.dtype == np.float32


def test_accuracy_and_single_precision():
    """Signs of one product of two features: easy to classify."""
    X = noisy()[0].astype(np.float32)
    y = np.where(X[:, 1] > 0, 1, -1).astype(np.float32)
    result = qs.cross_validate(X, y, [5.0, 2.0], key=KEY, folds=2, metric="accuracy")
    assert result.scores.dtype == np.float32
    assert np.all((result.scores >= 0) & (result.scores <= 1))
    np.testing.assert_allclose(12 * result.scores, np.round(12 * result.scores), atol=1e-5)
    assert result.mean[result.best_index] > 0.75
    assert "accuracy of the relaxation, 2 folds" in repr(result)


def test_cross_validation_repr():
    result = validated("network")
    lines = repr(result).splitlines()
    assert lines[0].startswith("CrossValidation(mse of the network, 4 folds, largest gap=")
    assert len(lines) == 2 + NUM_BETAS + 1
    best, simple = (
        lines[2 + int(result.best_index)],
        lines[2 + int(result.index_one_standard_error)],
    )
    assert "best" in best
    assert simple.endswith("one standard error")
    assert "edge" not in repr(result)
    at_edge = dataclasses.replace(result, best_index=jnp.array(NUM_BETAS - 1))
    assert "best, at the edge of the grid" in repr(at_edge).splitlines()[1 + NUM_BETAS]


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"y": np.ones((24, 2))}, ValueError, "`y` must have shape"),
        ({"y": np.zeros(24)}, ValueError, "`betas` has no default"),
        ({"metric": "accuracy", "y": np.arange(24.0)}, ValueError, "`y` must hold only"),
        ({"metric": "r2"}, ValueError, "`metric`"),
        ({"score": "tree"}, ValueError, "`score`"),
        ({"score": "network"}, ValueError, "`num_neurons` is needed"),
        ({"score": "network", "num_neurons": 0}, ValueError, "`num_neurons`"),
        ({"num_neurons": 8}, ValueError, "`num_neurons` needs"),
        ({"folds": 1}, ValueError, "`folds`"),
        ({"folds": 25}, ValueError, "`folds`"),
        ({"folds": 2.5}, ValueError, "`folds`"),
        ({"folds": True}, ValueError, "`folds`"),
        ({"key": 0}, TypeError, "`key`"),
        ({"betas": [-1.0]}, ValueError, "`betas` must be positive"),
        ({"num_betas": 0}, ValueError, "`num_betas`"),
        ({"ratio": 2.0}, ValueError, "`ratio`"),
        ({"sample_weight": np.eye(24)[0]}, ValueError, "`sample_weight` is zero"),
        ({"solver": "fast"}, TypeError, "`solver`"),
        ({"max_steps": 0}, ValueError, "`max_steps`"),
    ],
)
def test_cross_validate_bad_inputs(change, error, match):
    X, y, _ = noisy()
    with pytest.raises(error, match=match):
        qs.cross_validate(**({"X": X, "y": y, "key": KEY, "folds": FOLDS} | change))


@pytest.mark.parametrize("given", [False, True], ids=["new axes", "given axes"])
def test_plot(given):
    result = validated("network")
    ax = plt.subplots()[1] if given else None
    drawn = result.plot(ax)
    assert drawn is ax or not given
    assert drawn.get_xscale() == "log"
    assert drawn.get_xlabel() == "penalty β"
    assert drawn.get_ylabel() == "mse on held-out samples"
    texts = [text.get_text() for text in drawn.get_legend().get_texts()]
    assert any(text.startswith("network: mean") for text in texts)
    assert f"best: {float(result.best_beta):.3g}" in texts
    assert f"one standard error: {float(result.beta_one_standard_error):.3g}" in texts
    drawn.figure.canvas.draw()
    plt.close(drawn.figure)
