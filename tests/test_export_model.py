"""Models for other solvers, read back and solved by Clarabel: the value is that of `solve`."""

import builtins

import jax
import numpy as np
import pytest
from helpers import stack
from losses import ALL, STOOD_FOR, SquareRoot, made, problem_of

import jaxqsdp as qs

cp = pytest.importorskip("cvxpy")

N, D = 12, 3
RNG = np.random.default_rng(0)
X, Y = RNG.standard_normal((N, D)), RNG.standard_normal((N, 2))
WEIGHT = np.where(np.arange(N) % 5 == 1, 0, RNG.uniform(0.5, 2, N))
PROBLEMS = {
    "plain": qs.Problem(X, Y[:, 0], 0.1),
    "weighted": qs.Problem(X, Y[:, 0], 0.1, sample_weight=WEIGHT),
    "few samples": qs.Problem(X[:4], Y[:4, 0], 0.1),
    "large units": qs.Problem(10 * X, 100 * Y[:, 0], 20.0),
    "zero": qs.Problem(X, Y[:, 0], 1e3),
}


def solved(model):
    return model.solve(solver=cp.CLARABEL)


def read_sdpa(path):
    """Return min cᵀx s.t. Σ x_k F_k − F_0 ⪰ 0 as a CVXPY problem, and x."""
    lines = [line for line in path.read_text().splitlines() if line[0] not in '"*']
    count, num_blocks = int(lines[0]), int(lines[1])
    sizes = [int(size) for size in lines[2].split()]
    costs = np.array([float(cost) for cost in lines[3].split()])
    assert (len(costs), len(sizes)) == (count, num_blocks)
    matrices = [[np.zeros((size, size)) for size in sizes] for _ in range(count + 1)]
    seen = set()
    for line in lines[4:]:
        *place, number = line.split()
        k, block, i, j = map(int, place)
        assert i <= j
        assert (k, block, i, j) not in seen
        seen.add((k, block, i, j))
        matrices[k][block - 1][i - 1, j - 1] = matrices[k][block - 1][j - 1, i - 1] = float(number)
    x = cp.Variable(count)
    constraints = [
        sum(x[k] * matrices[k + 1][block] for k in range(count)) - matrices[0][block] >> 0
        for block in range(num_blocks)
    ]
    return cp.Problem(cp.Minimize(costs @ x), constraints), x


@pytest.mark.parametrize("name", PROBLEMS)
def test_cvxpy_finds_the_value(name):
    problem = PROBLEMS[name]
    solution = qs.solve(problem)
    model, variables = problem.to_cvxpy()
    np.testing.assert_allclose(solved(model), solution.value, rtol=1e-6)
    scale = variables["scale"].value
    np.testing.assert_allclose(np.diag(variables["gram"].value), scale, atol=1e-6)
    np.testing.assert_allclose(scale, solution.scale, rtol=1e-3, atol=1e-5)


@pytest.mark.thorough(name=STOOD_FOR)
@pytest.mark.parametrize("name", ALL)
def test_cvxpy_has_a_model_of_every_loss(name):
    """Of the second of two outputs, or of all that are coupled, without samples of no weight."""
    outputs = None if ALL[name].couples_outputs else 2
    X, y, beta, weight = made(name, 16, 3, outputs=outputs)
    weight = np.where(np.arange(16) == 5, 0, weight)
    wild = np.where(weight[:, None] > 0, X, 1e200)
    problem = qs.Problem(wild, y, beta * [1.0, 1.3, 0.7][: y.shape[1]], ALL[name], weight)
    solution = qs.solve(problem)
    model, variables = problem.to_cvxpy(None if outputs is None else 1)
    value = solution.value if outputs is None else solution.value[1]
    np.testing.assert_allclose(solved(model), value, rtol=1e-6)
    grams = [value for key, value in variables.items() if key.startswith("gram")]
    assert [gram.shape for gram in grams] == [(6, 6)] * (3 if outputs is None else 1)
    assert len(variables) == 2 * len(grams)


def test_a_model_of_another_loss_is_refused():
    class Twice(qs.HuberLoss):
        def value(self, predictions, targets):
            return 2 * super().value(predictions, targets)

    class Summed(SquareRoot):
        def modelled(self, cp, predictions, targets):
            return cp.sum_squares(predictions - targets)

    class Concave(SquareRoot):
        def modelled(self, cp, predictions, targets):
            return -cp.square(predictions - targets)

    def model(loss):
        return problem_of("huber", 16, 3, loss=loss).to_cvxpy()

    with pytest.raises(NotImplementedError, match="a method `modelled` of SquareRoot"):
        model(SquareRoot())
    with pytest.raises(ValueError, match=r"`Twice.modelled` is not the model of `value`"):
        model(Twice())
    with pytest.raises(ValueError, match=r"`Summed.modelled` must return .* got shape \(\)"):
        model(Summed())
    with pytest.raises(ValueError, match=r"`Concave.modelled` must return .* curvature CONCAVE"):
        model(Concave())


def test_invalid_numbers_have_no_model():
    with pytest.raises(ValueError, match="invalid numbers"):
        qs.Problem(X, Y[:, 0], 0.1).with_numbers(beta=-1.0).to_cvxpy()


@pytest.mark.parametrize("name", PROBLEMS)
def test_sdpa_has_the_value(name, tmp_path):
    problem = PROBLEMS[name]
    path = problem.write_sdpa(tmp_path / "problem.dat-s")
    model, x = read_sdpa(path)
    solution = qs.solve(problem)
    np.testing.assert_allclose(solved(model), solution.value, rtol=1e-6)
    assert len(x.value) == D * (D + 1) // 2 + D * (D - 1) // 2 + 2
    np.testing.assert_allclose(x.value[-2], solution.scale, rtol=1e-3, atol=1e-5)
    form = x.value[: D * (D + 1) // 2]
    expected = np.asarray(solution.quadratic_form)[np.triu_indices(D)]
    np.testing.assert_allclose(form, expected, atol=1e-3 * max(1e-2, np.abs(expected).max()))


def test_samples_of_no_weight_do_not_count(tmp_path):
    wild = np.where(WEIGHT[:, None] > 0, X, 1e200)
    problem = qs.Problem(wild, Y[:, 0], 0.1, sample_weight=WEIGHT)
    expected = solved(PROBLEMS["weighted"].to_cvxpy()[0])
    np.testing.assert_allclose(solved(problem.to_cvxpy()[0]), expected, rtol=1e-6)
    np.testing.assert_allclose(
        solved(read_sdpa(problem.write_sdpa(tmp_path / "wild.dat-s"))[0]), expected, rtol=1e-6
    )


def test_outputs_one_by_one(tmp_path):
    problem = qs.Problem(X, Y, [0.1, 0.3], sample_weight=WEIGHT)
    values = [solved(problem.to_cvxpy(output=k)[0]) for k in range(2)]
    files = [problem.write_sdpa(tmp_path / f"{k}.dat-s", output=k) for k in range(2)]
    np.testing.assert_allclose(values, qs.solve(problem).value, rtol=1e-6)
    np.testing.assert_allclose([solved(read_sdpa(file)[0]) for file in files], values, rtol=1e-6)


def test_what_cannot_be_written_is_named(tmp_path, monkeypatch):
    several, path = qs.Problem(X, Y, 0.1), tmp_path / "problem.dat-s"
    for write in (lambda p, k: p.to_cvxpy(k), lambda p, k: p.write_sdpa(path, k)):
        with pytest.raises(ValueError, match=r"has 2 outputs.*`output=0` to `output=1`"):
            write(several, None)
        for output in (2, -1, 0.5, True):
            with pytest.raises(ValueError, match="`output` must be an integer from 0 to 1"):
                write(several, output)
        with pytest.raises(ValueError, match="is stacked"):
            write(stack([PROBLEMS["plain"]] * 2), None)
        with pytest.raises(ValueError, match="is traced"):
            jax.jit(lambda p, write=write: write(p, None))(PROBLEMS["plain"])
    assert list(tmp_path.iterdir()) == []

    imported = builtins.__import__

    def without(name, *arguments, **options):
        if name == "cvxpy":
            raise ImportError(name)
        return imported(name, *arguments, **options)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ImportError, match="pip install cvxpy"):
        PROBLEMS["plain"].to_cvxpy()
