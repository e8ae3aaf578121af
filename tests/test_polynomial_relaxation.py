"""Polynomial neurons trained directly: against CVXPY, all neurons at once, and differences."""

import itertools

import cvxpy as cp
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lane, stack
from losses import MODELS, made, problem_of
from networks import best_of_all

import jaxqsdp as qs
from jaxqsdp._bound.signs import enumerate_forms, search_forms
from jaxqsdp._search.pricing import distinct

KEY = jax.random.key(0)
KINDS = {
    "of the paper": qs.Polynomial(0.09, 0.5, 0.47),
    "square": qs.Polynomial(1.0),
    "falling": qs.Polynomial(-0.5, 0.6, -1.0),
    "complete square": qs.Polynomial(1.0, -1.0, 0.25),
}
ROUNDING = {np.float64: 1e-9, np.float32: 1e-5}


def reference(name, activation, X, y, beta, weight):
    """Return the relaxation's value by Clarabel, stated as M16 does: by M(x) itself."""
    (a, b, c), d = activation.coefficients, X.shape[1]
    columns, constraints, penalty = [], [], 0
    for _ in range(1 if y.ndim == 1 else y.shape[1]):
        plus, minus = (cp.Variable((d + 1, d + 1), PSD=True) for _ in range(2))
        scale, form = cp.Variable(2), plus - minus
        constraints += [cp.diag(plus) == scale[0], cp.diag(minus) == scale[1]]
        squares = cp.sum(cp.multiply(X @ form[:d, :d], X), axis=1)
        columns.append(a * squares + b * (X @ form[:d, d]) + c * form[d, d])
        penalty += beta * cp.sum(scale)
    predictions = columns[0] if y.ndim == 1 else cp.vstack(columns).T
    model = cp.Problem(cp.Minimize(weight @ MODELS[name](predictions, y) + penalty), constraints)
    tight = {name: 1e-9 for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas")}
    return model.solve(solver="CLARABEL", **tight)


@pytest.mark.covering(1)
@pytest.mark.filterwarnings("ignore:Solution may be inaccurate")
@pytest.mark.parametrize(
    ("name", "kind", "n", "d"),
    [
        ("squared", "of the paper", 12, 5),
        ("squared", "falling", 40, 3),
        ("squared", "square", 40, 3),
        ("huber", "complete square", 20, 4),
        ("hinge", "falling", 20, 4),
        ("softmax", "of the paper", 20, 3),
    ],
)
def test_values_are_those_of_clarabel(name, kind, n, d, dtype):
    data, activation = made(name, n, d, dtype=dtype), KINDS[kind]
    problem = problem_of(name, n, d, dtype=dtype, activation=activation)
    solution = qs.solve(problem)
    expected = reference(name, activation, *(np.asarray(array, float) for array in data))
    assert float(solution.total_value) == pytest.approx(expected, rel=ROUNDING[dtype] * 1e3)
    assert float(solution.total_lower_bound) <= expected * (1 + 1e-8)
    if dtype == np.float64:
        model, variables = problem.to_cvxpy()
        assert model.solve(solver="CLARABEL") == pytest.approx(expected, rel=1e-6)
        end = "_0" if name == "softmax" else ""
        assert variables[f"plus{end}"].shape == variables[f"minus{end}"].shape == (d + 1, d + 1)
        assert variables[f"scale{end}"].shape == (2,)


@pytest.mark.covering(1)
@pytest.mark.parametrize(("name", "n"), [("squared", 12), ("squared", 40), ("logistic", 20)])
@pytest.mark.thorough(n=(12,))
def test_splitting_reaches_the_same_value(name, n, dtype):
    problem = problem_of(name, n, 4, dtype=dtype, activation=KINDS["falling"])
    expected, found = qs.solve(problem), qs.solve(problem, qs.ADMM())
    tolerance = 1e-5 if dtype == np.float64 else 2e-3
    assert float(found.value) == pytest.approx(float(expected.value), rel=tolerance)
    assert float(found.lower_bound) <= float(expected.value) * (1 + ROUNDING[dtype])
    warm = qs.solve(problem, qs.ADMM(), warm_start=found)
    assert warm.stats.num_steps <= found.stats.num_steps


@pytest.mark.covering(1)
@pytest.mark.parametrize("outputs", [None, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_solutions_are_feasible(kind, outputs, dtype):
    problem = problem_of("squared", 15, 3, dtype=dtype, activation=KINDS[kind], outputs=outputs)
    solution = qs.solve(problem)
    assert np.all(np.asarray(solution.status == qs.Status.solved))
    (a, b, c), k = KINDS[kind].coefficients, 4
    X, eps = np.asarray(problem.X, float), np.finfo(dtype).eps
    predictions = np.asarray(solution.predictions, float).reshape(15, -1)
    for index in range(outputs or 1):
        form, gram, scale, diagonal = (
            np.asarray(array, float).reshape(outputs or 1, *shape)[index]
            for array, shape in (
                (solution.quadratic_form, (k, k)),
                (solution.gram, (2 * k, 2 * k)),
                (solution.scale, ()),
                (solution.dual_diagonal, (2, k)),
            )
        )
        assert np.linalg.eigvalsh(gram)[0] >= -100 * eps * scale
        np.testing.assert_array_equal(np.diag(gram), scale)
        assert np.ptp(np.diag(form)) == 0
        assert abs(form[0, 0]) <= scale
        expected = a * np.sum((X @ form[:3, :3]) * X, axis=1) + b * X @ form[:3, 3] + c * form[3, 3]
        size = np.abs(predictions).max()
        np.testing.assert_allclose(predictions[:, index], expected, atol=200 * eps * size)
        dual = np.asarray(solution.dual, float).reshape(15, -1)[:, index]
        H = np.column_stack([X, np.ones(15)])
        mask = np.full((4, 4), a)
        mask[3], mask[:, 3], mask[3, 3] = b / 2, b / 2, c
        slacks = [np.diag(diagonal[0]), np.diag(diagonal[1])]
        weighted = mask * (H.T @ (dual[:, None] * H))
        small = 1e-6 * float(problem.beta) if dtype == np.float64 else 1e-2 * float(problem.beta)
        for slack, sign in zip(slacks, (-1, 1), strict=True):
            assert np.linalg.eigvalsh(slack + sign * weighted)[0] >= -small
        np.testing.assert_allclose(diagonal.sum(axis=1), float(problem.beta), atol=10 * small)


@pytest.mark.covering(1)
@pytest.mark.thorough(name=("squared hinge",))
@pytest.mark.parametrize("name", ["squared", "absolute", "squared hinge", "softmax"])
def test_bounds_and_networks_enclose_the_optimum(name, dtype):
    """The optimum is that over all 2^d neurons at once; the guarantee holds with room."""
    kind = KINDS["of the paper"]
    problems = [
        problem_of(name, 14, 3, fraction=10.0**-index, seed=index, dtype=dtype, activation=kind)
        for index in range(4)
    ]
    for problem, solution in zip(problems, qs.solve_batch(problems), strict=True):
        optimum, _ = best_of_all(problem)
        room = 1 + ROUNDING[dtype]
        network = qs.round(problem, solution, num_neurons=20, key=KEY)
        for kind_of_bound in ("relaxation", "combinatorial"):
            proof = qs.certify(problem, network, solution, kind=kind_of_bound)
            assert float(proof.lower_bound) <= optimum
            assert float(proof.objective) >= optimum / room
        assert float(solution.total_lower_bound) <= optimum * room
        assert optimum <= kind.guarantee * float(solution.total_value) * room


@pytest.mark.covering(1)
@pytest.mark.thorough(name=("hinge",))
@pytest.mark.parametrize("name", ["squared", "hinge", "softmax"])
def test_networks_are_proven_optimal(name, dtype):
    problem = problem_of(name, 14, 3, dtype=dtype, activation=KINDS["falling"])
    optimum, _ = best_of_all(problem)
    result = qs.solve_exactly(problem)
    assert result.certificate.kind == "combinatorial"
    tolerance = 1e-6 if dtype == np.float64 else 1e-4
    assert float(result.certificate.gap) <= tolerance
    assert float(result.certificate.objective) == pytest.approx(optimum, rel=tolerance)
    given = problem.X, problem.y if name != "softmax" else np.argmax(problem.y, axis=1)
    fitted = qs.fit(
        *given,
        beta=problem.beta,
        num_neurons=40,
        key=KEY,
        loss=problem.loss,
        sample_weight=problem.sample_weight,
        activation=problem.activation,
    )
    assert float(fitted.certificate.objective) == pytest.approx(optimum, rel=1e-4)


def best_of_subsets(problem, count):
    """Return the best objective of `count` neurons, by trying all subsets of them."""
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=problem.num_features)))
    networks = [
        qs.QuantizedNetwork.from_weights(
            signs[list(chosen)], alpha=np.ones(count), activation=problem.activation
        )
        for chosen in itertools.combinations(range(len(signs)), count)
    ]
    return min(float(problem.objective(qs.refit(problem, network))) for network in networks)


@pytest.mark.parametrize("name", ["squared", "logistic"])
def test_few_neurons_are_nearly_the_best_there_are(name):
    problem = problem_of(name, 20, 3, fraction=0.02, activation=KINDS["complete square"])
    drawn = qs.round(problem, qs.solve(problem), num_neurons=2, key=KEY)
    found = qs.improve(problem, drawn, max_neurons=2, key=KEY)
    assert found.num_neurons <= 2
    assert float(problem.objective(found)) <= best_of_subsets(problem, 2) * (1 + 1e-6)


def test_without_a_refit_alpha_adds_up_to_the_scale():
    problem = problem_of("squared", 14, 3, activation=KINDS["falling"])
    solution = qs.solve(problem)
    network = qs.round(problem, solution, num_neurons=400, key=KEY, refit=False)
    alpha, level = np.asarray(network.alpha), float(solution.quadratic_form[0, 0])
    assert np.sum(np.abs(alpha)) == pytest.approx(float(solution.scale), rel=1e-9)
    assert np.sum(alpha) == pytest.approx(level, rel=1e-9, abs=1e-12)
    traced = jax.jit(lambda p, s: qs.round(p, s, num_neurons=400, key=KEY, refit=False))
    np.testing.assert_allclose(traced(problem, solution).alpha, alpha, rtol=1e-12)


def test_transforms_padding_and_units():
    """One problem by itself, stacked, padded, in other units, with more samples."""
    kind = KINDS["of the paper"]
    small, large = (problem_of("squared", n, d, activation=kind) for n, d in ((14, 3), (20, 5)))
    expected = qs.solve(small)
    stacked = jax.jit(jax.vmap(qs.solve))(stack([small, small]))
    padded = qs.solve_batch([large, small])[1]
    more = qs.Problem(
        np.concatenate([small.X, 1e3 * np.ones((2, 3))]),
        np.append(small.y, [1.0, 2.0]),
        small.beta,
        sample_weight=np.append(small.weight, [0.0, 0.0]),
        activation=kind,
    )
    for other in (lane(stacked, 1), padded, qs.solve(more)):
        assert float(other.value) == pytest.approx(float(expected.value), rel=1e-8)
        np.testing.assert_allclose(
            other.quadratic_form, expected.quadratic_form, atol=1e-5 * float(expected.scale)
        )
    a, b, c = kind.coefficients
    # σ(t/s) has the coefficients a/s², b/s, c.
    scaled = qs.Problem(
        2.0**20 * small.X,
        1e3 * small.y,
        1e3 * small.beta,
        sample_weight=small.weight,
        activation=qs.Polynomial(a / 2.0**40, b / 2.0**20, c),
    )
    solution = qs.solve(scaled)
    assert float(solution.value) == pytest.approx(1e6 * float(expected.value), rel=1e-8)
    assert float(solution.lower_bound) == pytest.approx(1e6 * float(expected.value), rel=1e-8)


def test_derivatives_are_those_of_differences():
    problem = problem_of("huber", 20, 3, activation=KINDS["falling"])
    assert qs.check_gradient(problem).passed
    assert qs.adjoint_report(problem, qs.solve(problem)).status == qs.AdjointStatus.trusted


def test_the_layer_predicts_with_its_neurons():
    problem = problem_of("squared", 14, 3, activation=KINDS["falling"])
    layer = qs.RelaxationLayer(problem.beta, activation=problem.activation)
    solution, predictions = layer(problem.X, problem.y, problem.X)
    np.testing.assert_allclose(predictions, solution.predictions, rtol=1e-9)
    fitted = layer.fit(problem.X, problem.y)
    np.testing.assert_allclose(jax.vmap(fitted)(problem.X), predictions, rtol=1e-9)


def test_the_largest_penalty_leaves_nothing(dtype):
    for kind in KINDS.values():
        problem = problem_of("squared", 14, 3, dtype=dtype, activation=kind)
        largest = float(qs.beta_max(problem))
        assert float(jax.jit(qs.beta_max)(problem)) == pytest.approx(largest, rel=1e-3)
        above, below = (qs.solve(problem.at(factor * largest)) for factor in (1.001, 0.97))
        nothing = float(problem.loss(np.zeros(14, dtype), problem.y, problem.weight))
        assert float(above.value) == pytest.approx(nothing, rel=1e-5)
        assert float(below.value) < nothing * (1 - 1e-5)


def test_penalties_are_chosen():
    problem = problem_of("squared", 24, 3, activation=KINDS["of the paper"])
    path = qs.path(problem, num_betas=4)
    assert np.all(np.diff(np.asarray(path.solutions.value)) < 0)
    chosen = qs.cross_validate(problem, key=KEY, num_betas=4, folds=3)
    assert np.all(np.isfinite(np.asarray(chosen.scores)))
    assert float(chosen.best_constant) == 0  # the neurons have one of their own


@pytest.mark.covering(1)
@pytest.mark.parametrize("seed", range(6))
def test_bounds_hold_at_any_scale(seed, dtype):
    rng = np.random.default_rng(seed)
    size = 10.0 ** rng.uniform(-4, 4, 4)
    a, b, c = rng.standard_normal(3) * size[:3]
    activation = qs.Polynomial(float(a), float(b), float(c))
    X = (size[3] * rng.standard_normal((9, 2))).astype(dtype)
    y = rng.standard_normal(9).astype(dtype)
    reach = np.abs(np.asarray(activation.value(X @ np.ones(2)), float)).max()
    problem = qs.Problem(X, y, dtype(0.1 * reach), activation=activation)
    solution = qs.solve(problem, throw=False)
    optimum, network = best_of_all(problem)
    for found in (
        float(solution.lower_bound),
        float(qs.certify(problem, network, solution, kind="relaxation").lower_bound),
        float(qs.certify(problem, network, solution, kind="combinatorial").lower_bound),
    ):
        assert found <= optimum * (1 + 1e-9)
        assert found >= 0.9 * optimum or dtype == np.float32


def test_what_cannot_be_trained_is_refused(tmp_path):
    X, y = np.ones((4, 2)), np.ones(4)
    with pytest.raises(ValueError, match="`a` must not be zero"):
        qs.Problem(X, y, 1.0, activation=qs.Polynomial(0.0, 1.0))
    with pytest.raises(ValueError, match="`levels` must be ±1"):
        qs.Problem(X, y, 1.0, levels=qs.Levels(bits=2), activation=qs.Polynomial(1.0))
    with pytest.raises(TypeError, match="activation"):
        qs.Problem(X, y, 1.0, activation="square")
    problem = qs.Problem(X, y, 1.0, activation=qs.Polynomial(1.0))
    with pytest.raises(ValueError, match="SDPA"):
        problem.write_sdpa(tmp_path / "model.dat-s")
    with pytest.raises(TypeError, match="Unrolled"):
        jax.grad(
            lambda X: (
                qs.solve(
                    qs.Problem(X, y, 1.0, activation=qs.Polynomial(1.0)), adjoint=qs.Unrolled()
                ).value
            )
        )(jnp.asarray(X))
    bilinear = qs.QuantizedNetwork.from_weights([[1, 1]], [[1, 1]], [1.0])
    with pytest.raises(ValueError, match="neurons of"):
        qs.certify(problem, bilinear)
    with pytest.raises(ValueError, match="Z of shape"):
        qs.certify(problem, bilinear.to_polynomial(1.0), qs.solve(qs.Problem(X, y, 1.0)))


@pytest.mark.parametrize("d", [1, 2, 3, 8, 13])
def test_forms_are_enumerated_and_searched(d):
    rng = np.random.default_rng(d)
    matrix = rng.standard_normal((d, d))
    gram = matrix + matrix.T
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=d - 1)))
    u = np.column_stack([signs, np.ones(len(signs))])
    expected = np.sort(np.abs(np.sum((u @ gram) * u, axis=1)))[::-1]
    values, found = enumerate_forms(gram, 5)
    np.testing.assert_allclose(values[0], expected[0], rtol=1e-12)
    np.testing.assert_allclose(values, np.abs(np.sum((found @ gram) * found, axis=1)), rtol=1e-12)
    values, found = search_forms(gram, rng.choice((-1.0, 1.0), (4, d)))
    forms = np.sum((found @ gram) * found, axis=1)
    np.testing.assert_allclose(np.sort(np.abs(forms)), np.sort(np.abs(values)), rtol=1e-9)
    for vector, value in zip(found, forms, strict=True):
        flipped = vector * (1 - 2 * np.eye(d))
        others = np.sum((flipped @ gram) * flipped, axis=1)
        # Of a maximum and a minimum: no flip helps the one that it is.
        assert np.all(others <= value + 1e-9) or np.all(others >= value - 1e-9)


def test_vectors_that_differ_in_a_sign_are_not_distinct():
    u = np.ones((4, 5))
    u[1, 0] = -1
    u[2, :2] = -1
    u[3, :3] = -1
    np.testing.assert_array_equal(distinct((u,), 10), [0, 2])
    np.testing.assert_array_equal(distinct((u,), 1), [0])
