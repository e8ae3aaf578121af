"""The table: every transform × solver × loss × dtype gives what concrete numbers give.

A new loss, solver or transform is one row.
"""

import functools
import re
import typing

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import assert_claims_hold, lane, stack
from losses import LOSSES
from problems import SMALL, planted

import jaxqsdp as qs
from jaxqsdp._run.padding import padded_shape

ROWS = {  # a loss and its number of outputs, None for y (n,)
    **{name: (loss, None) for name, loss in LOSSES.items()},
    "softmax": (qs.SoftmaxLoss(3), 3),
}
SOLVERS = {"ADMM": qs.ADMM(), "InteriorPoint": qs.InteriorPoint()}


def grad(solve, problems):
    (_, solution), slopes = gradient(solve)(*problems[0, 0])
    return {(0, 0): (solution, slopes)}


def jvp(solve, problems):
    """Along β alone, and along the change of X and β that changes only the units of X."""
    X, beta, y, weight = problems[0, 0]

    def push(*directions):
        return jax.jvp(lambda *moving: solve(*moving, y, weight), (X, beta), directions)

    solution, along_beta = push(jnp.zeros_like(X), jnp.ones_like(beta))
    _, along_units = push(X, 2 * beta)
    return {(0, 0): (solution, (along_beta, along_units))}


def jit_of_vmap_of_vmap_of_grad(solve, problems):
    """Over data, and for each over penalties, which share them. One program, as each costs time."""
    over_penalties = jax.vmap(gradient(solve), in_axes=(None, 0, None, None))
    X, _, y, weight = stack([problems[data, 0] for data in range(2)])
    betas = stack([stack([problems[data, at][1] for at in range(2)]) for data in range(2)])
    (_, solutions), slopes = jax.jit(jax.vmap(over_penalties))(X, betas, y, weight)
    return {key: (lane(solutions, *key), lane(slopes, *key)) for key in problems}


# `jit` by itself is in the last of them, and costs as much as it.
TRANSFORMS = {
    "grad": grad,
    "jvp": jvp,
    "jit of vmap of vmap of grad": jit_of_vmap_of_vmap_of_grad,
}


def gradient(solve):
    """Return a function for the value, summed over outputs, the solution and slopes by X and β."""

    def value(*numbers):
        solution = solve(*numbers)
        return jnp.sum(solution.value), solution

    return jax.value_and_grad(value, argnums=(0, 1), has_aux=True)


@functools.cache
def problems_of(name, dtype):
    """Return (X, β, y, w) by number of the data and of the penalty, two of each."""
    (loss, outputs), n, d, found = ROWS[name], 10, 3, {}
    for data in range(2):
        rng = np.random.default_rng(data)
        X, weight = rng.standard_normal((n, d)), rng.uniform(0.3, 2, n)
        y = X[:, :1] * X[:, : outputs or 1] + 0.5 * rng.standard_normal((n, outputs or 1))
        if loss.takes_classes:
            y = np.eye(outputs)[np.argmax(y, axis=1)]
        elif loss.takes_labels:
            y = np.where(y > 0, 1.0, -1.0)
        gram = X.T @ (loss.dual_at(np.zeros_like(y), y, weight)[:, :1] * X)
        share = np.linspace(1, 0.7, outputs or 1)
        if outputs is None:
            y, share = y[:, 0], share[0]
        for at, fraction in enumerate((0.1, 0.3)):
            beta = fraction * d**0.5 * np.linalg.norm(gram, 2) * share
            found[data, at] = tuple(jnp.asarray(leaf, dtype) for leaf in (X, beta, y, weight))
    return found


def solve_of(name, solver):
    def solve(X, beta, y, weight):
        return qs.solve(qs.Problem(X, y, beta, ROWS[name][0], weight), solver)

    return solve


@functools.cache
def concrete(name, solver, dtype, key):
    """Return what concrete numbers give."""
    return solve_of(name, solver)(*problems_of(name, dtype)[key])


@pytest.mark.covering(2)
@pytest.mark.parametrize("transform", TRANSFORMS)
@pytest.mark.parametrize("solver", SOLVERS.values(), ids=SOLVERS)
@pytest.mark.parametrize("name", ROWS)
def test_transforms_agree_with_concrete_numbers(name, solver, dtype, transform):
    loss, _ = ROWS[name]
    solve, problems = solve_of(name, solver), problems_of(name, dtype)
    gap, _ = solver.tolerances(dtype)
    for key, (solution, slopes) in TRANSFORMS[transform](solve, problems).items():
        X, beta, y, weight = problems[key]
        assert_alike(solution, concrete(name, solver, dtype, key), gap)
        assert_claims_hold(qs.Problem(X, y, beta, loss, weight), solution, gap)
        assert_slopes(X, beta, solution, slopes, gap)


def assert_alike(solution, expected, gap):
    """Both are within the gap of one optimum, which their values and bounds enclose."""
    leaves, others = jax.tree.leaves(solution), jax.tree.leaves(expected)
    assert [(one.shape, one.dtype) for one in leaves] == [(one.shape, one.dtype) for one in others]
    np.testing.assert_array_equal(*(jax.tree.leaves(s.status)[0] for s in (solution, expected)))
    assert np.all(solution.status == qs.Status.solved)
    above = 1 + 8 * np.finfo(solution.value.dtype).eps  # values are rounded, bounds downward
    assert np.all(solution.lower_bound <= expected.value * above)
    assert np.all(expected.lower_bound <= solution.value * above)
    np.testing.assert_allclose(solution.value, expected.value, rtol=gap)
    np.testing.assert_allclose(solution.lower_bound, expected.lower_bound, rtol=gap)
    atol = gap**0.5 * float(np.max(expected.scale))
    np.testing.assert_allclose(solution.scale, expected.scale, rtol=0, atol=atol)


def assert_slopes(X, beta, solution, slopes, gap):
    """∂value/∂β = ρ, and the value is the same at (cX, c²β)."""
    leaves = [leaf for leaf in jax.tree.leaves(slopes) if leaf.dtype != jax.dtypes.float0]
    assert all(np.all(np.isfinite(leaf)) and leaf.dtype == X.dtype for leaf in leaves)
    first, second = slopes
    if isinstance(first, qs.Solution):
        by_beta, by_units, rho = first.value, second.value, np.sum(solution.scale)
    else:
        by_beta, rho = second, solution.scale
        by_units = np.sum(first * X) + 2 * np.sum(second * beta)
    # What coupled outputs add cancels, up to rounding.
    rounding = 64 * float(np.finfo(X.dtype).eps)
    np.testing.assert_allclose(by_beta, rho, rtol=rounding, atol=rounding * float(np.max(rho)))
    assert np.abs(by_units) <= 4 * gap * np.sum(solution.value)


# What more there is to transforms of a solve.

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


def looped(function):
    def run(*stacked):
        solutions = [function(*(leaf[index] for leaf in stacked)) for index in range(LANES)]
        return jax.tree.map(lambda *leaves: jnp.stack(leaves), *solutions)

    return run


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


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
def test_batches_are_shared_out_over_devices():
    stacked = arguments(np.float32)
    mesh = jax.make_mesh((2,), ("lanes",), axis_types=(jax.sharding.AxisType.Auto,))
    lanes = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("lanes"))
    batch = jax.jit(jax.vmap(solve))(*jax.device_put(stacked, lanes))
    assert len(batch.gram.sharding.device_set) == 2
    assert_equal_up_to_rounding(batch, jax.jit(jax.vmap(solve))(*stacked), np.float32)


def test_columns_of_targets_are_separate_problems(dtype, loops):
    """With one penalty for all of them in float32, and with one for each in float64."""
    X, y, beta = arguments(dtype, shared=True)
    assert_equal_up_to_rounding(over_targets(X, y, beta), loops[dtype, True], dtype)
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

    def factorize(self, core):
        self.traces.append(core.X.shape)
        return super().factorize(core)


@pytest.mark.usefixtures("often")
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


def test_status_is_per_lane_and_nothing_raises_under_transforms():
    X, y, beta = arguments(np.float64)
    beta = beta.at[0].set(1e3)  # which leaves nothing, within few steps
    steps = jax.vmap(solve)(X, y, beta).stats.num_steps
    limit = int(steps.min())
    assert limit + 1 < steps.max()
    limited_solve = jax.vmap(lambda *one: qs.solve(qs.Problem(*one), max_steps=limit))
    limited = limited_solve(X, y, beta)
    # The loop ends on an uncertified gap, which is asked to be a little less than the tolerance.
    solved = (limited.stats.gap <= 1e-9) & (limited.stats.residual <= 1e-8)
    np.testing.assert_array_equal(limited.status == qs.Status.solved, solved)
    np.testing.assert_array_equal(limited.status == qs.Status.max_steps, ~solved)
    assert np.all(solved[steps == limit])
    assert not np.any(solved[steps > limit + 1])
    assert not np.all(solved)
