"""Batches spread over two devices give what they give on one, whatever the type of the mesh."""

import functools
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lane
from jax.sharding import AxisType, NamedSharding, PartitionSpec
from problems import planted
from referee import check

import jaxqsdp as qs
from jaxqsdp._base.control_flow import fori_loop, scan, while_loop

LANES, SHAPE = 4, (12, 3)
SPREAD, WHOLE = PartitionSpec("lanes"), PartitionSpec()
SOURCES = sorted(pathlib.Path(qs.__file__).parent.rglob("*.py"))


def mesh_of(kind):
    return jax.make_mesh((2,), ("lanes",), axis_types=(kind,))


def batch(dtype):
    """Return X, y, beta and weights of some problems, stacked."""
    datas = [planted(seed, *SHAPE).astype(dtype) for seed in range(LANES)]
    weight = np.linspace(0.5, 2, SHAPE[0]).astype(dtype) * np.ones((LANES, 1), dtype)
    betas = np.geomspace(0.05, 1.0, LANES).astype(dtype)
    return np.stack([d.X for d in datas]), np.stack([d.y for d in datas]), betas, weight


def gradient(solver, X, y, beta, weight):
    def loss(X, y, beta, weight):
        solution = qs.solve(qs.Problem(X, y, beta, sample_weight=weight), solver)
        return solution.value + jnp.sum(solution.quadratic_form), solution

    found, solution = jax.grad(loss, argnums=(0, 1, 2, 3), has_aux=True)(X, y, beta, weight)
    return solution.value, solution.lower_bound, solution.quadratic_form, found


def network(X, y, beta, weight):
    """Of two outputs, from the relaxation to the certificate."""
    problem = qs.Problem(X, jnp.stack([y, y[::-1]], axis=1), beta, sample_weight=weight)
    solution = qs.solve(problem, qs.ADMM())
    network = qs.round(problem, solution, num_neurons=5, key=jax.random.key(0))
    certificate = qs.certify(problem, network, solution)
    return solution.value, certificate.lower_bound, certificate.objective, network.alpha


def path(X, y, beta, weight):
    path = qs.path(X, y, num_betas=2, sample_weight=weight)
    return path.value, path.quadratic_form


def second_derivative(X, y, beta, weight):
    def scale(beta):
        return qs.solve(qs.Problem(X, y, beta)).scale

    return jax.jvp(jax.grad(scale), (beta,), (jnp.ones_like(beta),))


def unrolled(X, y, beta, weight):
    def scale(beta):
        return qs.solve(qs.Problem(X, y, beta), adjoint=qs.Unrolled(num_steps=5)).scale

    return jax.jvp(scale, (beta,), (jnp.ones_like(beta),))


FUNCTIONS = {
    "interior point": functools.partial(gradient, qs.InteriorPoint()),
    "splitting": functools.partial(gradient, qs.ADMM()),
    "network": network,
    "path": path,
    "second derivative": second_derivative,
    "unrolled": unrolled,
}


def program(name, kind):
    """Return a function, mapped over lanes, that works in the mesh that is set."""
    function = jax.vmap(FUNCTIONS[name])
    if kind == "manual":  # with all of JAX's checks
        function = jax.shard_map(function, in_specs=(SPREAD,) * 4, out_specs=SPREAD)
    return jax.jit(function)


def set_mesh(kind):
    return jax.set_mesh(mesh_of(AxisType.Explicit if kind == "explicit" else AxisType.Auto))


@pytest.mark.parametrize("name", ["interior point"])
def test_what_is_computed_is_what_an_automatic_mesh_gives(name):
    results = {}
    for kind in ("automatic", "manual"):
        with set_mesh(kind):
            arguments = jax.device_put(batch(np.float32), SPREAD)
            results[kind] = jax.tree.leaves(program(name, kind)(*arguments))
    for one, other in zip(results["manual"], results["automatic"], strict=True):
        assert one.dtype == other.dtype
        assert one.sharding.spec[0] == "lanes"
        one, other = np.asarray(one), np.asarray(other)
        assert np.linalg.norm(one - other) <= 1e-2 * np.linalg.norm(other)


@pytest.mark.covering(1)
@pytest.mark.parametrize(
    ("kind", "dtype"),
    [("manual", np.float64), ("explicit", np.float32)],
    ids=["manual", "explicit"],
)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_programs_can_be_made(name, kind, dtype):
    """Made only: that takes less time, and some hang on the virtual devices of a CPU."""
    with set_mesh(kind):
        lowered = program(name, kind).lower(*jax.device_put(batch(dtype), SPREAD))
    for leaf in jax.tree.leaves(lowered.out_info):
        assert leaf.shape[0] == LANES
        assert leaf.dtype in (dtype, np.int32)
        assert leaf.sharding is None or leaf.sharding.spec[0] == "lanes"


def test_what_devices_share_gets_its_derivative_from_all_of_them():
    """∂ Σ value/∂y = Σ λ; X and y are whole on every device, penalties spread."""

    def values(X, y, betas):
        solution = jax.vmap(lambda beta: qs.solve(qs.Problem(X, y, beta)))(betas)
        return solution.value, solution.dual

    @jax.jit
    def derivative(X, y, betas):
        spread = jax.shard_map(values, in_specs=(WHOLE, WHOLE, SPREAD), out_specs=SPREAD)

        def loss(y):
            value, dual = spread(X, y, betas)
            return jnp.sum(value), dual

        return jax.grad(loss, has_aux=True)(y)

    X, y, betas, _ = batch(np.float64)
    with set_mesh("manual"):
        found, dual = derivative(X[0], y[0], jax.device_put(betas, SPREAD))
    np.testing.assert_allclose(found, dual.sum(axis=0), rtol=1e-9)


def test_what_is_whole_stays_whole():
    """Nothing is said to vary over the devices that does not."""
    X, y, betas, _ = batch(np.float64)

    def whole(X, y, beta):
        return qs.solve(qs.Problem(X, y, beta)).value, qs.beta_max(X, y)

    with set_mesh("manual"):
        jax.jit(jax.shard_map(whole, in_specs=WHOLE, out_specs=WHOLE)).lower(X[0], y[0], betas[0])


def test_one_problem_with_its_samples_on_an_explicit_mesh_that_is_not_set():
    X, y, betas, _ = batch(np.float64)
    on_mesh = jax.device_put((X[0], y[0]), NamedSharding(mesh_of(AxisType.Explicit), SPREAD))
    problem = qs.Problem(*on_mesh, betas[0])
    solution = qs.solve(problem)
    check(X[0], y[0], betas[0], jax.tree.map(np.asarray, solution), 1e-6)
    network = qs.round(problem, solution, num_neurons=4, key=jax.random.key(0))
    certificate = qs.certify(problem, network, solution)
    assert 0 < certificate.lower_bound <= certificate.objective < 0.5 * y[0] @ y[0]


def test_batches_on_an_explicit_mesh_that_is_not_set():
    numbers = batch(np.float64)[:3]
    arguments = jax.device_put(numbers, NamedSharding(mesh_of(AxisType.Explicit), SPREAD))
    solved = jax.jit(jax.vmap(lambda X, y, beta: qs.solve(qs.Problem(X, y, beta))))(*arguments)
    assert solved.gram.sharding.spec[0] == "lanes"
    solved = jax.tree.map(np.asarray, solved)
    for index in range(LANES):
        check(*(leaf[index] for leaf in numbers), lane(solved, index), 1e-6)


def test_a_mesh_may_be_partly_manual_and_partly_explicit():
    types = AxisType.Explicit, AxisType.Explicit
    mesh = jax.make_mesh((2, 1), ("lanes", "others"), axis_types=types)

    def one(X, y, beta):
        return qs.solve(qs.Problem(X, y, beta)).value

    mapped = functools.partial(jax.shard_map, in_specs=SPREAD, out_specs=SPREAD)
    with jax.set_mesh(mesh):
        arguments = jax.device_put(batch(np.float64)[:3], SPREAD)
        jax.jit(mapped(jax.vmap(one), axis_names={"lanes"})).lower(*arguments)


def test_loops_start_from_what_varies_though_it_passes_on_step_by_step():
    """Each of three numbers becomes the one before it; only the data vary at first."""

    def shifted(x):
        def step(carry, item):
            return (x, *carry[:-1]), item * carry[-1]

        start = tuple(jnp.zeros(()) for _ in range(3))
        last, seen = scan(step, start, jnp.arange(1.0, 5.0))
        following = fori_loop(0, 3, lambda _, carry: (x, *carry[:-1]), start)
        return while_loop(lambda carry: carry[0] < 9, lambda c: (c[0] + x, c[0]), start[:2]), (
            last,
            seen,
            following,
        )

    x = jnp.array([2.0, 5.0])
    with set_mesh("manual"):
        spread = jax.shard_map(jax.vmap(shifted), in_specs=SPREAD, out_specs=SPREAD)
        found = jax.jit(spread)(jax.device_put(x, SPREAD))
    (counted, before), (last, seen, following) = found
    np.testing.assert_array_equal(counted, [10, 10])
    np.testing.assert_array_equal(before, [8, 5])
    np.testing.assert_array_equal(seen, np.outer(x, [0, 0, 0, 4]))
    for number in (*last, *following):
        np.testing.assert_array_equal(number, x)


def test_loops_take_steps_that_make_constants_of_what_varied():
    def constant(x):
        one = jnp.ones(())
        counted = while_loop(lambda c: c[1] < 3, lambda c: (one, c[1] + 1), (x, jnp.zeros(())))
        last, seen = scan(lambda carry, item: (one, item * carry), x, jnp.arange(1.0, 4.0))
        return counted, last, seen, fori_loop(0, 3, lambda _, carry: one, x)

    x = jnp.array([2.0, 5.0])
    with set_mesh("manual"):
        spread = jax.shard_map(jax.vmap(constant), in_specs=SPREAD, out_specs=SPREAD)
        (value, count), last, seen, looped = jax.jit(spread)(jax.device_put(x, SPREAD))
    for number in (value, last, looped):
        np.testing.assert_array_equal(number, [1, 1])
    np.testing.assert_array_equal(count, [3, 3])
    np.testing.assert_array_equal(seen, [[2, 2, 3], [5, 2, 3]])


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_sources_use_what_works_on_meshes(source):
    text = source.read_text()
    if source.stem != "control_flow":
        assert not re.search(r"\blax\.(while_loop|scan|fori_loop)\b", text)
    assert not re.search(r"@eqx\.filter_jit\n(?!@on_any_mesh\n)", text)
