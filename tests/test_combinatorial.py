"""The bound on the training problem itself: true from any λ, and tight at the right one."""

import functools

import jax
import numpy as np
import pytest
from helpers import problem_of
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from problems import SMALL, Data, degenerate, planted
from referee import brute_force, exact_combinatorial_bound

import jaxqsdp as qs
from jaxqsdp._bound.combinatorial import combinatorial_bound


def floats(low, high):
    return st.floats(low, high, width=32)


def weighted(seed, n=SMALL[0], d=SMALL[1]):
    case, rng = planted(seed, n, d), np.random.default_rng(seed)
    weight = rng.uniform(0.2, 3, n)
    weight[:2] = 0
    return Data(case.X, case.y, case.beta, weight)


def proven(data, dual):
    """Return the bound claimed and the exact one."""
    weight = np.ones(len(data.y)) if data.weight is None else data.weight
    claimed = combinatorial_bound(data.X, data.y, weight, data.beta, dual)
    return claimed, exact_combinatorial_bound(data.X, data.y, data.beta, dual, data.weight)


@settings(max_examples=200, deadline=None)
@given(
    X=arrays(np.float64, (6, 3), elements=floats(-1e3, 1e3)),
    y=arrays(np.float64, 6, elements=floats(-1e3, 1e3)),
    weight=arrays(np.float64, 6, elements=floats(0, 1e3)),
    dual=arrays(np.float64, 6, elements=floats(-1e3, 1e3)),
    beta=floats(2.0**-20, 1e6),
)
def test_never_exceeds_what_exact_arithmetic_proves(X, y, weight, dual, beta):
    claimed, exact = proven(Data(X, y, beta, weight), dual)
    assert 0 <= claimed <= max(exact, 0)


@pytest.mark.parametrize("noise", [0.0, 1e-9, 1e-3, 1.0])
def test_is_tight(noise):
    """Whatever λ, rounding takes a tiny part of what it proves; the best λ is a residual's."""
    for seed in range(20):
        data = weighted(seed)
        rng = np.random.default_rng(seed)
        dual = data.weight * (data.y + noise * rng.standard_normal(len(data.y)))
        claimed, exact = proven(data, dual)
        assert claimed <= exact
        np.testing.assert_allclose(claimed, float(exact), rtol=1e-11)


@pytest.mark.parametrize("name", list(degenerate()))
def test_degenerate_data(name):
    data = degenerate()[name]
    for dual in (data.y, np.zeros_like(data.y), np.full_like(data.y, np.nan)):
        claimed, exact = proven(data, dual)
        assert 0 <= claimed <= exact
        np.testing.assert_allclose(claimed, float(exact), rtol=1e-9, atol=1e-290)


@pytest.mark.parametrize("exponent", [-900, -300, -40, 40, 300])
def test_units_do_not_matter(exponent):
    """(X, cy, cβ) has c² times the bound, as far as numbers go; beyond that it is 0."""
    data = weighted(0)
    c = 2.0**exponent
    bound = combinatorial_bound(data.X, data.y, data.weight, data.beta, data.y)
    scaled = combinatorial_bound(data.X, c * data.y, data.weight, c * data.beta, data.y)
    assert scaled == (bound * c**2 if exponent > -500 else 0)
    by_features = combinatorial_bound(c * data.X, data.y, data.weight, c * (c * data.beta), data.y)
    assert by_features == (bound if abs(exponent) < 400 else 0)


def test_is_between_the_relaxation_and_the_optimum():
    """At λ of the relaxation it is no weaker, and never above what brute force attains."""
    for seed in range(4):
        data = weighted(seed)
        solution = qs.solve(problem_of(data, np.float64))
        claimed, _ = proven(data, solution.dual)
        assert solution.lower_bound <= claimed * (1 + 1e-9)
        assert claimed <= brute_force(data.X, data.y, data.beta, data.weight)[1]


@functools.cache
def thousand():
    """Return a thousand random problems of one shape, their solutions and random networks."""
    rng = np.random.default_rng(7)
    X = rng.standard_normal((1000, 12, 3)) * 10 ** rng.uniform(-2, 2, (1000, 1, 1))
    y = rng.standard_normal((1000, 12)) * 10 ** rng.uniform(-2, 2, (1000, 1))
    beta = 10 ** rng.uniform(-3, 1, 1000) * np.abs(X).max((1, 2)) ** 2 * np.abs(y).max(1)
    problems = jax.jit(jax.vmap(qs.Problem))(X, y, beta)
    return X, y, beta, problems, jax.jit(jax.vmap(qs.solve))(problems)


def test_no_wrong_bound_in_a_thousand_problems():
    """Relaxation bound ≤ combinatorial bound ≤ p*, from brute force over all 16 neurons."""
    X, y, beta, _, solutions = thousand()
    closed = []
    for k in range(1000):
        below, above = brute_force(X[k], y[k], beta[k])
        bound = combinatorial_bound(X[k], y[k], np.ones(12), beta[k], solutions.dual[k])
        assert bound <= above
        assert solutions.lower_bound[k] <= bound * (1 + 1e-9) + 1e-12 * above
        closed.append(bound / above)
        assert below <= above * (1 + 1e-12)
    assert np.median(closed) > 0.9  # weak bounds are true as well
