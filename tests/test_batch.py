"""Batches: what single solves give, in the caller's order, whatever is interrupted, or killed."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lane, problem_of, solve_all, stack
from problems import SMALL, Data, planted
from referee import check

import jaxqsdp as qs
from jaxqsdp._batch import chunks

COUNT = 22  # no multiple of the lanes


@pytest.fixture(scope="module")
def problems():
    """Return problems of one shape with penalties over four orders of magnitude."""
    betas = np.geomspace(1e-3, 10, COUNT)
    datas = [planted(seed, *SMALL) for seed in range(COUNT)]
    return [
        problem_of(Data(data.X, data.y, beta), np.float64)
        for data, beta in zip(datas, betas, strict=True)
    ]


@pytest.fixture(scope="module")
def expected(problems):
    return jax.vmap(lambda problem: qs.solve(problem, throw=False))(stack(problems))


def assert_same(one, other):
    """Equal up to what rounding makes of the same iteration in another program."""
    np.testing.assert_array_equal(one.status == qs.Status.solved, other.status == qs.Status.solved)
    np.testing.assert_allclose(one.value, other.value, rtol=1e-8)
    np.testing.assert_allclose(one.lower_bound, other.lower_bound, rtol=1e-8)
    for name in ("quadratic_form", "gram", "dual", "predictions", "dual_diagonal"):
        mine, theirs = np.asarray(getattr(one, name)), np.asarray(getattr(other, name))
        assert mine.shape == theirs.shape
        np.testing.assert_allclose(mine, theirs, atol=1e-3 * np.abs(theirs).max())


@pytest.mark.parametrize("lanes", [None, 1, 8])
def test_stacked_problems(lanes, problems, expected):
    batch = qs.solve_batch(stack(problems), lanes=lanes)
    assert_same(batch, expected)
    assert np.all(batch.status == qs.Status.solved)


def test_the_splitting_solver_in_a_batch(problems, expected):
    solver = qs.ADMM(tol=1e-7)
    batch = qs.solve_batch(stack(problems), solver, lanes=8)
    assert np.all(batch.status == qs.Status.solved)
    assert np.all(batch.stats.num_steps % 10 == 0)
    np.testing.assert_allclose(batch.value, expected.value, rtol=1e-7)


def test_lists_of_any_shapes_come_back_in_order():
    """Eleven shapes in float64 and one in float32, all padded to (24, 5) but that one."""
    shapes = [(21 + index % 4, 5) for index in range(11)]
    problems = [problem_of(planted(k, *shape), np.float64) for k, shape in enumerate(shapes)]
    problems.insert(4, problem_of(planted(0, *SMALL), np.float32))
    solutions = qs.solve_batch(problems, lanes=4)
    assert len(solutions) == len(problems)
    for problem, solution in zip(problems, solutions, strict=True):
        n, d = problem.X.shape
        assert solution.status == qs.Status.solved
        assert solution.value.dtype == problem.X.dtype
        assert solution.quadratic_form.shape == (d, d)
        assert solution.gram.shape == (2 * d, 2 * d)
        assert solution.dual.shape == solution.predictions.shape == (n,)
        predicted = np.einsum("ni,ij,nj->n", problem.X, solution.quadratic_form, problem.X)
        np.testing.assert_allclose(predicted, solution.predictions, rtol=1e-3, atol=1e-4)
        gap = 1e-3 if problem.X.dtype == np.float32 else 1e-8
        check(problem.X, problem.y, problem.beta, solution, gap)
        recomputed = qs.certify(problem, NO_NETWORK, solution, kind="relaxation")
        np.testing.assert_allclose(recomputed.lower_bound, solution.lower_bound, rtol=gap)


NO_NETWORK = qs.QuantizedNetwork.from_weights(np.ones((1, 5)), np.ones((1, 5)), np.zeros(1))


def test_padding_features_changes_nothing():
    """Nine features become ten; the solution is that of the nine."""
    problems = [problem_of(planted(seed, 24, 9), np.float64) for seed in range(3)]
    for problem, solution in zip(problems, qs.solve_batch(problems), strict=True):
        single = qs.solve(problem)
        np.testing.assert_allclose(solution.value, single.value, rtol=2e-9)
        np.testing.assert_allclose(solution.lower_bound, single.lower_bound, rtol=2e-9)
        np.testing.assert_allclose(solution.predictions, single.predictions, atol=1e-3)
        np.testing.assert_allclose(np.diag(solution.gram), float(solution.scale))


def test_problems_that_share_features_are_outputs_of_one(problems):
    shared = [qs.Problem(problems[0].X, one.y, one.beta) for one in problems]
    batch = qs.solve_batch(stack(shared), lanes=8)
    assert_same(batch, jax.vmap(lambda one: qs.solve(one, throw=False))(stack(shared)))
    for index, one in enumerate(shared):
        check(one.X, one.y, one.beta, lane(batch, index), 1e-8)


def test_several_outputs(problems):
    scales, X = (1.0, 1.5, 2.0), problems[0].X
    Y = jnp.stack([problems[1].y, problems[2].y], axis=1)
    batch = qs.solve_batch(stack([qs.Problem(X * scale, Y, 0.1) for scale in scales]), lanes=4)
    assert batch.value.shape == (3, 2)
    assert batch.dual.shape == (3, SMALL[0], 2)
    singles = [Data(np.asarray(X * scale), np.asarray(y), 0.1) for scale in scales for y in Y.T]
    values = [single.value for single in solve_all(singles, np.float64)]
    np.testing.assert_allclose(batch.value.ravel(), values, rtol=1e-8)


def test_a_bad_problem_keeps_to_its_lane(problems, expected):
    stacked = stack(problems)
    y = np.array(stacked.y)
    y[7, 3] = np.nan
    spoiled = jax.vmap(lambda X, y, beta: qs.Problem(X, y, beta))(stacked.X, y, stacked.beta)
    batch = qs.solve_batch(spoiled, lanes=8)
    np.testing.assert_array_equal(np.flatnonzero(batch.status == qs.Status.invalid_data), [7])
    assert (batch.value[7], batch.lower_bound[7]) == (np.inf, -np.inf)
    kept = np.delete(np.arange(COUNT), 7)
    assert_same(*(jax.tree.map(lambda leaf: leaf[kept], s) for s in (batch, expected)))


def test_step_limit_is_per_lane(problems, expected):
    steps = np.asarray(expected.stats.num_steps)
    limit = int(np.median(steps))
    batch = qs.solve_batch(stack(problems), max_steps=limit, lanes=8)
    reached = np.asarray(batch.status == qs.Status.max_steps)
    # Rounding differs between programs, which may move a lane's end by a step.
    assert not np.any(reached[steps < limit])
    assert np.all(reached[steps > limit + 1])
    assert np.all(batch.stats.num_steps <= limit)


def test_a_time_limit_returns_what_is_finished(problems):
    """So short that nothing is; then one that suffices."""
    none = qs.solve_batch(stack(problems), time_limit=1e-9)
    assert np.all(none.status == qs.Status.interrupted)
    assert np.all(none.value == np.inf)
    assert np.all(none.lower_bound == -np.inf)
    assert np.all(none.gram == 0)
    every = qs.solve_batch(stack(problems), time_limit=1e3)
    assert np.all(every.status == qs.Status.solved)


def test_checkpoints_resume_and_refuse_other_problems(problems, expected, tmp_path):
    folder = tmp_path / "run"
    half = qs.solve_batch(stack(problems), checkpoint=folder, time_limit=1e-9)
    assert np.all(half.status == qs.Status.interrupted)
    whole = qs.solve_batch(stack(problems), checkpoint=folder, lanes=8)
    assert_same(whole, expected)
    parts = sorted(folder.glob("part-*.npz"))
    stamps = [part.stat().st_mtime_ns for part in parts]
    again = qs.solve_batch(stack(problems), checkpoint=folder)
    assert jax.tree.all(jax.tree.map(np.array_equal, again, whole))
    assert [part.stat().st_mtime_ns for part in sorted(folder.glob("part-*.npz"))] == stamps
    with pytest.raises(ValueError, match="belongs to other problems"):
        qs.solve_batch(stack(problems[:-1]), checkpoint=folder)
    with pytest.raises(ValueError, match="belongs to other problems"):
        qs.solve_batch(stack(problems), qs.ADMM(), checkpoint=folder)


KILLED = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # shells ignore it behind
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
sys.path.insert(0, {tests!r})
import jaxqsdp as qs
from jaxqsdp._batch import checkpoint
from problems import planted
checkpoint._MOST_PENDING = 16
datas = [planted(seed % 64, 24, 5) for seed in range({count})]
X, y = (np.stack([getattr(data, name) for data in datas]) for name in "Xy")
problems = jax.vmap(lambda X, y: qs.Problem(X, y, 0.5))(X, y)
solution = qs.solve_batch(problems, lanes=16, checkpoint={folder!r})
if {report}:
    print(int(np.sum(solution.status == qs.Status.solved)), float(np.sum(solution.value)))
"""


def _script(folder, count, report):
    tests = os.path.dirname(__file__)
    text = KILLED.format(tests=tests, folder=str(folder), count=count, report=report)
    return [sys.executable, "-c", textwrap.dedent(text)]


def _wait_for_parts(folder, process):
    started = time.monotonic()
    while len(list(folder.glob("part-*.npz"))) < 4:
        assert process.poll() is None
        assert time.monotonic() - started < 120
        time.sleep(0.01)


def test_a_kill_loses_no_more_than_what_is_pending(tmp_path):
    """Killed as soon as the first parts are there; the next call goes on from them."""
    folder, count = tmp_path / "killed", 4_000
    with subprocess.Popen(_script(folder, count, False)) as process:
        _wait_for_parts(folder, process)
        process.send_signal(signal.SIGKILL)
    saved = [np.load(part)["places"] for part in folder.glob("part-*.npz")]
    places = np.concatenate(saved)
    assert 48 <= len(places) < count
    assert len(np.unique(places)) == len(places)

    datas = [planted(seed % 64, 24, 5) for seed in range(count)]
    X, y = (np.stack([getattr(data, name) for data in datas]) for name in ("X", "y"))
    problems = jax.vmap(lambda X, y: qs.Problem(X, y, 0.5))(X, y)
    whole = qs.solve_batch(problems, checkpoint=folder)
    assert np.all(whole.status == qs.Status.solved)
    values = [s.value for s in solve_all([Data(d.X, d.y, 0.5) for d in datas[:64]], np.float64)]
    np.testing.assert_allclose(whole.value, np.asarray(values)[np.arange(count) % 64], rtol=1e-8)
    every = np.concatenate([np.load(part)["places"] for part in folder.glob("part-*.npz")])
    np.testing.assert_array_equal(np.sort(every), np.arange(count))  # none solved twice


@pytest.mark.parametrize("solver", [None, qs.ADMM()], ids=["interior point", "ADMM"])
def test_blocks_share_their_stragglers(solver, problems, monkeypatch):
    """Chunks of three blocks of four lanes, the last chunk incomplete."""
    monkeypatch.setattr(chunks, "_WIDTH", (4, 4))
    whole = jax.vmap(lambda problem: qs.solve(problem, solver))(stack(problems))
    batch = qs.solve_batch(stack(problems), solver, lanes=12)
    assert_same(batch, whole)
    np.testing.assert_allclose(batch.stats.num_steps, whole.stats.num_steps, rtol=0.2)


def test_stragglers_go_on_together(problems, expected, monkeypatch):
    """With two steps a visit every lane is a straggler several times."""
    visits = []
    resume = chunks._resume_program
    monkeypatch.setattr(chunks, "_STEPS", 2)
    monkeypatch.setattr(
        chunks, "_resume_program", lambda *chunk: visits.append(1) or resume(*chunk)
    )
    batch = qs.solve_batch(stack(problems), lanes=5)  # a number no other test has compiled
    assert_same(batch, expected)
    assert len(visits) >= np.min(expected.stats.num_steps) // 2


def test_iterators_are_taken_once(problems, expected):
    solutions = qs.solve_batch((problem for problem in problems[:3]), lanes=8)
    np.testing.assert_allclose([s.value for s in solutions], expected.value[:3], rtol=1e-8)


def test_a_part_that_cannot_be_read_is_solved_again(problems, expected, tmp_path):
    qs.solve_batch(stack(problems), checkpoint=tmp_path)
    part = min(tmp_path.glob("part-*.npz"))
    part.write_bytes(part.read_bytes()[:1000])
    (tmp_path / "part-empty.npz").touch()
    with pytest.warns(RuntimeWarning, match="solved again") as caught:
        assert_same(qs.solve_batch(stack(problems), checkpoint=tmp_path), expected)
    assert len(caught) == 2


def test_results_outlive_a_disk_that_fails(problems, expected, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", fail)
    with pytest.warns(RuntimeWarning, match="No space left"):
        batch = qs.solve_batch(stack(problems), checkpoint=tmp_path)
    assert_same(batch, expected)


def test_ctrl_c_returns_what_is_finished(tmp_path):
    """Sent while a long queue is under way, in another process."""
    folder, count = tmp_path / "interrupted", 4_000
    script = _script(folder, count, True)
    with subprocess.Popen(script, stdout=subprocess.PIPE, text=True) as process:
        _wait_for_parts(folder, process)
        process.send_signal(signal.SIGINT)
        solved, value = process.communicate(timeout=60)[0].split()
    assert 48 <= int(solved) < count
    assert float(value) == np.inf
    assert process.returncode == 0
    assert sum(len(np.load(part)["places"]) for part in folder.glob("part-*.npz")) == int(solved)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ({"problems": []}, ValueError, "`problems` is empty"),
        ({"problems": [3]}, TypeError, "`problems` must hold"),
        ({"problems": "single"}, ValueError, "`problems` must be stacked once"),
        ({"problems": ["stacked"]}, TypeError, "`problems` must hold"),
        ({"solver": "admm"}, TypeError, "`solver`"),
        ({"max_steps": 0}, ValueError, "`max_steps`"),
        ({"lanes": 0}, ValueError, "`lanes`"),
        ({"time_limit": 0}, ValueError, "`time_limit`"),
        ({"time_limit": "5"}, ValueError, "`time_limit`"),
        ({"problems": None}, TypeError, "`problems` must be a stacked"),
        ({"time_limit": float("nan")}, ValueError, "`time_limit`"),
    ],
)
def test_bad_arguments_are_named(arguments, error, match, problems):
    arguments = {"problems": stack(problems), **arguments}
    if arguments["problems"] == "single":
        arguments["problems"] = problems[0]
    with pytest.raises(error, match=match):
        qs.solve_batch(**arguments)
