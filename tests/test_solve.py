"""The relaxation's optimum and its proof: against Clarabel, brute force and known solutions."""

import dataclasses
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import GAP, assert_solved, problem_of, solve_all, solve_over_betas
from problems import BETAS, SIZES, SMALL, Data, built_from_solution, planted, real
from referee import GROTHENDIECK, brute_force, check

import jaxqsdp as qs
from jaxqsdp._host.programs import HostProgram, clear_programs


def assert_default_accuracy(data, dtype, fractions=BETAS, referenced=()):
    """Solve at penalties beta = fraction·d, and let Clarabel judge some of them too."""
    d = data.X.shape[1]
    betas = [fraction * d for fraction in fractions]
    for fraction, beta, solution in zip(
        fractions, betas, solve_over_betas(data, betas, dtype), strict=True
    ):
        assert_solved(
            dataclasses.replace(data, beta=beta),
            solution,
            dtype,
            hard=fraction < 0.05,
            referenced=fraction in referenced,
        )


@pytest.mark.covering(1)
@pytest.mark.parametrize(("n", "d"), SIZES)
def test_planted_problems(n, d, dtype):
    """Clarabel takes 13 s at (400, 40), where the referee alone judges."""
    assert_default_accuracy(planted(0, n, d), dtype, referenced=BETAS if d <= 20 else ())


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", ["diabetes", "wine", "breast_cancer"])
def test_real_problems(name, dtype):
    """Clarabel takes 7 s on breast_cancer, so it judges one penalty of that, in float64."""
    referenced = BETAS
    if name == "breast_cancer":
        referenced = (0.05,) if dtype == np.float64 else ()
    assert_default_accuracy(real(name), dtype, referenced=referenced)


@pytest.mark.thorough(dtype=(np.float64,))
def test_digits(dtype):
    """Sixty-four pixels, some of them constant, and a constant feature."""
    assert_default_accuracy(real("digits"), dtype, fractions=(1.0,))


@pytest.mark.parametrize("strict", [True, False], ids=["complementary", "not strictly"])
def test_reaches_solutions_that_problems_were_built_from(strict, dtype):
    built = [built_from_solution(seed, strict=strict) for seed in range(8)]
    solutions = solve_all([case.data for case in built], dtype)
    tolerance = 1e-3 if dtype == np.float64 else 6e-2
    for case, solution in zip(built, solutions, strict=True):
        assert_solved(case.data, solution, dtype, referenced=False)
        rounding = 1e-12 if dtype == np.float64 else 1e-5
        assert solution.lower_bound <= case.value * (1 + rounding)
        assert solution.value >= case.value * (1 - rounding)
        np.testing.assert_allclose(solution.scale, case.scale, rtol=tolerance)
        for one, other in [(solution.quadratic_form, case.form), (solution.dual, case.dual)]:
            assert np.linalg.norm(one - other) <= tolerance * np.linalg.norm(other)


def test_brute_force_over_all_neurons(dtype):
    """lower_bound ≤ p* ≤ K·lower_bound, up to the gap, for d = 2 to 5 (narrower data padded)."""
    rng = np.random.default_rng(0)
    datas = []
    for seed in range(24):
        n, d = SMALL[0], 2 + seed % 4
        data = planted(seed, n, d, neurons=2, noise=rng.uniform(0.1, 2))
        X = np.pad(data.X, ((0, 0), (0, SMALL[1] - d)))
        datas.append(Data(X, data.y, beta=d * 10 ** rng.uniform(-2.5, 0.5)).astype(dtype))
    tightness = []
    for data, solution in zip(datas, solve_all(datas, dtype), strict=True):
        lower, upper = brute_force(data.X[:, np.any(data.X != 0, axis=0)], data.y, data.beta)
        assert upper - lower <= 1e-8 * upper
        assert solution.lower_bound <= upper
        assert upper <= GROTHENDIECK * solution.lower_bound * (1 + 10 * GAP[dtype])
        tightness.append(solution.lower_bound / upper)
    assert min(tightness) < 0.99  # some of these relaxations are not exact


def test_step_limit_raises_with_the_remedy_and_the_point():
    problem = problem_of(planted(0, 30, 6), np.float64)
    with pytest.raises(qs.SolveError, match="Raise `max_steps`") as caught:
        qs.solve(problem, max_steps=5)
    solution = caught.value.solution
    assert solution.status == qs.Status.max_steps
    assert solution.stats.num_steps == 5
    check(problem.X, problem.y, problem.beta, solution, gap=1.0)
    quiet = qs.solve(problem, max_steps=5, throw=False)
    assert jax.tree.all(jax.tree.map(np.array_equal, quiet, solution))


def test_invalid_data_raises_where_the_status_can_be_seen():
    """A problem assembled without validation, for the program of the test before."""
    problem = problem_of(planted(0, 30, 6), np.float64)
    bad = eqx.tree_at(lambda problem: problem.y, problem, problem.y.at[3].set(jnp.nan))
    with pytest.raises(qs.SolveError, match="Clean or rescale"):
        qs.solve(bad, max_steps=5)


@pytest.mark.parametrize(
    ("name", "value", "error", "match"),
    [
        ("problem", lambda problem, solution: None, TypeError, "`problem` must be"),
        ("problem", lambda problem, solution: stacked(problem), ValueError, "is stacked"),
        ("solver", lambda problem, solution: "admm", TypeError, "`solver`"),
        ("max_steps", lambda problem, solution: 0, ValueError, "`max_steps`"),
        ("max_steps", lambda problem, solution: 1.5, ValueError, "`max_steps`"),
        ("warm_start", lambda problem, solution: 3, TypeError, "`warm_start` must be"),
        ("warm_start", lambda problem, solution: shortened(solution), ValueError, "features"),
        ("warm_start", lambda problem, solution: single(solution), ValueError, "has dtype"),
    ],
)
def test_bad_arguments_are_named(name, value, error, match):
    data = planted(0, *SMALL)
    problem, (solution,) = problem_of(data, np.float64), solve_all([data], np.float64)
    arguments = {"problem": problem, name: value(problem, solution)}
    with pytest.raises(error, match=match):
        qs.solve(**arguments)


def stacked(problem):
    return jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), problem)


def shortened(solution):
    return dataclasses.replace(solution, dual=solution.dual[:-1])


def single(solution):
    return dataclasses.replace(solution, dual=solution.dual.astype(np.float32))


# Time limits


@pytest.mark.thorough(dtype=(np.float64,))
def test_time_over_at_once_leaves_bounds_that_hold(dtype):
    case = planted(0, 21, 5).astype(dtype)
    targets = np.column_stack([case.y, 2 * case.y])
    for y in (case.y, targets):
        problem = qs.Problem(case.X, y, dtype(0.5))
        exact = qs.solve(problem)
        first = qs.solve(problem, time_limit=1e-9, throw=False)
        assert np.all(first.status == qs.Status.interrupted)
        assert first.value.dtype == dtype
        assert np.all(first.lower_bound <= exact.value)
        assert np.all(first.value >= exact.lower_bound)
        with pytest.raises(qs.SolveError, match="time limit") as caught:
            qs.solve(problem, time_limit=1e-9)
        assert caught.value.solution.dual.shape == y.shape


@pytest.mark.parametrize("solver", [None, qs.ADMM()], ids=["default", "ADMM"])
def test_enough_time_gives_what_there_is_without_a_limit(solver):
    case = planted(0, 21, 5)
    problem = qs.Problem(case.X, case.y, 0.5)
    limited = qs.solve(problem, solver, time_limit=60)
    free = qs.solve(problem, solver)
    assert limited.status == free.status == qs.Status.solved
    np.testing.assert_allclose(limited.value, free.value, rtol=1e-8)
    assert limited.stats.num_steps == free.stats.num_steps
    warm = qs.solve(problem, solver, time_limit=60, warm_start=free)
    assert warm.status == qs.Status.solved
    few = qs.solve(problem, solver, time_limit=60, max_steps=1, throw=False)
    if solver is None:  # a step of ADMM is a look at what it has
        assert few.status == qs.Status.max_steps


def test_time_limits_leave_out_compilation(monkeypatch):
    """Each program takes longer to compile than there is time."""
    limit, trace = 0.5, HostProgram._stages

    def slowly(self, arguments):
        stages = trace(self, arguments)
        return (lambda: time.sleep(1.2 * limit) or stages[0](), stages[1])

    monkeypatch.setattr(HostProgram, "_stages", slowly)
    clear_programs()
    case = planted(0, 21, 5)
    problem = qs.Problem(case.X, case.y, 0.5)
    assert qs.solve(problem, time_limit=limit).status == qs.Status.solved
    batch = qs.solve_batch([problem, qs.Problem(case.X[1:], case.y[1:], 0.5)], time_limit=limit)
    assert all(solution.status == qs.Status.solved for solution in batch)
    key = jax.random.key(0)
    fitted = qs.fit(case.X, case.y, beta=0.5, num_neurons=3, key=key, time_limit=limit)
    assert fitted.solution.status == qs.Status.solved


def test_a_fit_uses_what_there_is_when_the_time_is_over():
    case, key = planted(0, 21, 5), jax.random.key(0)
    fitted = qs.fit(case.X, case.y, beta=0.5, num_neurons=3, key=key, time_limit=1e-9)
    assert fitted.solution.status == qs.Status.interrupted
    assert fitted.certificate.lower_bound <= fitted.certificate.objective
    problem = qs.Problem(case.X, case.y, 0.5)
    assert fitted.certificate.lower_bound <= qs.solve(problem).value


def test_bad_time_limits():
    case = planted(0, 21, 5)
    problem = qs.Problem(case.X, case.y, 0.5)
    for bad in (0, -1.0, "1", np.nan):
        with pytest.raises(ValueError, match="`time_limit`"):
            qs.solve(problem, time_limit=bad)
        with pytest.raises(ValueError, match="`time_limit`"):
            qs.fit(case.X, case.y, beta=0.5, num_neurons=3, key=jax.random.key(0), time_limit=bad)
    with pytest.raises(ValueError, match="outside transforms"):
        jax.jit(lambda problem: qs.solve(problem, time_limit=1.0))(problem)
