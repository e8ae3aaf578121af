"""Networks under the softmax loss, which couples outputs: refits, searches and proofs."""

import functools
import warnings

import cvxpy as cp
import jax
import numpy as np
import pytest

import jaxqsdp as qs
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
