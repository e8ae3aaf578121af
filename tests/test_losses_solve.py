"""The relaxation under every loss: against Clarabel, and with proofs that brute force confirms."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from losses import LOSSES, OTHERS, STOOD_FOR, SquareRoot, cvxpy_value, made, problem_of
from networks import best_of_all, network_of

import jaxqsdp as qs

SHAPES = {"many samples": (30, 4), "few samples": (12, 6)}


pytestmark = pytest.mark.thorough(name=STOOD_FOR)


@pytest.fixture(params=OTHERS)
def name(request):
    return request.param


@pytest.mark.covering(2)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("fraction", [0.02, 0.3])
def test_encloses_the_value_of_clarabel(name, shape, fraction, dtype):
    X, y, beta, weight = made(name, *shape, fraction=fraction, dtype=dtype)
    solution = qs.solve(qs.Problem(X, y, beta, loss=LOSSES[name], sample_weight=weight))
    reference = cvxpy_value(name, *(a.astype(float) for a in (X, y, beta, weight)))
    slack = 1e-6 if dtype == np.float64 else 2e-3
    assert solution.status == qs.Status.solved
    value, bound = float(solution.value), float(solution.lower_bound)
    assert reference * (1 - slack) <= value <= reference * (1 + slack)
    assert reference * (1 - slack) <= bound <= reference * (1 + 1e-7)
    assert solution.dual.dtype == solution.value.dtype == dtype


@pytest.mark.covering(1)
def test_small_penalties_are_solved(name, dtype):
    # From the start of the path, p is a hundred times too large and the residual grows at first.
    for fraction in (0.05, 0.001):
        solution = qs.solve(problem_of(name, 200, 8, fraction=fraction, dtype=dtype))
        assert solution.status == qs.Status.solved
        assert solution.lower_bound >= solution.value * (1 - 2e-3)


@pytest.mark.parametrize("name", ["quantile", "squared hinge", "logistic"])
def test_admm_agrees(name):
    problem = problem_of(name, 30, 4, fraction=0.3)
    solution, reference = qs.solve(problem, qs.ADMM()), qs.solve(problem, qs.InteriorPoint())
    np.testing.assert_allclose(solution.value, reference.value, rtol=3e-6)
    assert solution.lower_bound <= reference.value
    assert reference.lower_bound <= solution.value
    warm = qs.solve(problem, qs.ADMM(), warm_start=reference)
    assert warm.stats.num_steps < solution.stats.num_steps
    np.testing.assert_allclose(warm.value, reference.value, rtol=3e-6)


def test_the_conditions_of_optimality_hold(name):
    problem = problem_of(name, 30, 4)
    solution = qs.solve(problem)
    loss, X = LOSSES[name], problem.X
    unit = solution.dual / problem.weight
    low, high = loss.interval(problem.y)
    assert np.all((unit >= low) & (unit <= high))
    # ψ and φ touch where λ and ŷ belong together.
    touch = loss.value(solution.predictions, problem.y) + loss.conjugate(unit, problem.y)
    np.testing.assert_allclose(touch, -unit * solution.predictions, atol=1e-5)
    gram = X.T @ (solution.dual[:, None] * X)
    for sign in (1, -1):
        slack = jnp.diag(solution.dual_diagonal) + sign * gram
        assert np.linalg.eigvalsh(slack)[0] >= -1e-6 * np.linalg.norm(gram, 2)
    np.testing.assert_allclose(jnp.sum(solution.dual_diagonal), problem.beta, rtol=1e-6)


@pytest.mark.parametrize("name", ["quantile", "huber", "hinge"])
def test_same_in_batches(name):
    problem, other = (problem_of(name, 24, 4, seed=seed) for seed in (0, 1))
    one, two = qs.solve(problem), qs.solve(other)
    batch = qs.solve_batch(jax.tree.map(lambda *leaves: jnp.stack(leaves), problem, other))
    mixed = qs.solve_batch([other, problem_of("squared", 24, 4), problem])
    for found in (batch.value, [mixed[2].value, mixed[0].value]):
        np.testing.assert_allclose(found, [one.value, two.value], rtol=1e-8)
    for bound in batch.lower_bound:
        assert bound <= max(one.value, two.value)


def test_samples_of_weight_zero_do_not_count(name):
    X, y, beta, weight = made(name, 20, 4)
    weight[3], X[3], y[3] = 0, 1e3, -1
    kept = weight > 0
    given = qs.solve(qs.Problem(X, y, beta, loss=LOSSES[name], sample_weight=weight))
    fewer = qs.Problem(X[kept], y[kept], beta, loss=LOSSES[name], sample_weight=weight[kept])
    np.testing.assert_allclose(given.value, qs.solve(fewer).value, rtol=1e-8)
    assert given.dual[3] == 0


@pytest.mark.covering(1)
@pytest.mark.parametrize("exponents", [(40, 30, 20), (-40, -30, -20)])
def test_units_change_nothing(name, exponents, dtype):
    X, y, beta, weight = made(name, 24, 4, dtype=dtype)
    a, b, c = (int(e) if dtype == np.float64 else int(e) // 4 for e in exponents)
    degree, loss = LOSSES[name].degree, LOSSES[name]
    b = 0 if degree is None else b
    solution = qs.solve(qs.Problem(X, y, beta, loss=loss, sample_weight=weight))
    growth = 2.0 ** (c + b * (degree or 1))
    scaled = qs.Problem(
        np.ldexp(X, a),
        np.ldexp(y, b),
        np.ldexp(beta, 2 * a + c + b * ((degree or 1) - 1)),
        loss=loss.rescaled(dtype(2.0**b)),
        sample_weight=np.ldexp(weight, c),
    )
    moved = qs.solve(scaled)
    tol = 1e-7 if dtype == np.float64 else 2e-3
    np.testing.assert_allclose(moved.value, growth * solution.value, rtol=tol)
    np.testing.assert_allclose(moved.predictions, 2.0**b * solution.predictions, atol=tol * 2.0**b)


@pytest.mark.parametrize("name", ["quantile", "squared hinge", "logistic"])
def test_several_outputs_are_problems_of_their_own(name):
    problem = problem_of(name, 24, 4, outputs=2)
    solution = qs.solve(problem)
    for output in range(2):
        single = problem.with_numbers(y=problem.y[:, output])
        np.testing.assert_allclose(solution.value[output], qs.solve(single).value, rtol=1e-8)


@pytest.mark.covering(1)
@pytest.mark.parametrize("seed", range(10))
def test_brute_force_is_between_bound_and_objective(name, dtype, seed):
    d = 2 + seed % 3
    problem = problem_of(name, 14, d, fraction=10.0 ** -(seed % 4), seed=seed, dtype=dtype)
    optimum, best = best_of_all(problem)
    solution = qs.solve(problem, throw=False)
    network = qs.round(problem, solution, num_neurons=6, key=jax.random.key(seed))
    certificates = [
        qs.certify(problem, network, solution),
        qs.certify(problem, network, solution, kind="relaxation"),
    ]
    if seed in (1, 4):
        certificates.append(jax.jit(qs.certify)(problem, network, solution))
    for certificate in certificates:
        assert 0 <= float(certificate.lower_bound) <= optimum
        assert optimum <= float(certificate.objective) * (1 + 1e-6)
        assert certificate.objective >= problem.objective(network)
    if name not in ("hinge", "absolute", "quantile"):  # a subgradient need not be the one
        best = network_of(best.u, best.v, best.alpha, dtype)
        exact = qs.certify(problem, best, solution, kind="combinatorial")
        assert exact.gap <= (1e-6 if dtype == np.float64 else 1e-2)


@pytest.mark.covering(1)
def test_nothing_to_fit_costs_nothing(name, dtype):
    X, y, _, weight = made(name, 14, 3, dtype=dtype)  # a program that brute force has, too
    loss, ones = LOSSES[name], np.ones((6, 3))
    nothing = qs.QuantizedNetwork.from_weights(ones, ones, np.zeros(6, dtype))
    if loss.takes_labels:  # X = 0: nothing helps
        problem = qs.Problem(0 * X, y, dtype(1), loss=loss, sample_weight=weight)
        value = loss(np.zeros_like(y), y, weight)
    else:
        problem, value = qs.Problem(X, 0 * y, dtype(1), loss=loss, sample_weight=weight), 0
    solution = qs.solve(problem)
    np.testing.assert_allclose(solution.value, value, rtol=1e-3 if dtype == np.float32 else 1e-8)
    for certificate in (
        qs.certify(problem, nothing, solution),
        jax.jit(qs.certify)(problem, nothing, solution),
    ):
        assert certificate.objective >= value
        assert certificate.objective > 0 or certificate.gap == 0
        assert value > 0 or certificate.objective == 0


@pytest.mark.covering(1)
def test_wrong_duals_weaken_a_bound_only(name, dtype):
    problem = problem_of(name, 14, 3, dtype=dtype)
    best = qs.solve(problem, throw=False)
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e3):
        wrong = best.dual + scale * rng.standard_normal(14).astype(dtype)
        moved = qs.certify(
            problem,
            qs.QuantizedNetwork.from_weights(np.ones((1, 3)), np.ones((1, 3)), np.zeros(1, dtype)),
            dataclasses.replace(best, dual=wrong),
            kind="relaxation",
        )
        assert 0 <= moved.lower_bound <= best.value


def test_labels_are_checked():
    X = np.random.default_rng(0).standard_normal((6, 2))
    for loss in (qs.HingeLoss(), qs.SquaredHingeLoss(), qs.LogisticLoss()):
        with pytest.raises(ValueError, match=r"`y` must be −1 or 1 for .*np\.where"):
            qs.Problem(X, np.array([0.0, 1, 0, 1, 0, 1]), 1.0, loss=loss)

        def solve(y, loss=loss):
            return qs.solve(qs.Problem(X, y, 1.0, loss=loss), throw=False)

        status = jax.jit(solve)(np.array([1.0, 1, 1, -1, 2, -1])).status
        assert status == qs.Status.invalid_data


def test_only_losses_are_losses():
    X, y = np.ones((3, 1)), np.ones(3)
    with pytest.raises(TypeError, match=r"`loss` must be `SquaredLoss\(\)` or another loss"):
        qs.Problem(X, y, 1.0, loss="hinge")

    class Mine(qs.SquaredLoss):
        pass

    with pytest.raises(TypeError, match="a subclass of it; subclass `AbstractLoss`"):
        qs.Problem(X, y, 1.0, loss=Mine())


@pytest.mark.covering(1)
@pytest.mark.parametrize("name", LOSSES)
def test_penalties_far_too_large_leave_nothing(name, dtype):
    """The multipliers of intervals and those of the cones differ by many decades then."""
    problem = problem_of(name, 14, 3, dtype=dtype)
    for beta in np.geomspace(1e3, 1e16 if dtype == np.float32 else 1e21, 7).astype(dtype):
        solution = qs.solve(problem.at(beta), qs.InteriorPoint())
        assert solution.status == qs.Status.solved
        assert solution.scale <= 1e-2 * solution.value / beta


def test_files_are_those_of_squared_loss(tmp_path):
    for name, outputs in (("hinge", None), ("hinge", 2), ("softmax", None)):
        problem = problem_of(name, 12, 3, outputs=outputs)
        with pytest.raises(ValueError, match="Loss; SDPA's format is written for `SquaredLoss`"):
            problem.write_sdpa(tmp_path / "model.dat-s")
    assert list(tmp_path.iterdir()) == []


def test_a_loss_of_ones_own(dtype):
    qs.testing.check_loss(SquareRoot())
    problem = problem_of("huber", 24, 4, loss=SquareRoot(), dtype=dtype)
    solution = qs.solve(problem)
    assert solution.status == qs.Status.solved
    admm = qs.solve(problem, qs.ADMM())
    np.testing.assert_allclose(
        admm.value, solution.value, rtol=2e-3 if dtype == np.float32 else 3e-6
    )
    network = qs.round(problem, solution, num_neurons=8, key=jax.random.key(0))
    certificate = qs.certify(problem, network, solution)
    assert 0 < certificate.lower_bound <= certificate.objective


def test_parameters_can_be_batched():
    X, y, beta, weight = made("huber", 24, 4)

    def value(delta):
        loss = qs.HuberLoss(delta)
        return qs.solve(qs.Problem(X, y, beta, loss=loss, sample_weight=weight), throw=False).value

    deltas = jnp.array([0.3, 0.7, 50.0])
    values = jax.vmap(value)(deltas)
    singly = [value(float(delta)) for delta in deltas]
    np.testing.assert_allclose(values, singly, rtol=1e-8)
    squared = qs.solve(qs.Problem(X, y, beta, sample_weight=weight))
    np.testing.assert_allclose(values[2], squared.value, rtol=1e-7)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [(qs.HuberLoss, 0.7, [-1.0, 0.0, np.nan]), (qs.QuantileLoss, 0.3, [-0.1, 1.5, np.nan])],
)
def test_bad_parameters_have_a_status_where_they_are_traced(kind, good, bad):
    X, y, beta, weight = made("huber", 24, 4)

    def solve(parameter):
        problem = qs.Problem(X, y, beta, loss=kind(parameter), sample_weight=weight)
        return qs.solve(problem, throw=False)

    lanes = jax.vmap(solve)(jnp.array([good, *bad]))
    np.testing.assert_allclose(lanes.value[0], solve(good).value, rtol=1e-8)
    assert np.all(np.asarray(lanes.status == qs.Status.invalid_data) == [False] + [True] * len(bad))
    assert np.all(np.isneginf(lanes.lower_bound[1:]))
