"""Alphabets of more than one bit: what they are, how they are stored, and what searches find."""

import fractions
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import planted

import jaxqsdp as qs
from jaxqsdp._bound.objective import objective_above
from jaxqsdp._search import kicks

KEY = jax.random.key(5)
from_weights = qs.QuantizedNetwork.from_weights

ALPHABETS = {
    "one bit": (qs.Levels(), [-1, 1], 1),
    "ternary": (qs.Levels.ternary(), [-1, 0, 1], 8 / 5),
    "two bits": (qs.Levels(bits=2), [-1, -1 / 3, 1 / 3, 1], 2),
    "three bits": (qs.Levels(bits=3), np.arange(-7, 8, 2) / 7, 3),
    "four bits": (qs.Levels(bits=4), np.arange(-15, 16, 2) / 15, 4),
    "five levels": (qs.Levels(coefficients=(2, 1, 1)), [-1, -0.5, 0, 0.5, 1], 8 / 3),
    "odd": (qs.Levels(coefficients=(0.7, 0.2)), [-1, -5 / 9, 5 / 9, 1], 2),
    "nine levels": (qs.Levels(coefficients=[1] * 8), np.arange(-4, 5) / 4, 4),
}
SEVERAL = [name for name in ALPHABETS if name != "one bit"]


@pytest.fixture(params=ALPHABETS)
def alphabet(request):
    return ALPHABETS[request.param]


def test_levels_are_the_sums_and_the_largest_is_one(alphabet):
    levels, values, bits = alphabet
    np.testing.assert_allclose(levels.values, values, rtol=0, atol=1e-15)
    assert (levels.values[0], levels.values[-1]) == (-1, 1)
    np.testing.assert_array_equal(levels.values, -levels.values[::-1])
    assert sum(levels.coefficients) == pytest.approx(1, rel=1e-15)
    np.testing.assert_allclose(levels.signs @ levels.coefficients, values, rtol=0, atol=1e-15)
    assert levels.bits == bits
    assert eval(repr(levels), {"Levels": qs.Levels}).count == levels.count


def test_equal_alphabets_are_equal():
    assert qs.Levels() == qs.Levels(1) == qs.Levels(bits=1) == qs.Levels(coefficients=[3.0])
    assert qs.Levels(bits=2) == qs.Levels(coefficients=(1, 2)) == qs.Levels(coefficients=(-4, 2))
    assert qs.Levels.ternary() == qs.Levels(coefficients=(1, 1)) != qs.Levels(bits=2)
    assert len({qs.Levels(), qs.Levels(bits=1), qs.Levels.ternary()}) == 2


@pytest.mark.parametrize("d", [1, 5, 8, 13])
def test_packing_loses_nothing(alphabet, d, dtype):
    levels, _, bits = alphabet
    rng = np.random.default_rng(d)
    weights = levels.values[rng.integers(0, levels.count, (2, 6, d))].astype(dtype)
    alpha = np.ones(6, dtype)
    network = from_weights(*weights, alpha, levels=levels)
    traced = jax.jit(lambda u, v: from_weights(u, v, alpha, levels=levels))(*weights)
    for one in (network, traced):
        np.testing.assert_array_equal(one.u, weights[0])
        np.testing.assert_array_equal(one.v, weights[1])
    digits = bits % 1
    row = 8 * -(-d // round(8 / bits)) if digits else d * int(bits)
    assert network.num_bits == 2 * 6 * row
    assert network.packed_u.shape == (6, -(-row // 8))
    assert network.total_bits == network.num_bits + 6 * 8 * dtype().itemsize
    x = rng.standard_normal(d).astype(dtype)
    wide = weights.astype(float) @ x.astype(float)
    expected, size = np.sum(wide[0] * wide[1]), np.sum(np.abs(x)) ** 2 * 6
    assert abs(float(network(x)) - expected) <= 4 * (d + 6) * np.finfo(dtype).eps * size
    assert not levels.has_rest(np.asarray(network.packed_u), d)


@pytest.mark.parametrize("name", ["ternary", "five levels", "three bits"])
def test_what_no_weights_pack_to_is_noticed(name):
    levels, d = ALPHABETS[name][0], 3
    packed = {bytes(levels.pack(np.array(row, np.uint8))) for row in indices(levels.count, d)}
    size = levels.bytes_for(d)
    for word in range(2 ** (8 * size)):
        some = word.to_bytes(size, "big")
        assert levels.has_rest(np.frombuffer(some, np.uint8)[None], d) == (some not in packed)


def indices(count, d):
    return itertools.product(range(count), repeat=d)


@pytest.mark.parametrize("name", SEVERAL)
def test_signs_for_lifted_features_make_the_weights(name, dtype):
    levels = ALPHABETS[name][0]
    weights = np.random.default_rng(0).choice(levels.values, (4, 3, 7)).astype(dtype)
    signs = levels.to_signs(weights)
    assert signs.dtype == dtype
    assert set(np.unique(signs)) == {-1, 1}
    X = np.random.default_rng(1).standard_normal((5, 7))
    lifted = np.concatenate([c * X for c in levels.coefficients], axis=1)
    np.testing.assert_allclose(signs @ lifted.T, weights @ X.T, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(levels.from_signs(signs), weights, rtol=0, atol=1e-6)


def test_bad_alphabets_are_refused():
    for wrong in ({"bits": 0}, {"bits": 9}, {"bits": 1.5}, {"bits": True}):
        with pytest.raises(ValueError, match="`bits`"):
            qs.Levels(**wrong)
    for wrong in ([], [1] * 9, [1, 0], [1, np.inf], [np.nan], [1, 1e-13], [1e308, 5e-324]):
        with pytest.raises(ValueError, match="`coefficients`"):
            qs.Levels(coefficients=wrong)
    for wrong in (3.0, ["a"], [None]):
        with pytest.raises(TypeError, match="`coefficients`"):
            qs.Levels(coefficients=wrong)
    with pytest.raises(ValueError, match="give one"):
        qs.Levels(2, coefficients=(1, 1))
    with pytest.raises(TypeError, match="`levels`"):
        qs.Problem(np.eye(3), np.ones(3), 1.0, levels=2)
    with pytest.raises(ValueError, match=r"levels of Levels\.ternary\(\)"):
        from_weights([[0.5]], [[1.0]], [1.0], levels=qs.Levels.ternary())
    with pytest.raises(ValueError, match="say of what `levels`"):
        from_weights([[0.0]], [[1.0]], [1.0])


def test_networks_without_neurons(alphabet, tmp_path):
    levels = alphabet[0]
    nothing = from_weights(np.zeros((0, 4)), np.zeros((0, 4)), np.zeros(0), levels=levels)
    assert nothing.u.shape == (0, 4)
    assert (nothing.num_bits, float(nothing(np.ones(4)))) == (0, 0)
    again = qs.QuantizedNetwork.load(nothing.save(tmp_path / "network.npz"))
    assert eqx.tree_equal(again, nothing)
    case = planted(1, 40, 4)
    large = qs.Problem(case.X, case.y, 1e5, levels=levels)
    assert qs.solve_exactly(large).network.num_neurons == 0
    if len(levels.coefficients) <= 4:
        assert nothing.to_polynomial(1.0, 0.5).num_neurons == 0


def test_any_levels_come_back_from_files_as_they_were():
    rng = np.random.default_rng(0)
    for _ in range(300):
        levels = qs.Levels(coefficients=rng.uniform(0.01, 1, rng.integers(1, 6)))
        assert qs.Levels(coefficients=levels.coefficients) == levels
        assert levels.values[-1] == 1


def test_files_hold_levels(alphabet, tmp_path):
    levels = alphabet[0]
    u, v = np.random.default_rng(0).choice(levels.values, (2, 3, 7))
    network = from_weights(u, v, [1.0, 2, 3], levels=levels)
    again = qs.QuantizedNetwork.load(network.save(tmp_path / "network.npz"))
    assert eqx.tree_equal(again, network)
    assert (f"{levels!r}" in repr(again)) == (levels != qs.Levels())


def exact_objective(X, y, beta, u, v, alpha):
    """Return the objective in rational numbers."""
    X, u, v = (np.vectorize(fractions.Fraction, otypes=[object])(a) for a in (X, u, v))
    alpha = [fractions.Fraction(a) for a in alpha.tolist()]
    outputs = ((X @ u.T) * (X @ v.T)) @ np.array(alpha, object)
    misfit = [a - fractions.Fraction(b) for a, b in zip(outputs, y.tolist(), strict=True)]
    return sum(r * r for r in misfit) / 2 + fractions.Fraction(beta) * sum(map(abs, alpha))


@pytest.mark.parametrize("name", ["ternary", "two bits", "odd"])
def test_objective_above_is_above(name, dtype):
    """In exact arithmetic, of the weights as they are rounded; also where it is next to zero."""
    levels, rng = ALPHABETS[name][0], np.random.default_rng(0)
    for index in range(20):
        X = rng.standard_normal((4, 5)).astype(dtype)
        u, v = rng.choice(levels.values, (2, 3, 5)).astype(dtype)
        alpha = rng.standard_normal(3).astype(dtype)
        network = from_weights(u, v, alpha, levels=levels)
        y = np.asarray(jax.vmap(network)(X))
        y = y if index % 2 else y + rng.standard_normal(4).astype(dtype)
        problem = qs.Problem(X, y, dtype(1e-3), levels=levels)
        above = jax.jit(objective_above)(problem, network)
        arrays = (np.asarray(a, np.float64) for a in (X, y, problem.beta, u, v, alpha))
        X64, y64, beta64, *weights = arrays
        assert fractions.Fraction(float(above)) >= exact_objective(
            X64, y64, float(beta64), *weights
        )


@pytest.mark.parametrize("name", ["two bits", "three bits"])
def test_the_certificate_is_of_the_levels_themselves(name):
    """And not of what float32 makes of 1/3."""
    levels, rng = ALPHABETS[name][0], np.random.default_rng(0)
    exact = [
        fractions.Fraction(round(v * (levels.count - 1)), levels.count - 1) for v in levels.values
    ]
    for _ in range(10):
        places = rng.integers(0, levels.count, (2, 3, 5))
        u, v = (np.array(exact, object)[place] for place in places)
        X = rng.standard_normal((4, 5)).astype(np.float32)
        alpha = rng.standard_normal(3).astype(np.float32)
        network = from_weights(*levels.values[places].astype(np.float32), alpha, levels=levels)
        y = np.asarray(jax.vmap(network)(X))
        problem = qs.Problem(X, y, np.float32(1e-12), levels=levels)
        data = (np.asarray(a, np.float64) for a in (X, y))
        least = exact_objective(*data, float(problem.beta), u, v, alpha.astype(float))
        for certify in (qs.certify, jax.jit(qs.certify)):
            assert fractions.Fraction(float(certify(problem, network).objective)) >= least


def problem_with(levels, dtype=np.float64):
    case = planted(1, 40, 5)
    return qs.Problem(case.X.astype(dtype), case.y.astype(dtype), 0.3, levels=levels)


def searched(problem, max_neurons=3):
    solution = qs.solve(problem)
    drawn = qs.round(problem, solution, num_neurons=max_neurons, key=KEY)
    options = {"max_neurons": max_neurons, "key": KEY, "num_starts": 4, "num_steps": 200}
    return solution, drawn, qs.improve(problem, drawn, solution=solution, **options)


@pytest.mark.parametrize("name", ["ternary", "two bits"])
def test_searches_find_networks_of_levels(name, dtype):
    levels = ALPHABETS[name][0]
    problem = problem_with(levels, dtype)
    solution, drawn, found = searched(problem)
    assert drawn.levels == found.levels == levels
    assert levels.holds(np.asarray(found.u))
    assert found.num_neurons <= 3
    assert found.alpha.dtype == dtype
    assert len(np.unique(np.abs(found.u))) > 1  # not ±1 only
    one_bit = problem_with(None, dtype)
    few = searched(one_bit)[2]
    assert problem.objective(found) < 0.95 * one_bit.objective(few)
    assert qs.certify(problem, found, solution).gap > 0
    # The bound knows of no levels.
    assert eqx.tree_equal(qs.solve(one_bit), solution)


@pytest.mark.parametrize("loss", [qs.LogisticLoss(), qs.HuberLoss(0.5)])
def test_searches_over_levels_under_other_losses(loss):
    case = planted(1, 40, 5)
    y = np.sign(case.y) if isinstance(loss, qs.LogisticLoss) else case.y
    objectives = []
    for levels in (None, qs.Levels(bits=2)):
        problem = qs.Problem(case.X, y, 0.3, loss, levels=levels)
        _, drawn, found = searched(problem, 2)
        assert problem.objective(found) <= problem.objective(drawn)
        objectives.append(float(problem.objective(found)))
    assert objectives[1] < objectives[0]


def test_searches_over_levels_of_several_outputs():
    case, levels = planted(1, 40, 5), qs.Levels.ternary()
    y = np.column_stack([case.y, case.y[::-1]])
    problem = qs.Problem(case.X, y, 0.3, levels=levels)
    _, drawn, found = searched(problem, 4)
    assert found.alpha.shape == (found.num_neurons, 2)
    assert problem.objective(found) <= problem.objective(drawn)
    labels = np.argmax(y, axis=1) + (np.abs(case.X[:, 0]) < 0.3)
    coupled = qs.Problem(case.X, labels, 0.3, qs.SoftmaxLoss(), levels=levels)
    _, drawn, found = searched(coupled, 2)
    assert found.levels == levels
    assert coupled.objective(found) <= coupled.objective(drawn)


def test_improve_takes_networks_of_levels_that_the_problem_has():
    problem = problem_with(qs.Levels(bits=2))
    one_bit = searched(problem_with(None))[2]
    options = {"max_neurons": 3, "key": KEY, "num_starts": 2, "num_steps": 50}
    better = qs.improve(problem, one_bit, **options)
    assert better.levels == problem.levels
    assert problem.objective(better) <= problem.objective(one_bit)
    ternary = from_weights([[1.0, 0, 0, 0, 1]], [[1.0] * 5], [1.0], levels=qs.Levels.ternary())
    assert qs.certify(problem, ternary).gap > 0  # any network can be judged
    with pytest.raises(ValueError, match=r"not all among the Levels\(bits=2\)"):
        qs.improve(problem, ternary, **options)


def test_searches_over_a_hundred_levels_and_more(monkeypatch):
    monkeypatch.setattr(kicks, "_MOST_KICKS", 1)
    problem = problem_with(qs.Levels(bits=8))
    _, drawn, found = searched(problem, 1)
    assert found.num_bits == 2 * 5 * 8
    assert problem.objective(found) < problem.objective(drawn)


def test_rounding_under_transforms_is_that_on_the_host():
    problem = problem_with(qs.Levels(bits=3))
    solution = qs.solve(problem)

    def rounded(key, refit):
        return qs.round(problem, solution, num_neurons=4, key=key, refit=refit)

    for refit in (True, False):
        network = rounded(KEY, refit)
        traced = jax.jit(rounded, static_argnums=1)(KEY, refit)
        np.testing.assert_array_equal(network.packed_u, traced.packed_u)
        np.testing.assert_allclose(network.alpha, traced.alpha, rtol=1e-6, atol=1e-9)
        batch = jax.vmap(lambda key, refit=refit: rounded(key, refit))(jax.random.split(KEY, 2))
        assert batch.u.shape == (2, 4, 5)
    # What the paper draws, unbiased, are signs, whatever the levels.
    plain = qs.round(problem_with(None), solution, num_neurons=4, key=KEY, refit=False)
    np.testing.assert_array_equal(rounded(KEY, False).u, plain.u)


def test_global_optima_are_those_of_signs():
    plain, levelled = (qs.solve_exactly(problem_with(some)) for some in (None, qs.Levels(bits=2)))
    np.testing.assert_allclose(
        levelled.certificate.objective, plain.certificate.objective, rtol=1e-9
    )
    assert levelled.network.levels == qs.Levels(bits=2)


def test_fit_and_batches_take_levels():
    case = planted(0, 40, 5)
    fit = qs.fit(
        case.X, case.y, beta=0.5, num_neurons=2, key=KEY, levels=qs.Levels(bits=2), improve=False
    )
    assert fit.network.levels == fit.problem.levels == qs.Levels(bits=2)
    assert "Levels(bits=2)" in repr(fit.problem)
    assert fit.problem.at(0.7).levels == qs.Levels(bits=2)
    stacked = jax.vmap(lambda y: qs.Problem(case.X, y, 0.5, levels=qs.Levels(bits=2)))(
        jnp.stack([case.y, -case.y])
    )
    assert qs.solve_batch(stacked, progress=False).value.shape == (2,)
    some = [problem_with(levels) for levels in (None, qs.Levels(bits=2), qs.Levels.ternary())]
    values = [solution.value for solution in qs.solve_batch(some, progress=False)]
    assert values[0] == values[1] == values[2]
