"""Searches that go on from a file: whatever ended the first one, a round is lost."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from losses import ALL, made
from problems import planted

import jaxqsdp as qs


def problem_of(d=20, seed=0):
    data = planted(seed, 80, d)
    return qs.Problem(data.X, data.y, 0.3 * d)


def test_goes_on(tmp_path):
    problem, path = problem_of(), tmp_path / "search.npz"
    solution = qs.solve(problem)
    first = qs.solve_exactly(problem, solution=solution, max_rounds=3, checkpoint=path)
    whole = qs.solve_exactly(problem, solution=solution)
    second = qs.solve_exactly(problem, solution=solution, checkpoint=path)
    assert len(second.history) < len(whole.history)
    assert float(second.certificate.gap) <= 1.1e-6
    assert float(first.certificate.gap) > float(second.certificate.gap)
    np.testing.assert_allclose(second.certificate.objective, whole.certificate.objective, rtol=3e-6)
    third = qs.solve_exactly(problem, solution=solution, checkpoint=path)
    assert len(third.history) <= 2
    assert float(third.certificate.gap) <= 1.1e-6
    # What was proven is known from the first round on.
    np.testing.assert_allclose(third.history[0, 1], second.history[-1, 1], rtol=1e-12)


@pytest.mark.parametrize(("name", "d"), [("squared", 4), ("squared", 17), ("softmax", 4)])
def test_outputs_and_few_features(name, d, tmp_path):
    X, y, beta, weight = made(name, 24, d, outputs=2 if name == "squared" else 1)
    problem = qs.Problem(X, y, beta, ALL[name], weight)
    path = tmp_path / "search.npz"
    first = qs.solve_exactly(problem, checkpoint=path, tol=1e-5)
    second = qs.solve_exactly(problem, checkpoint=path, tol=1e-5)
    assert float(first.certificate.gap) <= 2e-5
    assert float(second.certificate.gap) <= 2e-5
    assert len(second.history) <= len(first.history)


SCRIPT = """
import sys
import jax
jax.config.update("jax_enable_x64", True)
sys.path[:0] = {paths!r}
import jaxqsdp as qs
from test_journal import problem_of
qs.solve_exactly(problem_of(d=24), tol=1e-9, checkpoint={path!r})
"""


def test_survives_a_kill(tmp_path):
    path = tmp_path / "search.npz"
    paths = [os.fspath(path.parent), *sys.path]
    script = SCRIPT.format(paths=[p for p in paths if p], path=os.fspath(path))
    process = subprocess.Popen([sys.executable, "-c", script])
    try:
        until = time.monotonic() + 120
        while not path.exists():
            assert time.monotonic() < until
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(1.0)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    problem = problem_of(d=24)
    result = qs.solve_exactly(problem, max_rounds=1, checkpoint=path)
    fresh = qs.solve_exactly(problem, max_rounds=1)
    assert float(result.history[-1, 0]) < float(fresh.history[-1, 0])


def test_other_problems_and_damage(tmp_path):
    path = tmp_path / "search.npz"
    qs.solve_exactly(problem_of(d=5), max_rounds=1, checkpoint=path)
    with pytest.raises(ValueError, match="belongs to another problem"):
        qs.solve_exactly(problem_of(d=5, seed=1), max_rounds=1, checkpoint=path)
    whole = path.read_bytes()
    for content in (b"", whole[:-200], b"my thesis"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match="cannot be used"):
            qs.solve_exactly(problem_of(d=5), checkpoint=path)
        assert path.read_bytes() == content
    path.write_bytes(whole)
    arrays = dict(np.load(path))
    for name, wrong in (
        ("neurons", 2 * arrays["output0_neurons"]),
        ("neurons", arrays["output0_neurons"][0]),
        ("dual", arrays["output0_dual"][0]),
        ("value", np.ones(3)),
        ("norms", np.ones(3)),
        ("more", np.ones(3)),
    ):
        np.savez(path, **{**arrays, f"output0_{name}": wrong})
        with pytest.raises(ValueError, match="cannot be used"):
            qs.solve_exactly(problem_of(d=5), checkpoint=path)
    np.savez(path, mine=np.ones(3))
    with pytest.raises(ValueError, match="no checkpoint of a search"):
        qs.solve_exactly(problem_of(d=5), checkpoint=path)
    for place in ("", 3, tmp_path, tmp_path / "none" / "search.npz", tmp_path / ("x" * 300)):
        with pytest.raises(ValueError, match="`checkpoint`"):
            qs.solve_exactly(problem_of(d=5), checkpoint=place)


def test_a_full_disk_is_no_end(tmp_path, monkeypatch):
    def failing(path, arrays):
        raise OSError("no space left")

    monkeypatch.setattr("jaxqsdp._search.journal.write_arrays", failing)
    with pytest.warns(RuntimeWarning, match="given up"):
        result = qs.solve_exactly(problem_of(d=5), checkpoint=tmp_path / "search.npz")
    assert float(result.certificate.gap) <= 2e-6
