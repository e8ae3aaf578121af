"""The refit: its optimality conditions and duality gap, computed in NumPy float64 from raw data."""

import dataclasses

import clarabel
import jax
import numpy as np
import pytest
from scipy import sparse
from sklearn.linear_model import Lasso

from jaxqsdp._solver.lasso import lasso

fit = jax.jit(lasso)

TALL, WIDE = (40, 15), (20, 50)
EXCESS = {np.float32: 1e-6, np.float64: 1e-9}
VIOLATION = {np.float32: 4e-4, np.float64: 3e-7}  # thrice the residual that the loop stops at


@dataclasses.dataclass(frozen=True)
class Case:
    """Two LASSO problems that share features, with penalties relative to the largest useful one."""

    features: np.ndarray
    y: np.ndarray
    weight: np.ndarray
    fraction: tuple[float, float] = (0.03, 0.5)

    def arguments(self, dtype):
        features, y, weight = (a.astype(dtype) for a in (self.features, self.y, self.weight))
        weighted = (weight[:, None] * y).astype(float)
        top = np.abs(features.astype(float).T @ weighted).max(axis=0)
        return features, y, weight, (top * self.fraction).astype(dtype)


def gaussian(shape):
    rng = np.random.default_rng(shape)
    y = rng.standard_normal((shape[0], 2))
    return Case(rng.standard_normal(shape), y, np.ones(shape[0]))


def cases(shape):
    """Return problems of one shape, by what is particular about them."""
    rng = np.random.default_rng((1, *shape))
    n, m = shape
    base = gaussian(shape)
    X, (u, v) = rng.standard_normal((n, 5)), rng.choice((-1.0, 1.0), (2, m, 5))
    neurons = (X @ u.T) * (X @ v.T)
    some = np.where(np.arange(n) < 5, 1.0, 0.0)
    pairs = base.features[:, np.arange(m) // 2]
    change = {
        "gaussian": {},
        "small penalty": {"fraction": (1e-4, 1e-3)},
        "penalty near the top": {"fraction": (0.9, 0.999)},
        "neurons": {"features": neurons},
        "attainable": {"features": neurons, "y": neurons[:, :4] @ rng.standard_normal((4, 2))},
        "duplicated columns": {"features": base.features[:, np.arange(m) // 3]},
        "opposite columns": {"features": pairs * (-1.0) ** np.arange(m)},
        "zero columns": {"features": base.features * (np.arange(m) % 2)},
        "columns far apart": {"features": base.features * 10.0 ** (np.arange(m) % 4 - 2)},
        "offset columns": {"features": base.features + 3},
        "weights": {"weight": rng.uniform(0.1, 10, n)},
        "zero weights": {"weight": rng.uniform(0.5, 2, n) * (np.arange(n) % 3 > 0)},
        "few weights": {"weight": some},
        "ignored outliers": {"y": base.y * np.where(some > 0, 1, 1e6)[:, None], "weight": some},
        "outlying target": {"y": base.y * np.where(np.arange(n) == 3, 1e4, 1)[:, None]},
        "huge units": {"features": base.features * 1e9, "y": base.y * 1e6},
        "tiny units": {"features": base.features * 1e-9, "y": base.y * 1e-6},
        "unequal targets": {"y": base.y * [1e5, 1e-5]},
    }
    return {name: dataclasses.replace(base, **fields) for name, fields in change.items()}


def excess(features, y, weight, beta, alpha):
    """Return by what part of itself the objective exceeds a proven lower bound.

    The bound is that of Clarabel's solution of the dual, a projection of y on |Φᵀλ| ≤ β, made
    feasible and evaluated here.
    """
    root = np.sqrt(weight)
    features, y = root[:, None] * features, root * y
    objective = 0.5 * np.sum((features @ alpha - y) ** 2) + beta * np.abs(alpha).sum()
    largest, top = np.abs(features).max(), np.abs(y).max()
    A, b, limit = features / largest, y / top, beta / largest / top
    n, m = A.shape
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-12
    rows, cones = sparse.csc_matrix(np.vstack([A.T, -A.T])), [clarabel.NonnegativeConeT(2 * m)]
    identity = sparse.identity(n, format="csc")
    solver = clarabel.DefaultSolver(identity, -b, rows, np.full(2 * m, limit), cones, settings)
    dual = np.array(solver.solve().x)
    dual *= min(1.0, limit / np.abs(A.T @ dual).max())
    return objective / ((dual @ b - 0.5 * dual @ dual) * top**2) - 1


def violation(features, y, weight, beta, alpha):
    """Return by how much Φᵀr misses β·∂‖α‖₁, relative to the largest useful β."""
    correlation = features.T @ (weight * (y - features @ alpha))
    missed = np.where(
        alpha == 0, np.abs(correlation) - beta, np.abs(correlation - beta * np.sign(alpha))
    )
    return missed.max() / np.abs(features.T @ (weight * y)).max()


def assert_optimal(arguments, alpha, dtype):
    features, y, weight, beta = (np.asarray(a, float) for a in arguments)
    assert alpha.dtype == dtype
    assert alpha.shape == (features.shape[1], y.shape[1])
    for k in range(y.shape[1]):
        one = features, y[:, k], weight, beta[k], alpha[:, k].astype(float)
        assert excess(*one) <= EXCESS[dtype]
        assert violation(*one) <= VIOLATION[dtype]
        assert np.any(alpha[:, k] != 0)


@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["n > m", "n < m"])
@pytest.mark.parametrize("name", cases(TALL))
def test_is_optimal(name, shape, dtype):
    arguments = cases(shape)[name].arguments(dtype)
    assert_optimal(arguments, np.asarray(fit(*arguments)), dtype)


@pytest.mark.parametrize("shape", [TALL, WIDE], ids=["n > m", "n < m"])
def test_zeros_are_exact(shape, dtype):
    """A LASSO has a solution with at most n nonzeros, in general position the only one."""
    features, y, weight, beta = gaussian(shape).arguments(dtype)
    support = np.sum(np.asarray(fit(features, y, weight, beta)) != 0, axis=0)
    assert np.all(support <= min(shape))
    assert support[1] < support[0]
    # Beyond the largest useful penalty nothing remains, however slightly beyond.
    for factor in (1.001, 1e6):
        useless = (beta / gaussian(shape).fraction * factor).astype(dtype)
        assert np.all(np.asarray(fit(features, y, weight, useless)) == 0)
    assert np.all(np.asarray(fit(features, 0 * y, weight, beta)) == 0)
    assert np.all(np.asarray(fit(0 * features, y, weight, beta)) == 0)
    one = np.asarray(fit(features, y * np.array([0, 1], dtype), weight, beta))
    assert np.all(one[:, 0] == 0)
    assert np.any(one[:, 1] != 0)


@pytest.mark.parametrize("name", ["gaussian", "weights", "zero weights"])
def test_agrees_with_coordinate_descent(name):
    """scikit-learn minimizes ½‖·‖²/n + penalty."""
    features, y, weight, beta = cases(TALL)[name].arguments(np.float64)
    alpha = np.asarray(fit(features, y, weight, beta))
    root = np.sqrt(weight)[:, None]
    for k in range(2):
        model = Lasso(beta[k] / len(y), fit_intercept=False, tol=1e-14, max_iter=100_000)
        expected = model.fit(root * features, (root * y)[:, k]).coef_
        np.testing.assert_array_equal(alpha[:, k] != 0, expected != 0)
        np.testing.assert_allclose(alpha[:, k], expected, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("exponents", [(20, -30), (-25, 17)])
def test_powers_of_two_change_only_the_units(exponents, dtype):
    features, y, weight, beta = gaussian(TALL).arguments(dtype)
    a, b = (dtype(2.0**exponent) for exponent in exponents)
    alpha = np.asarray(fit(features, y, weight, beta))
    changed = np.asarray(fit(a * features, b * y, weight, a * b * beta))
    np.testing.assert_array_equal(changed, alpha * (b / a))


def test_zero_weight_samples_do_not_count(dtype):
    features, y, weight, beta = cases(TALL)["few weights"].arguments(dtype)
    kept = np.asarray(fit(features, y, weight, beta))
    ignored = (weight == 0)[:, None]
    others = np.asarray(fit(np.where(ignored, 7, features), np.where(ignored, -3, y), weight, beta))
    np.testing.assert_array_equal(others, kept)


def test_vmap_equals_loop(dtype):
    names = ("gaussian", "neurons", "zero weights")
    arguments = [cases(TALL)[name].arguments(dtype) for name in names]
    batch = jax.jit(jax.vmap(lasso))(*map(np.stack, zip(*arguments, strict=True)))
    for one, lane in zip(arguments, np.asarray(batch), strict=True):
        expected = np.asarray(fit(*one))
        tolerance = 1e-3 if dtype == np.float32 else 1e-5
        np.testing.assert_allclose(lane, expected, atol=tolerance * np.abs(expected).max())
        assert_optimal(one, lane, dtype)
