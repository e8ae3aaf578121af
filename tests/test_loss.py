"""What a loss says about itself, against searches that know only its definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import minimize_scalar

import jaxqsdp as qs

LOSSES = {"squared": qs.SquaredLoss()}
DEFINITIONS = {"squared": lambda z, y: 0.5 * (z - y) ** 2}


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


@pytest.fixture(params=[np, jnp], ids=["NumPy", "JAX"])
def xp(request):
    return request.param


def numbers(dtype, seed=0):
    """Predictions, targets and weights, one of them zero; λ is zero there."""
    rng = np.random.default_rng(seed)
    predictions, targets = rng.standard_normal((2, 9)).astype(dtype)
    weight = rng.uniform(0.2, 3, 9).astype(dtype)
    weight[2] = 0
    return predictions, targets, weight


def defined(name, predictions, targets, weight):
    return np.sum(weight.astype(float) * DEFINITIONS[name](predictions, targets.astype(float)))


def _tilted(z, name, dual, target, weight):
    return dual * z + weight * DEFINITIONS[name](z, target)


def conjugate(name, dual, targets, weight):
    """Σ ψ(λ) = Σ_i sup_z −λ_i z − w_i φ(z), one search a sample."""
    total = 0.0
    for one, y, w in zip(dual, targets.astype(float), weight.astype(float), strict=True):
        if w > 0:
            total -= minimize_scalar(_tilted, args=(name, one, y, w), tol=1e-12).fun
    return total


def test_value_is_the_definition(name, dtype, xp):
    arrays = numbers(dtype)
    found = LOSSES[name](*map(xp.asarray, arrays))
    assert isinstance(found, jax.Array if xp is jnp else np.floating)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, defined(name, *arrays), rtol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("penalty", [0.0, 0.3, 1e3])
def test_best_on_the_primal_ray(name, dtype, xp, penalty):
    predictions, targets, weight = numbers(dtype)
    predictions = predictions + targets  # else the best factor is zero
    arrays = [xp.asarray(a) for a in (predictions, targets, weight)]
    found = float(LOSSES[name].best_on_primal_ray(*arrays, dtype(penalty)))

    def along(c):
        return defined(name, c * predictions.astype(float), targets, weight) + c * penalty

    best = minimize_scalar(along, bounds=(0, 100), method="bounded", options={"xatol": 1e-10})
    assert found >= 0
    assert along(found) <= best.fun + 1e3 * np.finfo(dtype).eps * along(0)
    assert (found == 0) == (penalty == 1e3)


@pytest.mark.parametrize("limit", [0.1, 1e3, np.inf])
@pytest.mark.parametrize("sign", [1, -1])
def test_best_on_the_dual_ray(name, dtype, xp, limit, sign):
    predictions, targets, weight = numbers(dtype)
    dual = sign * weight * (targets + 0.2 * predictions)
    arrays = [xp.asarray(a) for a in (dual, targets, weight)]
    found = float(LOSSES[name].best_on_dual_ray(*arrays, dtype(limit)))

    def along(c):
        return conjugate(name, c * dual.astype(float), targets, weight)

    most = min(limit, 10.0)
    best = minimize_scalar(along, bounds=(0, most), method="bounded", options={"xatol": 1e-9})
    np.testing.assert_allclose(found, -min(best.fun, 0), rtol=1e-4 if dtype == np.float32 else 1e-6)
    assert found >= 0


def test_rays_of_nothing_are_zero(name, dtype):
    zeros, (_, targets, weight) = np.zeros(9, dtype), numbers(dtype)
    for limit in (0.0, np.inf):
        value = LOSSES[name].best_on_dual_ray(zeros, targets, weight, dtype(limit))
        assert value == 0
    assert np.isfinite(LOSSES[name].best_on_primal_ray(zeros, targets, weight, dtype(0)))


def test_fenchel_young(name):
    """ℓ(ŷ) + Σψ(λ) ≥ −λᵀŷ for any pair: the bound on the ray is below the loss of any ŷ."""
    for seed in range(20):
        predictions, targets, weight = numbers(np.float64, seed)
        dual = weight * np.random.default_rng(seed).standard_normal(9)
        weighted = weight * predictions
        dual -= weighted * (dual @ predictions) / (weighted @ predictions)  # λᵀŷ = 0
        bound = LOSSES[name].best_on_dual_ray(dual, targets, weight, np.inf)
        assert bound <= LOSSES[name](predictions, targets, weight) * (1 + 1e-12)


def test_only_floats_of_one_shape(name, xp):
    loss, (predictions, targets, weight) = LOSSES[name], numbers(np.float64)
    with pytest.raises(ValueError, match=r"one shape, got \(9, 1\) and \(9,\)"):
        loss(xp.asarray(predictions[:, None]), xp.asarray(targets), weight)
    with pytest.raises(TypeError, match="`targets` must be floating-point, got int"):
        loss(predictions, xp.asarray(targets.round().astype(int)), weight)
