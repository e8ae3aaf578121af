"""Rounding: the distribution of the neurons, and what holds for every single draw."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lane, problem_of, stack
from problems import SMALL, planted

import jaxqsdp as qs
from jaxqsdp._solver.lasso import lasso

GAMMA = np.arcsinh(1)
K = np.pi / (2 * GAMMA)
NUM_NEURONS = 40
MANY = 100_000
KEY = jax.random.key(0)


def weighted(seed, **fields):
    """Return a small problem whose samples have weights, one of them zero."""
    weight = np.arange(SMALL[0]) / 8.0
    return dataclasses.replace(planted(seed, *SMALL), weight=weight, **fields)


@functools.cache
def solved(dtype, seed=0):
    problem = problem_of(weighted(seed), dtype)
    return problem, qs.solve(problem)


@functools.cache
def solved_outputs(dtype):
    """Three outputs that share X; the middle one is zero, so its ρ is too."""
    X = planted(0, *SMALL).X
    y = np.column_stack([2 * planted(0, *SMALL).y, 0 * X[:, 0], planted(1, *SMALL).y])
    problem = qs.Problem(X.astype(dtype), y.astype(dtype), np.array([0.5, 0.5, 0.4], dtype))
    return problem, qs.solve(problem)


def draw(problem, solution, key=KEY, num_neurons=NUM_NEURONS, refit=True):
    return qs.round(problem, solution, num_neurons=num_neurons, key=key, refit=refit)


def covariance(form, block, scale):
    """Return S = [[sinh γV/ρ, sin γZ/ρ], [sin γZ/ρ, sinh γV/ρ]]."""
    form, block = (np.asarray(a, float) / float(scale) for a in (form, block))
    within, across = np.sinh(GAMMA * block), np.sin(GAMMA * form)
    return np.block([[within, across], [across, within]])


def assert_same_signs(network, other):
    np.testing.assert_array_equal(network.packed_u, other.packed_u)
    np.testing.assert_array_equal(network.packed_v, other.packed_v)


def assert_same(problem, network, other, tolerance=1e-5):
    """Equal neurons, and output weights that are equal as far as they are unique."""
    assert_same_signs(network, other)
    features = (problem.X @ network.u.T) * (problem.X @ network.v.T)
    assert_same_fit(features, network.alpha, other.alpha, tolerance)


def assert_same_fit(features, alpha, other, tolerance):
    """Equal predictions and penalty: all that is unique where neurons depend on each other."""
    expected = features @ other
    size = np.abs(expected).max()
    np.testing.assert_allclose(features @ alpha, expected, atol=tolerance * size)
    penalty = np.abs(other).sum(axis=0)
    np.testing.assert_allclose(np.abs(alpha).sum(axis=0), penalty, rtol=tolerance)


def assert_moments(u, v, form, block, scale):
    """Compare the moments of signs with those of sign(N(0, S)), and Kρ·u vᵀ with Z.

    The mean of m signs of mean μ has the standard error √((1 − μ²)/m).
    """
    moments = np.hstack([u, v]).T @ np.hstack([u, v]) / len(u)
    expected = 2 / np.pi * np.arcsin(np.clip(covariance(form, block, scale), -1, 1))
    error = np.sqrt(np.maximum(1 - expected**2, 0) / len(u))
    assert np.all(np.abs(moments - expected) <= 5 * error + 1e-6)
    d = u.shape[1]
    scale, form = float(scale), np.asarray(form, float)
    mean, error = K * scale * moments[:d, d:], K * scale * error[:d, d:]
    assert np.all(np.abs((mean + mean.T) / 2 - form) <= 5 * error + 1e-6 * scale)
    # The bound would notice a network without Krivine's transformation.
    naive = 2 / np.pi * np.arcsin(form / scale) * K * scale
    assert np.any(np.abs(naive - form) > 10 * error)


def test_constant():
    assert pytest.approx(1.7822139781913691, rel=1e-15) == qs.KRIVINE_CONSTANT
    assert pytest.approx(K, rel=1e-15) == qs.KRIVINE_CONSTANT


def test_covariance_is_one(dtype):
    """S is positive semidefinite with unit diagonal, to rounding."""
    _, solution = solved(dtype)
    S = covariance(solution.quadratic_form, solution.block, solution.scale)
    np.testing.assert_allclose(np.diag(S), 1, rtol=0, atol=4 * np.finfo(float).eps)
    assert np.linalg.eigvalsh(S)[0] >= -8 * np.finfo(dtype).eps * len(S)


def test_is_unbiased(dtype):
    """The mean over many neurons is xᵀZx, within five standard errors."""
    problem, solution = solved(dtype)
    network = draw(problem, solution, num_neurons=MANY, refit=False)
    u, v = np.asarray(network.u, float), np.asarray(network.v, float)
    assert_moments(u, v, solution.quadratic_form, solution.block, solution.scale)
    scale = float(solution.scale)
    np.testing.assert_allclose(network.alpha, K * scale / MANY, rtol=8 * np.finfo(dtype).eps)
    X = np.asarray(problem.X, float)
    contributions = K * scale * (X @ u.T) * (X @ v.T)
    expected = np.einsum("ni,ij,nj->n", X, np.asarray(solution.quadratic_form, float), X)
    error = contributions.std(axis=1) / np.sqrt(MANY)
    assert np.all(np.abs(contributions.mean(axis=1) - expected) <= 5 * error)


def test_outputs_share_neurons_by_scale(dtype):
    """α = Kρ/m_k on the m_k neurons of output k, m_k within one of its share, zero elsewhere."""
    problem, solution = solved_outputs(dtype)
    network = draw(problem, solution, num_neurons=MANY, refit=False)
    alpha, scale = np.asarray(network.alpha, float), np.asarray(solution.scale, float)
    assert alpha.shape == (MANY, 3)
    assert scale[1] == 0
    owned = alpha != 0
    count = owned.sum(axis=0)
    assert np.all(owned.sum(axis=1) == 1)
    rounding = MANY * np.finfo(dtype).eps
    assert np.all(np.abs(count - MANY * scale / scale.sum()) <= 1 + rounding)
    u, v = np.asarray(network.u, float), np.asarray(network.v, float)
    for k in (0, 2):
        np.testing.assert_allclose(
            alpha[owned[:, k], k], K * scale[k] / count[k], rtol=8 * np.finfo(dtype).eps
        )
        own = (solution.quadratic_form[k], solution.block[k], scale[k])
        assert_moments(u[owned[:, k]], v[owned[:, k]], *own)


def test_refit_lets_every_output_use_every_neuron(dtype):
    problem, solution = solved_outputs(dtype)
    plain, refit = (draw(problem, solution, refit=choice) for choice in (False, True))
    assert_same_signs(plain, refit)
    alpha = np.asarray(refit.alpha)
    assert alpha.shape == (NUM_NEURONS, 3)
    assert np.all(alpha[:, 1] == 0)
    for k in (0, 2):
        assert np.any(alpha[np.asarray(plain.alpha)[:, k] == 0, k] != 0)
        column = dataclasses.replace(problem, y=problem.y[:, k], beta=problem.beta[k])
        separate = [
            dataclasses.replace(network, alpha=network.alpha[:, k]) for network in (refit, plain)
        ]
        assert column.objective(separate[0]) < column.objective(separate[1])
    assert problem.objective(refit) < problem.objective(plain)


@pytest.mark.parametrize("name", ["planted", "outputs"])
def test_refit_is_never_above_plain(name, dtype):
    problem, solution = solved(dtype) if name == "planted" else solved_outputs(dtype)
    for seed in range(5):
        key = jax.random.key(seed)
        plain, refit = (draw(problem, solution, key, refit=choice) for choice in (False, True))
        assert_same_signs(plain, refit)
        assert plain.num_neurons == refit.num_neurons == NUM_NEURONS
        assert plain.alpha.dtype == refit.alpha.dtype == dtype
        assert problem.objective(refit) < problem.objective(plain)
        assert problem.objective(refit) >= solution.total_lower_bound


def test_refit_is_the_lasso_of_its_neurons(dtype):
    problem, solution = solved(dtype)
    network = draw(problem, solution)
    features = (problem.X @ network.u.T) * (problem.X @ network.v.T)
    beta = jnp.reshape(problem.beta, (1,))
    alpha = jax.jit(lasso)(features, problem.y[:, None], problem.weight, beta)[:, 0]
    tolerance = 1e-3 if dtype == np.float32 else 1e-6
    assert_same_fit(features, network.alpha, alpha, tolerance)
    # No more neurons than needed, though many of them are the same.
    assert np.count_nonzero(network.alpha) <= np.linalg.matrix_rank(features) + 1


@pytest.mark.parametrize("scale", [1e100, 1e130, 1e150])
def test_refit_where_the_penalty_is_far_below_rounding(scale):
    """Neither an overflow nor a network worse than none; α is at the edge of what float64 holds."""
    data = planted(0, *SMALL)
    problem = qs.Problem(data.X * scale, data.y, 1.0)
    signs = np.random.default_rng(0).choice([-1.0, 1.0], (2, 10, SMALL[1]))
    network = qs.refit(problem, qs.QuantizedNetwork.from_weights(*signs, np.ones(10)))
    columns = (data.X @ signs[0].T) * (data.X @ signs[1].T)
    fitted = columns @ np.linalg.lstsq(columns, data.y, rcond=None)[0]
    least = 0.5 * np.sum((fitted - data.y) ** 2)
    np.testing.assert_allclose(float(problem.objective(network)), least, rtol=1e-6)


@pytest.mark.parametrize("num_neurons", [1, 2])
def test_few_neurons(num_neurons):
    problem, solution = solved(np.float64)
    for refit in (False, True):
        network = draw(problem, solution, num_neurons=num_neurons, refit=refit)
        assert network.num_neurons == num_neurons
        assert network.alpha.shape == (num_neurons,)


def test_nothing_to_draw(dtype):
    """ρ = 0, where V/ρ and Z/ρ do not exist."""
    problem = problem_of(weighted(0, beta=1e4), dtype)
    solution = qs.solve(problem)
    assert solution.scale == 0
    for refit in (False, True):
        network = draw(problem, solution, refit=refit)
        assert network.num_neurons == NUM_NEURONS
        np.testing.assert_array_equal(network.alpha, 0)
        for signs in (network.u, network.v):
            np.testing.assert_array_equal(np.abs(signs), 1)
            assert len(np.unique(signs)) == 2


def test_keys_decide():
    problem, solution = solved(np.float64)
    network = draw(problem, solution)
    again = draw(problem, solution, jax.random.key(0))
    assert_same_signs(network, again)
    np.testing.assert_array_equal(network.alpha, again.alpha)
    legacy = draw(problem, solution, jax.random.PRNGKey(0))
    assert_same_signs(network, legacy)
    np.testing.assert_array_equal(network.alpha, legacy.alpha)
    others = [draw(problem, solution, key) for key in jax.random.split(KEY, 3)]
    packed = {np.asarray(one.packed_u).tobytes() for one in (network, *others)}
    assert len(packed) == 4
    assert not np.array_equal(network.u, network.v)


@pytest.mark.thorough(dtype=(np.float64,))
def test_power_of_two_units_draw_the_same_neurons(dtype):
    """(aX, by, a²bβ) has Z and α smaller by a²/b, to the last bit of one program."""
    problem, _ = solved(dtype)
    solve = jax.jit(qs.solve)
    solution = solve(problem)
    a, b = dtype(2.0**12), dtype(2.0**-9)
    changed = dataclasses.replace(
        problem, X=a * problem.X, y=b * problem.y, beta=a * a * b * problem.beta
    )
    for refit in (False, True):
        network = draw(problem, solution, refit=refit)
        other = draw(changed, solve(changed), refit=refit)
        assert_same_signs(network, other)
        np.testing.assert_array_equal(other.alpha, network.alpha * (b / a / a))


@pytest.mark.parametrize("refit", [False, True], ids=["plain", "refit"])
def test_jit(refit, dtype):
    problem, solution = solved(dtype)
    network = jax.jit(functools.partial(draw, refit=refit))(problem, solution, KEY)
    tolerance = 1e-3 if dtype == np.float32 else 1e-5
    assert_same(problem, network, draw(problem, solution, refit=refit), tolerance)


def test_vmap_over_keys():
    problem, solution = solved(np.float64)
    keys = jax.random.split(KEY, 4)
    batch = jax.vmap(lambda key: draw(problem, solution, key))(keys)
    assert batch.alpha.shape == (4, NUM_NEURONS)
    for index, key in enumerate(keys):
        assert_same(problem, lane(batch, index), draw(problem, solution, key))


@pytest.mark.parametrize("outputs", [False, True], ids=["scalar", "three outputs"])
def test_vmap_over_problems(outputs):
    pairs = [solved(np.float64, seed) for seed in range(2)]
    if outputs:
        problem, _ = solved_outputs(np.float64)
        problems = [problem, dataclasses.replace(problem, y=problem.y[::-1])]
        pairs = [(problem, qs.solve(problem)) for problem in problems]
    problems, solutions = zip(*pairs, strict=True)
    keys = jax.random.split(KEY, 2)
    batch = jax.jit(jax.vmap(draw))(stack(problems), stack(solutions), keys)
    for index, (problem, solution) in enumerate(pairs):
        assert_same(problem, lane(batch, index), draw(problem, solution, keys[index]))


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(0, id="int"),
        pytest.param(None, id="None"),
        pytest.param("0", id="str"),
        pytest.param(np.uint32(0), id="scalar"),
        pytest.param(np.zeros(2), id="float"),
        pytest.param(np.zeros(2, np.int32), id="int32"),
        pytest.param(np.zeros(3, np.uint32), id="three words"),
        pytest.param(jax.random.split(KEY, 2), id="typed keys"),
        pytest.param(jax.random.split(jax.random.PRNGKey(0), 2), id="uint32 keys"),
    ],
)
def test_refuses_what_is_not_one_key(key):
    with pytest.raises(TypeError, match="`key`"):
        draw(*solved(np.float64), key)


@pytest.mark.parametrize("num_neurons", [0, -1, 1.0, True, "3", None], ids=repr)
def test_refuses_what_is_not_a_number_of_neurons(num_neurons):
    with pytest.raises(ValueError, match="`num_neurons` must be a positive integer"):
        draw(*solved(np.float64), num_neurons=num_neurons)


def test_refuses_the_solution_of_another_problem():
    problem, _ = solved(np.float64)
    _, other = solved_outputs(np.float64)
    with pytest.raises(ValueError, match=r"`solution` is for y of shape \(24, 3\)"):
        draw(problem, other)
