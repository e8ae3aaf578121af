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
from jaxqsdp._tuning.cross_validation import _assign, _select
from jaxqsdp._tuning.scoring import prepared, scores_of_points

mpl.use("Agg")

KEY = jax.random.key(3)
FOLDS, NUM_BETAS, NUM_NEURONS = 4, 6, 20
RULE = 3.0  # the constant of four features
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
        constant=1.0,  # the data have no linear terms
        score=score,
        num_neurons=NUM_NEURONS if score == "network" else None,
        solver=TIGHT,
    )


def standardized(X, weight, rows, constant=1.0):
    """Prepare X by some of its rows, plainly."""
    mean = np.average(X[rows], axis=0, weights=weight[rows])
    spread = np.sqrt(np.average((X[rows] - mean) ** 2, axis=0, weights=weight[rows]))
    return np.column_stack(
        [(X - mean) / np.where(spread > 0, spread, 1), constant * np.ones(len(X))]
    )


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


def select(scores, metric="mse", betas=BETAS, constants=None):
    nothing = jnp.zeros((3,), jnp.int32)
    scores = jnp.asarray(scores)
    constants = jnp.ones(4) if constants is None else jnp.asarray(constants)
    status, gap = qs.Status.solved, scores[0, 0]
    return _select(betas, constants, scores, nothing, status, gap, "relaxation", metric)


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


def test_choices_among_constants_by_hand():
    """The second constant is best, at 1; its 2 is within an error, as a 9 of the first would be."""
    betas, constants = jnp.array([9.0, 5.0, 2.0, 1.0]), [3.0, 3.0, 7.0, 7.0]
    result = select([[1.5, 4, 1.4, 0.5], [1.5, 4, 1.4, 1.5]], betas=betas, constants=constants)
    assert (result.best_beta, result.best_constant) == (1, 7)
    assert result.beta_one_standard_error == 2
    lines = repr(result).splitlines()
    assert lines[1].split() == ["constant", "beta", "mse", "±", "error"]
    assert lines[5].split()[:2] == ["7", "1"]
    assert "best, at the edge" in lines[5]
    assert lines[4].endswith("one standard error")
    equals = select(np.ones((3, 4)), betas=betas, constants=constants)
    assert (equals.best_beta, equals.best_constant) == (9, 3)
    alone = select(np.ones((3, 4)))
    assert "3 folds, constant 1, largest gap" in repr(alone)
    without = select(np.ones((3, 4)), constants=np.zeros(4))
    assert "constant" not in repr(without)
    assert without.best_constant == 0


def test_several_constants_score_as_each_alone():
    X, y, weight = noisy()
    options = {"key": KEY, "folds": FOLDS, "num_betas": NUM_BETAS, "sample_weight": weight}
    options |= {"solver": TIGHT}
    both = qs.cross_validate(X, y, constant=[1, RULE], **options)
    np.testing.assert_allclose(both.constants, [1] * NUM_BETAS + [RULE] * NUM_BETAS)
    for part, constant in ((slice(0, NUM_BETAS), 1.0), (slice(NUM_BETAS, None), RULE)):
        alone = qs.cross_validate(X, y, constant=constant, **options)
        np.testing.assert_allclose(both.betas[part], alone.betas, rtol=1e-6)
        np.testing.assert_allclose(both.scores[:, part], alone.scores, rtol=1e-5)
        assert (alone.best_constant, float(alone.constants[0])) == (constant, constant)
    rule = qs.cross_validate(X, y, **options)
    np.testing.assert_allclose(rule.scores, alone.scores, rtol=1e-12)
    assert rule.best_constant == RULE
    features = standardized(X, weight, np.arange(len(y)))
    np.testing.assert_allclose(both.betas[0], qs.beta_max(features, y, weight), rtol=3e-6)
    given = qs.cross_validate(X, y, [2.0, 5.0], constant=jnp.array([1.0, RULE]), **options)
    np.testing.assert_array_equal(given.betas, [5, 2, 5, 2])


@pytest.mark.parametrize("score", ["relaxation", "network"])
def test_outputs_share_a_penalty(score):
    """The scores of two columns are the means of theirs, and the grid starts at the larger."""
    X, y, weight = noisy()
    other = planted(1, SMALL[0], SMALL[1] - 1, neurons=1, noise=0.5).y / 2
    options = {"key": KEY, "folds": FOLDS, "sample_weight": weight, "solver": TIGHT}
    if score == "network":
        options |= {"score": score, "num_neurons": NUM_NEURONS}
    targets = np.column_stack([y, other])
    result = qs.cross_validate(X, targets, constant=1, num_betas=NUM_BETAS, **options)
    features = standardized(X, weight, np.arange(len(y)))
    largest = max(float(qs.beta_max(features, column, weight)) for column in targets.T)
    np.testing.assert_allclose(result.betas, largest * np.geomspace(1, 1e-3, NUM_BETAS), rtol=3e-6)
    solved = result.status == qs.Status.solved
    assert solved.shape == result.scores.shape == (FOLDS, NUM_BETAS)
    if score == "relaxation":
        alone = [
            qs.cross_validate(X, c, result.betas, constant=1, **options).scores for c in targets.T
        ]
        np.testing.assert_allclose(result.scores, np.mean(alone, axis=0), rtol=1e-5)
        return
    # Outputs share their neurons, so the reference draws both.
    keys = jax.random.split(jax.random.split(KEY)[1], FOLDS)
    train, held_out = next(folds_of(result))
    prepared = standardized(X, weight, train)
    share = weight[train].sum() / weight.sum()
    for index in (1, NUM_BETAS - 1):
        problem = qs.Problem(
            prepared[train], targets[train], result.betas[index] * share, None, weight[train]
        )
        solution = qs.solve(problem, TIGHT)
        network = qs.round(problem, solution, num_neurons=NUM_NEURONS, key=keys[0])
        squares = np.mean((jax.vmap(network)(jnp.asarray(prepared)) - targets) ** 2, axis=1)
        expected = np.average(squares[held_out], weights=weight[held_out])
        np.testing.assert_allclose(result.scores[0, index], expected, rtol=1e-5)


def test_one_column_is_no_column():
    X, y, weight = noisy()
    result = qs.cross_validate(
        X,
        y[:, None],
        constant=1,
        key=KEY,
        folds=FOLDS,
        num_betas=NUM_BETAS,
        sample_weight=weight,
        solver=TIGHT,
    )
    np.testing.assert_allclose(result.scores, validated("relaxation").scores, rtol=1e-6)


def test_accuracy_by_hand():
    signs = jnp.array([[1.0], [-1.0], [1.0]])
    predictions = jnp.array([[[0.2], [0.1], [-3.0]], [[0.0], [-1.0], [2.0]]])
    scores = scores_of_points(predictions, signs, "accuracy")
    np.testing.assert_array_equal(scores, [[1, 0, 0], [1, 1, 1]])
    classes = jnp.array([[1.0, -1, -1], [-1, -1, 1]])
    predictions = jnp.array([[[-0.5, -0.6, -2], [3, 1, 2]]])
    np.testing.assert_array_equal(scores_of_points(predictions, classes, "accuracy"), [[1, 0]])
    squares = [[(2.25 + 0.16 + 1) / 3, (16 + 4 + 1) / 3]]
    np.testing.assert_allclose(scores_of_points(predictions, classes, "mse"), squares, rtol=1e-6)


def test_three_classes():
    """Sectors of the plane: classes that no linear score separates worse than chance."""
    X = noisy()[0]
    kind = (X[:, 1] > 0) + (X[:, 1] > 0) * (X[:, 2] > -1)
    y = np.where(kind[:, None] == np.arange(3), 1.0, -1.0)
    result = qs.cross_validate(X, y, [5.0, 2.0], key=KEY, folds=2, metric="accuracy")
    assert result.mean[result.best_index] > 0.6
    np.testing.assert_allclose(12 * result.scores, np.round(12 * result.scores), atol=1e-5)


def test_invalid_column_fails_the_lane():
    X, y, _ = noisy()
    targets = np.column_stack([y, y])

    @jax.jit
    def validate(targets):
        return qs.cross_validate(X, targets, [5.0, 2.0], key=KEY, folds=2)

    result = validate(jnp.asarray(targets).at[0, 1].set(jnp.nan))
    assert np.all(np.isnan(result.scores))
    assert np.all(result.status == qs.Status.invalid_data)
    assert np.isnan(result.best_beta)


@pytest.mark.parametrize("score", ["relaxation", "network"])
def test_jit_gives_the_same(score):
    """One program, or lanes on the host that leave held-out samples out, whatever they hold."""
    X, y, weight = noisy()
    X, weight = X.copy(), weight.copy()
    X[3], weight[3] = 1e9, 0
    targets = np.column_stack([y, np.roll(y, 1)])
    options = {"key": KEY, "folds": 3, "num_betas": 3, "ratio": 0.1, "constant": [1.0, 2.0]}
    options |= {"solver": TIGHT, "score": score}
    if score == "network":
        options["num_neurons"] = NUM_NEURONS

    def validate(X, targets, weight):
        return qs.cross_validate(X, targets, sample_weight=weight, **options)

    host, traced = validate(X, targets, weight), jax.jit(validate)(X, targets, weight)
    np.testing.assert_array_equal(host.fold, traced.fold)
    np.testing.assert_allclose(host.betas, traced.betas, rtol=1e-9)
    np.testing.assert_allclose(host.scores, traced.scores, rtol=1e-4)
    again = [validate(X, targets, weight) for _ in range(2)][1]  # by the program for many calls
    np.testing.assert_allclose(host.scores, again.scores, rtol=1e-4)


def test_folds_partition_the_samples():
    for n, folds in ((24, 5), (24, 24), (7, 2)):
        fold = np.asarray(_assign(n, folds, KEY)[0])
        sizes = np.bincount(fold, minlength=folds)
        assert len(sizes) == folds
        assert sizes.max() - sizes.min() <= 1
    others = _assign(24, 5, jax.random.key(4))[0]
    assert not np.array_equal(_assign(24, 5, KEY)[0], others)
    np.testing.assert_array_equal(np.bincount(validated("network").fold), [6] * FOLDS)
    np.testing.assert_array_equal(validated("network").fold, validated("relaxation").fold)


def test_preparation(dtype):
    X, _, weight = (part.astype(dtype) for part in noisy())
    X[:, 1] = 0.1  # constant where it counts, though not in rounded arithmetic
    weight[:5], X[:5] = 0, 1e6
    rows = np.arange(5, len(X))
    expected = standardized(X.astype(float), weight.astype(float), [0, 1, *rows])[rows]
    expected[:, 1] = 0
    for kind in (jnp.asarray, np.asarray):
        features = prepared(kind(X), kind(weight), standardize=True, constant=1.0)
        assert features.dtype == dtype
        atol = 1e-6 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(features[5:], expected, atol=atol)
        np.testing.assert_array_equal(features[:, 1], np.zeros(len(X)))
    for constant in (None, 0.5):
        plain = prepared(jnp.asarray(X), jnp.asarray(weight), False, constant)
        assert plain.dtype == dtype
        np.testing.assert_array_equal(plain[:, :4], X)
        np.testing.assert_array_equal(
            plain[:, 4:], np.full((len(X), int(constant is not None)), 0.5)
        )


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
    title = "CrossValidation(mse of the network, 4 folds, constant 1, largest gap="
    assert lines[0].startswith(title)
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
        ({"y": np.ones((23, 2))}, ValueError, "`y` must have shape"),
        ({"y": np.ones((24, 2)), "metric": "accuracy"}, ValueError, "`y` must have one"),
        ({"constant": 0}, ValueError, "`constant` must be a positive"),
        ({"constant": -1.0}, ValueError, "`constant` must be a positive"),
        ({"constant": "yes"}, ValueError, "`constant` must be a positive"),
        ({"constant": [None]}, ValueError, "`constant` must be a positive"),
        ({"constant": [1.0, np.inf]}, ValueError, "`constant` must be a positive"),
        ({"constant": []}, ValueError, "`constant` must be True"),
        ({"constant": np.ones((2, 2))}, ValueError, "`constant` must be True"),
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


def test_plot_of_several_constants():
    betas, constants = jnp.array([9.0, 5.0, 2.0, 1.0]), [3.0, 3.0, 7.0, 7.0]
    result = select([[1.5, 4, 1.4, 0.5], [1.5, 4, 1.4, 1.5]], betas=betas, constants=constants)
    drawn = result.plot()
    texts = [text.get_text() for text in drawn.get_legend().get_texts()]
    assert {"relaxation, constant 3", "relaxation, constant 7"} <= set(texts)
    for container, expected in zip(drawn.containers, ([9, 5], [2, 1]), strict=True):
        np.testing.assert_array_equal(container[0].get_xdata(), expected)
    plt.close(drawn.figure)


def test_penalties_alone_may_be_traced():
    X, y, _ = noisy()

    def mean(betas):
        options = {"key": KEY, "folds": 2, "constant": False}
        return qs.cross_validate(X, y, betas, **options).mean

    betas = jnp.array([5.0, 2.0])
    expected = mean(betas)
    np.testing.assert_allclose(
        jax.vmap(mean)(jnp.stack([betas, 2 * betas]))[0], expected, rtol=1e-5
    )
    gradient = jax.grad(lambda betas: mean(betas).sum())(betas)
    step = jnp.array([1e-3, 0.0])
    difference = (mean(betas + step) - mean(betas - step)).sum() / 2e-3
    np.testing.assert_allclose(gradient[0], difference, rtol=1e-3)


@pytest.mark.filterwarnings("error")
def test_features_out_of_range_are_no_crash():
    """Their squares overflow, without a word of NumPy's."""
    X, y, _ = noisy()
    X = X.copy()
    X[:, 0] = 1e160 * np.sign(X[:, 0])
    result = qs.cross_validate(X, y, [5.0, 2.0], key=KEY, folds=2)
    assert result.scores.shape == (2, 2)
    X[:, 0] = 1.7e308 * np.sign(X[:, 0] - X[:, 0].mean())
    with pytest.raises(ValueError, match="`betas` has no default here"):
        qs.cross_validate(X, y, key=KEY, folds=2)


@pytest.mark.parametrize("count", [-1, 2.5, "a", None, True])
def test_bad_counts_of_penalties_are_named(count):
    X, y, _ = noisy()
    with pytest.raises(ValueError, match="`num_betas`"):
        qs.cross_validate(X, y, key=KEY, num_betas=count)
