"""lower_bound ≤ optimum ≤ objective: each side against exact arithmetic or another solver."""

import dataclasses
import functools
import re
from fractions import Fraction

import equinox as eqx
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clarabel_reference import reference
from helpers import lane, problem_of, stack
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from problems import SMALL, planted
from referee import brute_force, exact_bound

import jaxqsdp as qs

certify = functools.partial(qs.certify, kind="relaxation")  # the other: test_solve_exactly

NUM_NEURONS = 30
from_weights = qs.QuantizedNetwork.from_weights
traced_certify = jax.jit(certify)


def weighted(seed):
    """Return a small problem whose samples have weights, some of them zero."""
    return dataclasses.replace(planted(seed, *SMALL), weight=np.arange(SMALL[0]) % 5 / 2.0)


@functools.cache
def certified(dtype, seed=0):
    problem = problem_of(weighted(seed), dtype)
    solution = qs.solve(problem)
    network = qs.round(problem, solution, num_neurons=NUM_NEURONS, key=jax.random.key(seed))
    return problem, network, solution


@functools.cache
def optimum(dtype, seed=0):
    data = weighted(seed).astype(dtype)
    return reference(data.X, data.y, data.beta, data.weight).value


@functools.cache
def random_network(dtype, seed=0, num_features=SMALL[1]):
    rng = np.random.default_rng(seed)
    u, v = rng.choice((-1, 1), (2, NUM_NEURONS, num_features))
    return from_weights(u, v, rng.standard_normal(NUM_NEURONS).astype(dtype))


def exact_objective(problem, network):
    """Return the objective as a rational number."""
    X, u, v = (
        [list(map(Fraction, row)) for row in np.asarray(a, float).tolist()]
        for a in (problem.X, network.u, network.v)
    )
    columns = problem.columns
    y, alpha, weight, beta = (
        np.vectorize(Fraction, otypes=[object])(np.asarray(a, float))
        for a in (
            columns.y,
            jnp.reshape(network.alpha, (len(u), -1)),
            problem.weight,
            columns.beta,
        )
    )
    total = Fraction(0)
    for x, targets, w in zip(X, y, weight, strict=True):
        hidden = [
            sum(map(Fraction.__mul__, x, left)) * sum(map(Fraction.__mul__, x, right))
            for left, right in zip(u, v, strict=True)
        ]
        for k, target in enumerate(targets):
            misfit = sum(map(Fraction.__mul__, hidden, alpha[:, k]), -target)
            total += w * misfit**2 / 2
    return total + sum(b * sum(abs(a) for a in alpha[:, k]) for k, b in enumerate(beta))


def same(certificate, other):
    return eqx.tree_equal(certificate, other)


@pytest.mark.parametrize("seed", [0, 1])
def test_bounds_enclose_the_optimum(seed, dtype):
    """The optimum over all neurons of dimension five, and that of the relaxation."""
    problem, network, solution = certified(dtype, seed)
    certificate = certify(problem, network, solution)
    data = weighted(seed).astype(dtype)
    lowest, highest = brute_force(data.X, data.y, data.beta, data.weight)
    relaxed, tolerance = optimum(dtype, seed), 1e-3 if dtype == np.float32 else 1e-6
    bound = float(certificate.lower_bound)
    assert relaxed * (1 - tolerance) <= bound <= relaxed * (1 + 1e-9)
    assert bound <= highest
    assert float(certificate.objective) >= lowest
    assert certificate.kind == "relaxation"
    for name in ("lower_bound", "objective", "gap"):
        assert getattr(certificate, name).dtype == dtype
        assert getattr(certificate, name).shape == ()
    gap = (certificate.objective - certificate.lower_bound) / certificate.objective
    np.testing.assert_allclose(certificate.gap, gap, rtol=4 * np.finfo(dtype).eps)
    assert 0 < certificate.gap < 0.5


def test_bound_is_what_the_dual_point_proves(dtype):
    problem, network, solution = certified(dtype)
    certificate = certify(problem, network, solution)
    data = weighted(0).astype(dtype)
    lowest, highest = exact_bound(
        data.X, data.y, data.beta, solution.dual, solution.dual_diagonal, data.weight
    )
    bound = Fraction(float(certificate.lower_bound))
    assert bound <= highest
    assert bound >= lowest * (1 - Fraction(4 * float(np.finfo(dtype).eps)) - Fraction(1, 10**10))


@pytest.mark.parametrize("traced", [False, True], ids=["concrete", "traced"])
def test_objective_is_rounded_up(traced, dtype):
    """Float32 outside transforms is computed in float64, so only its last rounding shows."""
    problem, network, solution = certified(dtype)
    tight = {np.float32: 2 * 2.0**-23, np.float64: 1e-11}[dtype]
    if traced and dtype == np.float32:
        tight = 1e-2
    for one in (network, random_network(dtype), random_network(dtype, 1)):
        objective = (traced_certify if traced else certify)(problem, one, solution).objective
        exact = exact_objective(problem, one)
        assert Fraction(float(objective)) >= exact
        assert Fraction(float(objective)) <= exact * (1 + Fraction(tight))


def test_objective_is_rounded_up_where_the_loss_is_all_rounding(dtype):
    """Targets that are the network's computed outputs."""
    problem, _, solution = certified(dtype)
    network = random_network(dtype)
    fitted = dataclasses.replace(
        problem, y=jax.vmap(network)(problem.X), beta=jnp.asarray(1e-6, dtype)
    )
    exact = exact_objective(fitted, network)
    concrete, traced = (
        Fraction(float(certify(fitted, network, solution).objective))
        for prove in (certify, traced_certify)
    )
    assert exact <= concrete <= exact * (1 + Fraction(1, 2**21))
    zero = 0.5 * np.sum(np.asarray(problem.weight, float) * np.asarray(fitted.y, float) ** 2)
    assert exact <= traced <= exact + Fraction(zero * 1e-6)


def floats(low, high):
    return st.floats(low, high, width=32)


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(
    X=arrays(np.float32, SMALL, elements=floats(-4, 4)),
    y=arrays(np.float32, SMALL[0], elements=floats(-4, 4)),
    weight=arrays(np.float32, SMALL[0], elements=st.sampled_from([0, 0.25, 0.3, 1, 1, 7])),
    beta=floats(2**-10, 2**6),
    alpha=arrays(np.float32, NUM_NEURONS, elements=floats(-2, 2)),
    seed=st.integers(0, 3),
)
def test_objective_is_never_below_the_exact_one(X, y, weight, beta, alpha, seed):
    weight[0] = 1
    for dtype in (np.float32, np.float64):
        base, _, solution = certified(dtype)
        arrays = (a.astype(dtype) for a in (X, y, np.float32(beta), weight))
        problem = dataclasses.replace(
            base, **dict(zip(("X", "y", "beta", "sample_weight"), arrays, strict=True))
        )
        network = dataclasses.replace(random_network(dtype, seed), alpha=alpha.astype(dtype))
        exact = exact_objective(problem, network)
        certificate = traced_certify(problem, network, solution)
        assert Fraction(float(certificate.objective)) >= exact
        assert Fraction(float(certificate.lower_bound)) <= exact


def test_objective_is_rounded_up_where_products_underflow():
    """Squares of features below the smallest float32, times output weights near the largest."""
    X, y = np.full(SMALL, 0.18e-19, np.float32), -np.ones(SMALL[0], np.float32)
    problem = qs.Problem(X, y, np.float32(1.3e-38), sample_weight=np.ones_like(y))
    _, base, solution = certified(np.float32)
    network = from_weights(*np.ones((2, *base.u.shape)), np.full(NUM_NEURONS, 1e32, np.float32))
    for prove in (certify, traced_certify):
        objective = prove(problem, network, solution).objective
        assert Fraction(float(objective)) >= exact_objective(problem, network)


def test_objective_that_no_float_holds(dtype):
    """Infinite is a true upper bound; the gap is then infinite too."""
    problem, network, solution = certified(dtype)
    size = dtype(np.finfo(dtype).max ** 0.75)
    large = eqx.tree_at(lambda network: network.alpha, network, network.alpha * size)
    for prove in (certify, traced_certify):
        certificate = prove(problem, large, solution)
        assert certificate.objective == np.inf
        assert certificate.gap == np.inf
        assert 0 < certificate.lower_bound <= optimum(dtype)


def test_only_the_dual_point_is_believed(dtype):
    problem, network, solution = certified(dtype)
    certificate = certify(problem, network, solution)
    nonsense = dataclasses.replace(
        solution,
        value=jnp.asarray(-1, dtype),
        lower_bound=jnp.asarray(1e6, dtype),
        quadratic_form=jnp.full_like(solution.quadratic_form, jnp.nan),
        gram=-solution.gram,
        scale=jnp.asarray(1e6, dtype),
        predictions=0 * solution.predictions,
        status=qs.Status.invalid_data,
    )
    assert same(certify(problem, network, nonsense), certificate)


@pytest.mark.parametrize("noise", [1e-3, 1e-1, 10.0])
def test_a_wrong_dual_point_weakens_the_bound_only(noise, dtype):
    problem, network, solution = certified(dtype)
    certificate = certify(problem, network, solution)
    rng = np.random.default_rng(3)
    for _ in range(5):
        wrong = dataclasses.replace(
            solution,
            dual=solution.dual
            + (noise * np.abs(solution.dual).max() * rng.standard_normal(SMALL[0])).astype(dtype),
            dual_diagonal=solution.dual_diagonal
            * (1 + noise * rng.standard_normal(SMALL[1])).astype(dtype),
        )
        weaker = certify(problem, network, wrong)
        assert 0 <= weaker.lower_bound < certificate.lower_bound
        assert weaker.lower_bound <= optimum(dtype)
        assert weaker.objective == certificate.objective
        assert weaker.gap > certificate.gap


@pytest.mark.parametrize("factor", [0.0, -1.0, np.nan, np.inf])
def test_a_useless_dual_point_gives_the_bound_zero(factor, dtype):
    problem, network, solution = certified(dtype)
    wrong = dataclasses.replace(solution, dual=solution.dual * dtype(factor))
    certificate = certify(problem, network, wrong)
    assert certificate.lower_bound == 0
    assert certificate.gap == 1


def test_the_length_of_the_dual_point_does_not_matter():
    """It is scaled to the best length, so halving (λ, p) rounds nothing."""
    problem, network, solution = certified(np.float64)
    shorter = dataclasses.replace(
        solution, dual=solution.dual / 2, dual_diagonal=solution.dual_diagonal / 2
    )
    certificate = certify(problem, network, solution)
    assert same(certify(problem, network, shorter), certificate)


def test_concrete_float32_is_certified_in_float64():
    problem, network, solution = certified(np.float32)
    concrete = certify(problem, network, solution)
    traced = traced_certify(problem, network, solution)
    assert traced.lower_bound < concrete.lower_bound <= optimum(np.float32)
    assert traced.objective > concrete.objective
    assert traced.gap > concrete.gap
    assert traced.lower_bound.dtype == concrete.lower_bound.dtype == np.float32
    # The numbers that float64 gives, rounded outward.
    double = jax.tree.map(
        lambda leaf: leaf.astype(np.float64) if leaf.dtype == np.float32 else leaf,
        (problem, network, solution),
    )
    expected = certify(*double)
    low, high = (
        np.nextafter(np.float32(bound), np.float32(direction))
        for bound, direction in ((expected.lower_bound, -np.inf), (expected.objective, np.inf))
    )
    assert low <= concrete.lower_bound <= float(expected.lower_bound)
    assert float(expected.objective) <= concrete.objective <= high


def test_concrete_data_are_certified_without_compiling(dtype):
    problem, network, solution = certified(dtype, 1)
    compiled = []

    def listen(event, duration, **_):
        if "compile" in event or "trace" in event:
            compiled.append(event)

    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        qs.certify(problem, network, solution)
        problem.objective(network)
        assert not compiled
        jax.jit(lambda x: x + 1)(1.0)
        assert compiled  # the listener hears
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)


def test_solves_where_no_solution_is_given(dtype):
    problem, network, solution = certified(dtype)
    assert same(certify(problem, network), certify(problem, network, solution))


def test_any_network(dtype):
    problem, _, solution = certified(dtype)
    network = random_network(dtype)
    certificate = certify(problem, network, solution)
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    np.testing.assert_allclose(certificate.objective, problem.objective(network), rtol=rtol)
    assert certificate.lower_bound == certify(*certified(dtype)).lower_bound
    assert certificate.gap > 0.9


def test_a_network_without_neurons(dtype):
    """It predicts zero, which is optimal for a large penalty."""
    problem, network, solution = certified(dtype)
    empty = dataclasses.replace(network, alpha=0 * network.alpha).prune()
    certificate = certify(problem, empty, solution)
    zero = 0.5 * np.sum(np.asarray(problem.weight, float) * np.asarray(problem.y, float) ** 2)
    np.testing.assert_allclose(certificate.objective, zero, rtol=1e-6)
    assert certificate.lower_bound <= optimum(dtype)


def test_jit(dtype):
    problem, network, solution = certified(dtype)
    traced = traced_certify(problem, network, solution)
    rtol = 1e-3 if dtype == np.float32 else 1e-12
    concrete = certify(problem, network, solution)
    np.testing.assert_allclose(traced.lower_bound, concrete.lower_bound, rtol=rtol)
    np.testing.assert_allclose(traced.objective, concrete.objective, rtol=rtol)
    assert traced.lower_bound <= optimum(dtype)


def test_vmap_equals_loop(dtype):
    cases = [certified(dtype, seed) for seed in range(2)]
    batch = jax.vmap(certify)(*map(stack, zip(*cases, strict=True)))
    assert batch.gap.shape == (2,)
    assert repr(batch) == "Certificate(relaxation bound, shape (2,))"
    for index, case in enumerate(cases):
        one, expected = lane(batch, index), traced_certify(*case)
        rtol = 1e-4 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(one.lower_bound, expected.lower_bound, rtol=rtol)
        np.testing.assert_allclose(one.objective, expected.objective, rtol=rtol)
        assert one.lower_bound <= optimum(dtype, index)
        assert Fraction(float(one.objective)) >= exact_objective(case[0], case[1])


@pytest.mark.parametrize("field", ["X", "y", "beta", "sample_weight"])
@pytest.mark.parametrize("bad", [np.nan, -1.0, np.inf])
def test_traced_invalid_data_prove_nothing(field, bad, dtype):
    problem, network, solution = certified(dtype)
    if bad == -1 and field in ("X", "y"):
        bad = -np.inf
    array = np.array(getattr(problem, field))
    array[(0,) * array.ndim] = bad
    broken = eqx.tree_at(lambda problem: getattr(problem, field), problem, jnp.asarray(array))
    certificate = traced_certify(broken, network, solution)
    assert certificate.lower_bound == -np.inf
    assert not np.isnan(certificate.objective)


def test_several_outputs(dtype):
    """The sums over outputs, with one network and one penalty for each."""
    single = [certified(dtype, seed) for seed in range(2)]
    X, weight = single[0][0].X, single[0][0].sample_weight
    y = jnp.stack([problem.y for problem, _, _ in single], axis=1)
    problem = qs.Problem(X, y, np.array([0.5, 0.25], dtype), sample_weight=weight)
    solution = qs.solve(problem)
    network = qs.round(problem, solution, num_neurons=NUM_NEURONS, key=jax.random.key(5))
    certificate = certify(problem, network, solution)
    assert certificate.gap.shape == ()
    exact = exact_objective(problem, network)
    assert exact <= Fraction(float(certificate.objective)) <= exact * (1 + Fraction(1, 2**21))
    columns = zip(np.asarray(problem.y).T, np.asarray(problem.beta), strict=True)
    optima = [reference(X, target, beta, weight).value for target, beta in columns]
    assert certificate.lower_bound <= sum(optima)
    tolerance = 1e-3 if dtype == np.float32 else 1e-6
    assert certificate.lower_bound >= sum(optima) * (1 - tolerance)
    assert certificate.lower_bound >= solution.total_lower_bound * (1 - tolerance)
    traced = traced_certify(problem, network, solution)
    assert Fraction(float(traced.objective)) >= exact
    assert traced.lower_bound <= sum(optima)


def test_repr():
    certificate = qs.Certificate(
        jnp.asarray(1.5), jnp.asarray(2.0), jnp.asarray(0.25), kind="relaxation"
    )
    expected = "Certificate(1.5 ≤ optimum ≤ 2, gap 25 %, relaxation bound)"
    assert repr(certificate) == expected
    seen = []
    jax.jit(lambda certificate: seen.append(repr(certificate)))(certificate)
    assert "relaxation bound" in seen[0]


def test_refuses_what_does_not_fit_together():
    problem, network, solution = certified(np.float64)
    wide = random_network(np.float64, num_features=7)
    with pytest.raises(ValueError, match="`network` takes 7 features, `problem` has 5"):
        certify(problem, wide, solution)
    two = from_weights(network.u, network.v, jnp.stack([network.alpha] * 2, axis=1))
    with pytest.raises(ValueError, match=re.escape("`network` has outputs of shape (2,)")):
        certify(problem, two, solution)
    shorter = qs.Problem(problem.X[:9], problem.y[:9], 0.5)
    with pytest.raises(ValueError, match=re.escape("`solution` is for y of shape (24,)")):
        certify(shorter, network, solution)


def test_refuses_what_is_neither_a_problem_nor_a_network():
    problem = problem_of(planted(0, *SMALL), np.float64)
    u = np.ones((1, SMALL[1]))
    network = from_weights(u, u, np.ones(1))
    with pytest.raises(TypeError, match="`network` must be a `QuantizedNetwork`, got tuple"):
        qs.certify(problem, (u, u, np.ones(1)))
    with pytest.raises(TypeError, match="`problem` must be a `Problem`, got QuantizedNetwork"):
        qs.certify(network, problem)
    with pytest.raises(TypeError, match="`problem` must be a `Problem`, got Solution"):
        qs.adjoint_report(qs.solve(problem), problem)


def test_gap_in_words():
    def certificate(gap):
        return qs.Certificate(jnp.float64(1.0), jnp.float64(1.0), jnp.float64(gap), "relaxation")

    assert certificate(0.0425).percentage == "4.25 %"
    assert certificate(3e-11).percentage == "below 0.0001 %"
    assert certificate(np.nan).percentage == "nan %"
