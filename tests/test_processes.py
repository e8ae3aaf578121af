"""Results in other processes: pickled, copied, and what a fork leaves of JAX."""

import copy
import os
import pickle
import subprocess
import sys
import textwrap

import cloudpickle
import equinox as eqx
import jax
import numpy as np
import pytest
from public_values import public_classes, values

import jaxqsdp as qs

WAYS = {
    "pickle": lambda value: pickle.loads(pickle.dumps(value)),
    "cloudpickle": lambda value: pickle.loads(cloudpickle.dumps(value)),
    "deepcopy": copy.deepcopy,
    "copy": copy.copy,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", sorted(public_classes()))
def test_every_result_and_exception_can_be_sent(name, way):
    value = values()[name]
    sent = WAYS[way](value)
    assert type(sent) is type(value)
    if name == "SolveError":
        assert str(sent) == str(value)
        assert sent.args == value.args
        value, sent = value.solution, sent.solution
    assert eqx.tree_equal(sent, value)


def test_an_exception_keeps_its_notes_and_its_class():
    class Special(qs.SolveError):
        pass

    error = qs.SolveError("It failed", values()["Solution"])
    error.add_note("in fold 3")
    assert copy.copy(error).__notes__ == ["in fold 3"]
    assert type(copy.copy(Special("It failed", values()["Solution"]))) is Special


POOL = """
import multiprocessing
import numpy as np
import jaxqsdp as qs

def fail(seed):
    rng = np.random.default_rng(seed)
    problem = qs.Problem(rng.standard_normal((12, 3)), rng.standard_normal(12), 0.1)
    return qs.solve(problem, max_steps=1)

if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        try:
            pool.map(fail, [0])
        except qs.SolveError as error:
            print(str(error), error.solution.status == qs.Status.max_steps)
"""

FORK = """
import os, sys, warnings
import numpy as np
import jaxqsdp as qs

def work():
    X = np.arange(12.0).reshape(6, 2)
    return qs.Problem(X, X[:, 0], 1.0)

if {computed}:
    import jax.numpy as jnp
    jnp.ones(3).block_until_ready()
    network = qs.QuantizedNetwork.from_weights(np.ones((1, 2)), np.ones((1, 2)), np.ones(1))
    problem = work()
warnings.simplefilter("ignore")  # of JAX, on forks
if os.fork():
    sys.exit(os.waitstatus_to_exitcode(os.wait()[1]))
if not {computed}:
    print(work().X.sum(), flush=True)
    os._exit(0)
key, X, y = np.zeros(2, np.uint32), np.ones((6, 2)), np.ones(6)
for name, call in dict(
    Problem=work,
    solve=lambda: qs.solve(problem),
    solve_batch=lambda: qs.solve_batch([problem]),
    stacked=lambda: qs.solve_batch(problem),
    round=lambda: qs.round(problem, None, num_neurons=2, key=key),
    refit=lambda: qs.refit(problem, network),
    improve=lambda: qs.improve(problem, network, max_neurons=2, key=key),
    certify=lambda: qs.certify(problem, network),
    solve_exactly=lambda: qs.solve_exactly(problem),
    adjoint_report=lambda: qs.adjoint_report(problem, None),
    check_gradient=lambda: qs.check_gradient(problem),
    fit=lambda: qs.fit(X, y, beta=1.0, num_neurons=2, key=key),
    path=lambda: qs.path(X, y),
    cross_validate=lambda: qs.cross_validate(X, y, key=key),
    beta_max=lambda: qs.beta_max(X, y),
    layer=lambda: qs.RelaxationLayer(1.0),
    from_weights=lambda: network.from_weights(np.ones((1, 2)), np.ones((1, 2)), np.ones(1)),
    network=lambda: network(X[0]),
    objective=lambda: problem.objective(network),
).items():
    try:
        call()
    except RuntimeError as error:
        assert "spawn" in str(error), error
        print(name, flush=True)
os._exit(0)
"""


def run(script, tmp_path, **values):
    path = tmp_path / "script.py"
    path.write_text(textwrap.dedent(script.format(**values) if values else script))
    done = subprocess.run(
        [sys.executable, path],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_errors_of_a_pool(tmp_path):
    printed = run(POOL, tmp_path)
    assert "Reached the step limit" in printed
    assert printed.endswith("True\n")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_of_a_process_in_which_jax_has_run_is_told(tmp_path):
    names = run(FORK, tmp_path, computed=True).split()
    assert len(names) == len(set(names)) == 19


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no forks here")
def test_a_fork_before_anything_is_computed_works(tmp_path):
    assert float(run(FORK, tmp_path, computed=False)) == np.arange(12.0).sum()


def test_this_process_is_not_disturbed():
    assert float(jax.numpy.sum(values()["Problem"].X)) == pytest.approx(
        float(np.sum(np.asarray(values()["Problem"].X)))
    )
