"""Data of which there is nothing, or only one, to learn: all functions give an answer."""

import jax
import numpy as np
import pytest

import jaxqsdp as qs
from jaxqsdp._problem.host_core import HostCore
from jaxqsdp._search.columns import Task
from jaxqsdp._search.restricted import basic_weights, solve_restricted

N, D = 21, 4
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((N, D)), RNG.standard_normal(N)
KEY = jax.random.key(0)
NOTHING = {
    "y": (X, 0 * Y),
    "X": (0 * X, Y),
    "both": (0 * X, 0 * Y),
}


@pytest.mark.parametrize("columns", [np.zeros((5, 0)), np.zeros((1, 0))])
def test_no_columns(columns):
    """SciPy's nonnegative least squares frees memory twice here, and the process dies later."""
    for _ in range(100):
        assert basic_weights(columns, np.zeros(0)).shape == (0,)
    y = np.arange(1.0, 1 + len(columns))
    fitted = solve_restricted(columns, y, 1.0, 0 * y, 1e-9)
    assert fitted.alpha.shape == (0,)
    assert fitted.value == fitted.bound == 0.5 * y @ y
    np.testing.assert_array_equal(fitted.dual, y)


@pytest.mark.parametrize("y", [0.0, 1.0])
def test_columns_of_zeros(y):
    columns, y = np.zeros((3, 5)), np.full(3, y)
    fitted = solve_restricted(columns, y, 1.0, y, 1e-9)
    assert fitted.value == pytest.approx(0.5 * y @ y)
    assert fitted.bound == pytest.approx(0.5 * y @ y)
    assert np.all(np.isfinite(basic_weights(columns, fitted.alpha)))


@pytest.mark.parametrize("name", NOTHING)
def test_a_task_of_nothing(name):
    task = Task.all_of(HostCore.of(qs.Problem(*NOTHING[name], 1.0)))[0]
    assert task.target.beta == pytest.approx(1.0, rel=100)
    signs = np.ones((2, D))
    assert np.all(np.isfinite(task.columns((signs, signs))))


@pytest.mark.parametrize("name", NOTHING)
def test_where_there_is_nothing_to_learn(name):
    """The best network has no neurons, and that is proven."""
    X, y = NOTHING[name]
    fit = qs.fit(X, y, beta=1.0, num_neurons=16, key=KEY)
    loss = 0.5 * y @ y
    assert fit.network.num_neurons == 0
    np.testing.assert_allclose(fit.certificate.objective, loss, rtol=1e-12, atol=1e-300)
    np.testing.assert_allclose(fit.certificate.lower_bound, loss, rtol=1e-12)
    exact = qs.solve_exactly(fit.problem)
    assert exact.network.num_neurons == 0
    assert qs.refit(fit.problem, fit.network).num_neurons == 0
    assert float(qs.beta_max(X, y)) == 0
    again = qs.improve(fit.problem, fit.network, max_neurons=16, key=KEY, solution=fit.solution)
    assert again.num_neurons == 0


SHAPES = {
    "one sample": (X[:1], Y[:1]),
    "one feature": (X[:, :1], Y),
    "one of each": (X[:1, :1], Y[:1]),
}


@pytest.mark.parametrize("name", SHAPES)
@pytest.mark.parametrize("target", [0.0, 1.0])
def test_where_there_is_one(name, target):
    X, y = SHAPES[name][0], SHAPES[name][1] * target
    fit = qs.fit(X, y, beta=0.1, num_neurons=8, key=KEY)
    assert fit.certificate.lower_bound <= fit.certificate.objective
    exact = qs.solve_exactly(fit.problem)
    assert fit.certificate.lower_bound <= exact.certificate.objective
    assert exact.certificate.objective <= fit.certificate.objective * (1 + 1e-6) + 1e-300


def test_one_of_two_outputs_is_zero():
    fit = qs.fit(X, np.stack([Y, 0 * Y], axis=1), beta=1.0, num_neurons=16, key=KEY)
    np.testing.assert_array_equal(fit.network.alpha[:, 1], 0)
