"""The public check of losses passes on right ones, and says what is wrong with wrong ones."""

import inspect
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqsdp as qs


def example():
    """The class in the text of `AbstractLoss`, as a reader would copy it."""
    lines = inspect.cleandoc(qs.AbstractLoss.__doc__).splitlines()  # as Python 3.13 has it
    start = next(k for k, line in enumerate(lines) if "class SquareRoot" in line)
    stop = next(k for k in range(start, len(lines)) if lines[k].startswith("The rest"))
    names = {"qs": qs, "jnp": jnp}
    exec("\n".join(line[4:] for line in lines[start:stop]), names)
    return names["SquareRoot"]


SquareRoot = example()
RIGHT = [
    qs.SquaredLoss(),
    qs.AbsoluteLoss(),
    qs.QuantileLoss(0.3),
    qs.HuberLoss(0.7),
    qs.HingeLoss(),
    qs.SquaredHingeLoss(),
    qs.LogisticLoss(),
    SquareRoot(),
]


class Poisson(qs.AbstractLoss):
    """exp(ŷ) − yŷ − y ln y + y for counts y: an interval with one end, neither labels nor units."""

    def value(self, predictions, targets):
        return jnp.exp(predictions) - targets * (predictions + 1) + self._entropy(targets)

    def conjugate(self, dual, targets):
        return self._entropy(targets - dual) - self._entropy(targets) + dual

    def interval(self, targets):
        return -jnp.full_like(targets, jnp.inf), targets

    def _entropy(self, x):  # x ln x − x + x, so that φ is least at zero
        return jnp.where(x > 0, x * jnp.log(jnp.where(x > 0, x, 1)), 0) + 0 * x


@pytest.mark.parametrize("loss", RIGHT, ids=lambda loss: type(loss).__name__)
def test_members_pass(loss):
    qs.testing.check_loss(loss)


def test_another_seed_tries_other_numbers():
    texts = set()
    for seed in (0, 1, 0):
        with pytest.raises(AssertionError) as raised:
            qs.testing.check_loss(WRONG["slope"][0], seed=seed)
        texts.add(str(raised.value))
    assert len(texts) == 2


def test_targets_of_ones_own():
    counts = np.random.default_rng(0).poisson(3, 50)
    qs.testing.check_loss(Poisson(), counts)
    qs.testing.check_loss(qs.HuberLoss(1e6), np.array([1e6, -3e6, 2e6]))
    qs.testing.check_loss(qs.AbsoluteLoss(), [5.0])
    with pytest.raises(AssertionError, match="`value` is negative"):
        qs.testing.check_loss(Poisson(), [-1.0, 2.0])


def test_also_in_32_bit_mode():
    with jax.enable_x64(False):
        qs.testing.check_loss(qs.HuberLoss(0.7))
        assert jnp.ones(1).dtype == jnp.float32


def changed(parent, parameters=(), **functions):
    """Return a loss of which some functions are others; each takes the right one's result, too."""

    def replaced(name, function):
        right = getattr(parent, name)
        return lambda self, *arrays: function(right(self, *arrays), *arrays)

    members = {
        name: replaced(name, function) if callable(function) else function
        for name, function in functions.items()
    }
    return type("Wrong", (parent,), members)(*parameters)


def tuple_of(function):
    return lambda right, *arrays: tuple(function(end) for end in right)


def shifted_where_positive(value, z, y):
    return value + 1e-3 if np.all(z > 0) else value


WRONG = {
    "conjugate too large": (
        changed(SquareRoot, conjugate=lambda right, t, y: right + 0.1),
        r"`conjugate` is not sup_z −tz − φ\(z\)",
    ),
    "conjugate too small": (
        changed(SquareRoot, conjugate=lambda right, t, y: right - 1e-5),
        r"`conjugate` is not sup_z −tz − φ\(z\)",
    ),
    "conjugate of the other sign": (
        changed(SquareRoot, conjugate=lambda right, t, y: right + 2 * t * y),
        r"`conjugate` is not sup_z −tz − φ\(z\)",
    ),
    "conjugate no number at the ends": (
        changed(qs.LogisticLoss, conjugate=lambda right, t, y: right + 0 * jnp.log(1 - t * y)),
        "`conjugate` is no number at an end",
    ),
    "conjugate slope": (
        changed(SquareRoot, conjugate_slope=lambda right, t, y: right * 1.001),
        "`conjugate_slope` is not the derivative of `conjugate`",
    ),
    "conjugate curvature": (
        changed(SquareRoot, conjugate_curvature=lambda right, t, y: 0 * right),
        "`conjugate_curvature` is not the derivative of `conjugate_slope`",
    ),
    "prox": (
        changed(SquareRoot, prox=lambda right, center, y, step: center),
        "`prox` does not minimize",
    ),
    "prox almost": (
        changed(SquareRoot, prox=lambda right, center, y, step: right + 1e-4 * step),
        "`prox` does not minimize",
    ),
    "not convex": (
        changed(
            SquareRoot,
            value=lambda right, z, y: jnp.log1p(jnp.square(z - y)),
            slope=lambda right, z, y: 2 * (z - y) / (1 + jnp.square(z - y)),
        ),
        "`value` is not convex",
    ),
    "not convex by little": (
        changed(SquareRoot, value=lambda right, z, y: right + 0.01 * (1 - jnp.cos(9 * z))),
        "`value` is not convex",
    ),
    "interval too wide": (
        changed(SquareRoot, interval=tuple_of(lambda end: 2 * end)),
        "`interval` is too wide",
    ),
    "interval a little too wide": (
        changed(
            SquareRoot,
            value=lambda right, z, y: jnp.abs(z - y),
            conjugate=lambda right, t, y: -t * y,
            interval=tuple_of(lambda end: 1.001 * end),
        ),
        "`interval` is too wide",
    ),
    "interval too narrow": (
        changed(SquareRoot, interval=tuple_of(lambda end: end / 2)),
        "`interval` is too narrow",
    ),
    "interval without zero": (
        changed(SquareRoot, interval=tuple_of(lambda end: end + 1.5)),
        "`interval` does not hold 0",
    ),
    "interval a pair of floats": (
        changed(SquareRoot, interval=lambda right, y: (-1.0, 1.0)),
        "`interval` returns float64 of shape ()",
    ),
    "units of a parameter": (
        changed(qs.HuberLoss, (0.7,), rescaled=lambda right, unit: qs.HuberLoss(0.7)),
        r"`value` of `rescaled\(0.25\)` is not 0.25\^degree times as large",
    ),
    "degree": (
        changed(qs.AbsoluteLoss, degree=2),
        r"`value` of `rescaled\(0.25\)` is not 0.25\^degree times as large",
    ),
    "slope": (
        changed(SquareRoot, slope=lambda right, z, y: right * 1.001),
        "`slope` is no subgradient",
    ),
    "slope no number at a kink": (
        changed(
            qs.AbsoluteLoss,
            slope=lambda right, z, y: (z - y) / jnp.sqrt(jnp.square(z - y)),
        ),
        "`slope` is no subgradient",
    ),
    "curvature": (
        changed(SquareRoot, curvature=lambda right, z, y: right / 2),
        "`curvature` is not the derivative of `slope`",
    ),
    "negative": (
        changed(
            SquareRoot,
            value=lambda right, z, y: right - 0.5,
            conjugate=lambda right, t, y: right + 0.5,
        ),
        "`value` is negative",
    ),
    "a mean of the samples": (
        changed(SquareRoot, value=lambda right, z, y: right + jnp.mean(right)),
        "`value` is not elementwise",
    ),
    "a sum over samples": (
        changed(SquareRoot, value=lambda right, z, y: jnp.sum(right)),
        r"`value` returns float64 of shape \(\)",
    ),
    "the number of samples": (
        changed(SquareRoot, value=lambda right, z, y: right / z.shape[0]),
        "`value` is another function under `jax.vmap`",
    ),
    "another one for NumPy": (
        changed(
            SquareRoot,
            value=lambda right, z, y: right + 1 if isinstance(z, np.ndarray) else right,
        ),
        "`value` is another function of NumPy arrays",
    ),
    "not traceable": (
        changed(SquareRoot, value=shifted_where_positive),
        "`value` does not work under `jax.jit`",
    ),
    "wider than its inputs": (
        changed(SquareRoot, value=lambda right, z, y: right.astype(jnp.float64)),
        r"`value` returns float64 of shape \(\d+,\) where the inputs are float32",
    ),
    "cancellation": (
        changed(SquareRoot, value=lambda right, z, y: 1e3 * (jnp.sqrt(1e6 + (z - y) ** 2) - 1e3)),
        "`value` is inexact in float32",
    ),
    "bound below": (
        changed(SquareRoot, value_above=lambda right, low, high, y: right * (1 - 1e-5)),
        "`value_above` is below `value` in float64",
    ),
    "bound below in float32": (
        changed(
            SquareRoot,
            conjugate_above=lambda right, low, high, y: (
                right if right.dtype == float else 0 * right
            ),
        ),
        "`conjugate_above` is below `conjugate` in float32|inexact in float32",
    ),
    "bound useless": (
        changed(SquareRoot, value_above=lambda right, low, high, y: right + 1),
        "`value_above` is far above `value` in float64",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_losses_are_found_out(name):
    loss, message = WRONG[name]
    with pytest.raises(AssertionError, match=message) as raised:
        qs.testing.check_loss(loss)
    text = str(raised.value)
    assert text.startswith("Wrong(")
    assert text.endswith(".")
    if "does not work" not in text and "returns" not in text:
        assert re.search(r"At \d+ of \d+ points, such as .* = (-?\d|nan)", text)


def test_arguments():
    with pytest.raises(TypeError, match="`loss` must be an `AbstractLoss`, got function"):
        qs.testing.check_loss(lambda predictions, targets: 0)
    with pytest.raises(ValueError, match="`y` must be −1 or 1 for HingeLoss"):
        qs.testing.check_loss(qs.HingeLoss(), [0.0, 1.0])
    with pytest.raises(ValueError, match="`targets` is empty"):
        qs.testing.check_loss(qs.SquaredLoss(), [])
    with pytest.raises(ValueError, match="`targets` has numbers that SquaredLoss is not meant for"):
        qs.testing.check_loss(qs.SquaredLoss(), [1.0, np.nan])
    with pytest.raises(TypeError, match="`targets` must be an array of real numbers"):
        qs.testing.check_loss(qs.SquaredLoss(), "abc")


def coupled(**functions):
    """Return `SoftmaxLoss` with some functions replaced, by functions of the right ones."""
    methods = {
        name: lambda self, *inputs, _name=name, _change=change: _change(
            getattr(qs.SoftmaxLoss, _name)(self, *inputs)
        )
        for name, change in functions.items()
    }
    return type("Wrong", (qs.SoftmaxLoss,), methods)()


COUPLED = {
    "negative": (coupled(value=lambda x: x - 1), "`value` is negative"),
    "one number an output": (coupled(slope=lambda x: x[:, 0]), "`slope` is not one number"),
    "another slope": (coupled(slope=lambda x: 1.01 * x), "`slope` is not the derivative"),
    "another curvature": (coupled(curvature=lambda x: 1.01 * x), "`curvature` is not"),
    "another dtype": (coupled(value=lambda x: x.astype(np.float64)), "does not keep float32"),
    "interval": (coupled(interval=lambda ends: [end / 2 for end in ends]), "too narrow"),
    "a smaller conjugate": (coupled(conjugate=lambda x: x - 1e-3), "≥ −tŷ|= −tŷ"),
    "a larger conjugate": (coupled(conjugate=lambda x: x + 1e-3), "= −tŷ at t"),
    "prox": (coupled(prox=lambda x: x + 1e-4), "`prox` does not minimize"),
    "clipped": (coupled(clip_dual=lambda x: 0.9 * x), "`clip_dual` moves"),
    "probabilities": (coupled(predict_proba=lambda x: 2 * x), "`slope`|`predict_proba`"),
    "a bound below": (coupled(value_above=lambda x: 0.999 * x), "`value_above` is below"),
    "a bound far above": (coupled(value_above=lambda x: 2 * x), "`value_above` is far above"),
}


def test_softmax_is_sound():
    qs.testing.check_loss(qs.SoftmaxLoss())
    qs.testing.check_loss(qs.SoftmaxLoss(7), np.arange(30) % 5, seed=1)
    with pytest.raises(ValueError, match="classes 0, 1, …"):
        qs.testing.check_loss(qs.SoftmaxLoss(), [0.5, 1.0])


@pytest.mark.parametrize("name", COUPLED)
def test_wrong_coupled_losses_are_found_out(name):
    loss, message = COUPLED[name]
    with pytest.raises(AssertionError, match=message):
        qs.testing.check_loss(loss)
