"""The relaxation's optimum and its proof: against Clarabel, brute force and known solutions."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clarabel_reference import reference
from helpers import lane, problem_of, solve_all, solve_over_betas, solve_stacked
from problems import BETAS, SIZES, SMALL, Data, built_from_solution, degenerate, planted, real
from referee import GROTHENDIECK, brute_force, check

import jaxqsdp as qs

GAP = {np.float64: 1e-6, np.float32: 1e-3}


def required_gap(beta, d, dtype):
    """Return the relative gap that default options must certify."""
    return 1e-2 if dtype == np.float32 and beta < 0.049 * d else GAP[dtype]


def assert_honest_status(solution, dtype, hard=False):
    """Solved means that the certified gap is within the default tolerance.

    Only where that is `hard` in float32 may the solver stop short of it and say so.
    """
    solved = solution.status == qs.Status.solved
    assert solved or (hard and solution.status == qs.Status.dtype_accuracy)
    tol = max(1e-6, 2 * float(np.finfo(dtype).eps) ** 0.5)
    assert (solution.stats.gap <= tol) == solved
    gap = (float(solution.value) - float(solution.lower_bound)) / max(float(solution.value), 1e-30)
    np.testing.assert_allclose(solution.stats.gap, gap, rtol=1e-3, atol=4 * np.finfo(dtype).eps)


def assert_default_accuracy(data, dtype, fractions=BETAS, referenced=()):
    """Solve at penalties beta = fraction·d, send all to the referee and some to Clarabel."""
    d, data = data.X.shape[1], data.astype(dtype)
    betas = np.asarray(fractions, dtype) * dtype(d)
    for fraction, beta, solution in zip(
        fractions, betas, solve_over_betas(data, betas, dtype), strict=True
    ):
        check(data.X, data.y, beta, solution, required_gap(beta, d, dtype))
        assert_honest_status(solution, dtype, required_gap(beta, d, dtype) > GAP[dtype])
        if fraction in referenced:
            optimum = reference(data.X, data.y, beta)
            assert solution.lower_bound <= optimum.value * (1 + 1e-7)
            assert solution.value >= optimum.bound * (1 - max(1e-7, 4 * np.finfo(dtype).eps))


@pytest.mark.parametrize(("n", "d"), SIZES)
def test_planted_problems(n, d, dtype):
    """Clarabel takes 13 s at (400, 40), where the referee alone judges."""
    assert_default_accuracy(planted(0, n, d), dtype, referenced=BETAS if d <= 20 else ())


@pytest.mark.parametrize("name", ["diabetes", "wine", "breast_cancer"])
def test_real_problems(name, dtype):
    """Clarabel takes 7 s on breast_cancer, so it judges one penalty of that."""
    referenced = BETAS if name != "breast_cancer" else (0.05,)
    assert_default_accuracy(real(name), dtype, referenced=referenced)


def test_digits(dtype):
    """Sixty-four pixels, some of them constant, and a constant feature."""
    assert_default_accuracy(real("digits"), dtype, fractions=(1.0,))


@pytest.mark.parametrize("strict", [True, False], ids=["complementary", "not strictly"])
def test_reaches_solutions_that_problems_were_built_from(strict, dtype):
    built = [built_from_solution(seed, strict=strict) for seed in range(8)]
    datas = [case.data for case in built]
    for case, data, solution in zip(built, datas, solve_all(datas, dtype), strict=True):
        check(*_numbers(data, dtype), solution, GAP[dtype])
        rounding = 1e-12 if dtype == np.float64 else 1e-5
        assert solution.lower_bound <= case.value * (1 + rounding)
        assert solution.value >= case.value * (1 - rounding)
        form = solution.quadratic_form
        tolerance = 1e-3 if dtype == np.float64 else 3e-2
        assert np.linalg.norm(form - case.form) <= tolerance * np.linalg.norm(case.form)
        np.testing.assert_allclose(solution.scale, case.scale, rtol=tolerance)
        error = np.linalg.norm(solution.dual - case.dual)
        assert error <= tolerance * np.linalg.norm(case.dual)


def _numbers(data, dtype):
    data = data.astype(dtype)
    return data.X, data.y, data.beta


def test_brute_force_over_all_neurons(dtype):
    """lower_bound ≤ p* ≤ K·lower_bound, up to the gap, for d = 2 to 5 (narrower data padded)."""
    rng = np.random.default_rng(0)
    datas, n = [], SMALL[0]
    for seed in range(24):
        d = 2 + seed % 4
        data = planted(seed, n, d, neurons=2, noise=rng.uniform(0.1, 2))
        X = np.pad(data.X, ((0, 0), (0, SMALL[1] - d)))
        datas.append(Data(X, data.y, beta=d * 10 ** rng.uniform(-2.5, 0.5)))
    ratios = []
    for data, solution in zip(datas, solve_all(datas, dtype), strict=True):
        X, y, beta = _numbers(data, dtype)
        lower, upper = brute_force(X[:, np.any(X != 0, axis=0)], y, beta)
        assert upper - lower <= 1e-8 * upper
        assert solution.lower_bound <= upper
        bound = solution.lower_bound
        assert upper <= GROTHENDIECK * bound * (1 + required_gap(beta, 5, dtype))
        ratios.append(bound / upper)
    assert min(ratios) < 0.99  # some of these relaxations are not exact


def assert_solved(data, solution, dtype, hard=False):
    X, y, beta = _numbers(data, dtype)
    check(X, y, beta, solution, 1e-2 if hard else GAP[dtype])
    assert_honest_status(solution, dtype, hard)
    optimum = reference(X, y, beta)
    assert solution.lower_bound <= optimum.value * (1 + 1e-7)
    assert solution.value >= optimum.bound * (1 - max(1e-7, 4 * np.finfo(dtype).eps))


@pytest.mark.parametrize("name", [k for k, v in degenerate().items() if v.X.shape != SMALL])
def test_degenerate_shapes(name, dtype):
    data = degenerate()[name]
    assert_solved(data, solve_all([data], dtype)[0], dtype)


@pytest.fixture(scope="module")
def degenerate_solutions():
    cases = {name: data for name, data in degenerate().items() if data.X.shape == SMALL}
    return {
        dtype: dict(zip(cases, solve_all(cases.values(), dtype), strict=True))
        for dtype in (np.float32, np.float64)
    }


@pytest.mark.parametrize("name", [k for k, v in degenerate().items() if v.X.shape == SMALL])
def test_degenerate_data(name, dtype, degenerate_solutions):
    hard = dtype == np.float32 and name in ("columns far apart", "outlying sample")
    assert_solved(degenerate()[name], degenerate_solutions[dtype][name], dtype, hard)


@pytest.mark.parametrize("name", ["zero targets", "zero features", "zero optimum"])
def test_zero_is_found_exactly(name, dtype, degenerate_solutions):
    data, solution = degenerate()[name].astype(dtype), degenerate_solutions[dtype][name]
    for field in ("quadratic_form", "scale", "gram", "predictions"):
        assert not np.any(getattr(solution, field)), field
    half = 0.5 * float(data.y.astype(float) @ data.y.astype(float))
    np.testing.assert_allclose(solution.value, half, rtol=4 * np.finfo(dtype).eps)


UNITS = [(1e6, 1), (1e-6, 1), (1, 1e6), (1, 1e-6), (1e6, 1e-6)]


def _in_units(data, c, e):
    """(cX, ey, c²eβ): value e², Z and ρ e/c², λ and ŷ e, p c²e times as large."""
    return Data(c * data.X, e * data.y, c**2 * e * data.beta)


def test_units_do_not_matter(dtype):
    data = planted(0, *SMALL)
    datas = [_in_units(data, c, e) for c, e in [(1, 1), *UNITS]]
    first, *others = solve_all(datas, dtype)
    for (c, e), other, scaled in zip(UNITS, others, datas[1:], strict=True):
        check(*_numbers(scaled, dtype), other, GAP[dtype])
        assert_honest_status(other, dtype)
        tolerance = GAP[dtype]
        np.testing.assert_allclose(other.value, e**2 * first.value, rtol=tolerance)
        np.testing.assert_allclose(other.lower_bound, e**2 * first.lower_bound, rtol=tolerance)
        np.testing.assert_allclose(other.scale, e / c**2 * first.scale, rtol=30 * tolerance)


def test_powers_of_two_change_no_digit(dtype):
    data = planted(0, *SMALL).astype(dtype)
    powers = [(2.0**20, 1.0), (2.0**-20, 1.0), (1.0, 2.0**20), (2.0**7, 2.0**-30)]
    first, *others = solve_all([data, *(_in_units(data, c, e) for c, e in powers)], dtype)
    for (c, e), other in zip(powers, others, strict=True):
        expected = {
            "value": e**2, "lower_bound": e**2, "quadratic_form": e / c**2, "scale": e / c**2,
            "gram": e / c**2, "dual": e, "predictions": e, "dual_diagonal": c**2 * e,
        }  # fmt: skip
        for field, factor in expected.items():
            one = getattr(first, field) * dtype(factor)
            np.testing.assert_array_equal(getattr(other, field), one, err_msg=field)
        assert other.stats.num_steps == first.stats.num_steps


def test_padding_is_exact(dtype):
    """Samples of zero weight, whatever they hold, and features that are zero change nothing."""
    n, d = 16, 3
    rng = np.random.default_rng(0)
    garbage = rng.standard_normal((SMALL[0] - n, d)), rng.standard_normal(SMALL[0] - n)
    plain, padded = [], []
    for seed in range(4):
        data = planted(seed, n, d)
        weight = rng.uniform(0.1, 3, n) if seed % 2 else np.ones(n)
        plain.append(Data(data.X, data.y, data.beta, weight))
        for size in (0.0, 1.0, 100.0):
            order = rng.permutation(SMALL[0])
            X = np.vstack([data.X, size * garbage[0]])
            padded.append(
                Data(
                    np.pad(X, ((0, 0), (0, SMALL[1] - d)))[order][:, rng.permutation(SMALL[1])],
                    np.concatenate([data.y, size * garbage[1]])[order],
                    data.beta,
                    np.pad(weight, (0, SMALL[0] - n))[order],
                )
            )
    for index, (one, data) in enumerate(zip(solve_all(padded, dtype), padded, strict=True)):
        other = solve_all(plain, dtype)[index // 3]
        check(*_numbers(data, dtype), one, GAP[dtype], weight=data.astype(dtype).weight)
        np.testing.assert_allclose(one.value, other.value, rtol=GAP[dtype])
        np.testing.assert_allclose(one.lower_bound, other.lower_bound, rtol=GAP[dtype])
        assert abs(one.stats.num_steps - other.stats.num_steps) <= 20


def test_weights_are_repetitions(dtype):
    weights, repeated = [], []
    half = SMALL[0] // 2
    for seed in range(8):
        data = planted(seed, *SMALL)
        X, y = data.X[:half], data.y[:half]
        repeated.append(Data(np.vstack([X, X]), np.tile(y, 2), data.beta))
        weight = np.repeat([2.0, 0.0], half)
        weights.append(Data(np.vstack([X, data.X[half:]]), data.y, data.beta, weight))
    solutions = solve_all(repeated + weights, dtype)
    for one, other, data in zip(solutions[:8], solutions[8:], weights, strict=True):
        np.testing.assert_allclose(one.value, other.value, rtol=2 * GAP[dtype])
        check(*_numbers(data, dtype), other, GAP[dtype], weight=data.weight)
        optimum = reference(*_numbers(data, dtype), weight=data.weight)
        assert other.lower_bound <= optimum.value * (1 + 1e-7)
        assert other.value >= optimum.bound * (1 - max(1e-7, 4 * np.finfo(dtype).eps))


BAD = {
    "X": lambda data: Data(data.X * np.where(np.arange(5) == 2, np.nan, 1), data.y, data.beta),
    "y": lambda data: Data(data.X, data.y + np.where(np.arange(24) == 7, np.inf, 0), data.beta),
    "beta": lambda data: Data(data.X, data.y, 0.0),
    "negative beta": lambda data: Data(data.X, data.y, -1.0),
    "infinite beta": lambda data: Data(data.X, data.y, np.inf),
    "negative weight": lambda data: Data(data.X, data.y, data.beta, -np.ones(24)),
    "zero weights": lambda data: Data(data.X, data.y, data.beta, np.zeros(24)),
    "overflow": lambda data: Data(data.X, data.y * 1e300, data.beta),
}


def test_bad_lanes_say_so_and_leave_their_neighbours_alone():
    """Problems built under `vmap`, where no check of concrete values sees the bad numbers."""
    good = planted(0, *SMALL)
    lanes = [data for make in BAD.values() for data in (make(good), good)]
    weights = [np.ones(24) if data.weight is None else data.weight for data in lanes]
    columns = [np.stack(leaves) for leaves in zip(*((d.X, d.y) for d in lanes), strict=True)]
    betas = np.array([data.beta for data in lanes])
    problems = jax.vmap(lambda X, y, beta, w: qs.Problem(X, y, beta, sample_weight=w))(
        *columns, betas, np.stack(weights)
    )
    batch = solve_stacked(problems)
    (expected,) = solve_all([good], np.float64)
    for index, name in enumerate(BAD):
        one, neighbour = lane(batch, 2 * index), lane(batch, 2 * index + 1)
        assert one.status == qs.Status.invalid_data, name
        assert one.value == np.inf
        assert one.lower_bound == -np.inf
        for leaf in ("quadratic_form", "scale", "gram", "dual", "dual_diagonal", "predictions"):
            assert not np.any(getattr(one, leaf)), (name, leaf)
        assert jax.tree.all(jax.tree.map(np.array_equal, neighbour, expected)), name


def test_step_limit_raises_with_the_remedy_and_the_point():
    problem = problem_of(planted(0, 30, 6), np.float64)
    with pytest.raises(qs.SolveError, match="Raise `max_steps`") as caught:
        qs.solve(problem, max_steps=10)
    solution = caught.value.solution
    assert solution.status == qs.Status.max_steps
    assert solution.stats.num_steps == 10
    check(problem.X, problem.y, problem.beta, solution, gap=1.0)
    quiet = qs.solve(problem, max_steps=10, throw=False)
    assert jax.tree.all(jax.tree.map(np.array_equal, quiet, solution))


def test_invalid_data_raises_where_the_status_can_be_seen():
    """A problem assembled without validation, from the same program as the one before."""
    problem = problem_of(planted(0, 30, 6), np.float64)
    bad = dataclasses.replace(problem, y=problem.y.at[3].set(jnp.nan))
    with pytest.raises(qs.SolveError, match="Clean or rescale"):
        qs.solve(bad, max_steps=10)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"problem": None}, TypeError, "`problem`"),
        ({"problem": "stacked"}, ValueError, "`problem` is stacked"),
        ({"solver": "admm"}, TypeError, "`solver`"),
        ({"max_steps": 0}, ValueError, "`max_steps`"),
        ({"max_steps": 1.5}, ValueError, "`max_steps`"),
        ({"warm_start": 3}, TypeError, "`warm_start`"),
        ({"warm_start": "other shape"}, ValueError, "`warm_start`"),
        ({"warm_start": "other dtype"}, ValueError, "`warm_start` has dtype"),
    ],
)
def test_bad_arguments_are_named(arguments, error, match, degenerate_solutions):
    problem = problem_of(planted(0, *SMALL), np.float64)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), problem)
    solution = degenerate_solutions[np.float64]["zero optimum"]
    values = {
        "stacked": stacked,
        "other shape": dataclasses.replace(solution, dual=solution.dual[:-1]),
        "other dtype": degenerate_solutions[np.float32]["zero optimum"],
    }
    arguments = {
        name: values.get(value, value) if isinstance(value, str) else value
        for name, value in arguments.items()
    }
    with pytest.raises(error, match=match):
        qs.solve(**{"problem": problem, **arguments})
