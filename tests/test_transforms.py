"""Every transform gives what a loop gives, in both dtypes, and lowers without callbacks."""

import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lane
from problems import SMALL, planted
from referee import check

import jaxqsdp as qs
from jaxqsdp._run.padding import padded_shape

LANES = 4


def solve(X, y, beta, solver=None):
    return qs.solve(qs.Problem(X, y, beta), solver)


def arguments(dtype, shared=False):
    """Return X, y and beta of four problems, with one X for all if `shared`."""
    datas = [planted(seed, *SMALL).astype(dtype) for seed in range(LANES)]
    X = np.stack([datas[0 if shared else index].X for index in range(LANES)])
    betas = np.geomspace(0.05, 5.0, LANES).astype(dtype)
    return jnp.asarray(X), jnp.stack([data.y for data in datas]), jnp.asarray(betas)


@jax.jit
def over_targets(X, y, beta):
    return jax.vmap(solve, in_axes=(None, 0, 0))(X[0], y, beta)


def nested(X, y, beta):
    """Return a batch of two by two, flattened."""
    X, y, beta = (leaf.reshape(2, 2, *leaf.shape[1:]) for leaf in (X, y, beta))
    batch = jax.vmap(jax.vmap(solve))(X, y, beta)
    return jax.tree.map(lambda leaf: leaf.reshape(LANES, *leaf.shape[2:]), batch)


def looped(function):
    def run(*stacked):
        solutions = [function(*(leaf[index] for leaf in stacked)) for index in range(LANES)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *solutions)

    return run


TRANSFORMS = {
    "jit": looped(jax.jit(solve)),
    "vmap": jax.vmap(solve),
    "vmap over targets": over_targets,
    "vmap of vmap": nested,
    "jit of vmap": jax.jit(jax.vmap(solve)),
}


@pytest.fixture(scope="module")
def loops():
    """Return what a plain loop over concrete problems gives."""
    return {
        (dtype, shared): looped(solve)(*arguments(dtype, shared))
        for dtype in (np.float32, np.float64)
        for shared in (False, True)
    }


def assert_equal_up_to_rounding(batch, expected, dtype):
    """Rounding differs between programs, and the iteration amplifies it up to the tolerances."""
    gap = 1e-6 if dtype == np.float64 else 7e-4
    assert np.all(batch.status == expected.status)
    np.testing.assert_allclose(batch.value, expected.value, rtol=gap)
    np.testing.assert_allclose(batch.lower_bound, expected.lower_bound, rtol=gap)
    for name in ("quadratic_form", "gram", "dual", "predictions", "dual_diagonal"):
        one, other = (np.asarray(getattr(s, name)) for s in (batch, expected))
        assert one.shape == other.shape
        assert one.dtype == other.dtype == dtype
        assert np.linalg.norm(one - other) <= 3 * gap**0.5 * np.linalg.norm(other), name


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_agree_with_a_loop(name, dtype, loops):
    shared = name == "vmap over targets"
    stacked = arguments(dtype, shared)
    batch = TRANSFORMS[name](*stacked)
    assert_equal_up_to_rounding(batch, loops[dtype, shared], dtype)
    for index in range(LANES):
        X, y, beta = (np.asarray(leaf[index]) for leaf in stacked)
        check(X, y, beta, lane(batch, index), 1e-6 if dtype == np.float64 else 1e-3)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
def test_batches_are_shared_out_over_devices():
    stacked = arguments(np.float32)
    mesh = jax.make_mesh((2,), ("lanes",), axis_types=(jax.sharding.AxisType.Auto,))
    lanes = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("lanes"))
    batch = jax.jit(jax.vmap(solve))(*jax.device_put(stacked, lanes))
    assert len(batch.gram.sharding.device_set) == 2
    assert_equal_up_to_rounding(batch, TRANSFORMS["jit of vmap"](*stacked), np.float32)


def test_columns_of_targets_are_separate_problems(dtype):
    """With one penalty for all of them in float32, and with one for each in float64."""
    X, y, beta = arguments(dtype, shared=True)
    beta = beta[1] if dtype == np.float32 else beta
    solution = qs.solve(qs.Problem(X[0], y.T, beta))
    betas = jnp.broadcast_to(beta, LANES)
    expected = over_targets(X, y, betas)
    n, d = SMALL
    assert solution.dual.shape == solution.predictions.shape == (n, LANES)
    assert solution.quadratic_form.shape == (LANES, d, d)
    assert solution.gram.shape == (LANES, 2 * d, 2 * d)
    assert solution.dual_diagonal.shape == (LANES, d)
    assert solution.stats.num_steps.shape == (LANES,)
    for field in ("value", "lower_bound", "quadratic_form", "dual", "predictions"):
        one, other = getattr(solution, field), getattr(expected, field)
        other = other.T if field in ("dual", "predictions") else other
        tolerance = (1e-6 if dtype == np.float64 else 7e-4) ** (
            1 if field in ("value", "lower_bound") else 0.5
        )
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * np.abs(other).max())
    np.testing.assert_allclose(solution.total_value, solution.value.sum(), rtol=1e-6)
    assert float(solution.total_lower_bound) <= sum(map(float, solution.lower_bound))
    np.testing.assert_allclose(solution.total_lower_bound, solution.lower_bound.sum(), rtol=1e-5)


class Counted(qs.ADMM):
    """Counts how often a solve is traced."""

    traces: typing.ClassVar = []

    def factorize(self, X):
        self.traces.append(X.shape)
        return super().factorize(X)


def test_calls_of_the_same_shapes_do_not_retrace():
    """One program for the padded shape, and one for what comes again and again."""
    X, y, beta = arguments(np.float64)
    solver = Counted(tol=3e-6)
    assert not Counted.traces
    (n, d), near = X.shape[1:], qs.Problem(X[0, :-1], y[0, :-1], beta[0])
    qs.solve(qs.Problem(X[0], y[0], beta[0]), solver)
    qs.solve(near, Counted(tol=3e-6))
    assert len(Counted.traces) == 1
    for index in range(5):
        qs.solve(qs.Problem(X[index % 2], y[index % 2], float(beta[index % 2])), solver)
    assert sorted(Counted.traces) == [(n, d), padded_shape(n, d)]
    jax.eval_shape(lambda problem: qs.solve(problem, solver), near)
    assert len(Counted.traces) == 3


def test_exports_to_every_platform_in_float32():
    """Without host callbacks, and without arrays in double precision, which TPUs lack."""
    n, d = SMALL
    shapes = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in [(n, d), (n,), ()]]

    def solved(X, y, beta):
        solution = solve(X, y, beta)
        return solution.value, solution.lower_bound, solution.gram, solution.dual

    platforms = ("cpu", "cuda", "tpu")
    exported = jax.export.export(jax.jit(solved), platforms=platforms)(*shapes)
    assert exported.platforms == platforms
    assert "callback" not in exported.mlir_module()
    assert not re.findall(r"[fc](?:64|128)\[\d", str(jax.make_jaxpr(solved)(*shapes)))
    X, y, beta = (leaf[0] for leaf in arguments(np.float32))
    value, bound, gram, dual = exported.call(X, y, beta)
    assert bound <= value <= bound * 1.001
    np.testing.assert_allclose(value, solve(X, y, beta).value, rtol=7e-4)
    assert gram.shape == (2 * d, 2 * d)
    assert dual.shape == (n,)


def test_status_is_per_lane_and_nothing_raises_under_transforms(loops):
    steps = loops[np.float64, False].stats.num_steps
    limit = int(steps.min())
    limited_solve = jax.vmap(lambda *one: qs.solve(qs.Problem(*one), max_steps=limit))
    limited = limited_solve(*arguments(np.float64))
    # The loop ends on an uncertified gap, which is asked to be a little less than the tolerance.
    solved = (limited.stats.gap <= 1e-9) & (limited.stats.residual <= 1e-8)
    np.testing.assert_array_equal(limited.status == qs.Status.solved, solved)
    np.testing.assert_array_equal(limited.status == qs.Status.max_steps, ~solved)
    assert np.all(solved[steps == limit])
    assert not np.any(solved[steps > limit + 1])
    assert not np.all(solved)
