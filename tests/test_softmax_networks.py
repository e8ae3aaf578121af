"""Networks under the softmax loss, which couples outputs: refits, searches and proofs."""

import functools
import itertools
import warnings

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from networks import all_neurons, improve, network_of

import jaxqsdp as qs
from jaxqsdp._problem.host_core import HostCore
from jaxqsdp._search.model import quadratic_model
from jaxqsdp._search.projected_newton import refitted
from jaxqsdp._search.restricted import Restricted
from jaxqsdp._search.target import Target
from jaxqsdp._solver.output_weights import best_output_weights

LOSS = qs.SoftmaxLoss()
KEY = jax.random.key(0)
FRACTIONS = (0.5, 0.02, 1e-4)  # of the largest useful penalty
EXCESS = {np.float32: 4e-4, np.float64: 1e-8}
TALL, WIDE, EVEN = (40, 15, 3), (15, 40, 3), (40, 15, 4)


def drawn(n, m, c):
    """Features that a network of eight features has, and classes that they nearly explain."""
    rng, d = np.random.default_rng((1, n, m, c)), 8
    X, (u, v) = rng.standard_normal((n, d)), rng.choice((-1.0, 1.0), (2, m, d))
    features = (X @ u.T) * (X @ v.T)
    features /= np.abs(features).max()
    scores = 10 * features[:, :4] @ rng.standard_normal((min(m, 4), c))
    y = np.eye(c)[np.argmax(scores + 0.5 * rng.standard_normal((n, c)), axis=1)]
    return features, y, np.ones(n), np.ones(c)


@functools.cache
def cases():
    features, y, one, alike = drawn(*TALL)
    rng = np.random.default_rng(0)
    return {
        "tall": (features, y, one, alike),
        "wide": drawn(*WIDE),
        "four classes": drawn(*EVEN),
        "two classes": drawn(40, 15, 2),
        "one sample": drawn(1, 5, 3),
        "one neuron": drawn(60, 1, 3),
        "penalty for each output": (features, y, one, np.array([1.0, 0.3, 2.0])),
        "duplicated columns": (features[:, np.arange(15) // 3], y, one, alike),
        "zero columns": (features * (np.arange(15) % 2), y, one, alike),
        "one class": (features, np.eye(3)[np.zeros(40, int)], one, alike),
        "zero weights": (features, y, (np.arange(40) % 3 > 0) * 1.0, alike),
        "spread weights": (features, y, 10.0 ** rng.uniform(-8, 0, 40), alike),
        "columns far apart": (features * 10.0 ** (np.arange(15) % 4 - 2), y, one, alike),
    }


def arguments(case, fraction, dtype=np.float64):
    features, y, weight, share = cases()[case]
    slope = LOSS.dual_at(np.zeros_like(y), y, weight)
    beta = fraction * np.max(np.abs(features.T @ slope) / share) * share
    return tuple(np.asarray(array, dtype) for array in (features, y, weight, beta))


def objective(features, y, weight, beta, alpha):
    """Return the objective from its definition, in float64."""
    features, y, weight, beta, alpha = (
        np.asarray(a, float) for a in (features, y, weight, beta, alpha)
    )
    scores = features @ alpha
    each = np.logaddexp.reduce(scores, axis=1) - np.sum(y * scores, axis=1)
    return weight @ each + np.sum(beta * np.abs(alpha))


def least_by_cvxpy(features, y, weight, beta):
    alpha = cp.Variable((features.shape[1], y.shape[1]))
    scores = features @ alpha
    each = cp.log_sum_exp(scores, axis=1) - cp.sum(cp.multiply(y, scores), axis=1)
    penalty = cp.sum(cp.multiply(np.broadcast_to(beta, alpha.shape), cp.abs(alpha)))
    problem = cp.Problem(cp.Minimize(weight @ each + penalty))
    with warnings.catch_warnings():  # it says so where it stops at 1e-8
        warnings.simplefilter("ignore", UserWarning)
        return problem.solve("CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-9, tol_feas=1e-9)


least = functools.cache(lambda case, fraction: least_by_cvxpy(*arguments(case, fraction)))
fit = jax.jit(best_output_weights)


def on_host(*data):
    with np.errstate(all="ignore"):
        return best_output_weights(*data, LOSS)


@pytest.mark.parametrize("case", cases())
def test_weights_are_optimal_on_the_host(case):
    for fraction in FRACTIONS:
        data = arguments(case, fraction)
        alpha = on_host(*data)
        assert isinstance(alpha, np.ndarray)
        assert objective(*data, alpha) <= least(case, fraction) * (1 + EXCESS[np.float64])


SAME_SHAPE = ["tall", "zero columns", "zero weights", "penalty for each output"]


@pytest.mark.parametrize("case", SAME_SHAPE)
def test_weights_are_optimal_in_jax(case, dtype):
    for fraction in FRACTIONS:
        alpha = np.asarray(fit(*arguments(case, fraction, dtype), LOSS))
        assert alpha.dtype == dtype
        value = objective(*arguments(case, fraction), alpha)
        assert value <= least(case, fraction) * (1 + EXCESS[dtype])


@pytest.mark.parametrize("case", ["wide", "four classes"])
def test_weights_are_optimal_in_jax_in_other_shapes(case):
    alpha = np.asarray(fit(*arguments(case, 0.02), LOSS))
    assert objective(*arguments(case, 0.02), alpha) <= least(case, 0.02) * (1 + 1e-8)


def test_spread_weights_in_single_precision():
    data = arguments("tall", 0.02, np.float32)
    weight = 10.0 ** np.random.default_rng(0).uniform(-4, 0, 40)
    data = (*data[:2], weight.astype(np.float32), data[3] / 8)
    wide = tuple(np.asarray(array, float) for array in data)
    alpha = np.asarray(on_host(*data), float)
    assert objective(*wide, alpha) <= least_by_cvxpy(*wide) * (1 + EXCESS[np.float32])


def test_zeros_are_exact_and_one_output_of_three_goes_without():
    """A shift of all outputs costs nothing but the penalty, which is least at the median."""
    for case in ("tall", "wide", "one neuron"):
        alpha = on_host(*arguments(case, 0.02))
        assert np.all(np.sum(alpha == 0, axis=1) >= 1)
        assert np.any(alpha != 0)


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-12, 10.0])
def test_nothing_remains_of_a_large_penalty(factor):
    assert np.all(on_host(*arguments("tall", factor)) == 0)
    assert np.all(fit(*arguments("tall", factor), LOSS) == 0)
    assert np.any(on_host(*arguments("tall", 0.99)) != 0)


def test_powers_of_two_change_only_the_units():
    features, y, weight, beta = arguments("tall", 0.02)
    a, c = np.float64(2.0**20), np.float64(2.0**-7)
    changed = on_host(a * features, y, c * weight, a * c * beta)
    np.testing.assert_array_equal(changed, on_host(features, y, weight, beta) / a)


def test_zero_weight_samples_do_not_count():
    features, y, weight, beta = arguments("zero weights", 0.02)
    kept = weight > 0
    garbage = np.where(kept[:, None], features, np.inf), np.where(kept[:, None], y, 7.0)
    expected = on_host(features, y, weight, beta)
    np.testing.assert_array_equal(on_host(*garbage, weight, beta), expected)
    alone = on_host(features[kept], y[kept], weight[kept], beta)
    np.testing.assert_allclose(alone, expected, atol=1e-4 * np.abs(expected).max())


def test_two_classes_are_the_logistic_loss_of_a_difference():
    """A difference of scores is shared by the two outputs at will: the penalty is the same."""
    features, y, weight, beta = arguments("two classes", 0.02)
    labels = 2 * y[:, 0] - 1
    alpha = on_host(features, y, weight, beta)
    with np.errstate(all="ignore"):
        single = best_output_weights(features, labels, weight, beta[0], qs.LogisticLoss())
    np.testing.assert_allclose(alpha[:, 0] - alpha[:, 1], single, atol=1e-4)
    loss = weight @ np.logaddexp(0, -labels * (features @ single))
    value = loss + beta[0] * np.abs(single).sum()
    np.testing.assert_allclose(objective(features, y, weight, beta, alpha), value, rtol=1e-9)


def problem_of(n, d, c, fraction, dtype=np.float64, weight=None):
    """Scores that are products of features, and noise; the last feature is a constant."""
    rng = np.random.default_rng((n, d, c))
    X = np.column_stack([rng.standard_normal((n, d - 1)), np.ones(n)])
    places = np.arange(c)[:, None] + np.arange(3)[None]
    first, second, third = X.T[places.T % d]
    y = np.argmax(first * second + third + 0.3 * rng.standard_normal((c, n)), axis=0)
    beta = np.asarray(fraction * n * np.linspace(1, 1.5, c), dtype)
    weight = None if weight is None else weight.astype(dtype)
    return qs.Problem(X.astype(dtype), y, beta, qs.SoftmaxLoss(c), sample_weight=weight)


def data_of(problem, u, v):
    """Return features, targets, weights and penalties in float64."""
    X, u, v = (np.asarray(array, float) for array in (problem.X, u, v))
    columns = problem.columns
    numbers = (np.asarray(a, float) for a in (columns.y, columns.weight, columns.beta))
    return ((X @ u.T) * (X @ v.T), *numbers)


def objective_of(problem, network):
    return objective(*data_of(problem, network.u, network.v), network.alpha)


@functools.cache
def solved(*arguments):
    problem = problem_of(*arguments)
    return problem, qs.solve(problem)


@pytest.mark.thorough(dtype=(np.float32,))
def test_round_and_refit(dtype):
    problem, solution = solved(30, 4, 3, 0.01, dtype)
    drawn = qs.round(problem, solution, num_neurons=12, key=KEY, refit=False)
    fitted = qs.round(problem, solution, num_neurons=12, key=KEY)
    np.testing.assert_array_equal(qs.refit(problem, drawn).alpha, fitted.alpha)
    assert fitted.alpha.shape == (12, 3)
    assert fitted.alpha.dtype == dtype
    value, optimum = objective_of(problem, fitted), least_of(problem, fitted)
    np.testing.assert_allclose(value, problem.objective(fitted), rtol=1e-5)
    assert float(solution.lower_bound) <= value <= optimum * (1 + EXCESS[dtype])
    traced = objective_of(problem, jax.jit(qs.refit)(problem, drawn))
    assert traced <= optimum * (1 + EXCESS[dtype])
    again = jax.jit(lambda *a: qs.round(*a, num_neurons=12, key=KEY))(problem, solution)
    np.testing.assert_allclose(objective_of(problem, again), least_of(problem, again), rtol=4e-4)


def least_of(problem, network):
    return least_by_cvxpy(*data_of(problem, network.u, network.v))


def test_refit_under_vmap():
    problem, solution = solved(30, 4, 3, 0.01)
    drawn = qs.round(problem, solution, num_neurons=12, key=KEY, refit=False)
    betas = jnp.stack([problem.beta, 4 * problem.beta])
    batch = jax.vmap(lambda beta: qs.refit(problem.with_numbers(beta=beta), drawn))(betas)
    for index, beta in enumerate(betas):
        lane = jax.tree.map(lambda leaf, index=index: leaf[index], batch)
        other = problem.with_numbers(beta=beta)
        assert objective_of(other, lane) <= least_of(other, lane) * (1 + 1e-8)


def test_refit_keeps_pruned_neurons_out():
    problem, solution = solved(30, 4, 3, 0.01)
    drawn = qs.round(problem, solution, num_neurons=12, key=KEY, refit=False)
    alpha = drawn.alpha * (np.arange(12.0) % 2)[:, None]
    half = network_of(drawn.u, drawn.v, alpha)
    for fitted in (qs.refit(problem, half), jax.jit(qs.refit)(problem, half)):
        assert np.all(np.asarray(fitted.alpha)[::2] == 0)
        assert np.any(np.asarray(fitted.alpha)[1::2] != 0)


@pytest.mark.covering(1)
@pytest.mark.parametrize("shape", [(24, 3, 3), (40, 4, 4), (24, 4, 2)])
def test_solve_exactly_against_all_neurons(shape, dtype):
    problem = problem_of(*shape, 0.01, dtype)
    result = qs.solve_exactly(problem, solution=solved(*shape, 0.01)[1])
    optimum = least_by_cvxpy(*data_of(problem, *all_neurons(shape[1])))
    certificate, found = result.certificate, objective_of(problem, result.network)
    tolerance = 3e-6 if dtype == np.float64 else 3e-5
    assert optimum * (1 - 1e-6) <= found <= optimum * (1 + tolerance)
    assert float(certificate.lower_bound) <= optimum * (1 + 1e-6)
    assert float(certificate.gap) <= tolerance
    assert float(certificate.lower_bound) <= found <= float(certificate.objective)
    assert result.dual.shape == shape[:1] + shape[2:]
    proof = qs.certify(problem, result.network, dual=result.dual, kind="combinatorial")
    assert float(proof.gap) <= 10 * tolerance


def test_solve_exactly_with_weights():
    weight = np.random.default_rng(0).uniform(0.2, 2, 24) * (np.arange(24) > 1)
    problem = problem_of(24, 3, 3, 0.01, weight=weight)
    result = qs.solve_exactly(problem)
    optimum = least_by_cvxpy(*data_of(problem, *all_neurons(3)))
    assert objective_of(problem, result.network) <= optimum * (1 + 3e-6)
    assert float(result.certificate.gap) <= 3e-6


@pytest.mark.parametrize("shape", [(24, 3, 3), (24, 2, 3)])
def test_improve_finds_the_best_pair(shape):
    """Of all networks of two neurons."""
    problem, solution = solved(*shape, 0.02)
    u, v = all_neurons(shape[1])
    pairs = itertools.combinations(range(len(u)), 2)
    features, *rest = data_of(problem, u, v)
    values = []
    for pair in map(list, pairs):
        alpha = on_host(features[:, pair], *rest)
        values.append(objective(features[:, pair], *rest, alpha))
    given = qs.refit(problem, network_of(u[:2], v[:2], np.ones((2, shape[2]))))
    better = improve(problem, given, solution, 2)
    np.testing.assert_allclose(objective_of(problem, better), min(values), rtol=1e-6)


def test_improve_is_never_worse():
    """In single precision, column generation included; the best pair is found in double."""
    problem, solution = solved(60, 6, 3, 0.005, np.float32)
    rounded = qs.round(problem, solution, num_neurons=40, key=KEY)
    size = np.abs(np.asarray(rounded.alpha)).sum(axis=1)
    given = qs.refit(problem, rounded.subset(np.sort(np.argsort(-size)[:8])))
    better = improve(problem, given, solution, 8)
    assert better.num_neurons <= 8
    assert objective_of(problem, better) < 0.98 * objective_of(problem, given)
    again = improve(problem, better, solution, 8)
    assert float(problem.objective(again)) <= float(problem.objective(better))


def test_a_model_has_the_slope_of_the_loss():
    core = HostCore.of(problem_of(30, 4, 3, 0.01))
    predictions = np.random.default_rng(0).standard_normal(core.y.shape)
    model = quadratic_model(core, predictions)
    root, weight = model.root[:, None], core.weight[:, None]
    slope = weight * core.loss.slope(predictions, core.y)
    np.testing.assert_allclose(root * (root * predictions - model.y), slope, atol=1e-12)
    # Nearly as steep along every output.
    curvature = weight * core.loss.curvature(predictions, core.y)
    assert np.all(np.square(root) >= 0.9 * curvature)


@pytest.mark.parametrize("start", ["nothing", "others"])
@pytest.mark.parametrize("case", ["tall", "four classes", "two classes", "penalty for each output"])
def test_refit_from_other_weights(case, start):
    features, y, weight, beta = arguments(case, 0.02)
    first = np.zeros((features.shape[1], y.shape[1]))
    if start == "others":
        first = on_host(features, y, weight, beta)[::-1]
    target = Target(y, weight, beta, LOSS)
    start = Restricted(first, target.dual_of_nothing, np.inf, -np.inf)
    found = refitted(features, y, weight, beta, LOSS, first, 1e-7, np.inf)
    optimum = least(case, 0.02)
    np.testing.assert_allclose(target.objective(features, found.alpha), optimum, rtol=1e-6)
    np.testing.assert_allclose(found.bound, optimum, rtol=1e-6)
    # Where it is known not to be worth it, no further.
    early = target.refitted(features, start, 1e-7, 0.5 * optimum)
    assert early.bound > 0.5 * optimum
    assert early.value > optimum * (1 + 1e-6)
