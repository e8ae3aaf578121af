"""Numbers given as options: of whatever type, or refused by name."""

from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import stack
from public_values import values

import jaxqsdp as qs
from jaxqsdp._base.types import as_number, check_count, check_positive

GOOD = [2, 2.5, np.float32(2.5), np.int64(2), np.array(2.5), jnp.float32(2.5), Fraction(5, 2)]


@pytest.mark.parametrize("value", GOOD, ids=lambda value: type(value).__name__)
def test_numbers_of_any_type(value):
    for convert in (as_number, check_positive):
        number = convert(value, "x")
        assert type(number) is float
        assert number == float(value)


@pytest.mark.parametrize("value", [True, np.True_, "2", None, 2j, [2.0], np.ones(1), 10**400])
def test_what_is_no_number(value):
    with pytest.raises(TypeError, match="`x`"):
        as_number(value, "x")
    with pytest.raises(ValueError, match="`x` must be a positive number"):
        check_positive(value, "x")


@pytest.mark.parametrize("value", [0, -1.0, float("nan"), np.float32(-0.0), -np.inf])
def test_what_is_not_positive(value):
    assert np.array_equal(as_number(value, "x"), float(value), equal_nan=True)
    with pytest.raises(ValueError, match="`x` must be a positive number"):
        check_positive(value, "x")


@pytest.mark.parametrize("value", [0, -1, True, 2.0, "2", None, 2**31, 10**30])
def test_counts(value):
    with pytest.raises(ValueError, match="`x` must be"):
        check_count(value, "x")
    check_count(np.int64(7), "x")
    with pytest.raises(ValueError, match="`num_neurons`"):
        qs.round(values()["Problem"], None, num_neurons=value, key=None)


def test_options_in_numpy_scalars():
    """As options of solvers they are static, so they become plain numbers."""
    admm = qs.ADMM(
        tol=np.float32(0.25),
        max_steps=np.int64(20),
        relaxation=np.float32(1.5),
        memory=np.int32(3),
        check_every=np.uint8(5),
    )
    assert admm == qs.ADMM(tol=0.25, max_steps=20, relaxation=1.5, memory=3, check_every=5)
    assert hash(admm) == hash(
        qs.ADMM(tol=0.25, max_steps=20, relaxation=1.5, memory=3, check_every=5)
    )
    assert hash(qs.InteriorPoint(max_steps=np.int64(9))) == hash(qs.InteriorPoint(max_steps=9))
    assert qs.Implicit(smoothing=np.float32(0.5)).smoothing == 0.5
    with pytest.raises(TypeError, match="`tol`"):
        qs.ADMM(tol="1e-3")
    with pytest.raises(TypeError, match="`relaxation`"):
        qs.ADMM(relaxation="1.5")
    problem = values()["Problem"]
    X, y = problem.X, problem.y
    grid = qs.path(X, y, num_betas=2, ratio=np.float32(0.5)).betas
    np.testing.assert_allclose(grid[1], 0.5 * grid[0])
    for ratio in (0, 1, 1.5, -0.5, np.nan, "0.5"):
        with pytest.raises(ValueError, match="`ratio`"):
            qs.path(X, y, num_betas=2, ratio=ratio)
    for time_limit in (np.int64(30), np.float32(30)):
        (solution,) = qs.solve_batch([problem], time_limit=time_limit)
        assert solution.status == qs.Status.solved
        exact = qs.solve_exactly(problem, tol=np.float32(1e-3), time_limit=time_limit)
        assert exact.certificate.gap < 2e-3


def test_a_plain_number_as_penalty():
    """What `tree_at` leaves in place of the array."""
    problem, expected = values()["Problem"], values()["Solution"].value
    plain = eqx.tree_at(lambda one: one.beta, problem, 0.1)
    np.testing.assert_allclose(qs.solve(plain).value, expected, rtol=1e-8)
    for solution in qs.solve_batch([plain, problem]):
        np.testing.assert_allclose(solution.value, expected, rtol=1e-8)
    stacked = eqx.tree_at(lambda one: one.beta, stack([problem, problem]), 0.1)
    np.testing.assert_allclose(qs.solve_batch(stacked).value, [expected] * 2, rtol=1e-8)
    odd = eqx.tree_at(lambda one: one.beta, problem, "0.1")
    with pytest.raises(TypeError, match="`beta` must be a number"):
        qs.solve_batch([odd])
    assert jax.tree.leaves(plain)[2] == 0.1  # unchanged
