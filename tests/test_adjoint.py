"""Derivatives of solutions: against differences, an independent solver and unrolled steps."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clarabel_reference import reference
from helpers import lane, stack
from problems import SMALL, degenerate, planted

import jaxqsdp as qs
from jaxqsdp._base.cone import positive_part

TIGHT = qs.InteriorPoint(tol=1e-12, tol_residual=1e-12)
UNIQUE = ("quadratic_form", "scale", "dual", "predictions", "value")
OUTPUTS = (*UNIQUE, "gram", "dual_diagonal")


def numbers_of(data, dtype=np.float64):
    """Return (X, y, β, w) of a problem, w not all 1."""
    weight = np.linspace(0.5, 1.5, len(data.y)) if data.weight is None else data.weight
    return tuple(jnp.asarray(x, dtype) for x in (data.X, data.y, data.beta, weight))


def problem_of(numbers):
    X, y, beta, weight = numbers
    return qs.Problem(X, y, beta, sample_weight=weight)


def outputs(numbers, **options):
    """Return the outputs, and the whole solution."""
    solution = qs.solve(problem_of(numbers), throw=False, **options)
    return {name: getattr(solution, name) for name in OUTPUTS}, solution


def direction_of(numbers, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(0.3 * np.sqrt(np.mean(np.square(x))) * rng.standard_normal(x.shape), x.dtype)
        for x in numbers
    )


def moved(numbers, change, step):
    return tuple(x + step * dx for x, dx in zip(numbers, change, strict=True))


def relative_error(leaf, expected):
    return np.linalg.norm(np.asarray(leaf) - expected) / np.linalg.norm(expected)


def assert_close(tree, expected, tolerance, names=UNIQUE):
    for name in names:
        error = relative_error(tree[name], np.asarray(expected[name]))
        assert error <= tolerance, (name, error)


@jax.jit
def derivative(numbers, change):
    """Return the outputs and their derivative in one direction."""
    return jax.jvp(lambda n: outputs(n, solver=TIGHT)[0], (numbers,), (change,))


@pytest.fixture(scope="module")
def numbers():
    return numbers_of(planted(0, *SMALL))


@pytest.fixture(scope="module")
def tangent(numbers):
    return derivative(numbers, direction_of(numbers))[1]


def test_agrees_with_differences_of_clarabel(numbers, tangent):
    change, step = direction_of(numbers), 1e-3

    def at(shift):
        X, y, beta, weight = map(np.asarray, moved(numbers, change, shift))
        optimum = reference(X, y, beta, weight)
        return {"quadratic_form": optimum.form, "value": np.asarray(optimum.value)}

    ends = at(step), at(-step)
    expected = {name: (ends[0][name] - ends[1][name]) / (2 * step) for name in ends[0]}
    assert_close(tangent, expected, 1e-3, expected)


@pytest.mark.thorough
def test_agrees_with_unrolled_steps():
    """Those give the Gram matrix and p too, which are unique where p > 0."""
    numbers, adjoint, step = numbers_of(planted(2, *SMALL)), qs.Unrolled(3000), 1e-3
    change = direction_of(numbers)
    unrolled = jax.jit(
        lambda *pair: jax.jvp(lambda n: outputs(n, solver=TIGHT, adjoint=adjoint)[0], *pair)[1]
    )((numbers,), (change,))
    at, tangent = derivative(numbers, change)
    assert np.all(at["dual_diagonal"] > 0.01)
    # The value is exact only to first order in the error of the solution.
    assert_close(tangent, unrolled, 1e-6, [name for name in UNIQUE if name != "value"])
    after, before = (derivative(moved(numbers, change, k * step), change)[0] for k in (1, -1))
    differences = jax.tree.map(lambda one, other: (one - other) / (2 * step), after, before)
    assert_close(unrolled, differences, 1e-3, ["gram", "dual_diagonal"])


@pytest.mark.parametrize("name", ["planted", "zero targets", "above the threshold"])
def test_agrees_with_differences(name, numbers, capsys):
    """Also where all is zero, and so are the derivatives or their sizes."""
    X, y, beta, weight = numbers
    weight = weight.at[0].set(0)
    if name == "zero targets":
        y = 0 * y
    elif name == "above the threshold":
        beta = 2 * qs.beta_max(X, y, weight)
    check = qs.check_gradient(problem_of((X, y, beta, weight)))
    if name == "planted":
        assert max(max(row.values()) for row in check.errors.values()) <= 1e-5
    assert check.passed, check.errors
    assert "agree to" in capsys.readouterr().out


def test_smoothed_derivatives_of_a_degenerate_problem_agree_with_differences():
    """Fewer samples than D, duplicated columns and the splitting solver."""
    data = planted(1, 12, 4)
    X = np.column_stack([data.X, data.X[:, 0]])
    problem = qs.Problem(X, data.y, 0.4)
    solver = qs.ADMM(tol=1e-10, tol_residual=1e-10)
    assert qs.check_gradient(problem, adjoint=qs.Implicit(smoothing=1e-2), solver=solver).passed


def test_float32_is_within_a_hundredth_or_flagged():
    """Flagged may be only data that are hard."""

    @jax.jit
    @jax.vmap
    def studied(numbers, change):
        _, found, solution = jax.jvp(outputs, (numbers,), (change,), has_aux=True)
        return found, qs.adjoint_report(problem_of(numbers), solution)

    hard = degenerate()
    datas = [planted(0, *SMALL), hard["outlying sample"], hard["columns far apart"]]
    cases = [numbers_of(data, np.float32) for data in datas]
    changes = [direction_of(numbers) for numbers in cases]
    found, reports = studied(stack(cases), stack(changes))
    trusted = reports.status == qs.AdjointStatus.trusted
    assert trusted[0]
    assert all(np.all(np.isfinite(leaf)) for leaf in found.values())
    for index, pair in enumerate(zip(cases, changes, strict=True)):
        if trusted[index]:
            _, expected = derivative(*jax.tree.map(lambda x: x.astype(np.float64), pair))
            assert_close(lane(found, index), expected, 1e-2)


def loss_and_solution(numbers):
    found, solution = outputs(numbers)
    loss = jnp.sum(jnp.sin(found["quadratic_form"])) + found["scale"] + found["value"] ** 2
    return loss, solution


def loss(numbers):
    return loss_and_solution(numbers)[0]


@jax.jit
def second_order(numbers, change):
    """Return the gradient, the derivative in one direction, and that of the gradient."""
    (_, gradient), tangents = jax.jvp(jax.value_and_grad(loss), (numbers,), (change,))
    return gradient, *tangents


@jax.jit
@jax.vmap
def studied(numbers):
    """Return the gradient and the report on it."""
    gradient, solution = jax.grad(loss_and_solution, has_aux=True)(numbers)
    return gradient, qs.adjoint_report(problem_of(numbers), solution)


FLAGGED = ("duplicated columns", "threshold")
DEGENERATE = (
    *FLAGGED,
    "rank deficient",
    "zero targets",
    "above the threshold",
    "fewer samples than features",
)
SOUND = {f"sound {seed}": planted(seed, *SMALL) for seed in range(3)}
PADS = (0.0, 1e3, 1e80)
STEP = 1e-3


def degenerate_cases():
    """Return degenerate problems of one shape."""
    data = SOUND["sound 1"]
    twin = np.column_stack([data.X[:, :4], data.X[:, 0]])
    deficient = np.column_stack([data.X[:, :4], data.X[:, :3].sum(axis=1)])
    threshold = float(qs.beta_max(data.X, data.y, numbers_of(data)[3]))
    few = np.where(np.arange(len(data.y))[:, None] < 3, data.X, 0.0)
    cases = (
        dataclasses.replace(data, X=twin),
        dataclasses.replace(data, beta=threshold),
        dataclasses.replace(data, X=deficient),
        dataclasses.replace(data, y=0 * data.y),
        dataclasses.replace(data, beta=2 * threshold),
        dataclasses.replace(data, X=few),
    )
    return dict(zip(DEGENERATE, cases, strict=True))


def partly_weighted():
    """Return numbers with a weight that is zero, and a direction in which it grows."""
    numbers = numbers_of(SOUND["sound 0"])
    numbers = (*numbers[:3], numbers[3].at[0].set(0))
    change = direction_of(numbers)
    return numbers, (*change[:3], jnp.abs(change[3]))


@functools.cache
def lanes():
    """Return the gradient and the report of each of many problems, by name, from one program."""
    cases = {name: numbers_of(data) for name, data in {**SOUND, **degenerate_cases()}.items()}
    X, y, beta, weight = cases["sound 1"]
    cases["bad"] = X.at[3, 1].set(jnp.nan), y, beta, weight
    for pad in PADS:
        cases[pad] = X.at[:2].set(pad), y.at[:2].set(pad), beta, weight.at[:2].set(0)
    for k in range(5):
        cases[k, "steps"] = moved(*partly_weighted(), k * STEP)
    batch = studied(stack(cases.values()))
    return {name: lane(batch, index) for index, name in enumerate(cases)}


def test_forward_reverse_and_second_order():
    numbers, change = partly_weighted()
    reverse, forward, second = second_order(numbers, change)
    dot = sum(jnp.vdot(g, dx) for g, dx in zip(reverse, change, strict=True))
    np.testing.assert_allclose(dot, forward, rtol=1e-9)
    ends = [lanes()[k, "steps"][0] for k in range(5)]
    for found, *values in zip(second, *ends, strict=True):  # one-sided, of fourth order
        expected = np.tensordot([-25, 48, -36, 16, -3], np.stack(values), axes=1) / (12 * STEP)
        assert relative_error(found, expected) <= 1e-4


def test_gradients_of_a_batch_are_those_of_its_problems():
    """Degenerate ones are finite, and those of a failed solve zero."""
    for name, data in SOUND.items():
        numbers = numbers_of(data)
        singles = second_order(numbers, direction_of(numbers))[0]
        for found, expected in zip(lanes()[name][0], singles, strict=True):
            assert relative_error(found, np.asarray(expected)) <= 1e-6
    for name in DEGENERATE:
        assert all(np.all(np.isfinite(leaf)) for leaf in lanes()[name][0])
    for leaf in lanes()["bad"][0]:
        np.testing.assert_array_equal(leaf, 0)


def test_what_samples_without_weight_hold_does_not_matter():
    first, *others = (lanes()[pad][0][:3] for pad in PADS)
    for gradients in others:
        for leaf, expected in zip(gradients, first, strict=True):
            np.testing.assert_allclose(leaf, expected, rtol=1e-9, atol=1e-12)


def test_the_report_flags_what_has_no_derivative():
    reports = {name: lanes()[name][1] for name in (*DEGENERATE, *SOUND, "bad")}
    status = qs.AdjointStatus
    for name, report in reports.items():
        assert (report.status == status.degenerate) == (name in FLAGGED), name
        assert (report.status == status.failed) == (name == "bad"), name
    sound = reports["sound 1"]
    assert "Trusted" in repr(sound)
    assert reports["duplicated columns"].condition >= 1e3 * sound.condition


def test_several_outputs_have_the_derivatives_of_each(numbers):
    X, y, beta, weight = numbers
    Y = jnp.stack([y, y[::-1]], axis=1)
    change = (direction_of(numbers)[0], jnp.zeros_like(y), jnp.zeros_like(beta), 0 * weight)

    @jax.jit
    def together(X, dX):
        def forms(X):
            return outputs((X, Y, beta, weight), solver=TIGHT)[0]["quadratic_form"]

        return jax.jvp(forms, (X,), (dX,))[1]

    singles = [derivative((X, y, beta, weight), change)[1]["quadratic_form"] for y in Y.T]
    np.testing.assert_allclose(together(X, change[0]), singles, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: qs.Implicit(smoothing=-1.0), ValueError, "`smoothing`"),
        (lambda: qs.Implicit(smoothing=float("nan")), ValueError, "`smoothing`"),
        (lambda: qs.Implicit(smoothing="1"), TypeError, "`smoothing`"),
        (lambda: qs.Implicit(smoothing=True), TypeError, "`smoothing`"),
        (lambda: qs.Unrolled(0), ValueError, "`num_steps`"),
        (lambda: qs.solve(problem(), adjoint="implicit"), TypeError, "`adjoint`"),
        (lambda: qs.check_gradient(problem(), adjoint=qs.Unrolled()), TypeError, "`adjoint`"),
        (lambda: qs.adjoint_report(problem(), None), TypeError, "`solution`"),
    ],
)
def test_bad_arguments(make, error, match):
    with pytest.raises(error, match=match):
        make()


def problem():
    return qs.Problem(np.eye(3), np.ones(3), 0.1)


def test_the_projection_has_no_second_derivative():
    def total(t):
        return jnp.sum(positive_part(t * jnp.eye(3) - jnp.ones((3, 3))))

    with pytest.raises(NotImplementedError, match="Implicit"):
        jax.hessian(total)(jnp.asarray(1.5))


def test_products_are_of_full_precision():
    """The default is TF32 or bfloat16 on accelerators."""

    def total(X, **options):
        return jnp.sum(qs.solve(qs.Problem(X, jnp.ones(3), 0.1), **options).quadratic_form)

    X = jnp.eye(3)
    for function in (
        lambda X: jax.jvp(jax.grad(total), (X,), (X,)),
        jax.grad(lambda X: total(X, adjoint=qs.Unrolled(1))),
    ):
        text = str(jax.make_jaxpr(function)(X))
        assert "dot_general" in text
        assert "precision=None" not in text


def test_a_failed_solve_does_not_raise_under_transforms():
    def value(beta):
        return qs.solve(qs.Problem(np.eye(3), np.ones(3), beta), max_steps=1).value

    beta = jnp.asarray(0.1)
    assert jax.grad(value)(beta) == 0
    assert jax.jvp(value, (beta,), (beta,))[1] == 0
    with pytest.raises(qs.SolveError):
        value(beta)


@pytest.mark.parametrize(
    ("several", "smoothing"), [(False, 1e-3), (True, 0.0)], ids=["one target", "two targets"]
)
def test_outside_jit_derivatives_are_those_inside(several, smoothing):
    """There the solve and the linearization are programs of their own, and so is the transpose."""
    X, y, beta, weight = numbers_of(SOUND["sound 1"])
    weight = weight.at[0].set(0)
    if several:
        y = jnp.stack([y, jnp.roll(y, 1)], axis=1)

    def weighed(*numbers):
        at = outputs(numbers, solver=TIGHT, adjoint=qs.Implicit(smoothing))[0]
        return sum(jnp.sum(jnp.sin(jnp.arange(at[name].size)) * at[name].ravel()) for name in at)

    numbers = X, y, beta, weight
    change = jax.tree.map(lambda x: jnp.cos(jnp.arange(x.size)).reshape(x.shape), numbers)
    gradient = jax.grad(weighed, argnums=(0, 1, 2, 3))
    expected = jax.jit(gradient)(*numbers)
    for found, leaf in zip(gradient(*numbers), expected, strict=True):
        assert relative_error(found, np.asarray(leaf)) <= 1e-7
    dot = sum(jnp.vdot(g, dx) for g, dx in zip(expected, change, strict=True))
    _, forward = jax.jvp(weighed, numbers, change)
    np.testing.assert_allclose(forward, dot, rtol=1e-7)

    def of_y(y):
        return weighed(X, y, beta, weight)

    # What JAX compiles, maps or differentiates after all.
    value, pull_back = jax.vjp(of_y, y)
    one = jnp.ones_like(value)
    for pulled in (pull_back(one), jax.jit(pull_back)(one)):
        assert relative_error(pulled[0], np.asarray(expected[1])) <= 1e-7
    (mapped,) = jax.vmap(pull_back)(jnp.array([1.0, -2.0]))
    assert relative_error(mapped[1], -2 * np.asarray(expected[1])) <= 1e-7
    _, moved_back = jax.jvp(lambda ct: pull_back(ct)[0], (one,), (2 * one,))
    assert relative_error(moved_back, 2 * np.asarray(expected[1])) <= 1e-7
    _, push = jax.linearize(of_y, y)
    np.testing.assert_allclose(
        jax.jit(push)(change[1]), jnp.vdot(expected[1], change[1]), rtol=1e-7
    )


@pytest.mark.thorough
def test_second_derivatives_outside_jit():
    numbers, change = partly_weighted()
    (X, y, beta, weight), dy = numbers, change[1]

    def of_y(y):
        return loss((X, y, beta, weight))

    _, found = jax.jvp(jax.grad(of_y), (y,), (dy,))
    _, expected = jax.jit(lambda y, dy: jax.jvp(jax.grad(of_y), (y,), (dy,)))(y, dy)
    assert relative_error(found, np.asarray(expected)) <= 1e-6


def test_outside_jit_a_failed_solve_has_zero_derivatives():
    X, y, beta, weight = numbers_of(SOUND["sound 0"])
    gradient = jax.grad(lambda y: loss((X, y, beta, weight)))(y.at[0].set(jnp.nan))
    np.testing.assert_array_equal(gradient, 0)


@pytest.mark.skipif(jax.device_count() < 2, reason="needs two devices")
def test_outside_jit_in_any_context():
    """64-bit mode by a context manager, a device that is not the default one, and without jit."""
    X, y, beta, weight = numbers_of(SOUND["sound 0"])

    def of_y(y):
        return qs.solve(qs.Problem(X, y, beta, sample_weight=weight)).value

    expected = np.asarray(jax.grad(of_y)(y))
    with jax.enable_x64(False):
        X32, y32, beta32 = map(np.float32, (X, y, beta))
        single = jax.grad(lambda y: qs.solve(qs.Problem(X32, y, beta32)).value)
        assert single(y32).dtype == np.float32
    with jax.enable_x64(True):
        assert relative_error(jax.grad(of_y)(y), expected) <= 1e-9
    other = jax.devices()[1]
    X, y, beta, weight = jax.device_put((X, y, beta, weight), other)
    found = jax.grad(of_y)(y)
    assert found.devices() == {other}
    assert relative_error(found, expected) <= 1e-7


@pytest.mark.usefixtures("often")
def test_mapped_pull_backs_compile_once():
    X, y, beta, _ = numbers_of(SOUND["sound 0"])
    compiled = []

    def predictions(y):
        return qs.solve(qs.Problem(X, y, beta)).predictions

    def listen(event, duration, **_):
        if "backend_compile" in event:
            compiled.append(event)

    for _ in range(3):  # the third solve has a program of its own
        jax.jacrev(predictions)(y)
    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        jax.jacrev(predictions)(y)
        assert not compiled
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
