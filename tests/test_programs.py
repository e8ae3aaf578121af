"""Programs compiled where numbers are concrete: few, shared, kept on disk; and BLAS beside them."""

import os
import subprocess
import sys
import threading

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import planted
from threadpoolctl import threadpool_info

import jaxqsdp as qs
from jaxqsdp._host import programs
from jaxqsdp._host.blas import one_blas_thread
from jaxqsdp._run import on_host as solve_on_host
from jaxqsdp._run.padding import coarse_rung, rung
from jaxqsdp._run.running import assemble


def twice(array, factor):
    return {"result": factor * array}


def test_host_programs_are_shared_between_threads():
    """Whoever comes first compiles, others wait, and statics and dtypes tell programs apart."""
    traces = []

    def counted(array, factor):
        traces.append(array.shape)
        return twice(array, factor)

    program = programs.HostProgram(counted, level=0)
    program.prepare(jax.ShapeDtypeStruct((3,), np.float64), 2)
    results = []
    work = lambda: results.append(program(np.arange(3.0), 2)["result"])  # noqa: E731
    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(traces) == 1
    assert all(np.array_equal(result, [0, 2, 4]) for result in results)
    assert program(np.arange(3.0), 3)["result"][2] == 6
    assert program(np.arange(3, dtype=np.float32), 2)["result"].dtype == np.float32
    assert len(traces) == 3


def test_what_fails_to_compile_raises_and_is_tried_again():
    calls = []

    def broken(array):
        calls.append(1)
        raise ValueError("no program")

    program = programs.HostProgram(broken, level=0)
    for _ in range(2):
        with pytest.raises(ValueError, match="no program"):
            program(np.zeros(2))
    assert len(calls) == 2


def test_memory_is_bounded(monkeypatch):
    """Only so many programs are kept, the ones used last."""
    monkeypatch.setattr(programs, "_MOST_PROGRAMS", 3)
    programs.clear_programs()
    program = programs.HostProgram(twice, level=0)
    for size in range(1, 7):
        program(np.ones(size), 2)
    assert len(programs._programs) == 3
    programs.clear_programs()
    assert len(programs._programs) == 0


def test_transforms_are_told_from_concrete_numbers():
    array = jnp.ones(3)
    seen = []

    def look(x):
        seen.append((programs.on_host(x), programs.on_host(array)))
        return jnp.sum(x)

    look(array)
    jax.jit(look)(array)
    jax.grad(look)(array)
    assert seen[0] == (True, True)
    assert seen[1] == (False, False)  # `jit` records what is done to any array
    assert seen[2] == (False, True)
    many = jax.device_put(
        array.repeat(2), jax.NamedSharding(jax.make_mesh((2,), ("i",)), jax.P("i"))
    )
    assert not programs.on_host(many)


def test_rungs():
    assert [rung(size) for size in (1, 5, 9, 33, 100)] == [1, 5, 10, 40, 112]
    assert [coarse_rung(size, 16, 256) for size in (3, 17, 190, 256, 257)] == [
        16,
        32,
        256,
        256,
        320,
    ]


@pytest.mark.usefixtures("often")
def test_the_third_call_agrees_with_the_first(dtype):
    """By another program, with rounding errors of its own; bounds hold for both."""
    programs.clear_programs()
    case = planted(0, 21, 5).astype(dtype)
    problem = qs.Problem(case.X, case.y, dtype(0.5))
    first, *_, third = (qs.solve(problem) for _ in range(3))
    assert first.status == third.status
    assert len(programs._programs) == 2
    tolerance = 1e-8 if dtype == np.float64 else 1e-3
    for field in ("value", "lower_bound", "scale", "predictions"):
        one, other = (np.asarray(getattr(s, field)) for s in (first, third))
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())
    assert first.lower_bound <= third.value * (1 + 1e-6)
    assert third.lower_bound <= first.value * (1 + 1e-6)


def test_cache(tmp_path):
    """Programs of one process serve the next one, which says nothing about it."""
    script = (
        "import jax, sys, numpy as np, jaxqsdp as qs\n"
        "hits = []\n"
        "jax.monitoring.register_event_listener(lambda name, **k: hits.append(name))\n"
        "folder = qs.enable_cache(sys.argv[1] or None)\n"
        "X = np.random.default_rng(0).standard_normal((20, 4))\n"
        "value = qs.solve(qs.Problem(X, X[:, 0] * X[:, 1], 0.5)).value\n"
        "print(folder, float(value), sum('cache_hits' in name for name in hits))\n"
    )
    environment = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "user")}
    environment.pop("JAX_COMPILATION_CACHE_DIR", None)

    def run(folder):
        arguments = [sys.executable, "-c", script, folder]
        done = subprocess.run(arguments, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        assert done.stderr == ""
        return done.stdout.split()

    folder, value, hits = run("")
    assert folder == str(tmp_path / "user" / "jaxqsdp")
    assert hits == "0"
    again = run("")
    assert again[:2] == [folder, value]
    assert int(again[2]) >= 1
    assert run(str(tmp_path / "other"))[0] == str(tmp_path / "other")


def test_cache_without_a_place(tmp_path, monkeypatch):
    file = tmp_path / "file"
    file.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", None)
    try:
        assert qs.enable_cache() is None
        with pytest.raises(OSError, match="file"):
            qs.enable_cache(file / "folder")
        jax.config.update("jax_compilation_cache_dir", str(tmp_path))
        assert qs.enable_cache() == tmp_path
    finally:
        jax.config.update("jax_compilation_cache_dir", before)


def test_blas_threads():
    """One within, whoever leaves first, and what it was before when all have left."""
    script = (
        "import numpy, scipy.linalg\n"
        "from threadpoolctl import threadpool_info\n"
        "from jaxqsdp._host.blas import one_blas_thread\n"
        "count = lambda: {i['num_threads'] for i in threadpool_info() if i['user_api'] == 'blas'}\n"
        "outer, inner = one_blas_thread(), one_blas_thread()\n"
        "before = count()\n"
        "outer.__enter__(); inner.__enter__(); assert count() == {1}\n"
        "outer.__exit__(None, None, None); assert count() == {1}\n"
        "inner.__exit__(None, None, None); assert count() == before == {2}, before\n"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "2"}
    subprocess.run([sys.executable, "-c", script], env=environment, check=True)
    with one_blas_thread():
        assert {i["num_threads"] for i in threadpool_info() if i["user_api"] == "blas"} == {1}


def test_what_is_waited_for_goes_first():
    """The one at work ends, then comes the program that is asked for, then what was prepared."""
    programs.clear_programs()
    order, started, go_on = [], threading.Event(), threading.Event()

    def traced(array, name):
        order.append(name)
        if name == "first":
            started.set()
            assert go_on.wait(30)
        return array + 1

    program, array, seen = programs.HostProgram(traced, level=0), np.zeros(2), []
    program.prepare(array, "first", then=seen.append)
    assert started.wait(30)
    for name in ("second", "third", "fourth", "fifth"):
        program.prepare(array, name)
    asker = threading.Thread(target=program, args=(array, "fourth"))
    asker.start()
    while not any(job.is_urgent for job in programs._turns._waiting):
        pass
    go_on.set()
    asker.join()
    np.testing.assert_array_equal(program(array, "fifth"), [1, 1])
    program(array, "second"), program(array, "third")
    assert order[:2] == ["first", "fourth"]
    assert sorted(order) == ["fifth", "first", "fourth", "second", "third"]
    (like,) = seen
    assert (like.shape, like.dtype) == ((2,), np.float64)
    assert sys.getswitchinterval() > 1e-3  # as it was


def test_what_is_waited_for_may_not_be_traced_as_the_caller_is():
    """Where the caller evaluates at once, constants of the program would compile one by one."""
    program = programs.HostProgram(lambda array: array * jnp.sum(jnp.ones(7)), level=0)
    with jax.ensure_compile_time_eval():
        assert program(np.ones(3))[0] == 7


def test_failures_after_tracing_are_raised():
    def refuse(like):
        raise ValueError(f"not {like.shape}")

    program = programs.HostProgram(lambda array: array, level=0)
    program.prepare(np.zeros(5), then=refuse)
    with pytest.raises(ValueError, match="not"):
        program(np.zeros(5))
    assert program(np.zeros(5)).shape == (5,)


def test_first_solves_assemble_without_jax(monkeypatch):
    """Solutions of several outputs too: to map over them by `vmap` would compile for seconds."""
    case = planted(0, 21, 5)
    problem = qs.Problem(case.X, np.column_stack([case.y, -2 * case.y]), 0.5)
    seen = []

    def assembled(*arguments):
        solution = assemble(*arguments)
        seen.extend(jax.tree.leaves(solution))
        return solution

    programs.clear_programs()
    monkeypatch.setattr(solve_on_host, "assemble", assembled)
    assert qs.solve(problem).value.shape == (2,)
    assert seen
    assert not any(isinstance(leaf, jax.Array) for leaf in seen)
