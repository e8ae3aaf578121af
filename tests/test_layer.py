"""The relaxation as a layer: its predictions, its derivatives, and training through it."""

import functools
import itertools
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from helpers import stack
from problems import SMALL, planted

import jaxqsdp as qs
import jaxqsdp._layer as module

KEY = jax.random.key(5)
BETA = 0.5
# Differences need a solution that is exact: a gap of 1e-9 is an error of 3e-5 in predictions.
SOLVER = {
    np.float64: qs.InteriorPoint(tol=1e-13, tol_residual=1e-11),
    np.float32: qs.InteriorPoint(),
}


@functools.cache
def data(dtype=np.float64, seed=1):
    """Return X, y, log β, a query, and weights, some zero."""
    case, rng = planted(seed, *SMALL), np.random.default_rng(seed)
    weight = rng.uniform(0.5, 2, SMALL[0])
    weight[:3] = 0
    arguments = case.X, case.y, np.log(BETA), rng.standard_normal((7, SMALL[1])), weight
    return tuple(jnp.asarray(argument, dtype) for argument in arguments)


def validation_loss(X, y, log_beta, query, weight):
    """Return a smooth function of everything that a layer gives and takes, and its status."""
    layer = qs.RelaxationLayer(1.0, solver=SOLVER[X.dtype.type])
    layer = eqx.tree_at(lambda layer: layer.log_beta, layer, log_beta)
    solution, predictions = layer(X, y, query, weight)
    target = jnp.sin(jnp.arange(len(query), dtype=X.dtype))
    loss = jnp.mean(jnp.square(predictions - target)) + 0.1 * solution.value
    return loss, (solution.status, predictions)


gradients = jax.jit(jax.vmap(jax.grad(validation_loss, argnums=(0, 1, 2, 3, 4), has_aux=True)))


@functools.cache
def differentiated():
    """Return three problems with penalties of their own and a bad one, and their gradients."""
    cases = [list(data(seed=seed)) for seed in range(4)]
    for index, case in enumerate(cases):
        case[2] += index - 1
    cases[3][1] = jnp.full_like(cases[3][1], np.nan)
    return stack(cases), *gradients(*stack(cases))


@functools.cache
def solved(dtype):
    """Return a layer, its solution and its predictions for a query."""
    X, y, log_beta, query, weight = data(dtype)
    layer = qs.RelaxationLayer(jnp.exp(log_beta), solver=SOLVER[dtype])
    return layer, *layer(X, y, query, weight)


def test_is_solve_and_a_quadratic_form(dtype):
    X, y, _, query, weight = data(dtype)
    layer, solution, predictions = solved(dtype)
    problem = layer.problem(X, y, weight)
    assert eqx.tree_equal(problem, qs.Problem(X, y, layer.beta, sample_weight=weight))
    assert eqx.tree_equal(solution, qs.solve(problem, SOLVER[dtype]))
    np.testing.assert_allclose(layer.beta, BETA, rtol=4 * np.finfo(dtype).eps)
    q, form = np.asarray(query, float), np.asarray(solution.quadratic_form, float)
    expected = np.einsum("md,de,me->m", q, form, q)
    assert predictions.dtype == dtype
    tolerance = 1e2 * np.finfo(dtype).eps
    np.testing.assert_allclose(predictions, expected, atol=tolerance * np.abs(expected).max())
    # Without a query, those for X, zero weights included.
    same, fitted = layer(X, y, sample_weight=weight)
    _, again = layer(X, y, X, weight)
    # Up to rounding: what is solved often has a program of its own, and on a GPU other kernels.
    exact = jax.default_backend() == "cpu"
    close = tolerance if exact else max(tolerance, 1e-10)
    np.testing.assert_allclose(same.value, solution.value, rtol=close)
    close = tolerance if exact else max(tolerance, 1e-7)  # as good as the root of its value
    np.testing.assert_allclose(same.dual, solution.dual, atol=close * np.abs(y).max())
    assert fitted.shape == y.shape
    np.testing.assert_allclose(fitted, again, atol=tolerance * np.abs(again).max())
    # Predictions have the dtype of the data, whatever the query's.
    other = np.asarray(query, np.float32 if dtype == np.float64 else np.float64)
    assert layer(X, y, other, weight)[1].dtype == dtype


def unit(batch):
    """Return each lane scaled to norm one, or zero."""
    norm = np.linalg.norm(batch.reshape(len(batch), -1), axis=1)
    return batch / np.where(norm > 0, norm, 1).reshape(-1, *[1] * (batch.ndim - 1))


@pytest.mark.parametrize("index", range(5), ids=["X", "y", "log_beta", "query", "weight"])
def test_derivative_is_that_of_finite_differences(index):
    """Those of a batch of problems with penalties of their own, one by one."""
    stacked, slopes, _ = differentiated()
    random = np.random.default_rng(index).standard_normal(stacked[index].shape)
    if index == 4:
        random[:, :3] = 0  # weights below zero are no problem
    direction = unit(np.where(random == 0, 0, slopes[index])) + unit(random) / 2
    difference, step = 0.0, 1e-2
    for shift, factor in ((1, 8), (-1, -8), (2, -1), (-2, 1)):
        moved = stacked[index] + shift * step * direction
        cases = zip(*stacked[:index], moved, *stacked[index + 1 :], strict=True)
        values = [float(validation_loss(*case)[0]) for case in itertools.islice(cases, 3)]
        difference += factor * np.asarray(values) / (12 * step)
    derivative = np.sum((slopes[index] * direction).reshape(4, -1)[:3], axis=1)
    assert np.all(np.abs(difference) > 1e-3)
    np.testing.assert_allclose(derivative, difference, rtol=1e-3, atol=3e-5)


def test_failed_lane_predicts_zero_and_has_no_derivative():
    _, slopes, (status, predictions) = differentiated()
    np.testing.assert_array_equal(status == qs.Status.invalid_data, [False, False, False, True])
    np.testing.assert_array_equal(predictions[3], 0)
    assert np.all(np.any(predictions[:3] != 0, axis=1))
    for slope in slopes:
        np.testing.assert_array_equal(slope[3], 0)


def test_several_outputs():
    """Penalties of their own for columns are layers of their own."""
    X, y, _, query, weight = data()
    betas = jnp.asarray([0.1, 1.0])
    layer = qs.RelaxationLayer(betas, solver=SOLVER[np.float64])
    solution, columns = layer(X, jnp.stack([y, -y], axis=1), query, weight)
    assert columns.shape == (7, 2)
    assert solution.quadratic_form.shape == (2, SMALL[1], SMALL[1])
    layers = eqx.filter_vmap(lambda beta: qs.RelaxationLayer(beta, solver=layer.solver))(betas)
    np.testing.assert_allclose(layers.beta, betas, rtol=1e-12)
    for index, sign in enumerate((1, -1)):
        single = jax.tree.map(lambda leaf, index=index: leaf[index], layers)
        _, expected = single(X, y, query, weight)
        np.testing.assert_allclose(columns[:, index], sign * expected, atol=1e-4)
    assert np.abs(columns[:, 0] + columns[:, 1]).max() > 0.1


class Model(eqx.Module):
    """Linear features, and a layer on top of them."""

    projection: jax.Array
    layer: qs.RelaxationLayer


def test_trains_features_and_penalty_and_rounds():
    """Raw features are a mixture of those that the targets depend on."""
    case, (n, d) = planted(3, *SMALL), SMALL
    mixture = np.eye(d) + 0.3 * np.random.default_rng(0).standard_normal((d, d))
    raw, y = (jnp.asarray(array, jnp.float32) for array in (case.X @ mixture, case.y))
    everything = jnp.ones_like(y)
    folds = jnp.stack([jnp.arange(n) % 2 == k for k in range(2)]).astype(raw.dtype)

    def loss(model):
        features = raw @ model.projection

        def held_out(weight):
            _, predictions = model.layer(features, y, sample_weight=weight)
            return jnp.sum((1 - weight) * jnp.square(predictions - y)) / float(n)

        return jnp.sum(jax.vmap(held_out)(folds))

    optimizer = optax.adam(0.03)
    traces = []

    @eqx.filter_jit
    def step(model, state):
        traces.append(None)
        value, slope = eqx.filter_value_and_grad(loss)(model)
        with jax.numpy_dtype_promotion("standard"):  # optax needs it
            updates, state = optimizer.update(slope, state)
        return eqx.apply_updates(model, updates), state, value

    start = model = Model(
        jnp.eye(d, dtype=raw.dtype), qs.RelaxationLayer(np.float32(2), solver=SOLVER[np.float32])
    )
    state, values = optimizer.init(eqx.filter(model, eqx.is_array)), []
    for _ in range(20):
        model, state, value = step(model, state)
        values.append(float(value))
    assert len(traces) == 1
    assert values[-1] < 0.5 * values[0]
    assert model.layer.beta > 0
    assert abs(model.layer.log_beta - start.layer.log_beta) > 0.1

    features = raw @ model.projection
    options = {"num_neurons": 30, "key": KEY}
    network = model.layer.round(features, y, sample_weight=everything, **options)
    problem = model.layer.problem(features, y, everything)
    solution, _ = model.layer(features, y, sample_weight=everything)
    assert eqx.tree_equal(network, qs.round(problem, solution, **options))
    certificate = qs.certify(problem, network, solution)
    assert 0 < certificate.lower_bound <= certificate.objective
    assert certificate.gap < 0.5
    np.testing.assert_allclose(certificate.objective, problem.objective(network), rtol=1e-5)


def test_options_reach_their_functions(monkeypatch):
    X, y, _, query, weight = data()
    _, solution, _ = solved(np.float64)
    seen = []

    def recorded(*arguments, **options):
        seen.append((arguments, options))
        return solution

    monkeypatch.setattr(module, "solve", recorded)
    monkeypatch.setattr(module, "round", recorded)
    solver, adjoint = qs.ADMM(), qs.Implicit(smoothing=0.1)
    layer = qs.RelaxationLayer(1.0, solver=solver, adjoint=adjoint)
    layer(X, y, query, weight)
    layer.round(X, y, num_neurons=12, key=KEY, sample_weight=weight, refit=False)
    qs.RelaxationLayer(1.0)(X, y)
    problem = qs.Problem(X, y, 1.0, sample_weight=weight)
    drawn = {"num_neurons": 12, "key": KEY, "refit": False}
    expected = [
        ((problem, solver), {"adjoint": adjoint, "throw": False}),
        ((problem, solver), {"adjoint": adjoint}),
        ((problem, solution), drawn),
        ((qs.Problem(X, y, 1.0), None), {"adjoint": qs.Implicit(), "throw": False}),
    ]
    assert eqx.tree_equal(seen, expected)


def test_concrete_penalty_that_overflowed_is_refused():
    X, y, *_ = data()
    layer = qs.RelaxationLayer(1.0)
    bad = eqx.tree_at(lambda layer: layer.log_beta, layer, jnp.asarray(1e4))
    with pytest.raises(ValueError, match="`beta` has 1 non-finite value"):
        bad(X, y)


def test_parameters():
    """One array; a number is no weakly typed one, which an update would change."""
    layer = qs.RelaxationLayer(3)
    (leaf,) = jax.tree.leaves(layer)
    assert leaf is layer.log_beta
    assert not leaf.weak_type
    assert leaf.dtype == np.float64
    np.testing.assert_allclose(layer.beta, 3, rtol=1e-15)
    assert qs.RelaxationLayer(np.float32(3)).beta.dtype == np.float32


BAD_BETAS = {
    "zero": (0.0, ValueError, "`beta` must be positive and finite, got 0.0"),
    "negative": ([1.0, -1.0], ValueError, "`beta` must be positive and finite"),
    "infinite": (np.inf, ValueError, "`beta` must be positive and finite"),
    "not a number": (np.nan, ValueError, "`beta` must be positive and finite"),
    "matrix": (np.ones((2, 2)), ValueError, "`beta` must have shape () or (c,), got (2, 2)"),
    "complex": (1j, TypeError, "`beta` is complex"),
    "text": ("small", TypeError, "`beta` must be an array of real numbers"),
}


@pytest.mark.parametrize("name", BAD_BETAS)
def test_refuses_bad_penalties(name):
    beta, error, message = BAD_BETAS[name]
    with pytest.raises(error, match=re.escape(message)):
        qs.RelaxationLayer(beta)


X, Y, _, QUERY, _ = data()
BAD_CALLS = {
    "X": ({"X": X[0]}, ValueError, "`X` must have shape (n, d), got (5,)"),
    "y": ({"y": Y[:-1]}, ValueError, "`y` must have shape (24,)"),
    "infinite y": ({"y": Y * np.inf}, ValueError, "`y` has 24 non-finite values"),
    "one query": ({"query": QUERY[0]}, ValueError, "`query` must have shape (m, 5)"),
    "short query": ({"query": QUERY[:, 1:]}, ValueError, "to match `X`, got (7, 4)"),
    "complex query": ({"query": 1j * np.asarray(QUERY)}, TypeError, "`query` is complex"),
    "weight": ({"sample_weight": Y[1:]}, ValueError, "`sample_weight` must have shape (24,)"),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_refuses_bad_data(name):
    change, error, message = BAD_CALLS[name]
    with pytest.raises(error, match=re.escape(message)):
        qs.RelaxationLayer(1.0)(**{"X": X, "y": Y, **change})


@pytest.mark.parametrize("name", ["solver", "adjoint"])
def test_refuses_what_is_no_solver_or_adjoint(name):
    layer = qs.RelaxationLayer(1.0, **{name: "fast"})
    with pytest.raises(TypeError, match=f"`{name}` must be"):
        layer(X, Y)


def test_penalties_must_fit_the_targets():
    with pytest.raises(ValueError, match=re.escape("`beta` must have shape (), got (2,)")):
        qs.RelaxationLayer([1.0, 2.0])(X, Y)


@pytest.mark.parametrize("outputs", [None, 2])
def test_fitted_it_predicts_without_targets(outputs, dtype):
    X, y, _, query, weight = data(dtype)
    y = y if outputs is None else jnp.stack([y, -y], axis=1)
    layer = qs.RelaxationLayer(dtype(BETA))
    solution, expected = layer(X, y, query, weight, key=KEY)
    fitted = layer.fit(X, y, weight)
    # Not to the bit: between the calls the program that is compiled aside may take the place.
    tolerance = 1e2 * np.finfo(dtype).eps
    np.testing.assert_allclose(
        fitted.quadratic_form, solution.quadratic_form, rtol=tolerance, atol=tolerance
    )
    for predict in (jax.vmap(fitted), jax.jit(jax.vmap(fitted)), eqx.filter_vmap(fitted)):
        predictions = predict(query)
        assert predictions.dtype == dtype
        np.testing.assert_allclose(predictions, expected, rtol=1e3 * np.finfo(dtype).eps)
    assert fitted(query[0], key=KEY).shape == (() if outputs is None else (outputs,))


def test_in_a_sequence_of_layers():
    """Trained through, then fitted and put at the end: what it predicts is the same."""
    X, y, _, query, _ = data()
    linear = eqx.nn.Linear(SMALL[1], 2, key=KEY)
    embed, layer = eqx.nn.Sequential([linear, eqx.nn.Lambda(jnp.tanh)]), qs.RelaxationLayer(BETA)
    features = jax.vmap(embed)

    def sequence(embed, layer):
        return eqx.nn.Sequential([embed, layer.fit(jax.vmap(embed)(X), y)])

    def loss(model):
        return jnp.sum(jnp.sin(jax.vmap(sequence(*model))(query)))

    def direct(model):
        embed, layer = model
        return jnp.sum(jnp.sin(layer(features_of(embed, X), y, features_of(embed, query))[1]))

    def features_of(embed, X):
        return jax.vmap(embed)(X)

    model = sequence(embed, layer)
    expected = layer(features(X), y, features(query))[1]
    np.testing.assert_allclose(jax.vmap(model)(query), expected, rtol=1e-10)
    keys = jax.random.split(KEY, len(query))
    with_keys = eqx.filter_jit(jax.vmap(lambda x, key: model(x, key=key)))(query, keys)
    np.testing.assert_allclose(with_keys, expected, rtol=1e-10)
    value, gradient = eqx.filter_jit(eqx.filter_value_and_grad(loss))((embed, layer))
    other_value, other = eqx.filter_jit(eqx.filter_value_and_grad(direct))((embed, layer))
    np.testing.assert_allclose(value, other_value, rtol=1e-6)
    for mine, theirs in zip(jax.tree.leaves(gradient), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-4, atol=1e-6)


def test_an_unfitted_layer_in_a_sequence_says_what_to_do():
    X, y, *_ = data()
    layer = qs.RelaxationLayer(BETA)
    with pytest.raises(TypeError, match=re.escape("use what `layer.fit(X, y)` returns")):
        eqx.nn.Sequential([eqx.nn.Identity(), layer])(X[0])
    fitted = layer.fit(X, y)
    for odd in (X, X[0, :-1], X[0, 0]):
        with pytest.raises(ValueError, match="`x` must have shape"):
            fitted(odd)
    with pytest.raises(qs.SolveError):
        qs.RelaxationLayer(BETA, solver=qs.InteriorPoint(max_steps=1)).fit(X, y)
