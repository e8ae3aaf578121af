"""The best network within a budget of bits."""

import functools

import jax
import numpy as np
import pytest
from problems import planted

import jaxqsdp as qs

KEY = jax.random.key(5)
ONE_NEURON = 2 * 5 + 4 + 64  # signs, α and its scale


@functools.cache
def trained(outputs=None):
    case = planted(1, 40, 5)
    y = case.y if outputs is None else np.column_stack([case.y, case.y[::-1]])
    problem = qs.Problem(case.X, y, 0.3)
    solution = qs.solve(problem)
    drawn = qs.round(problem, solution, num_neurons=12, key=KEY)
    options = {"max_neurons": 12, "key": KEY, "num_starts": 4, "num_steps": 200}
    return problem, solution, qs.improve(problem, drawn, solution=solution, **options)


@functools.cache
def compressed(share):
    problem, solution, network = trained()
    budget = int(share * network.total_bits)
    return budget, qs.compress(problem, network, max_bits=budget, solution=solution, key=KEY)


@pytest.mark.parametrize("share", [0.15, 0.4])
def test_the_budget_holds_and_the_proof_is_that_of_the_network(share):
    problem, solution, network = trained()
    budget, found = compressed(share)
    assert found.network.total_bits <= budget
    certificate = qs.certify(problem, found.network, solution)
    assert found.certificate.gap == certificate.gap
    assert found.certificate.lower_bound <= problem.objective(network)
    best, *others = found.candidates
    assert best["objective"] == pytest.approx(float(problem.objective(found.network)))
    assert best["bits"] == found.network.total_bits
    assert (best["levels"], best["alpha_bits"]) == (found.network.levels, found.network.alpha_bits)
    for row in others:
        assert row["bits"] <= budget
        assert row["objective"] >= best["objective"]
    assert {row["alpha_bits"] for row in found.candidates} == {4, 6, 8}
    assert len({row["levels"] for row in found.candidates}) > 2
    assert f"{best['bits']} bits" in repr(found)


def test_more_bits_are_better_and_better_than_cutting():
    problem, _, network = trained()
    few, some = (compressed(share)[1].network for share in (0.15, 0.4))
    assert problem.objective(some) < problem.objective(few)
    # What pruning and rounding alone leave of the network.
    largest = np.argsort(-np.abs(np.asarray(network.alpha)))[: some.num_neurons]
    cut = qs.quantize_alpha(problem, network.subset(largest), bits=8)
    assert problem.objective(some) <= problem.objective(cut)


def test_several_outputs_and_networks_of_other_levels():
    problem, solution, _ = trained(2)
    ternary = qs.QuantizedNetwork.from_weights(
        np.array([[1.0, 0, -1, 0, 1]] * 2), np.ones((2, 5)), np.ones((2, 2)),
        levels=qs.Levels.ternary(),
    )  # fmt: skip
    budget = 2 * ternary.num_bits + 2 * (64 + 2 * 8)
    found = qs.compress(problem, ternary, max_bits=budget, solution=solution, progress=False)
    assert found.network.alpha.shape[1:] == (2,)
    assert found.network.total_bits <= budget
    assert problem.objective(found.network) < problem.objective(ternary)


def test_time_ends_it_early():
    problem, solution, network = trained()
    budget = network.total_bits // 4
    found = qs.compress(problem, network, max_bits=budget, solution=solution, time_limit=1e-6)
    assert found.network.total_bits <= budget
    assert len({row["levels"] for row in found.candidates}) > 2


def test_what_is_wrong_is_named():
    problem, solution, network = trained()
    with pytest.raises(ValueError, match=f"the smallest takes {ONE_NEURON}"):
        qs.compress(problem, network, max_bits=ONE_NEURON - 1, solution=solution)
    for wrong in (0, 2.5, True):
        with pytest.raises(ValueError, match="`max_bits`"):
            qs.compress(problem, network, max_bits=wrong)
    with pytest.raises(ValueError, match="`time_limit`"):
        qs.compress(problem, network, max_bits=10**4, time_limit=0)
    with pytest.raises(ValueError, match="outside `jit`"):
        jax.jit(lambda y: qs.compress(qs.Problem(problem.X, y, 1.0), network, max_bits=999))(
            problem.y
        )
