"""What fits and searches for neurons, under every loss: one row a member."""

import functools
import itertools

import cvxpy as cp
import jax
import numpy as np
import pytest
from losses import STOOD_FOR
from networks import all_neurons, improve, network_of
from problems import SMALL, planted
from test_output_weights import LOSSES

import jaxqsdp as qs
from jaxqsdp._problem.host_core import HostCore
from jaxqsdp._search.model import quadratic_model
from jaxqsdp._search.target import Target

KEY = jax.random.key(0)
OTHERS = [name for name in LOSSES if name != "squared"]


pytestmark = pytest.mark.thorough(name=STOOD_FOR)


@pytest.fixture(params=OTHERS)
def name(request):
    return request.param


@functools.cache
def problem_of(name, dtype=np.float64, shape=SMALL, outputs=None, fraction=0.05):
    """Planted targets, or their signs, some samples of weight zero."""
    loss, (n, _) = LOSSES[name][0], shape
    cases = [planted(seed, *shape) for seed in range(outputs or 1)]
    y = np.column_stack([case.y for case in cases])
    y = np.where(y > 0, 1.0, -1.0) if loss.takes_labels else y
    weight = np.random.default_rng(0).uniform(0.2, 2, n) * (np.arange(n) > 1)
    arrays = cases[0].X, y if outputs else y[:, 0], fraction * n
    X, y, beta = (np.asarray(array, dtype) for array in arrays)
    return qs.Problem(X, y, beta, loss=loss, sample_weight=weight.astype(dtype))


@functools.cache
def guide(dtype, outputs=None):
    """A solution of the problem with the squared loss: as good to start from, and compiled once."""
    return qs.solve(problem_of("squared", dtype, outputs=outputs))


def objective(name, problem, network):
    """Return the objective from the definition that CVXPY has, in float64."""
    u, v, alpha = (np.asarray(a, float) for a in (network.u, network.v, network.alpha_columns))
    X, y = np.asarray(problem.X, float), np.asarray(problem.columns.y, float)
    predictions = ((X @ u.T) * (X @ v.T)) @ alpha
    each = LOSSES[name][1](cp.Constant(predictions), y).value
    return np.sum(np.asarray(problem.weight, float) @ each) + float(problem.beta) * np.sum(
        np.abs(alpha)
    )


@pytest.mark.parametrize("outputs", [None, 2])
def test_round_and_refit(name, dtype, outputs):
    problem, solution = problem_of(name, dtype, outputs=outputs), guide(dtype, outputs)
    drawn = qs.round(problem, solution, num_neurons=12, key=KEY, refit=False)
    fitted = qs.round(problem, solution, num_neurons=12, key=KEY)
    again = qs.refit(problem, drawn)
    np.testing.assert_array_equal(fitted.alpha, again.alpha)
    assert fitted.alpha.shape == drawn.alpha.shape
    assert fitted.alpha.dtype == dtype
    value = objective(name, problem, fitted)
    np.testing.assert_allclose(value, problem.objective(fitted), rtol=1e-5)
    assert value < objective(name, problem, drawn)
    # No other α is better, along random lines.
    rng, alpha = np.random.default_rng(0), np.asarray(fitted.alpha, float)
    for size in (1e-1, 1e-2, 1e-3):
        other = alpha + size * np.abs(alpha).max() * rng.standard_normal(alpha.shape)
        moved = network_of(fitted.u, fitted.v, other, dtype)
        assert value < objective(name, problem, moved)


@pytest.mark.covering(1)
def test_refit_under_jit(name, dtype):
    problem = problem_of(name, dtype, outputs=2)
    network = qs.round(problem, guide(dtype, 2), num_neurons=12, key=KEY, refit=False)
    on_host = objective(name, problem, qs.refit(problem, network))
    traced = objective(name, problem, jax.jit(qs.refit)(problem, network))
    np.testing.assert_allclose(traced, on_host, rtol=1e-9 if dtype == np.float64 else 2e-4)


@pytest.mark.parametrize("exponents", [(7, -9, 4), (-11, 6, -3)])
def test_units_do_not_matter_to_a_refit(name, exponents):
    problem = problem_of(name)
    a, b, c = (2.0**exponent for exponent in exponents)
    b, degree = (1.0, 0) if problem.loss.degree is None else (b, problem.loss.degree)
    beta = problem.beta * a**-2 * b ** (degree - 1) * c / a**-4
    other = qs.Problem(
        a * problem.X, b * problem.y, beta, problem.loss.rescaled(b), c * problem.weight
    )
    network = qs.round(problem, guide(np.float64), num_neurons=12, key=KEY, refit=False)
    alpha, changed = qs.refit(problem, network).alpha, qs.refit(other, network).alpha
    np.testing.assert_array_equal(changed, alpha * (b / a**2))


@pytest.mark.parametrize("fraction", [0.05, 0.005])
def test_solve_exactly_against_all_neurons(name, dtype, fraction):
    problem = problem_of(name, dtype, (24, 4), fraction=fraction)
    result = qs.solve_exactly(problem, solution=qs.solve(squared_of(problem)))
    u, v = all_neurons(4)
    X, y = np.asarray(problem.X, float), np.asarray(problem.y, float)
    alpha = cp.Variable(len(u))
    each = LOSSES[name][1](((X @ u.T) * (X @ v.T)) @ alpha, y)
    total = np.asarray(problem.weight, float) @ each + float(problem.beta) * cp.norm1(alpha)
    least = cp.Problem(cp.Minimize(total)).solve("CLARABEL")
    found, certificate = objective(name, problem, result.network), result.certificate
    tolerance = 3e-6 if dtype == np.float64 else 3e-5
    assert least * (1 - 1e-6) <= found <= least * (1 + tolerance)
    assert float(certificate.lower_bound) <= least * (1 + 1e-6)
    assert float(certificate.gap) <= tolerance
    assert float(certificate.lower_bound) <= found <= float(certificate.objective)


def squared_of(problem):
    return qs.Problem(problem.X, problem.y, problem.beta, sample_weight=problem.sample_weight)


@pytest.mark.covering(1)
def test_improve(name, dtype):
    outputs = 2 if dtype == np.float32 else None
    problem, solution = problem_of(name, dtype, outputs=outputs), guide(dtype, outputs)
    rounded = qs.round(problem, solution, num_neurons=40, key=KEY)
    size = np.abs(np.asarray(rounded.alpha_columns)).sum(axis=1)
    given = qs.refit(problem, rounded.subset(np.sort(np.argsort(-size)[:4])))
    better = improve(problem, given, solution, 4)
    assert better.num_neurons <= 4
    assert objective(name, problem, better) < 0.98 * objective(name, problem, given)
    # What is given is kept where nothing better is found.
    again = improve(problem, better, solution, 4)
    assert float(problem.objective(again)) <= float(problem.objective(better))


def test_improve_finds_the_best_pair(name):
    """Of all networks of two neurons in three features."""
    problem = problem_of(name, shape=(24, 3), fraction=0.02)
    u, v = all_neurons(3)
    core = HostCore.of(problem)
    target, columns = Target.all_of(core)[0], (core.X @ u.T) * (core.X @ v.T)
    pairs = np.array(list(itertools.combinations(range(len(u)), 2)))
    fitted = [target.best_weights(columns[:, pair]) for pair in pairs]
    values = [target.objective(columns[:, p], a) for p, a in zip(pairs, fitted, strict=True)]
    least = core.restore_value(min(values))
    given = qs.refit(problem, network_of(u[:2], v[:2], np.ones(2)))
    better = improve(problem, given, qs.solve(squared_of(problem)), 2)
    np.testing.assert_allclose(objective(name, problem, better), least, rtol=1e-6)


def test_a_model_has_the_slope_of_the_loss(name):
    problem = problem_of(name, outputs=2)
    core = HostCore.of(problem)
    predictions = np.random.default_rng(0).standard_normal(core.y.shape)
    model = quadratic_model(core, predictions)
    assert model.loss.is_quadratic
    assert model.y.shape == core.y.shape
    counted = core.weight > 0
    root = model.root[:, None]
    slope = (root * (root * predictions - model.y))[counted]
    safe = np.where(counted[:, None], core.y, 1.0)
    expected = (core.weight[:, None] * core.loss.slope(predictions, safe))[counted]
    np.testing.assert_allclose(slope, expected, atol=1e-12)
    np.testing.assert_allclose(model.X, np.sqrt(root) * core.X)
    assert quadratic_model(model, predictions) is model
