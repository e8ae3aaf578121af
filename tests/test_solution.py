"""What a solution says of itself."""

from fractions import Fraction

import jax
import numpy as np
import pytest
from helpers import solve_all
from problems import SMALL, planted

import jaxqsdp as qs
from jaxqsdp._relaxation.solution import sum_below


@pytest.fixture(scope="module")
def solution():
    return solve_all([planted(0, *SMALL)], np.float64)[0]


def test_sums_of_bounds_are_rounded_down(dtype):
    rng = np.random.default_rng(0)
    for count in (1, 2, 10, 100):
        bounds = rng.standard_normal(count) ** 2 * 10.0 ** rng.integers(-6, 6, count)
        bounds = bounds.astype(dtype)
        exact = sum(map(Fraction, bounds.astype(float)), Fraction(0))
        total = Fraction(float(sum_below(bounds)))
        assert total <= exact
        assert exact - total <= 4 * count * Fraction(float(np.finfo(dtype).eps)) * exact
    assert sum_below(np.array([1.0, -np.inf], dtype)) == -np.inf


def test_repr_is_a_line(solution):
    text = repr(solution)
    assert text.startswith("Solution(solved: value=")
    assert "\n" not in text
    assert "lower_bound=" in text
    many = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), solution)
    assert "solved ×2" in repr(many)
    assert "2 values" in repr(many)
    traced = []
    jax.eval_shape(lambda solution: traced.append(repr(solution)), solution)
    assert traced == ["Solution(traced)"]


def test_block_is_the_corner_of_gram(solution):
    d = SMALL[1]
    np.testing.assert_array_equal(solution.block, solution.gram[:d, :d])
    np.testing.assert_array_equal(solution.gram[:d, d:], solution.quadratic_form)


def test_totals_of_one_output_are_its_own(solution):
    assert solution.total_value == solution.value
    assert solution.total_lower_bound == solution.lower_bound


def test_every_status_says_what_to_do():
    remedies = {
        "solved": "within the tolerances",
        "dtype_accuracy": "float64",
        "max_steps": "`max_steps`",
        "invalid_data": "Clean or rescale",
    }
    for name, remedy in remedies.items():
        assert remedy in qs.Status[getattr(qs.Status, name)]
