"""The best output weights for fixed neurons under any loss, against CVXPY on the raw data."""

import functools

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqsdp as qs
from jaxqsdp._loss.absolute import AbsoluteLoss, QuantileLoss
from jaxqsdp._loss.hinge import HingeLoss, SquaredHingeLoss
from jaxqsdp._loss.huber import HuberLoss
from jaxqsdp._loss.logistic import LogisticLoss
from jaxqsdp._search.target import Target
from jaxqsdp._solver.output_weights import best_output_weights

LOSSES = {
    "squared": (qs.SquaredLoss(), lambda z, y: cp.square(y - z) / 2),
    "absolute": (AbsoluteLoss(), lambda z, y: cp.abs(y - z)),
    "quantile": (QuantileLoss(0.3), lambda z, y: cp.maximum(0.3 * (y - z), 0.7 * (z - y))),
    "huber": (HuberLoss(0.5), lambda z, y: cp.huber(y - z, 0.5) / 2),
    "hinge": (HingeLoss(), lambda z, y: cp.pos(1 - cp.multiply(y, z))),
    "squared hinge": (
        SquaredHingeLoss(),
        lambda z, y: cp.square(cp.pos(1 - cp.multiply(y, z))) / 2,
    ),
    "logistic": (LogisticLoss(), lambda z, y: cp.logistic(-cp.multiply(y, z))),
}
TALL, WIDE, ONE = (40, 15), (15, 40), (1, 5)
FRACTIONS = (0.5, 0.02, 1e-4)  # of the largest useful penalty
EXCESS = {np.float32: 4e-4, np.float64: 1e-8}


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


fit = jax.jit(best_output_weights)


def drawn(shape):
    """Features that a network of eight features has, targets that it nearly explains."""
    rng = np.random.default_rng((1, *shape))
    (n, m), d = shape, 8
    X, (u, v) = rng.standard_normal((n, d)), rng.choice((-1.0, 1.0), (2, m, d))
    features = (X @ u.T) * (X @ v.T)
    features /= np.abs(features).max()
    y = features[:, :4] @ rng.standard_normal(min(m, 4)) + 0.1 * rng.standard_normal(n)
    return features, y / np.abs(y).max(), np.ones(n)


@functools.cache
def cases():
    features, y, one = drawn(TALL)
    rng, some = np.random.default_rng(0), (np.arange(len(y)) % 3 > 0).astype(float)
    return {
        "tall": (features, y, one),
        "wide": drawn(WIDE),
        "one sample": drawn(ONE),
        "duplicated columns": (features[:, np.arange(15) // 3], y, one),
        "zero columns": (features * (np.arange(15) % 2), y, one),
        "one class": (features, np.ones_like(y), one),
        "zero weights": (features, y, some),
        "spread weights": (features, y, 10.0 ** rng.uniform(-8, 0, len(y))),
        "columns far apart": (features * 10.0 ** (np.arange(15) % 4 - 2), y, one),
    }


def case_for(name, case):
    features, y, weight = cases()[case]
    return features, np.where(y > 0, 1.0, -1.0) if LOSSES[name][0].takes_labels else y, weight


def largest_penalty(name, case):
    """Return ‖Φᵀ∇ℓ(0)‖_∞."""
    features, y, weight = case_for(name, case)
    slope = LOSSES[name][0].slope(np.zeros_like(y), y)
    return np.abs(features.T @ (weight * slope)).max()


@functools.cache
def optimum(name, case, fraction):
    """Return the optimal value by Clarabel."""
    features, y, weight = case_for(name, case)
    alpha = cp.Variable(features.shape[1])
    each = LOSSES[name][1](features @ alpha, y)
    penalty = fraction * largest_penalty(name, case)
    problem = cp.Problem(cp.Minimize(weight @ each + penalty * cp.norm1(alpha)))
    problem.solve("CLARABEL", tol_gap_abs=1e-12, tol_gap_rel=1e-9, tol_feas=1e-9)
    return problem.value


def objective(name, case, fraction, alpha):
    """Return ℓ(Φα) + β‖α‖₁ from the formula that CVXPY has."""
    features, y, weight = case_for(name, case)
    each = LOSSES[name][1](cp.Constant(features @ np.asarray(alpha, float)), y).value
    return weight @ each + fraction * largest_penalty(name, case) * np.abs(alpha).sum()


def arguments(name, case, fraction, dtype):
    features, y, weight = case_for(name, case)
    loss = jax.tree.map(lambda leaf: np.asarray(leaf, dtype), LOSSES[name][0])
    arrays = features, y, weight, fraction * largest_penalty(name, case)
    return *(dtype(array) for array in arrays), loss


def on_host(*arguments):
    with np.errstate(all="ignore"):
        return best_output_weights(*arguments)


@pytest.mark.parametrize("fraction", FRACTIONS)
@pytest.mark.parametrize("case", cases())
def test_is_optimal_on_the_host(name, case, fraction):
    alpha = on_host(*arguments(name, case, fraction, np.float64))
    assert isinstance(alpha, np.ndarray)
    assert alpha.dtype == np.float64
    value = objective(name, case, fraction, alpha)
    assert value <= optimum(name, case, fraction) * (1 + EXCESS[np.float64])


# Weights that span more than the digits of float32 are left to float64.
@pytest.mark.covering(1)
@pytest.mark.parametrize("case", ["tall", "zero columns", "zero weights"])
def test_is_optimal_in_jax(name, case, dtype):
    for fraction in FRACTIONS:
        alpha = np.asarray(fit(*arguments(name, case, fraction, dtype)))
        assert alpha.dtype == dtype
        value = objective(name, case, fraction, alpha)
        assert value <= optimum(name, case, fraction) * (1 + EXCESS[dtype])


@pytest.mark.parametrize("case", ["tall", "wide"])
def test_zeros_are_exact(name, case):
    """As many numbers as there are samples suffice, and in general position there are no more."""
    counts = []
    for fraction in FRACTIONS:
        features, *rest = arguments(name, case, fraction, np.float64)
        used = on_host(features, *rest) != 0
        counts.append(np.count_nonzero(used))
        others = on_host(features * used, *rest)
        assert np.all(others[~used] == 0)
    assert 0 < counts[0] < counts[-1] <= min(features.shape)


@pytest.mark.parametrize("factor", [1.0, 1 + 1e-12, 10.0])
def test_nothing_remains_of_a_large_penalty(name, factor):
    assert np.all(on_host(*arguments(name, "tall", factor, np.float64)) == 0)
    assert np.all(fit(*arguments(name, "tall", factor, np.float64)) == 0)
    assert np.any(on_host(*arguments(name, "tall", 0.99, np.float64)) != 0)


@pytest.mark.parametrize("exponents", [(20, -30, 7), (-25, 17, -40)])
def test_powers_of_two_change_only_the_units(name, exponents):
    features, y, weight, beta, loss = arguments(name, "tall", 0.02, np.float64)
    alpha = on_host(features, y, weight, beta, loss)
    a, b, c = (np.float64(2.0**exponent) for exponent in exponents)
    if loss.degree is None:
        b = np.float64(1)
    degree = loss.degree or 0
    changed = on_host(
        a * features, b * y, c * weight, a * b ** (degree - 1) * c * beta, loss.rescaled(b)
    )
    np.testing.assert_array_equal(changed, alpha * (b / a))


def test_zero_weight_samples_do_not_count(name):
    features, y, weight, beta, loss = arguments(name, "zero weights", 0.02, np.float64)
    kept = weight > 0
    garbage = np.where(kept[:, None], features, np.inf), np.where(kept, y, 7.0)
    with_garbage = on_host(*garbage, weight, beta, loss)
    np.testing.assert_array_equal(with_garbage, on_host(features, y, weight, beta, loss))
    np.testing.assert_array_equal(with_garbage, fit_alone(features, y, weight, beta, loss))


def fit_alone(features, y, weight, beta, loss):
    """Fit to the samples that count, in the other order of sums."""
    kept = weight > 0
    alone = on_host(features[kept], y[kept], weight[kept], beta, loss)
    together = on_host(features, y, weight, beta, loss)
    np.testing.assert_allclose(alone, together, atol=1e-4 * np.abs(together).max())
    return together


@pytest.mark.covering(1)
def test_vmap_equals_loop(name, dtype):
    lanes = [arguments(name, "tall", fraction, dtype) for fraction in (0.5, 0.02)]
    loss = lanes[0][-1]
    stacked = map(np.stack, zip(*(lane[:-1] for lane in lanes), strict=True))
    batch = jax.jit(jax.vmap(best_output_weights, in_axes=(0, 0, 0, 0, None)))(*stacked, loss)
    for lane, alpha, fraction in zip(lanes, batch, (0.5, 0.02), strict=True):
        tolerance = 2e-2 if dtype == np.float32 else 1e-4
        expected = fit(*lane)
        np.testing.assert_allclose(alpha, expected, atol=tolerance * jnp.max(jnp.abs(expected)))
        value = objective(name, "tall", fraction, alpha)
        assert value <= optimum(name, "tall", fraction) * (1 + EXCESS[dtype])


@pytest.mark.parametrize("fraction", FRACTIONS)
def test_few_neurons_where_columns_depend(name, fraction):
    """Three copies of every column: one of each suffices, and on the host no more are used."""
    features, *target = arguments(name, "duplicated columns", fraction, np.float64)
    alpha = Target(*target).best_weights(features)
    assert np.count_nonzero(alpha) <= 5
    value = objective(name, "duplicated columns", fraction, alpha)
    assert value <= optimum(name, "duplicated columns", fraction) * (1 + EXCESS[np.float64])


def test_a_fit_ends_where_it_is_known_to_be_above_the_cutoff(name):
    """And is the same fit where it is not; the squared loss has no use for it."""
    features, y, weight, beta, loss = arguments(name, "tall", 0.02, np.float64)
    target, least = Target(y, weight, beta, loss), optimum(name, "tall", 0.02)
    whole, same, cut = (
        target.restricted(features, target.dual_of_nothing, 1e-9, cutoff)
        for cutoff in (np.inf, 1.01 * least, 0.5 * least)
    )
    np.testing.assert_array_equal(same.alpha, whole.alpha)
    assert 0.5 * least < cut.bound <= least * (1 + 1e-9)
    assert least * (1 - 1e-9) <= cut.value
    assert (cut.value - cut.bound > 1e-9 * cut.value) == (name != "squared")
