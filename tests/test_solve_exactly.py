"""Training to proven global optimality, against brute force over all neurons."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import problem_of
from problems import SMALL, Data, degenerate, planted
from referee import brute_force, exact_combinatorial_bound

import jaxqsdp as qs
import jaxqsdp._certify as module
from jaxqsdp._search import optimum, proving

GAP = {np.float64: 2e-6, np.float32: 2e-5}


@functools.cache
def solved(seed, dtype=np.float64):
    case = planted(seed, *SMALL)
    weight = np.random.default_rng(seed).uniform(0.2, 3, SMALL[0])
    weight[:2] = 0
    data = Data(case.X, case.y, [0.05, 0.5, 5.0][seed % 3], weight).astype(dtype)
    return data, qs.solve_exactly(problem_of(data, dtype))


def assert_proven(data, result, gap):
    """Send network and bound to the referee; nothing of the package is believed."""
    network, certificate = result.network, result.certificate
    X, y = np.asarray(data.X, float), np.asarray(data.y, float)
    u, v, alpha = (np.asarray(a, float) for a in (network.u, network.v, network.alpha))
    weight = np.ones(len(y)) if data.weight is None else np.asarray(data.weight, float)
    residual = ((X @ u.T) * (X @ v.T)) @ alpha - y
    objective = 0.5 * weight @ residual**2 + data.beta * np.abs(alpha).sum()
    bound = float(exact_combinatorial_bound(X, y, data.beta, result.dual, data.weight))
    assert certificate.kind == "combinatorial"
    assert float(certificate.lower_bound) <= objective <= float(certificate.objective)
    assert objective - bound <= gap * objective
    assert float(certificate.gap) <= gap


@pytest.mark.parametrize("seed", range(6))
def test_is_the_optimum(seed, dtype):
    data, result = solved(seed, dtype)
    assert_proven(data, result, GAP[dtype])
    below, above = brute_force(data.X, data.y, data.beta, data.weight)
    assert float(result.certificate.lower_bound) <= above
    assert float(result.certificate.objective) >= below * (1 - 1e-9)
    np.testing.assert_allclose(result.certificate.objective, above, rtol=GAP[dtype])
    assert np.all(np.asarray(result.network.alpha) != 0)


@pytest.mark.parametrize("name", list(degenerate()))
def test_degenerate_problems(name):
    data = degenerate()[name]
    result = qs.solve_exactly(problem_of(data, np.float64))
    assert float(result.certificate.gap) <= 1e-5 or result.certificate.objective < 1e-12
    below, above = brute_force(data.X, data.y, data.beta)
    assert float(result.certificate.lower_bound) <= above * (1 + 1e-12)
    assert float(result.certificate.objective) >= below * (1 - 1e-9)


@pytest.mark.parametrize("exponent", [-6, 6])
def test_units_do_not_matter(exponent, dtype):
    data, result = solved(0, dtype)
    c = dtype(10.0**exponent)
    for moved, value in (
        (dataclasses.replace(data, X=c * data.X, beta=float(c) ** 2 * data.beta), 1),
        (dataclasses.replace(data, y=c * data.y, beta=float(c) * data.beta), float(c) ** 2),
    ):
        again = qs.solve_exactly(problem_of(moved, dtype))
        assert again.certificate.gap <= 2 * GAP[dtype]
        expected = value * float(result.certificate.objective)
        np.testing.assert_allclose(again.certificate.objective, expected, rtol=3 * GAP[dtype])


def test_samples_of_small_weight_count(dtype):
    """Of large numbers: with X·s, y·s², w/s⁴ for half of them it is the same problem."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((14, 4)), rng.standard_normal(14)
    s = np.where(np.arange(14) % 2, 1e5, 1.0)
    plain = qs.solve_exactly(qs.Problem(X.astype(dtype), y.astype(dtype), 0.5), tol=1e-4)
    numbers = (a.astype(dtype) for a in (X * s[:, None], y * s**2))
    problem = qs.Problem(*numbers, 0.5, sample_weight=(s**-4.0).astype(dtype))
    same = qs.solve_exactly(problem, tol=1e-4)
    objective = float(same.certificate.objective)
    np.testing.assert_allclose(objective, float(plain.certificate.objective), rtol=1e-3)


def test_outputs_far_apart_are_each_solved():
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((20, 4)), rng.standard_normal((20, 2))
    units = np.array([1.0, 1e-170])
    result = qs.solve_exactly(qs.Problem(X, y * units, 0.5 * units), tol=1e-4)
    alpha = np.asarray(result.network.alpha) / units
    for column in range(2):
        alone = qs.solve_exactly(qs.Problem(X, y[:, column], 0.5), tol=1e-6)
        kept = np.any(alpha[:, [column]] != 0, axis=1)
        u, v = (np.asarray(signs)[kept] for signs in (result.network.u, result.network.v))
        network = qs.QuantizedNetwork.from_weights(u, v, alpha[kept, column])
        found = float(qs.Problem(X, y[:, column], 0.5).objective(network))
        np.testing.assert_allclose(found, float(alone.certificate.objective), rtol=2e-4)


def test_several_outputs():
    cases = [planted(seed, *SMALL) for seed in range(2)]
    y, beta = np.stack([case.y for case in cases], axis=1), np.array([0.3, 3.0])
    result = qs.solve_exactly(qs.Problem(cases[0].X, y, beta))
    single = [
        qs.solve_exactly(qs.Problem(cases[0].X, y[:, k], beta[k])).certificate for k in (0, 1)
    ]
    assert result.network.alpha.shape[1:] == (2,)
    assert result.certificate.gap <= 2e-6
    total = sum(float(certificate.objective) for certificate in single)
    np.testing.assert_allclose(result.certificate.objective, total, rtol=1e-6)


def test_a_dozen_features_and_stopping_early():
    data = planted(0, 200, 12)
    problem = qs.Problem(data.X, data.y, 0.6)
    solution = qs.solve(problem)
    first = qs.solve_exactly(problem, solution=solution, max_rounds=1)
    assert len(first.history) == 1
    assert 1e-6 < float(first.certificate.gap) < 0.5
    timed = qs.solve_exactly(problem, solution=solution, time_limit=1e-3)
    assert len(timed.history) == 1
    result = qs.solve_exactly(problem, solution=solution)
    assert_proven(dataclasses.replace(data, beta=0.6), result, 2e-6)
    history = np.asarray(result.history)
    assert np.all(history[:, 0] >= history[:, 1])
    assert np.all(np.diff(history[:, 1]) >= 0)
    assert history[-1, 0] - history[-1, 1] <= 1e-6 * history[-1, 0]
    # Carathéodory: no more neurons than symmetric matrices have entries, and one.
    assert result.network.num_neurons <= 12 * 13 // 2 + 1
    relaxed = qs.certify(problem, result.network, solution, kind="relaxation")
    assert relaxed.lower_bound < result.certificate.lower_bound


def test_several_in_one_call():
    """Of different shapes, they come out as one by one."""
    data, alone = solved(1)
    n = SMALL[0]
    fewer = Data(data.X[: n - 2], data.y[: n - 2], data.beta, data.weight[: n - 2])
    problems = [problem_of(case, np.float64) for case in (data, fewer)]
    first, second = qs.solve_exactly(problems)
    np.testing.assert_allclose(first.certificate.objective, alone.certificate.objective, rtol=1e-6)
    assert_proven(fewer, second, GAP[np.float64])
    solutions = list(map(qs.solve, problems))
    given = qs.solve_exactly(iter(problems), solution=solutions, time_limit=60.0)
    assert [each.certificate for each in given] == [first.certificate, second.certificate]
    assert qs.solve_exactly([]) == []


@pytest.mark.parametrize("d", [SMALL[1], 17])
def test_ctrl_c_returns_what_there_is(d, monkeypatch):
    """Which `certify` has no way to tell; of a list nothing is returned."""
    rounds, generate = [], optimum.generate

    def interrupted(task, *args, **kwargs):
        for found in generate(task, *args, **kwargs):
            rounds.append(found)
            if len(rounds) == 2:
                raise KeyboardInterrupt
            yield found

    for place in (optimum, proving):
        monkeypatch.setattr(place, "generate", interrupted)
    data = planted(0, SMALL[0], d)
    problem = problem_of(data, np.float64)
    solution = qs.solve(problem)
    result = qs.solve_exactly(problem, solution=solution)
    assert result.interrupted
    assert "interrupted" in repr(result)
    assert len(result.history) == 1
    assert float(result.certificate.lower_bound) <= float(result.certificate.objective)
    for interrupt in (
        lambda: qs.certify(problem, result.network, solution, time_limit=60.0),
        lambda: qs.solve_exactly([problem], solution=[solution]),
    ):
        rounds.clear()
        with pytest.raises(KeyboardInterrupt):
            interrupt()
    rounds[:] = rounds[:1]  # before there is any round
    with pytest.raises(KeyboardInterrupt):
        qs.solve_exactly(problem, solution=solution)
    rounds.clear()
    two = qs.Problem(data.X, np.stack([data.y, -data.y], axis=1), data.beta)
    result = qs.solve_exactly(two, max_rounds=1)  # the second is in the second one's first
    assert result.interrupted
    assert result.network.alpha.shape[1:] == (2,)
    assert float(result.certificate.gap) < 1
    rounds[:] = 5 * [None]
    fit, presses = optimum.Optimum.of, iter([KeyboardInterrupt()])

    def interrupted_once(*args):
        for press in presses:
            raise press
        return fit(*args)

    with monkeypatch.context() as patched:
        patched.setattr(optimum.Optimum, "of", interrupted_once)
        assert qs.solve_exactly(problem, solution=solution).interrupted  # in the last fit
    rounds.clear()
    fitted = qs.fit(data.X, data.y, beta=5.0, num_neurons=2, key=jax.random.key(0), prove=60.0)
    assert fitted.interrupted
    assert float(fitted.certificate.gap) >= 0


def test_certifies_the_networks_of_others():
    data, result = solved(1)
    problem = problem_of(data, np.float64)
    other = qs.QuantizedNetwork.from_weights(
        np.ones((1, SMALL[1])), np.ones((1, SMALL[1])), np.zeros(1)
    )
    by_relaxation = qs.certify(problem, other, kind="relaxation")
    assert by_relaxation.kind == "relaxation"
    certificate = qs.certify(problem, other)
    assert certificate.kind == "combinatorial"
    proven = qs.certify(problem, other, dual=result.dual)
    assert by_relaxation.lower_bound <= certificate.lower_bound <= proven.lower_bound
    np.testing.assert_allclose(proven.lower_bound, result.certificate.objective, rtol=2e-6)
    # The optimal network proves itself, given a useless solution.
    solution = qs.solve(problem)
    useless = dataclasses.replace(solution, dual=jnp.zeros_like(solution.dual))
    assert float(qs.certify(problem, result.network, useless).gap) <= 1e-3


def test_many_features_and_transforms_have_the_relaxation_only(monkeypatch):
    data, result = solved(0)
    problem, network = problem_of(data, np.float64), result.network
    jitted = jax.jit(lambda network: qs.certify(problem, network).lower_bound)(network)
    assert jitted < result.certificate.lower_bound
    monkeypatch.setattr(module, "_FEW_FEATURES", SMALL[1] - 1)
    assert qs.certify(problem, network).kind == "relaxation"
    assert qs.certify(problem, network, kind="combinatorial").kind == "combinatorial"


def test_errors(monkeypatch):
    data, result = solved(0)
    problem = problem_of(data, np.float64)
    for arguments, message in (
        ({"tol": 0.0}, "`tol`"),
        ({"max_rounds": 0}, "`max_rounds`"),
        ({"time_limit": -1.0}, "`time_limit`"),
    ):
        with pytest.raises(ValueError, match=message):
            qs.solve_exactly(problem, **arguments)
    with pytest.raises(TypeError, match="`solution`"):
        qs.solve_exactly(problem, solution=result)
    with pytest.raises(ValueError, match="traced"):
        jax.jit(qs.solve_exactly)(problem)
    with pytest.raises(ValueError, match="`solution` must have one for each problem, 1, got 2"):
        qs.solve_exactly([problem], solution=[None, None])
    for wrong in ([None], qs.solve(problem), 5):
        with pytest.raises(TypeError, match="`solution`"):
            qs.solve_exactly([problem], solution=wrong)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), problem)
    with pytest.raises(ValueError, match="give a list of problems"):
        qs.solve_exactly(stacked)
    for wrong in ("problem", np.zeros((0, 3)), jnp.float64(3)):
        with pytest.raises(TypeError, match="`problem`"):
            qs.solve_exactly(wrong)
    monkeypatch.setattr(optimum, "_MOST_ENTRIES", 100)
    for call in (qs.solve_exactly, lambda p: qs.certify(p, result.network, time_limit=1.0)):
        with pytest.raises(ValueError, match="24 samples and may need as many as 15 neurons"):
            call(problem)
    monkeypatch.undo()
    with pytest.raises(TypeError, match="`problem`"):
        qs.solve_exactly([problem, None])
    with pytest.raises(TypeError) as raised:
        qs.solve_exactly([problem, problem, None])
    assert "number 2 in the list" in raised.value.__notes__[0]
    with pytest.raises(ValueError, match="`checkpoint` is for one problem"):
        qs.solve_exactly([problem], checkpoint="search.npz")
    with pytest.raises(ValueError, match="`kind`"):
        qs.certify(problem, result.network, kind="sharp")
    with pytest.raises(ValueError, match="`dual`"):
        qs.certify(problem, result.network, dual=jnp.zeros(3))
    wide = qs.QuantizedNetwork.from_weights(np.ones((1, 27)), np.ones((1, 27)), np.zeros(1))
    alike = qs.Problem(np.ones((3, 27)), np.ones(3), 1.0)  # as one feature of weights −27 to 27
    assert qs.certify(alike, wide, kind="combinatorial").kind == "combinatorial"
    assert float(qs.solve_exactly(alike).certificate.gap) <= 1e-6
    with pytest.raises(ValueError, match="outside"):
        jax.jit(lambda p: qs.certify(p, result.network, kind="combinatorial"))(problem)


def test_repr_and_plot():
    _, result = solved(0)
    assert "combinatorial bound" in repr(result)
    assert "rounds" in repr(result)
    assert len(result.plot().get_lines()) == 2


@pytest.mark.parametrize("name", ["columns very far apart", "no noise"])
def test_ends_where_float64_does(name):
    """Factorizations that fail end the refinement, not the call; what is proven stays true."""
    case = planted(0, *SMALL, noise=0.1 if name == "columns very far apart" else 0.0)
    scale = 10.0 ** np.arange(-6, 6, 2.5) if name == "columns very far apart" else np.ones(5)
    problem = qs.Problem(case.X * scale, case.y, 1.0 if name == "columns very far apart" else 1e-6)
    solution = qs.solve(problem, throw=False)
    result = qs.solve_exactly(problem, solution=solution)
    certificate = result.certificate
    assert 0 <= float(certificate.lower_bound) <= float(certificate.objective) < np.inf
    _, above = brute_force(problem.X, problem.y, problem.beta)
    assert float(certificate.lower_bound) <= above * (1 + 1e-9)


def test_closed_over_data_inside_jit():
    data, result = solved(0)
    problem, network = problem_of(data, np.float64), result.network
    inside = jax.jit(lambda t: t * qs.certify(problem, network).lower_bound)(1.0)
    np.testing.assert_allclose(inside, qs.certify(problem, network).lower_bound, rtol=1e-12)
    again = jax.jit(lambda t: t * qs.solve_exactly(problem).certificate.objective)(1.0)
    np.testing.assert_allclose(again, result.certificate.objective, rtol=1e-9)
