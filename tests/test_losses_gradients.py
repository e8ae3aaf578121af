"""Derivatives under every loss but the squared, which `test_adjoint` has, against differences."""

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
# Times the numbers, of differences of sixth order: they must not pass kinks, of φ or its slope.
LONG = dict.fromkeys(INPUTS, 1e-3)
SHORT = {"X": 2e-4, "y": 2e-4, "weight": 1e-3, "beta": 1e-3}
STEPS = {"logistic": LONG, "Huber": SHORT, "squared hinge": SHORT}
SHORTEST = {"X": 4e-5, "y": 4e-5, "weight": 2e-4, "beta": 2e-4}


def numbers_of(name, dtype=np.float64):
    """Return (X, w, y, β), labels ±1 for a loss that takes these, no sample next to a kink."""
    data = planted(1 if name in ("absolute", "quantile") else 0, *SHAPE)
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
        return jnp.stack([weighed(getattr(solution, output)) for output in OUTPUTS]), solution

    @jax.jit
    def both(numbers):
        found, pull_back, solution = jax.vjp(outputs, numbers, has_aux=True)
        slopes = jax.vmap(pull_back)(jnp.eye(len(OUTPUTS), dtype=dtype))[0]
        return found, slopes, qs.adjoint_report(problem_of(name, numbers), solution)

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


@functools.cache
def values(name):
    """Return a function for the value by ADMM: beside kinks it ends at a thousandth of the gap."""
    solver = qs.ADMM(tol=1e-13, max_steps=100_000)
    return jax.jit(
        lambda numbers: weighed(qs.solve(problem_of(name, numbers), solver, throw=False).value)
    )


def differences(function, name, given):
    """Return central differences of a function of the numbers along a direction."""
    numbers, total = numbers_of(name), 0.0
    change, index = direction(given, numbers), INPUTS.index(given)
    step = STEPS.get(name, SHORTEST)[given]
    for shift, factor in ((1, 45), (2, -9), (3, 1)):
        ends = [
            function((*numbers[:index], numbers[index] + k * step * change, *numbers[index + 1 :]))
            for k in (shift, -shift)
        ]
        total += factor * (np.asarray(ends[0]) - np.asarray(ends[1])) / (60 * step)
    return total


def outputs_of(name):
    return lambda numbers: program(name, np.float64)(numbers)[0]


def along(name, given):
    slopes, change = at(name)[1][given], direction(given, numbers_of(name))
    return np.asarray(slopes).reshape(len(OUTPUTS), -1) @ np.asarray(change).ravel()


@pytest.mark.thorough(name=("squared hinge",))
@pytest.mark.parametrize("name", SMOOTH)
def test_derivatives_are_those_of_differences(name):
    """Of solves, whose predictions are only as good as the root of their gaps, and of points that
    are better.
    """
    for given in moving(name):
        found, expected = along(name, given), differences(outputs_of(name), name, given)
        np.testing.assert_allclose(found[0], expected[0], rtol=1e-5, err_msg=given)
        np.testing.assert_allclose(found, expected, rtol=2e-3, err_msg=given)
    assert at(name)[2].status == qs.AdjointStatus.trusted


@pytest.mark.thorough(name=("absolute",))
@pytest.mark.parametrize("name", KINKED)
def test_a_loss_with_kinks_has_finite_derivatives_and_those_of_its_value_are_right(name):
    """The solution itself may move along with its kinks; then its derivatives are right, too."""
    for given in moving(name):
        found, value = along(name, given), differences(values(name), name, given)
        np.testing.assert_allclose(found[0], value, rtol=1e-5, err_msg=given)
        assert np.all(np.isfinite(found))
        if at(name)[2].status == qs.AdjointStatus.trusted:
            expected = differences(outputs_of(name), name, given)
            off = np.abs(found - expected) - 2e-3 * np.abs(expected) - 1e-3 * np.abs(at(name)[0])
            # Over such short steps differences of the dual are noise.
            assert np.all((off <= 0)[[output != "dual" for output in OUTPUTS]]), (given, off)


@pytest.mark.thorough(name=("squared hinge",))
@pytest.mark.parametrize("name", ["Huber", "squared hinge", "quantile"])
def test_single_precision_is_within_a_few_percent(name):
    found, slopes, report = at(name, np.float32)
    for given, slope in slopes.items():
        slope = np.asarray(slope)
        assert slope.dtype == found.dtype == np.float32
        assert np.all(np.isfinite(slope)), given
        expected = np.asarray(at(name)[1][given])
        if given not in moving(name):
            np.testing.assert_array_equal(slope, 0)
            np.testing.assert_array_equal(expected, 0)
            continue
        axes = tuple(range(1, expected.ndim))
        error = np.sqrt(np.sum(np.square(slope - expected), axis=axes))
        size = np.sqrt(np.sum(np.square(expected), axis=axes))
        assert error[0] <= 1e-2 * size[0]
        if report.status == qs.AdjointStatus.trusted:
            assert np.all(error <= 3e-2 * np.maximum(size, 1e-2 * size.max())), (given, error, size)


def test_outside_jit_as_inside_with_weights_of_zero_several_outputs_and_parameters():
    """Derivatives with respect to the δ of a Huber loss are those of differences, too."""
    X, weight, y, beta = numbers_of("Huber")
    numbers = X, weight.at[0].set(0), jnp.stack([y, jnp.roll(y, 1)], axis=1), beta
    delta = jnp.asarray(0.3)

    def outputs(numbers, delta):
        X, weight, y, beta = numbers
        solution = qs.solve(qs.Problem(X, y, beta, qs.HuberLoss(delta), weight), TIGHT)
        return weighed(solution.value), solution

    def smooth(numbers, delta):
        value, solution = outputs(numbers, delta)
        return value + weighed(solution.predictions) + weighed(jnp.sin(solution.dual))

    gradient = jax.grad(smooth, argnums=(0, 1))
    expected = jax.tree.leaves(jax.jit(gradient)(numbers, delta))
    for found, leaf in zip(jax.tree.leaves(gradient(numbers, delta)), expected, strict=True):
        np.testing.assert_allclose(found, leaf, rtol=1e-6, atol=1e-8)
    for function, tolerance in ((lambda *a: outputs(*a)[0], 1e-6), (smooth, 2e-3)):
        step, slope = 1e-4, jax.grad(function, argnums=1)(numbers, delta)
        ends = [function(numbers, delta + shift) for shift in (step, -step)]
        np.testing.assert_allclose(slope, (ends[0] - ends[1]) / (2 * step), rtol=tolerance)


class SquareRoot(qs.AbstractLoss):
    """√(1 + (ŷ − y)²) − 1: at the ends of its interval ψ' is infinite."""

    def value(self, predictions, targets):
        return jnp.sqrt(1 + jnp.square(predictions - targets)) - 1

    def conjugate(self, dual, targets):
        return 1 - jnp.sqrt(1 - jnp.square(dual)) - dual * targets

    def interval(self, targets):
        return -jnp.ones_like(targets), jnp.ones_like(targets)


class CubicHinge(qs.AbstractLoss):
    """(1 − yŷ)₊³/3: at the end of its interval ψ' is finite and ψ'' is not."""

    takes_labels = True

    def value(self, predictions, targets):
        return jnp.maximum(1 - targets * predictions, 0) ** 3 / 3

    def conjugate(self, dual, targets):
        return 2 / 3 * jnp.abs(dual) ** 1.5 - targets * dual

    def interval(self, targets):
        return qs.SquaredHingeLoss().interval(targets)


CHECKED = {
    "of one's own": (SquareRoot(), 0.0, "absolute"),
    "logistic": (qs.LogisticLoss(), 0.0, "logistic"),
    "smoothed": (qs.SquaredHingeLoss(), 1e-2, "hinge"),
    "smoothed kinks": (qs.AbsoluteLoss(), 0.5, "absolute"),
}


@pytest.mark.thorough(case=("smoothed", "of one's own"))
@pytest.mark.parametrize("case", CHECKED)
def test_derivatives_are_those_that_are_checked(case, capsys):
    """With a weight that is zero."""
    loss, smoothing, like = CHECKED[case]
    X, weight, y, beta = numbers_of(like)
    problem = qs.Problem(X, y, beta, loss, weight.at[0].set(0))
    check = qs.check_gradient(problem, adjoint=qs.Implicit(smoothing), solver=TIGHT)
    assert ("y" in check.errors) != loss.takes_labels
    assert max(max(row.values()) for row in check.errors.values()) <= 1e-5, check.errors
    assert "agree to" in capsys.readouterr().out


@pytest.mark.thorough
def test_an_infinite_curvature_of_the_conjugate_does_no_harm():
    X, weight, y, beta = numbers_of("hinge")
    problem = qs.Problem(X, y, beta, CubicHinge(), weight.at[0].set(0))
    check = qs.check_gradient(problem, solver=TIGHT)
    assert np.all(np.isfinite([list(row.values()) for row in check.errors.values()]))
    assert max(check.errors["beta"].values()) <= check.tolerance


def test_unrolled_is_for_the_squared_loss():
    problem = problem_of("Huber", numbers_of("Huber"))

    def value(beta):
        changed = problem.with_numbers(beta=beta)
        return qs.solve(changed, qs.InteriorPoint(), adjoint=qs.Unrolled()).value

    with pytest.raises(TypeError, match="use `Implicit"):
        jax.grad(value)(problem.beta)
