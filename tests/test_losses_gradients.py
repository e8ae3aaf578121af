"""Derivatives of solutions under every loss, against differences of solutions."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from problems import planted

import jaxqsdp as qs

TIGHT = qs.InteriorPoint(tol=1e-12, tol_residual=1e-12)
SHAPE = (24, 4)
SMOOTH = {
    "squared": qs.SquaredLoss(),
    "Huber": qs.HuberLoss(0.3),
    "squared hinge": qs.SquaredHingeLoss(),
    "logistic": qs.LogisticLoss(),
}
KINKED = {
    "hinge": qs.HingeLoss(),
    "absolute": qs.AbsoluteLoss(),
    "quantile": qs.QuantileLoss(0.3),
}
LOSSES = {**SMOOTH, **KINKED}
INPUTS = ("X", "weight", "y", "beta")
OUTPUTS = ("value", "predictions", "quadratic_form", "dual", "scale")
STEP = 1e-3  # times the numbers, of differences of sixth order, and ...
SHORT = 2e-4  # ... for losses whose slope has kinks


def numbers_of(name, dtype=np.float64, seed=0):
    """Return (X, w, y, β), labels ±1 for a loss that takes these."""
    data = planted(seed, *SHAPE)
    y = np.sign(data.y) if LOSSES[name].takes_labels else data.y
    weight = np.linspace(0.5, 1.5, SHAPE[0])
    return tuple(jnp.asarray(x, dtype) for x in (data.X, weight, y, np.asarray(0.3)))


def problem_of(name, numbers):
    X, weight, y, beta = numbers
    return qs.Problem(X, y, beta, LOSSES[name], weight)


def weighed(array):
    """Return a smooth number that depends on all entries."""
    return jnp.sum(np.sin(np.arange(1.0, 1.0 + array.size)).astype(array.dtype) * array.ravel())


@functools.cache
def program(name, dtype):
    """Return a compiled function for the outputs, each as one number, and all derivatives."""
    solver = TIGHT if dtype == np.float64 else qs.InteriorPoint()

    def outputs(numbers):
        solution = qs.solve(problem_of(name, numbers), solver, throw=False)
        found = jnp.stack([weighed(getattr(solution, output)) for output in OUTPUTS])
        return found, qs.adjoint_report(problem_of(name, numbers), solution)

    @jax.jit
    def both(numbers):
        found, pull_back, report = jax.vjp(outputs, numbers, has_aux=True)
        return found, jax.vmap(pull_back)(jnp.eye(len(OUTPUTS), dtype=dtype))[0], report

    return both


@functools.cache
def at(name, dtype=np.float64):
    """Return the outputs, their derivatives by input, and the report."""
    found, slopes, report = program(name, dtype)(numbers_of(name, dtype))
    return np.asarray(found), dict(zip(INPUTS, slopes, strict=True)), report


def moving(name):
    return [given for given in INPUTS if given != "y" or not LOSSES[name].takes_labels]


def direction(given, numbers):
    leaf = numbers[INPUTS.index(given)]
    noise = np.random.default_rng(3).standard_normal(leaf.shape)
    return jnp.asarray(np.sqrt(np.mean(np.square(leaf))) * noise, leaf.dtype)


def differences(name, given):
    """Return central differences of the outputs along a direction."""
    numbers, total = numbers_of(name), 0.0
    change, index = direction(given, numbers), INPUTS.index(given)
    step = STEP if name in ("squared", "logistic") else SHORT
    for shift, factor in ((1, 45), (2, -9), (3, 1)):
        ends = [
            program(name, np.float64)(
                (*numbers[:index], numbers[index] + k * step * change, *numbers[index + 1 :])
            )[0]
            for k in (shift, -shift)
        ]
        total += factor * (np.asarray(ends[0]) - np.asarray(ends[1])) / (60 * step)
    return total


def along(name, given):
    slopes, change = at(name)[1][given], direction(given, numbers_of(name))
    return np.asarray(slopes).reshape(len(OUTPUTS), -1) @ np.asarray(change).ravel()


@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_are_those_of_differences(name, capsys):
    """Of solves, whose predictions are only as good as the root of their gaps, and of points that
    are better.
    """
    for given in moving(name):
        found, expected = along(name, given), differences(name, given)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, err_msg=given)
        np.testing.assert_allclose(found, expected, rtol=2e-3, err_msg=given)
    assert at(name)[2].status == qs.AdjointStatus.trusted
    check = qs.check_gradient(problem_of(name, numbers_of(name)), solver=TIGHT)
    assert ("y" in check.errors) == ("y" in moving(name))
    assert max(max(row.values()) for row in check.errors.values()) <= 1e-5, check.errors
    assert "agree to" in capsys.readouterr().out
