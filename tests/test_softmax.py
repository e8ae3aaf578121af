"""The softmax loss, whose outputs are one problem: numbers, relaxation, proofs, derivatives."""

import dataclasses
from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_claims_hold
from losses import classes, cvxpy_value
from networks import all_neurons, best_of_all, network_of
from scipy.special import logsumexp, softmax

import jaxqsdp as qs
from jaxqsdp._solver import default_solver

LOSS = qs.SoftmaxLoss()
N, D, C = 16, 3, 3
TIGHT = qs.ADMM(tol=1e-10, tol_residual=1e-10)
KEY = jax.random.key(0)


def data(dtype=np.float64, n=N, d=D, c=C, seed=0):
    """Return X, classes, penalties and weights."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    y = classes(rng, X, c)
    beta, weight = 0.04 * n * np.linspace(0.5, 1, c), rng.uniform(0.3, 2, n)
    return X.astype(dtype), y, beta.astype(dtype), weight.astype(dtype)


def problem_of(*arguments, **options):
    X, y, beta, weight = data(*arguments, **options)
    return qs.Problem(X, y, beta, LOSS, weight)


# Numbers.


def points(c, scale, dtype=np.float64):
    rng = np.random.default_rng(c)
    z = (scale * rng.standard_normal((40, c))).astype(dtype)
    return z, np.eye(c, dtype=dtype)[rng.integers(0, c, 40)], rng


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_values_and_slopes(scale, xp, dtype):
    z, y, _ = points(4, scale, dtype)
    found = LOSS.value(xp.asarray(z), xp.asarray(y))
    assert found.dtype == dtype
    exact = logsumexp(z.astype(float) - np.sum(z * y, 1, keepdims=True, dtype=float), axis=1)
    eps = np.finfo(dtype).eps
    np.testing.assert_allclose(found, exact, rtol=20 * eps, atol=20 * eps * scale)
    slope = LOSS.slope(xp.asarray(z), xp.asarray(y))
    np.testing.assert_allclose(slope, softmax(z.astype(float), axis=1) - y, atol=100 * eps)
    np.testing.assert_allclose(
        LOSS.curvature(z, y),
        np.diagonal(jax.vmap(jax.jacfwd(LOSS.slope))(z, y), axis1=1, axis2=2),
        atol=100 * eps,
    )


@pytest.mark.parametrize("scale", [1e-3, 1.0, 40.0])
def test_fenchel_young(scale):
    z, y, rng = points(4, scale)
    t = y - rng.dirichlet(np.ones(4), 40)
    product = np.sum(t * z, axis=1)
    assert np.all(LOSS.value(z, y) + LOSS.conjugate(t, y) >= -product - 1e-12 * scale)
    t = -LOSS.slope(z, y)
    touch = LOSS.value(z, y) + LOSS.conjugate(t, y)
    np.testing.assert_allclose(touch, -np.sum(t * z, axis=1), atol=1e-12 * (1 + scale))
    low, high = LOSS.interval(y)
    assert np.all((t >= low) & (t <= high))


@pytest.mark.parametrize("xp", [np, jnp])
@pytest.mark.parametrize("step", [1e-4, 1.0, 1e3])
@pytest.mark.parametrize("scale", [1e-2, 1.0, 100.0])
def test_prox(scale, step, xp, dtype):
    z, y, _ = points(3, scale, dtype)
    found = LOSS.prox(*map(xp.asarray, (z, y, np.full(40, step, dtype))))
    assert found.dtype == dtype
    found = np.asarray(found, float)
    force = LOSS.slope(found, y.astype(float)) + (found - z) / step
    eps = float(np.finfo(dtype).eps)
    np.testing.assert_allclose(force, 0, atol=300 * eps * (1 + max(scale, step) / step))


@pytest.mark.parametrize("xp", [np, jnp])
def test_clipped_duals_are_exact(xp, dtype):
    z, y, rng = points(5, 1.0, dtype)
    weight = rng.uniform(0, 2, 40).astype(dtype)
    weight[:3] = 0
    for dual in (3 * z, -weight[:, None] * LOSS.slope(z, y), 1e-12 * z, 1e12 * z):
        found = np.asarray(LOSS.clip_dual(*map(xp.asarray, (dual, y, weight))))
        assert found.dtype == dtype
        for row, target, most in zip(found, y, weight, strict=True):
            exact = [Fraction(float(one)) for one in row]
            assert sum(exact) == 0
            assert all(one <= 0 for one, own in zip(exact, target, strict=True) if own == 0)
            assert max(exact) <= Fraction(float(most))
    unit = np.asarray(LOSS.clip_dual(-weight[:, None] * LOSS.slope(z, y), y, weight))
    tolerance = 300 * np.finfo(dtype).eps
    np.testing.assert_allclose(unit, -weight[:, None] * LOSS.slope(z, y), atol=tolerance)


def test_bounds_obey_fenchel_young_exactly(dtype):
    """In exact arithmetic, on which weak duality rests."""
    for scale in (1e-3, 1.0, 30.0):
        z, y, rng = points(3, scale, dtype)
        one = np.ones(40, dtype)
        for dual in (-LOSS.slope(z, y), y - rng.dirichlet(np.ones(3), 40).astype(dtype)):
            t = LOSS.clip_dual(dual, y, one)
            for xp in (np, jnp):
                z_, t_, y_ = map(xp.asarray, (z, t, y))
                above, conjugate = LOSS.value_above(z_, z_, y_), LOSS.conjugate_above(t_, t_, y_)
                assert above.dtype == conjugate.dtype == dtype
                exact = [
                    sum(Fraction(float(a)) * Fraction(float(b)) for a, b in zip(*pair, strict=True))
                    for pair in zip(z, t, strict=True)
                ]
                for up, dual_up, product in zip(above, conjugate, exact, strict=True):
                    assert Fraction(float(up)) + Fraction(float(dual_up)) >= -product
            assert np.all(np.abs(LOSS.conjugate_above(t, t, y)) <= np.log(3) * (1 + 1e-6))


# Classes.


def test_classes_and_rows_are_one_problem():
    X, y, beta, _ = data()
    one, two = (qs.Problem(X, given, beta, LOSS) for given in (y, np.eye(C)[y]))
    np.testing.assert_array_equal(one.y, two.y)
    truths = qs.Problem(X, np.eye(C, dtype=bool)[y], beta, LOSS)  # as `pd.get_dummies` gives
    np.testing.assert_array_equal(one.y, truths.y)
    assert qs.Problem(X, y, 1.0, qs.SoftmaxLoss(5)).num_outputs == 5
    assert qs.Problem(X.astype(np.float32), y, 1.0, LOSS).y.dtype == np.float32
    traced = jax.eval_shape(lambda y: qs.Problem(X, y, 1.0, qs.SoftmaxLoss(C)), y)
    assert traced.y.shape == (N, C)
    assert repr(LOSS) == "SoftmaxLoss()"
    assert repr(qs.SoftmaxLoss(3)) == "SoftmaxLoss(3)"


@pytest.mark.parametrize(
    ("y", "error", "match"),
    [
        (np.arange(N) % 3 - 1, ValueError, "classes 0, 1, …"),
        (np.arange(N) % 3 + 0.5, ValueError, "classes 0, 1, …"),
        (np.full(N, np.nan), ValueError, "classes 0, 1, …"),
        (np.full(N, "a"), TypeError, r"holds text.*np\.unique"),
        (np.arange(N) > 3, TypeError, r"holds truth values.*np\.unique"),
        (np.zeros(N, int), ValueError, "has one class"),
        (np.arange(N) + 2000, ValueError, r"up to 2015, more than there are samples.*np\.unique"),
        (np.arange(N) % 2 * 10**15, ValueError, r"more than there are samples.*np\.unique"),
        (np.full((N, 2), "a"), TypeError, "`y` holds text"),
        (np.zeros(()), ValueError, "to match the 16 rows"),
        (np.ones((N, 1)), ValueError, "has one class"),
        (np.ones((N, 3)), ValueError, "1 at the class and 0 elsewhere"),
        (np.full((N, 2), 0.5), ValueError, "1 at the class and 0 elsewhere"),
        (np.arange(N - 1) % 3, ValueError, "to match the 16 rows"),
    ],
)
def test_wrong_classes(y, error, match):
    with pytest.raises(error, match=match):
        qs.Problem(data()[0], y, 1.0, LOSS)


def test_numbers_of_classes():
    X, y, *_ = data()
    with pytest.raises(ValueError, match=r"3 classes or more, SoftmaxLoss\(2\) fewer"):
        qs.Problem(X, y, 1.0, qs.SoftmaxLoss(2))
    with pytest.raises(ValueError, match=r"3 columns, SoftmaxLoss\(4\)"):
        qs.Problem(X, np.eye(3)[y], 1.0, qs.SoftmaxLoss(4))
    with pytest.raises(ValueError, match=r"traced.*SoftmaxLoss\(num_classes=c\)"):
        jax.eval_shape(lambda y: qs.Problem(X, y, 1.0, LOSS), y)
    with pytest.raises(ValueError, match="`num_classes` must be a positive integer"):
        qs.SoftmaxLoss(0)


def test_rows_that_are_traced_have_a_status():
    X, y, beta, weight = data()

    def status(rows):
        return qs.solve(qs.Problem(X, rows, beta, LOSS, weight), throw=False).status

    rows = np.eye(C)[y]
    found = jax.jit(jax.vmap(status))(np.stack([rows, 2 * rows, rows]))
    np.testing.assert_array_equal(found == qs.Status.solved, [True, False, True])
    np.testing.assert_array_equal(found == qs.Status.invalid_data, [False, True, False])


# The relaxation.


@pytest.mark.covering(2)
@pytest.mark.parametrize("shape", [(30, 3, 3), (12, 5, 2), (24, 4, 4)])
@pytest.mark.parametrize("penalty", [0.1, 1.0])
@pytest.mark.parametrize("solver", [qs.ADMM(), qs.InteriorPoint()], ids=["ADMM", "interior"])
def test_encloses_the_value_of_clarabel(shape, penalty, solver, dtype):
    problem = problem_of(dtype, *shape)
    problem = problem.at(dtype(penalty) * problem.beta)
    solution = qs.solve(problem, solver)
    arrays = (problem.X, problem.y, problem.beta, problem.weight)
    reference = cvxpy_value("softmax", *(np.asarray(array, float) for array in arrays))
    slack = 2e-3
    if dtype == np.float64:
        slack = 2e-6 if isinstance(solver, qs.ADMM) else 2e-8
    assert solution.value.shape == solution.lower_bound.shape == solution.stats.gap.shape == ()
    assert solution.total_value == solution.value
    assert solution.total_lower_bound == solution.lower_bound
    value, bound = float(solution.value), float(solution.lower_bound)
    assert reference * (1 - slack) <= value <= reference * (1 + slack)
    assert reference * (1 - slack) <= bound <= reference * (1 + 1e-7)


def test_two_classes_are_the_logistic_loss():
    """The difference of two outputs is one, at the penalty of either."""
    X, y, _, weight = data(c=2)
    two = qs.solve(qs.Problem(X, y, 0.5, LOSS, weight))
    one = qs.solve(qs.Problem(X, 2.0 * y - 1, 0.5, qs.LogisticLoss(), weight))
    np.testing.assert_allclose(two.value, one.value, rtol=2e-6)
    difference = two.predictions[:, 1] - two.predictions[:, 0]
    np.testing.assert_allclose(difference, one.predictions, atol=2e-3)


def test_the_conditions_of_optimality_hold():
    problem = problem_of()
    solution = qs.solve(problem, TIGHT)
    chance = softmax(solution.predictions, axis=1)
    dual = problem.weight[:, None] * (problem.y - chance)
    np.testing.assert_allclose(solution.dual, dual, atol=1e-7)
    np.testing.assert_array_equal(np.sum(solution.dual, axis=1), 0)
    for k in range(C):
        form, ring = solution.quadratic_form[k], solution.dual_diagonal[k]
        expected = np.einsum("nd,de,ne->n", problem.X, form, problem.X)
        np.testing.assert_allclose(solution.predictions[:, k], expected, atol=1e-10)
        gram = problem.X.T @ (solution.dual[:, k, None] * problem.X)
        for sign in (1, -1):
            assert np.linalg.eigvalsh(np.diag(ring) + sign * gram)[0] >= -1e-6
        np.testing.assert_allclose(np.sum(ring), problem.beta[k], rtol=1e-6)
        np.testing.assert_allclose(np.diag(solution.gram[k]), solution.scale[k], rtol=1e-12)


@pytest.mark.thorough
def test_same_under_every_transform():
    problem, other = (problem_of(seed=seed) for seed in (0, 1))
    one, two = qs.solve(problem), qs.solve(other)
    bad = problem.with_numbers(X=jnp.full_like(problem.X, jnp.nan))
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), problem, bad, other)
    lanes = jax.jit(jax.vmap(lambda p: qs.solve(p, throw=False)))(stacked)
    np.testing.assert_allclose(lanes.value, [one.value, np.inf, two.value], rtol=1e-8)
    assert lanes.total_value.shape == (3,)
    batch = qs.solve_batch([problem, other])
    np.testing.assert_allclose([s.value for s in batch], [one.value, two.value], rtol=1e-8)
    within = qs.solve(problem, time_limit=60)
    np.testing.assert_allclose(within.value, one.value, rtol=1e-8)
    cold = qs.solve(problem, qs.ADMM())
    warm = qs.solve(problem, qs.ADMM(), warm_start=one)
    assert warm.stats.num_steps < cold.stats.num_steps
    assert "SoftmaxLoss()" in repr(problem)
    assert repr(one).startswith("Solution(solved: value=")


def test_samples_of_weight_zero_do_not_count():
    X, y, beta, weight = data()
    weight[3], X[3] = 0, 1e3
    kept = weight > 0
    one = qs.solve(qs.Problem(X, y, beta, LOSS, weight))
    two = qs.solve(qs.Problem(X[kept], y[kept], beta, LOSS, weight[kept]))
    np.testing.assert_allclose(one.value, two.value, rtol=1e-8)
    assert np.all(one.dual[3] == 0)


@pytest.mark.covering(1)
@pytest.mark.parametrize("exponents", [(3, -4), (-20, 7)])
def test_units_change_nothing(exponents, dtype):
    feature, share = (float(2.0**k) for k in exponents)
    X, y, beta, weight = data(dtype)
    solve = jax.jit(qs.solve)  # one program
    one = solve(qs.Problem(X, y, beta, LOSS, weight))
    factor = dtype(feature) ** 2 * dtype(share)
    other = qs.Problem(dtype(feature) * X, y, factor * beta, LOSS, dtype(share) * weight)
    two = solve(other)
    np.testing.assert_array_equal(two.value, dtype(share) * one.value)
    np.testing.assert_array_equal(two.lower_bound, dtype(share) * one.lower_bound)


HARD = {
    "two classes": {"c": 2, "fraction": 0.01},  # whose forms can move alike
    "a class without samples": {"c": 4, "present": 3},
    "ten classes": {"n": 60, "d": 5, "c": 10},
    "separable": {"d": 4, "shift": 3.0},
    "just above the largest penalty": {"fraction": 1.01},
    "just below": {"fraction": 0.99},
    "small penalty": {"fraction": 1e-3},
    "penalties far apart": {"spread": 100.0},
    "fewer samples than products": {"n": 30, "d": 12},
    "weights over eight decades": {"decades": 8},
    "one sample a class": {"n": 3, "d": 2},
}


def hard(dtype, *, n=100, d=10, c=3, fraction=0.01, present=None, shift=0.0, decades=0, spread=1.0):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((n, d)), np.arange(n) % (present or c)
    if shift:
        X = X + shift * np.eye(c, d)[y]
    else:
        X[:, 0] += 0.5 * y
    weight = 10.0 ** -rng.uniform(0, decades, n)
    problem = qs.Problem(X.astype(dtype), y, 1.0, qs.SoftmaxLoss(c), weight.astype(dtype))
    beta = fraction * float(qs.beta_max(problem)) * np.geomspace(1, spread, c)
    return problem.at(beta.astype(dtype))


@pytest.mark.covering(1)
@pytest.mark.thorough(case=("two classes", "just below", "fewer samples than products"))
@pytest.mark.parametrize("case", HARD)
def test_interior_points_solve_what_is_hard(case, dtype):
    """What splitting is slow at, or a system of all outputs might break at."""
    problem = hard(dtype, **HARD[case])
    solution = qs.solve(problem, qs.InteriorPoint())
    if case == "small penalty" and dtype == np.float32:  # where that stops earlier
        assert solution.stats.gap <= 1e-2
    else:
        assert solution.status == qs.Status.solved
    assert int(solution.stats.num_steps) <= 30
    assert_claims_hold(problem, solution, float(solution.stats.gap))


def test_the_default_solver_follows_the_samples():
    """One system more has as many unknowns as there are samples."""
    for d in (10, 60):
        for n, solver in ((512, qs.InteriorPoint), (513, qs.ADMM)):
            assert isinstance(default_solver(n, d, np.float64, LOSS), solver)


def test_both_solvers_find_one_optimum(dtype):
    problem = problem_of(dtype)
    one, other = (qs.solve(problem, solver()) for solver in (qs.InteriorPoint, qs.ADMM))
    assert max(one.lower_bound, other.lower_bound) <= min(one.value, other.value)
    tolerance = 1e-6 if dtype == np.float64 else 1e-3
    np.testing.assert_allclose(one.value, other.value, rtol=tolerance)
    assert one.stats.num_steps < other.stats.num_steps


# Proofs.


@pytest.mark.parametrize("seed", range(6))
def test_brute_force_is_between_bound_and_objective(seed, dtype):
    X, y, beta, weight = data(dtype, 14, 2 + seed % 2, 3, seed)
    problem = qs.Problem(X, y, beta * dtype(10.0 ** -(seed % 3)), LOSS, weight)
    optimum, best = best_of_all(problem)
    solution = qs.solve(problem, throw=False)
    u, v = all_neurons(X.shape[1])
    rng = np.random.default_rng(seed)
    some = rng.integers(0, len(u), 4)
    network = network_of(u[some], v[some], 0.1 * rng.standard_normal((4, 3)), dtype)
    certificates = [
        qs.certify(problem, network, solution),
        qs.certify(problem, network, solution, kind="relaxation"),
        jax.jit(qs.certify)(problem, network, solution),
    ]
    for certificate in certificates:
        assert 0 <= float(certificate.lower_bound) <= optimum
        assert optimum * (1 - 1e-9) <= float(certificate.objective)
        np.testing.assert_allclose(certificate.objective, problem.objective(network), rtol=1e-3)
        assert certificate.objective >= problem.objective(network)
    best = network_of(best.u, best.v, best.alpha, dtype)
    exact = qs.certify(problem, best, solution, kind="combinatorial")
    assert exact.gap <= (1e-6 if dtype == np.float64 else 1e-2)


def test_wrong_duals_weaken_a_bound_only(dtype):
    problem = problem_of(dtype)
    best = qs.solve(problem, throw=False)
    nothing = network_of(np.ones((1, D)), np.ones((1, D)), np.zeros((1, C)), dtype)
    optimum, _ = best_of_all(problem)
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e3, np.nan):
        wrong = best.dual + scale * rng.standard_normal((N, C)).astype(dtype)
        moved = dataclasses.replace(best, dual=wrong)
        found = qs.certify(problem, nothing, moved, kind="relaxation")
        assert 0 <= found.lower_bound <= best.value
        assert found.lower_bound < best.lower_bound
        found = qs.certify(problem, nothing, moved, kind="combinatorial")
        assert 0 <= float(found.lower_bound) <= optimum


# Derivatives.


@pytest.fixture(scope="module")
def outputs_of():
    X, y, beta, weight = (jnp.asarray(a) for a in data(n=12))
    rng = np.random.default_rng(5)
    forms, scores = rng.standard_normal((C, D, D)), rng.standard_normal((12, C))

    def outputs(X, beta, weight):
        problem = qs.Problem(X, y, beta, qs.SoftmaxLoss(C), weight)
        solution = qs.solve(problem, TIGHT, throw=False)
        return jnp.stack(
            [
                solution.value,
                jnp.sum(forms * solution.quadratic_form),
                jnp.sum(scores * solution.predictions),
                jnp.sum(scores * solution.dual),
                jnp.sum(solution.scale * jnp.arange(1.0, C + 1)),
            ]
        )

    return jax.jit(outputs), (X, beta, weight)


def test_derivatives_are_those_of_differences(outputs_of):
    outputs, point = outputs_of
    jacobians = jax.jit(jax.jacrev(outputs, argnums=(0, 1, 2)))(*point)
    rng = np.random.default_rng(0)
    for index in range(3):
        direction = rng.standard_normal(point[index].shape)
        moved = [
            outputs(*(a + step * direction if i == index else a for i, a in enumerate(point)))
            for step in (-1e-4, 1e-4)
        ]
        differences = (moved[1] - moved[0]) / 2e-4
        found = jnp.tensordot(jacobians[index], direction, direction.ndim)
        np.testing.assert_allclose(found, differences, rtol=3e-5, atol=1e-4)


def test_reports_and_checks():
    problem = problem_of()
    report = qs.adjoint_report(problem, qs.solve(problem))
    np.testing.assert_array_equal(report.status == qs.AdjointStatus.trusted, [True] * C)
    with pytest.raises(ValueError, match="SoftmaxLoss, which couples outputs"):
        qs.check_gradient(problem)
    with pytest.raises(ValueError, match="`output` must be None for SoftmaxLoss"):
        problem.to_cvxpy(0)


def test_other_losses_do_not_couple_outputs():
    class Mine(qs.SoftmaxLoss):
        pass

    with pytest.raises(TypeError, match=r"only `SoftmaxLoss\(\)` itself can"):
        qs.Problem(*data()[:2], 1.0, Mine())
