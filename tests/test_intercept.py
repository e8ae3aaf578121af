"""A constant without penalty: against CVXPY, all neurons at once, and differences."""

import cvxpy as cp
import jax
import numpy as np
import pytest
from helpers import lane, stack
from losses import ALL, MODELS, made
from networks import all_neurons, all_vectors

import jaxqsdp as qs

KEY = jax.random.key(0)
KINDS = {"bilinear": qs.Bilinear(), "polynomial": qs.Polynomial(0.7, 0.4, -0.3)}
ROUNDING = {np.float64: 1e-8, np.float32: 1e-5}


def problem_of(name, n, d, *, kind="bilinear", away=2.0, dtype=np.float64, outputs=None, **options):
    """Return a problem whose targets are far from zero in the mean, or of one class mostly."""
    X, y, beta, weight = made(name, n, d, dtype=dtype, outputs=outputs, **options)
    loss = ALL[name]
    if loss.takes_labels:
        y = np.where(np.arange(n) % 4 == 0, y, dtype(1))
    elif not loss.takes_classes:
        y = y + dtype(away)
    kinds = {"activation": KINDS[kind], "fit_intercept": True}
    return qs.Problem(X, y, beta, loss, weight, **kinds)


def optimum_of(name, problem):
    """Return the optimum of training, over all neurons, by Clarabel."""
    X, y, weight, beta = (
        np.asarray(array, float) for array in (problem.X, problem.y, problem.weight, problem.beta)
    )
    kind = problem.activation
    vectors = (all_neurons if kind.num_vectors == 2 else all_vectors)(problem.num_features)
    features = np.asarray(kind.neurons(X, *vectors))
    alpha = cp.Variable((features.shape[1], *y.shape[1:]))
    level = cp.Variable((1, y.shape[1])) if y.ndim == 2 else cp.Variable()
    predictions = features @ alpha + (np.ones((len(y), 1)) @ level if y.ndim == 2 else level)
    total = weight @ MODELS[name](predictions, y) + beta * cp.sum(cp.abs(alpha))
    tight = {option: 1e-9 for option in ("tol_gap_abs", "tol_gap_rel", "tol_feas")}
    return cp.Problem(cp.Minimize(total)).solve(solver="CLARABEL", **tight)


@pytest.mark.covering(1)
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.thorough(name=("hinge",))
@pytest.mark.parametrize("name", ["squared", "absolute", "hinge", "softmax"])
def test_bounds_and_networks_enclose_the_optimum(name, kind, dtype):
    problem = problem_of(name, 14, 3, kind=kind, dtype=dtype)
    room = 1 + ROUNDING[dtype]
    optimum = optimum_of(name, problem)
    solution = qs.solve(problem)
    assert solution.status == qs.Status.solved
    if dtype == np.float64:
        model, variables = problem.to_cvxpy()
        value = model.solve(solver="CLARABEL")
        assert float(solution.total_value) == pytest.approx(value, rel=1e-6)
        assert any(variable.startswith("intercept") for variable in variables)
    sums = np.asarray(solution.dual, float).reshape(14, -1).sum(axis=0)
    assert np.all(np.abs(sums) <= 1e-6 * np.abs(np.asarray(solution.dual)).sum())
    network = qs.round(problem, solution, num_neurons=30, key=KEY)
    for bound in ("relaxation", "combinatorial"):
        proof = qs.certify(problem, network, solution, kind=bound)
        assert 0.5 * optimum <= float(proof.lower_bound) <= optimum * room
        assert float(proof.objective) >= optimum / room
    result = qs.solve_exactly(problem)
    tolerance = 1e-6 if dtype == np.float64 else 1e-4
    assert float(result.certificate.gap) <= tolerance
    assert float(result.certificate.objective) == pytest.approx(optimum, rel=tolerance)


@pytest.mark.covering(1)
@pytest.mark.parametrize(("name", "n"), [("squared", 12), ("squared", 40), ("logistic", 20)])
def test_splitting_reaches_the_same_value(name, n, dtype):
    problem = problem_of(name, n, 4, dtype=dtype)
    expected, found = qs.solve(problem), qs.solve(problem, qs.ADMM())
    tolerance = 1e-5 if dtype == np.float64 else 2e-3
    assert float(found.value) == pytest.approx(float(expected.value), rel=tolerance)
    assert float(found.lower_bound) >= float(expected.value) * (1 - tolerance)
    assert float(found.intercept) == pytest.approx(float(expected.intercept), rel=0.05)
    warm = qs.solve(problem, qs.ADMM(), warm_start=found)
    assert warm.stats.num_steps <= found.stats.num_steps


@pytest.mark.parametrize("name", ["squared", "huber"])
def test_a_shift_of_targets_shifts_the_intercept_alone(name):
    """Which no penalty sees."""
    near, far = (problem_of(name, 20, 3, away=away) for away in (0.0, 50.0))
    solutions = [qs.solve(problem) for problem in (near, far)]
    networks = [
        qs.round(problem, solution, num_neurons=20, key=KEY)
        for problem, solution in zip((near, far), solutions, strict=True)
    ]
    for small, large in (solutions, networks):
        assert float(large.intercept - small.intercept) == pytest.approx(50.0, rel=1e-5)
    assert float(solutions[1].value) == pytest.approx(float(solutions[0].value), rel=1e-6)
    np.testing.assert_allclose(networks[1].alpha, networks[0].alpha, atol=1e-5)


@pytest.mark.parametrize("away", [10.0, 1e4, 1e6])
@pytest.mark.parametrize("name", ["squared", "absolute"])
def test_targets_far_from_zero_cost_no_accuracy(name, away, dtype):
    """But the digits that they have not: solved is solved, and what is proven is near."""
    problem = problem_of(name, 20, 3, away=away, dtype=dtype)
    centered = qs.Problem(
        problem.X,
        np.asarray(problem.y, float) - away,
        problem.beta,
        problem.loss,
        problem.sample_weight,
        fit_intercept=True,
    )
    expected, found = qs.solve(centered), qs.solve(problem)
    tolerance = 1e-6 if dtype == np.float64 else 2e-3
    assert float(found.value) == pytest.approx(float(expected.value), rel=tolerance)
    assert float(found.lower_bound) >= float(expected.value) * (1 - 10 * tolerance)
    assert float(found.intercept) == pytest.approx(away, abs=20)
    network = qs.round(problem, found, num_neurons=20, key=KEY)
    proof = qs.certify(problem, network, found)
    assert float(proof.lower_bound) >= float(expected.value) * (1 - 10 * tolerance)


def test_a_class_that_does_not_occur():
    """Its intercept has no best value, and it costs no proof."""
    X, _, beta, weight = made("softmax", 16, 3)
    y = np.arange(16) % 2
    kinds = {"sample_weight": weight, "fit_intercept": True}
    three = qs.Problem(X, y, beta, qs.SoftmaxLoss(num_classes=3), **kinds)
    two = qs.Problem(X, y, beta, qs.SoftmaxLoss(num_classes=2), **kinds)
    solution, expected = qs.solve(three, throw=False), qs.solve(two)
    assert float(solution.value) == pytest.approx(float(expected.value), rel=1e-4)
    assert float(solution.lower_bound) >= 0.999 * float(expected.value)
    network = qs.round(three, solution, num_neurons=20, key=KEY)
    assert float(qs.certify(three, network, solution).lower_bound) >= 0.999 * float(expected.value)


@pytest.mark.parametrize("name", ["squared", "huber", "softmax"])
def test_no_neurons_at_all(name):
    problem = problem_of(name, 14, 3)
    outputs = problem.y.shape[1:]
    empty = qs.QuantizedNetwork.from_weights(*np.ones((2, 0, 3)), np.zeros((0, *outputs)))
    concrete, traced = qs.refit(problem, empty), jax.jit(qs.refit)(problem, empty)
    np.testing.assert_allclose(traced.intercept, concrete.intercept, rtol=1e-6, atol=1e-9)
    nothing = float(problem.objective(concrete))
    assert nothing < float(problem.objective(empty))
    assert nothing >= optimum_of(name, problem) * (1 - 1e-8)


@pytest.mark.parametrize("size", [np.nan, np.inf, 1.7e308, -1e300, 1e-300])
@pytest.mark.parametrize("name", ["squared", "squared hinge", "softmax"])
def test_no_dual_point_proves_too_much(name, size):
    problem = problem_of(name, 14, 3)
    network = qs.round(problem, qs.solve(problem), num_neurons=20, key=KEY)
    optimum = optimum_of(name, problem)
    proof = qs.certify(problem, network, dual=np.full(problem.y.shape, size), kind="combinatorial")
    assert float(proof.lower_bound) <= optimum * (1 + 1e-8)


def test_solutions_are_of_problems_with_or_without_it():
    problem = problem_of("squared", 14, 3)
    other = qs.Problem(problem.X, problem.y, problem.beta)
    with pytest.raises(ValueError, match="intercept"):
        qs.round(problem, qs.solve(other), num_neurons=3, key=KEY)
    with pytest.raises(ValueError, match="intercept"):
        qs.round(other, qs.solve(problem), num_neurons=3, key=KEY)


@pytest.mark.covering(1)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["squared", "logistic"])
def test_networks_improve(name, kind):
    problem = problem_of(name, 30, 5, kind=kind, fraction=0.02)
    solution = qs.solve(problem)
    drawn = qs.round(problem, solution, num_neurons=4, key=KEY)
    options = {"num_starts": 4, "num_steps": 100, "solution": solution}
    found = qs.improve(problem, drawn, max_neurons=4, key=KEY, **options)
    before, after = (float(problem.objective(network)) for network in (drawn, found))
    assert after < 0.9 * before
    assert after == pytest.approx(float(problem.objective(qs.refit(problem, found))), rel=1e-6)
    few = qs.quantize_alpha(problem, found, bits=8)
    assert float(problem.objective(few)) <= after * 1.02
    assert few.intercept is not None


def test_refits_are_the_same_under_jit(dtype):
    for name in ("squared", "absolute"):
        problem = problem_of(name, 20, 3, dtype=dtype)
        drawn = qs.round(problem, qs.solve(problem), num_neurons=10, key=KEY, refit=False)
        concrete, traced = qs.refit(problem, drawn), jax.jit(qs.refit)(problem, drawn)
        objectives = [float(problem.objective(network)) for network in (concrete, traced)]
        assert objectives[1] == pytest.approx(
            objectives[0], rel=1e-6 if dtype is np.float64 else 1e-3
        )
        nothing = qs.refit(problem.at(1e6), drawn).prune()
        assert nothing.num_neurons == 0
        y, weight = np.asarray(problem.y), np.asarray(problem.weight)
        if name == "squared":
            assert float(nothing.intercept) == pytest.approx(
                np.average(y, weights=weight), rel=1e-5
            )


def test_transforms_and_padding():
    small, large = (problem_of("squared", n, d, outputs=2) for n, d in ((14, 3), (20, 5)))
    expected = qs.solve(small)
    stacked = lane(jax.jit(jax.vmap(qs.solve))(stack([small, small])), 1)
    listed = qs.solve_batch([large, small])[1]
    for other in (stacked, listed):
        np.testing.assert_allclose(other.value, expected.value, rtol=1e-8)
        np.testing.assert_allclose(other.intercept, expected.intercept, rtol=1e-4)
        np.testing.assert_allclose(other.predictions, expected.predictions, rtol=1e-4, atol=1e-4)


def test_derivatives_are_those_of_differences():
    assert qs.check_gradient(problem_of("squared", 20, 3)).passed


def test_so_are_those_of_the_intercept():
    problem = problem_of("logistic", 20, 3)

    def level(X):
        kinds = {"loss": problem.loss, "fit_intercept": True}
        accurately = {"solver": qs.InteriorPoint(tol=1e-12), "throw": False}
        return qs.solve(qs.Problem(X, problem.y, problem.beta, **kinds), **accurately).intercept

    step = 1e-4 * np.random.default_rng(0).standard_normal(problem.X.shape)
    slope = np.sum(np.asarray(jax.grad(level)(problem.X)) * step)
    difference = (level(problem.X + step) - level(problem.X - step)) / 2
    assert float(slope) == pytest.approx(float(difference), rel=3e-3)


def test_derivatives_with_softmax():
    problem = problem_of("softmax", 16, 3)
    names = ("value", "quadratic_form", "dual", "predictions", "intercept")

    @jax.jit
    def numbers(X):
        kinds = {"loss": problem.loss, "fit_intercept": True}
        solution = qs.solve(qs.Problem(X, problem.y, problem.beta, **kinds))
        return {name: getattr(solution, name) for name in names}

    step = 1e-5 * np.random.default_rng(0).standard_normal(problem.X.shape)
    _, slopes = jax.jvp(numbers, (problem.X,), (step,))
    there, back = numbers(problem.X + step), numbers(problem.X - step)
    for name in names:
        difference = np.asarray(there[name] - back[name]) / 2
        size = np.abs(difference).max()
        np.testing.assert_allclose(slopes[name], difference, atol=1e-3 * size, err_msg=name)


@pytest.mark.parametrize("name", ["squared", "hinge", "softmax"])
def test_the_largest_penalty_leaves_nothing(name):
    problem = problem_of(name, 14, 3)
    largest = float(qs.beta_max(problem))
    above, below = (qs.solve(problem.at(factor * largest)) for factor in (1.001, 0.9))
    assert np.max(np.asarray(above.scale)) <= 1e-5 * max(np.max(np.asarray(below.scale)), 1e-2)
    if name != "hinge":  # at its kink another λ may prove more
        assert np.max(np.asarray(below.scale)) > 1e-6


def test_paths_folds_and_the_layer_have_it():
    problem = problem_of("squared", 24, 3)
    path = qs.path(problem, num_betas=3)
    assert np.all(np.isfinite(np.asarray(path.solutions.intercept)))
    for score, neurons in (("relaxation", None), ("network", 8)):
        chosen = qs.cross_validate(
            problem, key=KEY, num_betas=3, folds=3, score=score, num_neurons=neurons
        )
        # A mean squared error around the targets' own mean, not their distance from zero.
        assert float(np.min(np.asarray(chosen.mean))) < float(np.mean(np.square(problem.y)))
    layer = qs.RelaxationLayer(problem.beta, fit_intercept=True)
    solution, predictions = layer(problem.X, problem.y, problem.X)
    np.testing.assert_allclose(predictions, solution.predictions, rtol=1e-9)
    np.testing.assert_allclose(jax.vmap(layer.fit(problem.X, problem.y))(problem.X), predictions)


@pytest.mark.parametrize("outputs", [None, 2])
def test_networks_keep_it(tmp_path, outputs):
    rng = np.random.default_rng(0)
    u, v = rng.choice([-1.0, 1.0], (2, 3, 4))
    shape = () if outputs is None else (outputs,)
    level, alpha = rng.standard_normal(shape), rng.standard_normal((3, *shape))
    network = qs.QuantizedNetwork.from_weights(u, v, alpha, intercept=level)
    bare, x = qs.QuantizedNetwork.from_weights(u, v, alpha), rng.standard_normal(4)
    np.testing.assert_allclose(network(x), bare(x) + level, rtol=1e-12)
    assert network.total_bits - bare.total_bits == 64 * (outputs or 1)
    assert "intercept" in repr(network)
    np.testing.assert_allclose(network.to_polynomial(0.5, 1.0, 2.0)(x), network(x), rtol=1e-10)
    loaded = qs.QuantizedNetwork.load(network.save(tmp_path / "network.npz"))
    np.testing.assert_array_equal(loaded.intercept, network.intercept)
    np.testing.assert_array_equal(network.prune().intercept, level)


def test_bad_input_is_named(tmp_path):
    X, y = np.eye(3), np.ones(3)
    with pytest.raises(TypeError, match="`fit_intercept`"):
        qs.Problem(X, y, 1.0, fit_intercept=1)
    network = qs.QuantizedNetwork.from_weights(X[:1] * 0 + 1, X[:1] * 0 + 1, [1.0], intercept=2.0)
    with pytest.raises(ValueError, match="fit_intercept=True"):
        qs.certify(qs.Problem(X, y, 1.0), network)
    for wrong in ([1.0, 2.0], np.nan):
        with pytest.raises(ValueError, match="`intercept`"):
            network.with_intercept(wrong)
    with pytest.raises(ValueError, match="SDPA"):
        qs.Problem(X, y, 1.0, fit_intercept=True).write_sdpa(tmp_path / "model.dat-s")
    assert "intercept" in repr(qs.Problem(X, y, 1.0, fit_intercept=True))


@pytest.mark.parametrize("seed", range(4))
def test_bounds_hold_at_any_scale(seed, dtype):
    """By an intercept far from zero and samples of very different weight."""
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((9, 2)).astype(dtype)
    y = (10.0 ** rng.uniform(0, 3) + rng.standard_normal(9)).astype(dtype)
    weight = (10.0 ** rng.uniform(-3, 0, 9)).astype(dtype)
    problem = qs.Problem(X, y, dtype(0.05), sample_weight=weight, fit_intercept=True)
    solution, optimum = qs.solve(problem, throw=False), optimum_of("squared", problem)
    everything = qs.solve_exactly(problem)
    for found in (solution.lower_bound, everything.certificate.lower_bound):
        assert float(found) <= optimum * (1 + 1e-7) + 1e-9
