"""What a loss says about itself, against searches that know only its definition."""

from fractions import Fraction

import equinox as eqx
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from losses import LOSSES, SquareRoot
from scipy.optimize import minimize_scalar

import jaxqsdp as qs

DEFINITIONS = {
    "squared": lambda z, y: 0.5 * (z - y) ** 2,
    "absolute": lambda z, y: np.abs(z - y),
    "quantile": lambda z, y: np.maximum(0.3 * (y - z), 0.7 * (z - y)),
    "huber": lambda z, y: np.where(
        np.abs(z - y) <= 0.7, 0.5 * (z - y) ** 2, 0.7 * np.abs(z - y) - 0.245
    ),
    "hinge": lambda z, y: np.maximum(1 - y * z, 0),
    "squared hinge": lambda z, y: 0.5 * np.maximum(1 - y * z, 0) ** 2,
    "logistic": lambda z, y: np.logaddexp(0, -y * z),
}
# Where ψ is finite, for weight 1.
INTERVALS = {
    "squared": lambda y: (-np.inf, np.inf),
    "absolute": lambda y: (-1, 1),
    "quantile": lambda y: (-0.7, 0.3),
    "huber": lambda y: (-0.7, 0.7),
    "hinge": lambda y: (min(y, 0), max(y, 0)),
    "squared hinge": lambda y: (0, np.inf) if y > 0 else (-np.inf, 0),
    "logistic": lambda y: (min(y, 0), max(y, 0)),
}


@pytest.fixture(autouse=True)
def silent():
    """What overflows or is infinite at the end of an interval is so in NumPy as in JAX."""
    with np.errstate(all="ignore"):
        yield


@pytest.fixture(params=LOSSES)
def name(request):
    return request.param


@pytest.fixture(params=[np, jnp], ids=["NumPy", "JAX"])
def xp(request):
    return request.param


def numbers(name, dtype, seed=0):
    """Predictions, targets and weights, one of them zero; λ is zero there."""
    rng = np.random.default_rng(seed)
    predictions, targets = rng.standard_normal((2, 9)).astype(dtype)
    if LOSSES[name].takes_labels:
        targets = np.where(targets > 0, 1, -1).astype(dtype)
    weight = rng.uniform(0.2, 3, 9).astype(dtype)
    weight[2] = 0
    return predictions, targets, weight


def duals(name, dtype, seed=0):
    """λ inside the intervals, about nine tenths of the way to the ends or to 2."""
    predictions, targets, weight = numbers(name, dtype, seed)
    ends = np.clip([INTERVALS[name](y) for y in targets.astype(float)], -2, 2)
    part = 0.9 / (1 + np.exp(-2 * predictions))
    dual = (weight * (ends[:, 0] + (ends[:, 1] - ends[:, 0]) * (0.05 + part))).astype(dtype)
    return dual, targets, weight


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


def longest(name, dual, targets, weight):
    """The largest c with c·λ within the intervals."""
    c = np.inf
    for one, y, w in zip(dual.astype(float), targets.astype(float), weight, strict=True):
        low, high = INTERVALS[name](y)
        if w > 0 and one != 0:
            c = min(c, float(w) * (high if one > 0 else low) / one)
    return c


def test_value_is_the_definition(name, dtype, xp):
    arrays = numbers(name, dtype)
    found = LOSSES[name](*map(xp.asarray, arrays))
    assert isinstance(found, jax.Array if xp is jnp else np.floating)
    assert found.dtype == dtype
    np.testing.assert_allclose(found, defined(name, *arrays), rtol=20 * np.finfo(dtype).eps)


@pytest.mark.parametrize("penalty", [0.0, 0.3, 1e3])
def test_best_on_the_primal_ray(name, dtype, xp, penalty):
    predictions, targets, weight = numbers(name, dtype)
    predictions = predictions + targets  # else the best factor is zero
    arrays = [xp.asarray(a) for a in (predictions, targets, weight)]
    found = LOSSES[name].best_on_primal_ray(*arrays, dtype(penalty))
    assert found.dtype == dtype
    found = float(found)

    def along(c):
        return defined(name, c * predictions.astype(float), targets, weight) + c * penalty

    best = minimize_scalar(along, bounds=(0, 100), method="bounded", options={"xatol": 1e-10})
    assert found >= 0
    assert along(found) <= best.fun + 1e3 * np.finfo(dtype).eps * along(0)
    assert (found == 0) == (penalty == 1e3)


@pytest.mark.parametrize("size", [1e-9, 1e-3, 1e3, 1e9])
def test_a_ray_of_any_length(name, size):
    """The best point on a ray does not depend on how long the vector on it is."""
    loss, (predictions, targets, weight) = LOSSES[name], numbers(name, np.float64)
    predictions, penalty = predictions + targets, np.float64(0.3)
    least = loss.best_on_primal_ray(predictions, targets, weight, penalty)
    other = loss.best_on_primal_ray(size * predictions, targets, weight, size * penalty)
    np.testing.assert_allclose(other * size, least, rtol=1e-7)
    dual, targets, weight = duals(name, np.float64)
    most, other = (
        loss.best_on_dual_ray(vector, targets, weight, np.float64(np.inf))
        for vector in (dual, size * dual)
    )
    np.testing.assert_allclose(other, most, rtol=1e-9)


@pytest.mark.parametrize("limit", [0.1, 1e3, np.inf])
@pytest.mark.parametrize("sign", [1, -1])
def test_best_on_the_dual_ray(name, dtype, xp, limit, sign):
    dual, targets, weight = duals(name, dtype)
    dual = sign * dual
    arrays = [xp.asarray(a) for a in (dual, targets, weight)]
    found = LOSSES[name].best_on_dual_ray(*arrays, dtype(limit))
    assert found.dtype == dtype

    def along(c):
        return conjugate(name, c * dual.astype(float), targets, weight)

    most = min(limit, 10.0, (1 - 1e-9) * longest(name, dual, targets, weight))
    best = along(0.0)
    if most > 0:
        options = {"xatol": 1e-9}
        best = minimize_scalar(along, bounds=(0, most), method="bounded", options=options).fun
    np.testing.assert_allclose(
        found, -min(best, 0), rtol=1e-4 if dtype == np.float32 else 1e-6, atol=1e-9
    )
    assert found >= 0


def test_rays_of_nothing_are_zero(name, dtype):
    zeros, (_, targets, weight) = np.zeros(9, dtype), numbers(name, dtype)
    for limit in (0.0, np.inf):
        value = LOSSES[name].best_on_dual_ray(zeros, targets, weight, dtype(limit))
        assert value == 0
    assert np.isfinite(LOSSES[name].best_on_primal_ray(zeros, targets, weight, dtype(0)))


def test_fenchel_young(name):
    """ℓ(ŷ) + Σψ(λ) ≥ −λᵀŷ for any pair: the bound on the ray is below the loss of any ŷ."""
    positive = 0
    for seed in range(20):
        dual, targets, weight = duals(name, np.float64, seed)
        predictions = np.random.default_rng(seed).standard_normal(9) / 3 + targets
        predictions -= dual * (dual @ predictions) / (dual @ dual)  # λᵀŷ = 0
        bound = LOSSES[name].best_on_dual_ray(dual, targets, weight, np.float64(np.inf))
        assert bound <= LOSSES[name](predictions, targets, weight) * (1 + 1e-12)
        positive += bound > 0.01
    assert positive > 5


def test_clipped_duals_are_within(name, dtype, xp):
    """Whatever the rounding of weight times end."""
    loss, rng = LOSSES[name], np.random.default_rng(0)
    targets = np.where(rng.uniform(size=500) < 0.5, 1, -1).astype(dtype)
    weight = rng.uniform(0, 3, 500).astype(dtype)
    weight[:5] = 0
    for size in (1e-3, 1.0, 1e3):
        dual = (size * rng.standard_normal(500)).astype(dtype)
        arrays = map(xp.asarray, (dual, targets, weight))
        clipped = loss.clip_dual(*arrays)
        assert clipped.dtype == dtype
        assert np.all(clipped[:5] == 0)
        assert np.isfinite(loss.dual_value(clipped, xp.asarray(targets), xp.asarray(weight)))
    if np.isfinite(INTERVALS[name](1)).all():
        outside = np.asarray(clipped) + weight
        assert loss.dual_value(xp.asarray(outside), targets, weight) == -np.inf


def test_the_dual_point_of_predictions(name, dtype, xp):
    """φ(ŷ) + ψ(λ) = −λŷ there, and what has no weight does not count, whatever it holds."""
    loss, (predictions, targets, weight) = LOSSES[name], numbers(name, dtype)
    arrays = [xp.asarray(array) for array in (predictions, targets, weight)]
    dual = loss.dual_at(*arrays)
    assert dual.dtype == dtype
    value, bound = loss(*arrays), loss.dual_value(dual, *arrays[1:])
    rtol = 100 * np.finfo(dtype).eps
    np.testing.assert_allclose(value - bound, -np.sum(dual * arrays[0]), rtol=rtol, atol=rtol)
    predictions[2] = 1e30
    other = loss(xp.asarray(predictions), *arrays[1:])
    assert name == "squared" or other == value


@pytest.mark.parametrize("step", [1e-3, 1.0, 1e3])
def test_prox(name, dtype, xp, step):
    predictions, targets, _ = numbers(name, dtype)
    centers = 3 * predictions
    steps = np.full_like(centers, step)
    found = LOSSES[name].prox(*map(xp.asarray, (centers, targets, steps)))
    assert isinstance(found, jax.Array if xp is jnp else np.ndarray)
    assert found.dtype == dtype
    for center, target, one in zip(
        centers.astype(float), targets.astype(float), np.asarray(found, float), strict=True
    ):

        def objective(z, center=center, target=target):
            return DEFINITIONS[name](z, target) + (z - center) ** 2 / (2 * step)

        best = minimize_scalar(objective, tol=1e-12)
        assert objective(one) <= best.fun + 20 * np.finfo(dtype).eps * objective(center)
        rtol = 1e-5 if dtype == np.float32 else 1e-6
        np.testing.assert_allclose(one, best.x, rtol=rtol, atol=rtol)


def test_prox_by_bisection_far_away():
    """To the last digits, also where the first slope is of another order of magnitude."""

    class Exponential(qs.AbstractLoss):
        def value(self, predictions, targets):
            return jnp.exp(predictions)

        def conjugate(self, dual, targets):
            return -dual * jnp.log(-dual) + dual

        def interval(self, targets):
            return jnp.full_like(targets, -jnp.inf), jnp.zeros_like(targets)

    center, step = np.array([40.0, 700.0, 1e4, -1e4, 0.0]), np.array([0.2, 1e3, 1.0, 1.0, 1e-9])
    found = Exponential().prox(center, np.zeros(5), step)
    np.testing.assert_allclose(np.log((center - found) / step)[:3], found[:3], rtol=1e-12)
    np.testing.assert_allclose(found[3:], [-1e4, -1e-9], rtol=1e-8)


def test_conjugate_of_the_logistic_loss(dtype, xp):
    """Right to the last digits, also where it is a small term of a small objective."""
    q = np.concatenate([np.logspace(-30, -6, 50), np.linspace(0.01, 1, 1000)]).astype(dtype)
    exact, rest = q.astype(np.longdouble), 1 - q.astype(np.longdouble)
    exact = exact * np.log(exact) + np.where(rest > 0, rest * np.log1p(-exact), 0)
    for label in (1, -1):
        y = np.full_like(q, label)
        found = qs.LogisticLoss().conjugate(xp.asarray(label * q), xp.asarray(y))
        np.testing.assert_allclose(found, exact.astype(float), rtol=8 * np.finfo(dtype).eps)


def test_bounds_of_extreme_numbers(name, dtype, xp):
    """Never too small: for numbers that overflow or that XLA takes for zero."""
    loss, least = LOSSES[name], np.finfo(dtype).tiny
    largest = np.finfo(dtype).max / 4
    ends = np.array([0.99 * least, -0.99 * least, 0, 1e-3, 1, 37, 1e10, largest, -largest], dtype)
    predictions, targets = (grid.ravel() for grid in np.meshgrid(ends, ends))
    if loss.takes_labels:
        targets = np.where(targets > 0, 1, -1).astype(dtype)
    arrays = [xp.asarray(a) for a in (predictions, predictions, targets)]
    bound = np.asarray(loss.value_above(*arrays)).astype(np.longdouble)
    exact = DEFINITIONS[name](predictions.astype(np.longdouble), targets.astype(np.longdouble))
    assert np.all(bound >= exact)
    finite = np.isfinite(bound)
    assert np.all(finite | (exact > largest))
    slack = 1e3 * np.finfo(dtype).eps * (exact + np.abs(predictions * 1.0)) + 20 * least
    assert np.all((bound <= exact + slack)[finite])


@pytest.mark.parametrize("name", [name for name in LOSSES if name != "logistic"])
def test_bounds_of_extreme_duals(name, dtype, xp):
    loss, least = LOSSES[name], np.finfo(dtype).tiny
    largest = np.finfo(dtype).max / 4
    ends = np.array([0.99 * least, -0.99 * least, 0, 1e-3, 1, 37, -1e10, largest, -largest], dtype)
    dual, targets = (grid.ravel() for grid in np.meshgrid(ends, ends))
    if loss.takes_labels:
        targets = np.where(targets > 0, 1, -1).astype(dtype)
    t, y = dual.astype(np.longdouble), targets.astype(np.longdouble)
    quadratic = t * t / 2 if name in ("squared", "huber", "squared hinge") else 0
    bound = loss.conjugate_above(*map(xp.asarray, (dual, dual, targets)))
    assert bound.dtype == dtype
    bound = np.asarray(bound).astype(np.longdouble)
    assert not np.any(bound < quadratic - t * y)  # no number where that overflows
    finite = np.isfinite(bound)
    assert np.all(finite | (quadratic + np.abs(t * y) > largest))
    slack = 40 * np.finfo(dtype).eps * (quadratic + np.abs(t * y))
    slack += 8 * (1 + np.abs(t) + np.abs(y)) * least
    assert np.all((bound <= quadratic - t * y + slack)[finite])


@pytest.mark.parametrize("dtype", [np.float32, np.float64], ids=["float32", "float64"])
def test_bounds_obey_fenchel_young_exactly(name, dtype):
    """Their sum is at least −tŷ in exact arithmetic, on which weak duality rests: any numbers."""
    loss, jitted = LOSSES[name], jax.jit(_bounds)
    width, length = np.finfo(dtype).bits, 16
    floats = st.floats(width=width, allow_nan=False, allow_infinity=False)
    floats |= st.floats(-4, 4, width=width)

    @hypothesis.settings(max_examples=60, deadline=None, derandomize=True)
    @hypothesis.given(st.lists(st.tuples(floats, floats, floats), min_size=1, max_size=length))
    def holds(triples):
        z, y, t = np.resize(np.array(triples, dtype), (length, 3)).T
        if loss.takes_labels:
            y = np.where(y > 0, 1, -1).astype(dtype)
        t[::2] = -loss.slope(z, y)[::2]  # where it is equal
        t = np.clip(t, *loss.interval(y)).astype(dtype)
        for function in (_bounds, jitted):
            value, conjugate = function(loss, z, t, y)
            for one, other, at, dual in zip(value, conjugate, z, t, strict=True):
                if np.isfinite(one) and np.isfinite(other):
                    exact = Fraction(float(one)) + Fraction(float(other))
                    assert exact >= -Fraction(float(at)) * Fraction(float(dual))

    holds()


def _bounds(loss, z, t, y):
    return loss.value_above(z, z, y), loss.conjugate_above(t, t, y)


def test_bounds_allow_for_32_bit_mode():
    """A loss of one's own computes with JAX, which rounds float64 to float32 in that mode."""
    predictions, targets = np.random.default_rng(0).standard_normal((2, 1000))
    with jax.enable_x64(False):
        value = np.asarray(SquareRoot().value_above(predictions, predictions, targets))
        dual = np.tanh(predictions)
        conjugate = np.asarray(SquareRoot().conjugate_above(dual, dual, targets))
    residual = predictions - targets
    assert np.all(value >= np.sqrt(1 + residual**2) - 1)
    assert np.all(conjugate >= 1 - np.sqrt(1 - dual**2) - dual * targets)


MAKERS = {"delta": qs.HuberLoss, "quantile": qs.QuantileLoss}


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("value", [-1, 0.0, np.nan, np.inf, np.array([0.5, -1]), jnp.zeros(2)])
def test_parameters_out_of_range(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must (be positive|lie between 0 and 1)"):
        MAKERS[name](value)


@pytest.mark.parametrize("name", MAKERS)
@pytest.mark.parametrize("value", ["0.5", None, 1j, True, [0.5, 0.3], np.array(["a"])])
def test_parameters_of_other_kinds(name, value):
    with pytest.raises(TypeError, match=f"`{name}` must be"):
        MAKERS[name](value)


def test_quantiles_are_below_one():
    with pytest.raises(ValueError, match="`quantile` must lie between 0 and 1, got 1"):
        qs.QuantileLoss(1.0)
    assert qs.QuantileLoss(jnp.float32(0.5)).quantile == 0.5


@pytest.mark.parametrize("make", MAKERS.values())
def test_parameters_are_leaves(make, dtype):
    """A batch of losses, and derivatives with respect to a parameter."""
    predictions, targets, weight = map(jnp.asarray, numbers("squared", dtype))
    values = np.array([0.2, 0.5, 0.9], dtype)
    batch = jax.vmap(lambda loss: loss(predictions, targets, weight))(make(values))
    each = [make(value)(predictions, targets, weight) for value in values]
    assert batch.dtype == each[0].dtype == dtype
    np.testing.assert_allclose(batch, each, rtol=1e-6)
    built = jax.vmap(lambda value: make(value)(predictions, targets, weight))(jnp.asarray(values))
    np.testing.assert_allclose(built, each, rtol=1e-6)

    def of(value):
        return make(value)(predictions, targets, weight)

    step = 1e-3 if dtype == np.float32 else 1e-6
    slope = jax.grad(of)(jnp.asarray(0.5, dtype))
    difference = (of(dtype(0.5 + step)) - of(dtype(0.5 - step))) / (2 * step)
    np.testing.assert_allclose(slope, difference, rtol=1e-2 if dtype == np.float32 else 1e-5)


def test_units_of_delta(dtype):
    for unit in (dtype(4), jnp.asarray(4, dtype)):
        assert qs.HuberLoss(0.7).rescaled(unit).delta == dtype(0.7) * 4
    for loss in LOSSES.values():
        if not isinstance(loss, qs.HuberLoss):
            assert loss.rescaled(dtype(4)) is loss


def test_losses_print_their_numbers():
    assert repr(qs.HuberLoss(0.7)) == "HuberLoss(delta=0.7)"
    assert repr(qs.HuberLoss()) == "HuberLoss(delta=1)"
    assert repr(qs.QuantileLoss(0.3)) == "QuantileLoss(quantile=0.3)"
    assert str(qs.HingeLoss()) == "HingeLoss()"
    assert repr(qs.HuberLoss(np.ones(3))) == "HuberLoss(delta=float64[3])"
    seen = []
    loss = eqx.filter_eval_shape(lambda loss: seen.append(repr(loss)) or loss, qs.HuberLoss(0.7))
    assert [*seen, repr(loss)] == ["HuberLoss(delta=float64[])"] * 2


def test_labels_and_scores():
    scores = np.array([-2.0, 0.0, 3.0])
    for loss in LOSSES.values():
        for xp in (np, jnp):
            found = loss.predict(xp.asarray(scores))
            assert found.dtype == float
            expected = [-1, 1, 1] if loss.takes_labels else scores
            np.testing.assert_array_equal(found, expected)
        usable = loss.are_targets(np.array([1.0, -1.0, 0.5, np.nan, np.inf]))
        assert usable.tolist() == [True, True, not loss.takes_labels, False, False]
        loss.check_targets(np.array([1.0, -1.0]))
    with pytest.raises(ValueError, match=r"`y` must be −1 or 1 for HingeLoss: code two classes"):
        qs.HingeLoss().check_targets(np.array([0.0, 1.0]))
    np.testing.assert_allclose(
        qs.LogisticLoss().predict_proba(scores), 1 / (1 + np.exp(-scores)), rtol=1e-14
    )
    far = qs.LogisticLoss().predict_proba(np.array([-800.0, 800.0]))
    assert far.tolist() == [0, 1]
    with pytest.raises(TypeError, match="HingeLoss has no probabilities; `LogisticLoss` has"):
        qs.HingeLoss().predict_proba(scores)


def test_only_floats_of_one_shape(name, xp):
    loss, (predictions, targets, weight) = LOSSES[name], numbers(name, np.float64)
    with pytest.raises(ValueError, match=r"one shape, got \(9, 1\) and \(9,\)"):
        loss(xp.asarray(predictions[:, None]), xp.asarray(targets), weight)
    with pytest.raises(TypeError, match="`targets` must be floating-point, got int"):
        loss(predictions, xp.asarray(targets.round().astype(int)), weight)
