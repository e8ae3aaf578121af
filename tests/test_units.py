"""Extreme scales: of the dual point, of weights, of rows that do not count."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import problem_of
from losses import ALL
from problems import SMALL, planted
from referee import exact_bound

import jaxqsdp as qs
from jaxqsdp._bound.eigenvalues import norm_above, smallest_eigenvalue_bound
from jaxqsdp._bound.relaxation import scaled_dual_bound

bound = jax.jit(scaled_dual_bound)


@pytest.mark.parametrize("exponent", [-0.6, -0.3, 0.0, 0.3, 0.6, 0.85])
def test_the_dual_point_may_have_any_scale(dtype, exponent):
    """The bound is that of the ray, the same along it until λ or p underflow."""
    data = planted(0, *SMALL).astype(dtype)
    solution = qs.solve(problem_of(data, dtype))
    factor = 2.0 ** int(exponent * -np.finfo(dtype).minexp)
    dual, diagonal = solution.dual * factor, solution.dual_diagonal * factor
    scaled = bound(data.X, data.y, jnp.ones_like(data.y), dtype(data.beta), dual, diagonal)
    assert scaled <= solution.value
    assert float(scaled) == pytest.approx(float(solution.lower_bound), rel=1e-4)
    _, exact = exact_bound(
        data.X, data.y, data.beta, np.asarray(solution.dual), np.asarray(solution.dual_diagonal)
    )
    assert float(scaled) <= exact


def test_a_long_dual_point_does_not_lose_its_quadratic_term():
    n = 2000
    y = np.full(n, 0.02, np.float32)
    y[0] = 0.5
    dual = np.full(n, 2.5e17, np.float32)
    dual[0] = 0
    problem = qs.Problem(np.ones((n, 1), np.float32), y, np.float32(1e30))
    solution = dataclasses.replace(
        qs.solve(problem), dual=jnp.asarray(dual), dual_diagonal=jnp.zeros(1, np.float32)
    )
    zero = qs.QuantizedNetwork.from_weights([[1]], [[1]], np.zeros(1, np.float32))
    certificate = jax.jit(qs.certify)(problem, zero, solution)
    assert certificate.lower_bound <= certificate.objective


@pytest.mark.parametrize("weight", [1e37, 1e-37])
def test_weights_may_have_any_scale(weight):
    n = 1000
    y = np.full(n, 2e-23, np.float32)
    y[0] = 2e-21
    dual = np.full(n, 0.036, np.float32)
    dual[:2] = 0, 0.072
    X, w = np.full((n, 1), 1e-9, np.float32), np.full(n, weight, np.float32)
    found = bound(X, y, w, np.float32(1e15), dual, np.zeros(1, np.float32))
    exact = 0.5 * float(np.sum(w.astype(float) * y.astype(float) ** 2))  # objective of zero
    assert 0 <= float(found) <= exact


def test_units_half_way_between_two_powers():
    """What a program scaled is scaled back in NumPy: by the same powers, for maxima of 3 too."""
    data = planted(1, *SMALL)
    X, y = (3 / np.max(np.abs(array)) * array for array in (data.X, data.y))
    solution = qs.solve(qs.Problem(X, y, 1.0, sample_weight=1.0 + np.arange(len(y)) % 3))
    assert solution.status == qs.Status.solved
    assert solution.stats.gap <= 1e-6


def test_weights_and_penalty_scale_the_value(dtype):
    data = planted(1, *SMALL)
    plain = qs.solve(problem_of(data, dtype))
    for factor in (2.0**20, 2.0**-20):
        weight = np.full(len(data.y), factor, dtype)
        problem = qs.Problem(
            data.X.astype(dtype), data.y.astype(dtype), dtype(data.beta * factor), None, weight
        )
        scaled = qs.solve(problem)  # another program than that without weights
        gap = 1e-8 if dtype == np.float64 else 7e-4
        assert float(scaled.value) == pytest.approx(float(plain.value) * factor, rel=gap)
        assert float(scaled.lower_bound) == pytest.approx(
            float(plain.lower_bound) * factor, rel=gap
        )


@pytest.mark.parametrize("size", [1.0, 1e4, 1e15, 1e30])
def test_rows_without_weight_may_hold_anything(size):
    n, d = SMALL
    data = planted(2, n, d)
    padded = np.concatenate([data.X[:-2], np.full((2, d), size)]).astype(np.float32)
    y = np.concatenate([data.y[:-2], np.full(2, size)]).astype(np.float32)
    weight = np.concatenate([np.ones(n - 2), np.zeros(2)]).astype(np.float32)
    solution = qs.solve(qs.Problem(padded, y, np.float32(data.beta), None, weight))
    reference = qs.solve(
        qs.Problem(padded * (weight > 0)[:, None], y * weight, np.float32(data.beta), None, weight)
    )
    assert solution.status == qs.Status.solved
    np.testing.assert_array_equal(solution.value, reference.value)
    np.testing.assert_array_equal(solution.lower_bound, reference.lower_bound)
    assert np.all(np.isfinite(solution.predictions))


@pytest.mark.parametrize("exponent", range(-120, 121, 12))
def test_norms_and_eigenvalues_are_bounded_at_any_scale(exponent):
    rng = np.random.default_rng(exponent + 120)
    factor = rng.standard_normal((3, 2))
    matrix = (factor @ factor.T * 2.0**exponent).astype(np.float32)
    wide = matrix.astype(np.float64) + np.tril(matrix.T, -1) * 0
    assert float(norm_above(np.abs(matrix))) >= np.linalg.norm(wide)
    found = float(smallest_eigenvalue_bound(jnp.asarray(matrix)))
    smallest, largest = np.linalg.eigvalsh((wide + wide.T) / 2)[[0, -1]]
    assert found <= smallest + 1e-14 * largest
    assert found >= smallest - 1e-4 * largest - 1e-36


def test_what_does_not_fit_the_dtype_gives_the_trivial_bound():
    data = planted(3, *SMALL)
    problem = qs.Problem(data.X.astype(np.float32), (data.y * 1e22).astype(np.float32), 1.0)
    network = qs.QuantizedNetwork.from_weights(
        np.ones((1, 5)), np.ones((1, 5)), np.zeros(1, np.float32)
    )
    solution = qs.solve(problem, throw=False)
    assert solution.status == qs.Status.invalid_data
    certificate = jax.jit(qs.certify)(problem, network, solution)
    assert certificate.lower_bound <= certificate.objective
    assert not np.isnan(certificate.gap)


def test_certify_of_closed_over_data_inside_jit():
    data = planted(4, *SMALL)
    problem = problem_of(data, np.float32)
    solution = qs.solve(problem)
    network = qs.round(problem, solution, num_neurons=8, key=jax.random.key(0))
    outside = qs.certify(problem, network, solution)
    inside = jax.jit(lambda scale: qs.certify(problem, network, solution).gap * scale)(
        jnp.float32(1)
    )
    assert float(inside) == pytest.approx(float(outside.gap), rel=1e-6)


def test_stacked_problems_are_refused_by_name():
    data = planted(5, *SMALL)
    problem = problem_of(data, np.float32)
    solution = qs.solve(problem)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), problem)
    for call in (
        lambda: qs.solve(stacked),
        lambda: qs.round(stacked, solution, num_neurons=2, key=jax.random.key(0)),
    ):
        with pytest.raises(ValueError, match="`problem` is stacked"):
            call()


@pytest.mark.parametrize("name", ALL)
def test_no_loss_is_below_zero_where_a_compiler_computes_scores_twice(name):
    """It may round them differently each time, beside which all margins and residuals are small."""
    rng, loss = np.random.default_rng(6), ALL[name]
    A, b = 1e3 * rng.standard_normal((40, 50)), rng.standard_normal((50, 3))
    b = b if loss.takes_classes else b[:, :1]
    scores = 1e9 * (A @ b)
    if loss.takes_classes:
        y = np.eye(3)[np.argmax(scores, axis=1)]
    else:
        y = np.where(scores > 0, 1.0, -1.0) if loss.takes_labels else scores

    def value(A, b):
        return loss.value(1e9 * jnp.sum(A[:, :, None] * b[None], axis=1), y)

    assert np.all(jax.jit(value)(A, b) >= 0)
