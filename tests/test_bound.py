"""The bound that (λ, p) prove: below exact arithmetic always, and close to it."""

from fractions import Fraction

import hypothesis
import jax
import numpy as np
import pytest
from clarabel_reference import reference
from helpers import solve_over_betas
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from problems import BETAS, built_from_solution, planted, real
from referee import exact_bound

from jaxqsdp._bound.relaxation import bound_on_host, dual_bound, scaled_dual_bound

bound_of = jax.jit(dual_bound)


def floats(low, high):
    return st.floats(low, high, width=32)


@pytest.mark.parametrize("size", [1e5, 1e6])
def test_an_outlying_sample_does_not_hide_the_others(size, dtype):
    """The multiplier of the outlier is zero; the other sample proves 3/8 for β = 1/2."""
    X = np.array([[size, 0], [0, 1]], dtype)
    y, weight, dual = (np.array(a, dtype) for a in ([0, 1], [1, 1], [0, 0.5]))
    p = np.array([0, 0.5], dtype)
    bound = float(jax.jit(scaled_dual_bound)(X, y, weight, dtype(0.5), dual, p))
    assert 0.375 * (1 - 100 * np.finfo(dtype).eps) <= bound <= 0.375


@hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
@hypothesis.given(
    X=arrays(np.float32, (7, 3), elements=floats(-1, 1)),
    y=arrays(np.float32, 7, elements=floats(-1, 1)),
    weight=arrays(np.float32, 7, elements=st.sampled_from([0, 0.25, 0.3, 1, 1, 1, 7])),
    beta=floats(2**-10, 2**6),
    dual=arrays(np.float32, 7, elements=floats(-10, 10)),
    p=arrays(np.float32, 3, elements=floats(-1, 10)),
    towards_targets=st.booleans(),
)
def test_never_exceeds_what_exact_arithmetic_proves(X, y, weight, beta, dual, p, towards_targets):
    if towards_targets:  # bounds above zero
        dual = (weight * y + dual / 16).astype(np.float32)
    _, highest = exact_bound(X, y, beta, dual, p, weight)
    for dtype in (np.float32, np.float64):
        arguments = [np.asarray(a, dtype) for a in (X, y, weight, beta, dual, p)]
        assert 0 <= Fraction(float(bound_of(*arguments))) <= highest
        assert 0 <= Fraction(float(bound_on_host(*arguments))) <= highest


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-4, 1e-2, 1.0])
def test_is_valid_and_tight_at_perturbed_optima(noise, dtype):
    """Tight to 1e-12 in float64 and 1e-4 in float32, relative, wherever (λ, p) prove something."""
    rng = np.random.default_rng(1)
    data = built_from_solution(seed=3).data.astype(dtype)
    X, y = data.X, data.y
    for beta in BETAS:
        beta = dtype(beta * X.shape[1])
        optimum = reference(X, y, beta)
        for _ in range(5):
            dual = optimum.dual + noise * np.abs(optimum.dual).max() * rng.standard_normal(len(y))
            p = optimum.dual_diagonal * (1 + noise * rng.standard_normal(X.shape[1]))
            dual, p = dual.astype(dtype), p.astype(dtype)
            weight = np.ones_like(y)
            bound = Fraction(float(bound_of(X, y, weight, beta, dual, p)))
            lowest, highest = exact_bound(X, y, beta, dual, p)
            assert bound <= highest
            host = Fraction(float(bound_on_host(X, y, weight, beta, dual, p)))
            assert lowest * (1 - Fraction(1, 10**12)) <= host <= highest
            assert float(bound) <= optimum.value * (1 + 1e-9)
            assert float(lowest - bound) <= (1e-12 if dtype == np.float64 else 1e-4) * float(lowest)


def test_is_valid_for_random_dual_points(dtype):
    """λ and p drawn without regard to the problem, over eight orders of magnitude."""
    rng = np.random.default_rng(2)
    data = planted(1, 30, 6).astype(dtype)
    beta = dtype(0.6)
    optimum = reference(data.X, data.y, beta)
    positive = 0
    for _ in range(100):
        dual = 10.0 ** rng.uniform(-4, 4) * (data.y + rng.standard_normal(30))
        p = 10.0 ** rng.uniform(-4, 4) * rng.standard_normal(6)
        dual, p = dual.astype(dtype), p.astype(dtype)
        bound = float(bound_of(data.X, data.y, np.ones_like(data.y), beta, dual, p))
        _, highest = exact_bound(data.X, data.y, beta, dual, p)
        assert 0 <= Fraction(bound) <= highest
        assert bound <= optimum.value
        positive += bound > 0
    assert positive > 50


def test_is_valid_from_iterates_stopped_early(dtype):
    data, max_steps = real("diabetes").astype(dtype), 2
    d = data.X.shape[1]
    betas = np.asarray(BETAS, dtype) * dtype(d)
    gaps = []
    for beta, solution in zip(betas, solve_over_betas(data, betas, dtype, max_steps), strict=True):
        optimum = reference(data.X, data.y, beta)
        bound = Fraction(float(solution.lower_bound))
        _, highest = exact_bound(data.X, data.y, beta, solution.dual, solution.dual_diagonal)
        assert bound <= highest
        assert solution.lower_bound <= optimum.value * (1 + 1e-9)
        assert solution.value >= optimum.bound * (1 - 4 * np.finfo(dtype).eps)
        assert solution.stats.num_steps == max_steps
        gaps.append(float(solution.stats.gap))
    assert max(gaps) > 0.01  # they were indeed stopped early


def test_survives_dual_points_that_are_not_numbers(dtype):
    data = planted(0, 30, 6).astype(dtype)
    weight, beta = np.ones_like(data.y), dtype(1)
    good = bound_of(data.X, data.y, weight, beta, data.y, np.ones(6, dtype))
    assert good > 0
    for bad in (np.nan, np.inf, -np.inf):
        dual, p = data.y.copy(), np.ones(6, dtype)
        dual[3] = p[2] = bad
        bound = Fraction(float(bound_of(data.X, data.y, weight, beta, dual, p)))
        lowest, highest = exact_bound(data.X, data.y, beta, dual, p)
        assert bound <= highest
        assert bound >= lowest * Fraction(9, 10)
        hopeless = np.full_like(dual, bad)
        assert bound_of(data.X, data.y, weight, beta, hopeless, p) == 0


def test_float32_bound_costs_little_where_the_error_of_plain_sums_costs_much():
    """At a small penalty the a-priori error of a float32 Gram matrix is a large part of β."""
    data, d = real("wine").astype(np.float32), 14
    beta = np.float32(0.003 * d)
    optimum = reference(data.X, data.y, beta)
    dual, p = optimum.dual.astype(np.float32), optimum.dual_diagonal.astype(np.float32)
    bound = float(bound_of(data.X, data.y, np.ones_like(data.y), beta, dual, p))
    assert bound >= optimum.value * (1 - 1e-4)
    size = np.abs(data.X.astype(float))
    a_priori = len(size) * 2.0**-24 * size.T @ (np.abs(optimum.dual)[:, None] * size)
    assert d * np.linalg.norm(a_priori, 2) > 0.1 * beta
