"""Column generation, round by round."""

import numpy as np
import pytest
from losses import ALL, made

import jaxqsdp as qs
from jaxqsdp._problem.host_core import HostCore
from jaxqsdp._search.columns import Task, generate
from jaxqsdp._search.pricing import price_exactly, some


@pytest.mark.parametrize("name", ["squared", "quantile", "softmax"])
def test_what_pricing_misses_at_first_leaves_no_bound_that_is_too_high(name):
    """A dual point that was thought to be feasible is scaled once a neuron violates it."""
    X, y, beta, weight = made(name, 30, 5)
    problem = qs.Problem(X, y, beta, ALL[name], weight)
    core = HostCore.of(problem)
    (task,) = Task.all_of(core)
    exactly = price_exactly(core.activation.num_vectors)
    calls = 0

    def price(gram, count):
        nonlocal calls
        calls += 1
        norms, neurons = exactly(gram, 10_000)
        found = np.arange(len(norms))[slice(-3, None) if calls <= 6 else slice(count)]
        return norms[found], some(neurons, found)

    dual = task.scale_dual(np.asarray(qs.solve(problem).dual, np.float64))
    _, neurons = exactly(task.grams(dual)[0], 20)
    *_, last = generate(task, price, neurons, dual, 1e-7)
    assert last.bound <= last.value * (1 + 1e-12)
    assert last.gap <= 1e-6
    norms = [exactly(gram, 1)[0][0] for gram in task.grams(last.dual)]
    assert np.all(norms <= task.target.beta * (1 + 1e-8))
