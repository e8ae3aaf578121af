"""Derivatives of solutions: against differences, an independent solver and unrolled steps."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from clarabel_reference import reference
from helpers import lane, stack
from problems import SMALL, planted

import jaxqsdp as qs
from jaxqsdp._linalg import positive_part

TIGHT = qs.InteriorPoint(tol=1e-12, tol_residual=1e-12)
OUTPUTS = ("quadratic_form", "scale", "dual", "predictions", "value")


def numbers_of(data, dtype=np.float64):
    """Return (X, y, β, w) of a problem, w not all 1."""
    weight = np.linspace(0.5, 1.5, len(data.y)) if data.weight is None else data.weight
    return tuple(jnp.asarray(x, dtype) for x in (data.X, data.y, data.beta, weight))


def outputs(numbers, **options):
    X, y, beta, weight = numbers
    solution = qs.solve(qs.Problem(X, y, beta, sample_weight=weight), throw=False, **options)
    return {name: getattr(solution, name) for name in OUTPUTS}


def direction_of(numbers, seed=0):
    rng = np.random.default_rng(seed)
    return tuple(
        jnp.asarray(0.3 * np.sqrt(np.mean(np.square(x))) * rng.standard_normal(x.shape), x.dtype)
        for x in numbers
    )


def assert_close(tree, expected, tolerance):
    for name, leaf in expected.items():
        error = np.linalg.norm(np.asarray(tree[name]) - leaf) / np.linalg.norm(leaf)
        assert error <= tolerance, (name, error)


@pytest.fixture(scope="module")
def numbers():
    return numbers_of(planted(0, *SMALL))


@pytest.fixture(scope="module")
def tangent(numbers):
    """The derivative in one direction."""
    change = jax.jit(lambda *pair: jax.jvp(lambda n: outputs(n, solver=TIGHT), *pair)[1])
    return change((numbers,), (direction_of(numbers),))


def test_agrees_with_differences_of_clarabel(numbers, tangent):
    change, step = direction_of(numbers), 1e-3

    def at(shift):
        X, y, beta, weight = (
            np.asarray(x + shift * dx) for x, dx in zip(numbers, change, strict=True)
        )
        optimum = reference(X, y, beta, weight)
        return {"quadratic_form": optimum.form, "value": np.asarray(optimum.value)}

    ends = at(step), at(-step)
    expected = {name: (ends[0][name] - ends[1][name]) / (2 * step) for name in ends[0]}
    assert_close(tangent, expected, 1e-3)


def test_agrees_with_unrolled_steps(numbers, tangent):
    adjoint = qs.Unrolled(3000)
    unrolled = jax.jit(
        lambda *pair: jax.jvp(lambda n: outputs(n, solver=TIGHT, adjoint=adjoint), *pair)[1]
    )((numbers,), (direction_of(numbers),))
    del unrolled["value"]  # exact only to first order in the error of the solution
    assert_close(tangent, {k: np.asarray(v) for k, v in unrolled.items()}, 1e-6)


def test_agrees_with_differences(numbers, capsys):
    X, y, beta, weight = numbers
    problem = qs.Problem(X, y, beta, sample_weight=weight.at[0].set(0))
    check = qs.check_gradient(problem)
    assert max(max(row.values()) for row in check.errors.values()) <= 1e-5
    assert check.passed
    assert "agree to" in capsys.readouterr().out


def test_smoothed_derivatives_of_a_degenerate_problem_agree_with_differences():
    """Fewer samples than D, duplicated columns and the splitting solver."""
    data = planted(1, 12, 4)
    X = np.column_stack([data.X, data.X[:, 0]])
    problem = qs.Problem(X, data.y, 0.4)
    solver = qs.ADMM(tol=1e-10, tol_residual=1e-10)
    assert qs.check_gradient(problem, adjoint=qs.Implicit(smoothing=1e-2), solver=solver).passed


def test_float32_is_within_a_hundredth(numbers, tangent):
    narrow = numbers_of(planted(0, *SMALL), np.float32)
    change = direction_of(narrow)
    found = jax.jit(lambda *pair: jax.jvp(outputs, *pair)[1])((narrow,), (change,))
    assert_close(found, {k: np.asarray(v) for k, v in tangent.items()}, 1e-2)


def loss(numbers):
    found = outputs(numbers)
    return jnp.sum(jnp.sin(found["quadratic_form"])) + found["scale"] + found["value"] ** 2


gradient = jax.jit(jax.grad(loss))


def test_forward_reverse_and_second_order(numbers):
    numbers = (*numbers[:3], numbers[3].at[0].set(0))  # and weights that are zero, and grow
    change = direction_of(numbers)
    change = (*change[:3], jnp.abs(change[3]))
    pair = jax.jit(lambda *pair: jax.jvp(jax.value_and_grad(loss), *pair))
    (_, reverse), (forward, second) = pair((numbers,), (change,))
    dot = sum(jnp.vdot(g, dx) for g, dx in zip(reverse, change, strict=True))
    np.testing.assert_allclose(dot, forward, rtol=1e-9)

    step = 1e-3
    ends = [
        gradient(tuple(x + k * step * dx for x, dx in zip(numbers, change, strict=True)))
        for k in range(5)
    ]
    for found, *values in zip(second, *ends, strict=True):  # one-sided, of fourth order
        expected = np.tensordot([-25, 48, -36, 16, -3], np.stack(values), axes=1) / (12 * step)
        error = np.linalg.norm(found - expected) / np.linalg.norm(expected)
        assert error <= 1e-4


def degenerate_cases():
    """Degenerate problems of one shape, and if the derivatives are to be flagged."""
    data = planted(1, *SMALL)
    twin = np.column_stack([data.X[:, :4], data.X[:, 0]])
    deficient = np.column_stack([data.X[:, :4], data.X[:, :3].sum(axis=1)])
    threshold = float(qs.beta_max(data.X, data.y, numbers_of(data)[3]))
    few = np.where(np.arange(len(data.y))[:, None] < 3, data.X, 0.0)
    return {
        "duplicated columns": (dataclasses.replace(data, X=twin), True),
        "threshold": (dataclasses.replace(data, beta=threshold), True),
        "rank deficient": (dataclasses.replace(data, X=deficient), False),
        "zero targets": (dataclasses.replace(data, y=0 * data.y), False),
        "above the threshold": (dataclasses.replace(data, beta=2 * threshold), False),
        "fewer samples than features": (dataclasses.replace(data, X=few), False),
    }


def test_lanes():
    """Gradients of a batch equal single ones; degenerate lanes are finite, a failed one is zero."""
    sound = [numbers_of(planted(seed, *SMALL)) for seed in range(3)]
    degenerate = [numbers_of(data) for data, _ in degenerate_cases().values()]
    bad = (sound[0][0].at[3, 1].set(jnp.nan), *sound[0][1:])
    batch = jax.jit(jax.vmap(jax.grad(loss)))(stack([bad, *sound, *degenerate]))
    for found in lane(batch, 0):
        np.testing.assert_array_equal(found, 0)
    for index, numbers in enumerate(sound, start=1):
        for found, expected in zip(lane(batch, index), gradient(numbers), strict=True):
            size = np.linalg.norm(expected)
            assert np.linalg.norm(found - np.asarray(expected)) <= 1e-6 * size
    assert all(np.all(np.isfinite(leaf)) for leaf in batch)

    def padded(numbers, pad):
        X, y, beta, weight = numbers
        return X.at[:2].set(pad), y.at[:2].set(pad), beta, weight.at[:2].set(0)

    def loss_of_counted(numbers):
        found = outputs(numbers)
        return jnp.sum(jnp.sin(found["quadratic_form"])) + found["scale"] + found["value"]

    pads = stack([padded(sound[0], pad) for pad in (0.0, 1e3, 1e80)])
    gradients = jax.jit(jax.vmap(jax.grad(loss_of_counted)))(pads)
    for leaf in gradients[:3]:
        np.testing.assert_allclose(leaf[1], leaf[0], rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(leaf[2], leaf[0], rtol=1e-9, atol=1e-12)


def test_the_report_flags_what_has_no_derivative():
    def report(numbers):
        X, y, beta, weight = numbers
        problem = qs.Problem(X, y, beta, sample_weight=weight)
        return qs.adjoint_report(problem, qs.solve(problem, throw=False))

    cases = degenerate_cases()
    sound = numbers_of(planted(1, *SMALL))
    bad = (sound[0].at[3, 1].set(jnp.nan), *sound[1:])
    batch = stack([*(numbers_of(data) for data, _ in cases.values()), sound, bad])
    reports = jax.jit(jax.vmap(report))(batch)
    status = qs.AdjointStatus
    expected = [flagged for _, flagged in cases.values()] + [False, False]
    np.testing.assert_array_equal(reports.status == status.degenerate, expected)
    np.testing.assert_array_equal(reports.status == status.failed, [False] * 7 + [True])
    assert "Trusted" in repr(lane(reports, -2))
    assert reports.condition[0] >= 1e3 * reports.condition[-2]


def test_several_outputs_have_the_derivatives_of_each():
    X, y, _, _ = numbers_of(planted(3, *SMALL))
    Y = jnp.stack([y, y[::-1]], axis=1)

    def forms(X, y):
        return qs.solve(qs.Problem(X, y, 0.5)).quadratic_form

    @jax.jit
    def derivatives(X, Y, dX):
        together = jax.jvp(lambda X: forms(X, Y), (X,), (dX,))[1]
        return together, jax.vmap(lambda y: jax.jvp(lambda X: forms(X, y), (X,), (dX,))[1])(Y.T)

    together, singles = derivatives(X, Y, direction_of((X,))[0])
    np.testing.assert_allclose(together, singles, rtol=1e-6, atol=1e-8)


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
