"""Everything in one call is nothing but the chain."""

import functools

import equinox as eqx
import jax
import numpy as np
import pytest
from problems import SMALL, planted
from referee import brute_force

import jaxqsdp as qs

KEY = jax.random.key(7)
NUM_NEURONS = 30


@functools.cache
def data(dtype):
    case = planted(4, *SMALL).astype(dtype)
    return case.X, case.y, np.arange(SMALL[0]) % 3


@functools.cache
def fitted(dtype, refit=True, improve=None):
    X, y, weight = data(dtype)
    return qs.fit(
        X,
        y,
        beta=dtype(0.5),
        num_neurons=NUM_NEURONS,
        key=KEY,
        sample_weight=weight.astype(dtype),
        refit=refit,
        improve=improve,
    )


@pytest.mark.parametrize(
    ("refit", "improve"),
    [(False, None), (True, False), (True, None)],
    ids=["plain", "refit", "improve"],
)
def test_equals_the_chain(refit, improve, dtype):
    X, y, weight = data(dtype)
    result = fitted(dtype, refit, improve)
    problem = qs.Problem(X, y, dtype(0.5), sample_weight=weight.astype(dtype))
    solution = qs.solve(problem)
    network = qs.round(problem, solution, num_neurons=NUM_NEURONS, key=KEY, refit=refit).prune()
    rounded = problem.objective(network)
    if refit and improve is None:
        key = jax.random.fold_in(KEY, 1)
        network = qs.improve(problem, network, max_neurons=NUM_NEURONS, key=key, solution=solution)
        assert problem.objective(network) < rounded
    assert eqx.tree_equal(result.problem, problem)
    assert eqx.tree_equal(result.solution, solution)
    assert eqx.tree_equal(result.network, network)
    assert eqx.tree_equal(result.certificate, qs.certify(problem, network, solution))
    assert (result.network.num_neurons < NUM_NEURONS) == refit


def test_refuses_to_be_traced():
    X, y, _ = data(np.float64)

    @jax.jit
    def trained(X):
        return qs.fit(X, y, beta=0.5, num_neurons=4, key=KEY).network

    with pytest.raises(ValueError, match="`fit` prunes the network"):
        trained(X)


def test_improving_refits():
    X, y, _ = data(np.float64)
    with pytest.raises(ValueError, match="`improve=True`"):
        qs.fit(X, y, beta=0.5, num_neurons=3, key=KEY, refit=False, improve=True)


def test_encloses_the_optimum(dtype):
    X, y, weight = data(dtype)
    result = fitted(dtype)
    lowest, highest = brute_force(X, y, 0.5, weight)
    certificate = result.certificate
    assert float(certificate.lower_bound) <= highest
    assert float(certificate.objective) >= lowest
    assert 0 < certificate.gap < 0.5
    rtol = 1e-5 if dtype == np.float32 else 1e-12
    objective = result.problem.objective(result.network)
    np.testing.assert_allclose(certificate.objective, objective, rtol=rtol)
    # The same from predictions and α alone.
    misfit = np.asarray(jax.vmap(result.network)(X), float) - y
    loss = 0.5 * np.sum(weight * misfit**2)
    penalty = 0.5 * np.abs(np.asarray(result.network.alpha, float)).sum()
    np.testing.assert_allclose(certificate.objective, loss + penalty, rtol=rtol)
    assert result.network.alpha.dtype == certificate.gap.dtype == dtype


def test_same_seed_same_network(dtype):
    X, y, weight = data(dtype)
    arguments = {"beta": 0.5, "num_neurons": NUM_NEURONS, "sample_weight": weight.astype(dtype)}
    again = qs.fit(X, y, key=jax.random.key(7), **arguments)
    assert eqx.tree_equal(again, fitted(dtype))
    other = qs.fit(X, y, key=jax.random.key(8), **arguments)
    assert not eqx.tree_equal(other.network, fitted(dtype).network)
    assert eqx.tree_equal(other.solution, fitted(dtype).solution)


def test_weights_are_repeated_rows():
    """Weights 0, 1, 2 of samples are samples that occur so often."""
    X, y, weight = data(np.float64)
    result = fitted(np.float64)
    repeated = qs.fit(
        np.repeat(X, weight, axis=0),
        np.repeat(y, weight),
        beta=0.5,
        num_neurons=NUM_NEURONS,
        key=KEY,
    )
    np.testing.assert_allclose(repeated.solution.value, result.solution.value, rtol=1e-6)
    certificates = repeated.certificate, result.certificate
    np.testing.assert_allclose(certificates[0].lower_bound, certificates[1].lower_bound, rtol=2e-6)
    # One network has the same objective for both, and either proof holds for both.
    for network in (repeated.network, result.network):
        objectives = [one.problem.objective(network) for one in (repeated, result)]
        np.testing.assert_allclose(*objectives, rtol=1e-12)
    assert repeated.certificate.lower_bound <= result.certificate.objective
    assert result.certificate.lower_bound <= repeated.certificate.objective


def test_options_reach_their_functions():
    X, y, weight = data(np.float64)
    arguments = {"beta": 0.5, "num_neurons": NUM_NEURONS, "key": KEY, "sample_weight": weight}
    with pytest.raises(qs.SolveError):
        qs.fit(X, y, **arguments, max_steps=1)
    loose = qs.fit(X, y, **arguments, solver=qs.InteriorPoint(tol=0.1, tol_residual=0.1))
    assert loose.solution.stats.num_steps < fitted(np.float64).solution.stats.num_steps
    assert eqx.tree_equal(qs.fit(X, y, **arguments, loss=qs.SquaredLoss()), fitted(np.float64))
    with pytest.raises(TypeError, match="`loss`"):
        qs.fit(X, y, **arguments, loss="squared")
    with pytest.raises(TypeError, match="`key`"):
        qs.fit(X, y, **{**arguments, "key": 0})


def test_penalty_that_leaves_no_neuron(dtype):
    """The zero network is optimal, and proven so."""
    X, y, weight = data(dtype)
    result = qs.fit(
        X, y, beta=1e4, num_neurons=NUM_NEURONS, key=KEY, sample_weight=weight.astype(dtype)
    )
    assert result.network.num_neurons == 0
    np.testing.assert_array_equal(jax.vmap(result.network)(X), np.zeros(len(X)))
    zero = 0.5 * np.sum(weight * y.astype(float) ** 2)
    np.testing.assert_allclose(result.certificate.objective, zero, rtol=1e-6)
    assert 0 <= result.certificate.gap < 1e-5


def test_several_outputs():
    X, y, _ = data(np.float64)
    result = qs.fit(X, np.column_stack([y, y[::-1]]), beta=0.5, num_neurons=NUM_NEURONS, key=KEY)
    assert jax.vmap(result.network)(X).shape == (*y.shape, 2)
    assert result.solution.total_lower_bound <= result.certificate.lower_bound
    assert result.certificate.lower_bound <= result.certificate.objective
    assert 0 < result.certificate.gap < 0.5


def test_says_that_the_time_was_over():
    X, y, _ = data(np.float64)
    arguments = {"beta": 0.5, "num_neurons": NUM_NEURONS, "key": KEY}
    hurried = qs.fit(X, y, **arguments, time_limit=1e-9)
    assert hurried.interrupted is True
    assert "stopped by `time_limit`" in repr(hurried)
    assert 0 <= hurried.certificate.gap < np.inf
    patient = qs.fit(X, y, **arguments, time_limit=1e3)
    assert patient.interrupted is False
    assert "time_limit" not in repr(patient)


def test_repr():
    result = fitted(np.float64)
    lines = repr(result).splitlines()
    assert lines[0] == "FitResult("
    assert lines[-1] == ")"
    for line, part in zip(
        lines[1:-1], ("problem", "solution", "network", "certificate"), strict=True
    ):
        assert line.strip() == repr(getattr(result, part))
    assert "Problem(n=24, d=5, beta=0.5, weighted, float64)" in repr(result)
