"""Degenerate and invalid data, units, padding and weights: what must not change anything."""

import jax
import numpy as np
import pytest
from helpers import GAP, assert_solved, solve_all
from problems import SMALL, Data, degenerate, planted

import jaxqsdp as qs

DEGENERATE = {name: data for name, data in degenerate().items() if data.X.shape == SMALL}


@pytest.mark.parametrize("name", [name for name in degenerate() if name not in DEGENERATE])
def test_degenerate_shapes(name, dtype):
    data = degenerate()[name]
    assert_solved(data, *solve_all([data], dtype), dtype)


@pytest.mark.parametrize("name", DEGENERATE)
def test_degenerate_data(name, dtype):
    solutions = dict(zip(DEGENERATE, solve_all(DEGENERATE.values(), dtype), strict=True))
    hard = name in ("columns far apart", "outlying sample")
    assert_solved(DEGENERATE[name], solutions[name], dtype, hard=hard)


@pytest.mark.parametrize("name", ["zero targets", "zero features", "zero optimum"])
def test_zero_is_found_exactly(name, dtype):
    data = DEGENERATE[name].astype(dtype)
    (solution,) = solve_all([data], dtype)
    for field in ("quadratic_form", "scale", "gram", "predictions"):
        assert not np.any(getattr(solution, field)), field
    half = 0.5 * np.sum(np.square(data.y, dtype=float))
    np.testing.assert_allclose(solution.value, half, rtol=4 * np.finfo(dtype).eps)


def in_units(data, c, e):
    """Return (cX, ey, c²eβ) and the factors by which it changes the fields of a solution."""
    factors = {
        **dict.fromkeys(("value", "lower_bound"), e**2),
        **dict.fromkeys(("quadratic_form", "scale", "gram"), e / c**2),
        **dict.fromkeys(("dual", "predictions"), e),
        "dual_diagonal": c**2 * e,
    }
    return Data(c * data.X, e * data.y, c**2 * e * data.beta), factors


def test_units_do_not_matter(dtype):
    data = planted(0, *SMALL)
    units = [(1e6, 1), (1e-6, 1), (1, 1e6), (1, 1e-6), (1e6, 1e-6)]
    scaled, factors = zip(*(in_units(data, c, e) for c, e in units), strict=True)
    first, *others = solve_all([data, *scaled], dtype)
    for case, factor, other in zip(scaled, factors, others, strict=True):
        assert_solved(case, other, dtype, referenced=False)
        for field, size in factor.items():
            tolerance = GAP[dtype] * (1 if field in ("value", "lower_bound") else 100)
            one = np.asarray(getattr(first, field), float) * size
            difference = np.abs(getattr(other, field) - one).max()
            assert difference <= tolerance * np.abs(one).max(), field


def test_powers_of_two_change_no_digit(dtype):
    data = planted(0, *SMALL).astype(dtype)
    powers = [(2.0**20, 1.0), (2.0**-20, 1.0), (1.0, 2.0**20), (2.0**7, 2.0**-30)]
    scaled, factors = zip(*(in_units(data, c, e) for c, e in powers), strict=True)
    first, *others = solve_all([data, *scaled], dtype)
    for factor, other in zip(factors, others, strict=True):
        for field, size in factor.items():
            one = getattr(first, field) * dtype(size)
            np.testing.assert_array_equal(getattr(other, field), one, err_msg=field)
        assert other.stats.num_steps == first.stats.num_steps


def test_padding_is_exact(dtype):
    """Samples of zero weight, whatever they hold, and features that are zero change nothing."""
    n, d = 16, 3
    rows, columns = SMALL
    rng = np.random.default_rng(0)
    plain, padded = [], []
    for seed in range(4):
        data = planted(seed, n, d)
        weight = rng.uniform(0.1, 3, n) if seed % 2 else np.ones(n)
        for size in (0.0, 1.0, 1e6):
            plain.append(Data(data.X, data.y, data.beta, weight))
            garbage = size * rng.standard_normal((rows - n, d + 1))
            X = np.pad(np.vstack([data.X, garbage[:, 1:]]), ((0, 0), (0, columns - d)))
            y = np.concatenate([data.y, garbage[:, 0]])
            order, features = rng.permutation(rows), rng.permutation(columns)
            mask = np.pad(weight, (0, rows - n))
            padded.append(Data(X[order][:, features], y[order], data.beta, mask[order]))
    pairs = zip(padded, solve_all(padded, dtype), solve_all(plain, dtype), strict=True)
    for data, one, other in pairs:
        assert_solved(data, one, dtype)
        np.testing.assert_allclose(one.value, other.value, rtol=GAP[dtype])
        np.testing.assert_allclose(one.lower_bound, other.lower_bound, rtol=GAP[dtype])
        assert abs(one.stats.num_steps - other.stats.num_steps) <= 20


def test_weights_are_repetitions(dtype):
    weighted, repeated = [], []
    half = SMALL[0] // 2
    for seed in range(8):
        data = planted(seed, *SMALL)
        X, y = data.X[:half], data.y[:half]
        repeated.append(Data(np.vstack([X, X]), np.tile(y, 2), data.beta))
        weighted.append(Data(data.X, data.y, data.beta, np.repeat([2.0, 0.0], half)))
    solutions = solve_all(weighted + repeated, dtype)
    for data, one, other in zip(weighted, solutions[:8], solutions[8:], strict=True):
        assert_solved(data, one, dtype)
        np.testing.assert_allclose(one.value, other.value, rtol=GAP[dtype])


def spoiled(data):
    """Return what is wrong, and the data with that."""
    X, y, beta = data.X, data.y, data.beta
    yield "X", Data(np.where(X[3, 2] == X, np.nan, X), y, beta)
    yield "y", Data(X, np.where(y == y[7], np.inf, y), beta)
    yield "zero beta", Data(X, y, 0.0)
    yield "negative beta", Data(X, y, -1.0)
    yield "infinite beta", Data(X, y, np.inf)
    yield "negative weight", Data(X, y, beta, np.where(y == y[7], -1.0, 1.0))
    yield "zero weights", Data(X, y, beta, np.zeros_like(y))
    yield "overflow", Data(X, y * (0.1 * np.finfo(y.dtype).max), beta)


def test_bad_lanes_say_so_and_leave_their_neighbours_alone(dtype):
    good = planted(0, *SMALL).astype(dtype)
    names, bad = zip(*spoiled(good), strict=True)
    solutions = solve_all([data for case in bad for data in (case, good)], dtype)
    (expected,) = solve_all([good], dtype)
    for name, one, neighbour in zip(names, solutions[::2], solutions[1::2], strict=True):
        assert one.status == qs.Status.invalid_data, name
        assert one.value == np.inf
        assert one.lower_bound == -np.inf
        for leaf in ("quadratic_form", "scale", "gram", "dual", "dual_diagonal", "predictions"):
            assert not np.any(getattr(one, leaf)), (name, leaf)
        assert jax.tree.all(jax.tree.map(np.array_equal, neighbour, expected)), name
