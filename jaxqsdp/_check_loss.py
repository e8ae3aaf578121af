"""Properties that every loss must have, tried at random numbers."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.errors import JAXIndexError, JAXTypeError
from jaxtyping import ArrayLike

from ._base.mesh import on_any_mesh
from ._base.types import as_float_array
from ._check_coupled_loss import check_coupled_loss
from ._loss.base import AbstractLoss

_CASES, _GRID = 64, 64  # suprema, each searched on so many points at once
_COUNT = _CASES * _GRID  # one length for all arrays, so that a function is compiled once a dtype
_ZOOMS = 8  # each by a factor of 32
_FARTHEST = 25.0  # of a search: sinh 25 = 3.6e10 natural sizes
_MARGIN = 0.02  # of an interval, kept from its ends: slopes of ψ may be infinite there
_STEP = 1e-4  # of differences, in natural sizes
_LARGEST = 1e30  # of numbers looked at in float32
_KINKS = 0.02  # the part of all points that a kink may spoil

# Relative errors: of a few operations, of values, of differences, of a search, of float32.
_ROUNDING, _EXACT, _DIFFERENCES, _SEARCH, _SINGLE = 256 * 2.0**-52, 1e-9, 1e-5, 1e-8, 1e-4

# What functions take: arguments ŷ of φ, from z to Z, and t of ψ, from t to T; targets, steps.
_FIRST = {
    "value": "zy",
    "slope": "zy",
    "curvature": "zy",
    "interval": "y",
    "value_above": "zZy",
}
_THEN = {
    "conjugate": "ty",
    "conjugate_slope": "ty",
    "conjugate_curvature": "ty",
    "conjugate_above": "tTy",
    "prox": "zys",
}
_TAKES = _FIRST | _THEN
_LABELS = {"z": "ŷ", "Z": "upper ŷ", "T": "upper t", "s": "step"}
_WAYS = {
    "mixed": "is not elementwise, it depends on other samples: take no sums or means.",
    "rows": "is another function under `jax.vmap`: look at no shapes.",
    "on host": "is another function of NumPy arrays: use functions of jax.numpy.",
    "narrow": "is inexact in float32: avoid cancellation, by `log1p` or `expm1`, say.",
}
_JUMPS = ("slope", "curvature", "conjugate_slope", "conjugate_curvature")


def check_loss(loss: AbstractLoss, targets: ArrayLike | None = None, seed: int = 0) -> None:
    """Try whether a loss of your own is what `AbstractLoss` asks for.

        class SquareRoot(qs.AbstractLoss):
            ...  # as in the text of `AbstractLoss`

        qs.testing.check_loss(SquareRoot())

    At random ŷ, t and y, in this order: shapes, dtypes, `jax.jit`, `jax.vmap`, NumPy arrays and
    that each element depends on its own inputs only; φ ≥ 0, convex, `slope` and `curvature` its
    derivatives; the interval holds 0 and −φ'(ŷ) and no t with an infinite ψ(t); ψ(t) is the
    supremum of −tz − φ(z), by a search over z, convex, with φ(ŷ) + ψ(t) ≥ −tŷ and equality at
    t = −φ'(ŷ); `conjugate_slope` and `conjugate_curvature` are its derivatives; `prox` minimizes
    φ(z) + (z − center)²/(2·step); `value_above` and `conjugate_above` are above, and not by much;
    and `rescaled` and `degree` agree. A few seconds, most of them for compilation. `SoftmaxLoss`,
    which couples outputs, is tried on the like of these.

    **Arguments:**

    - `loss`: any member of `AbstractLoss`.
    - `targets`: default ±1 if `loss.takes_labels`, else normal numbers. Pass some of yours if the
      loss is not for those (counts, say), or if its parameters suit others in size.
    - `seed`: of the random numbers.

    **Raises:** `AssertionError` naming the property, the loss, the numbers where it fails and what
    to do; `TypeError` or `ValueError` if `loss` is no loss, or not for these `targets`.
    """
    if not isinstance(loss, AbstractLoss):
        raise TypeError(f"`loss` must be an `AbstractLoss`, got {type(loss).__name__}.")
    with jax.enable_x64(True):
        if loss.couples_outputs:
            return check_coupled_loss(loss, targets, seed)
        given = None if targets is None else np.ravel(as_float_array(targets, "targets"))
        if given is not None and not given.size:
            raise ValueError("`targets` is empty; pass at least one number.")
        trial = _Trial(loss, given, np.random.default_rng(seed))
        trial.check_calls(_FIRST)
        trial.check_value()
        trial.check_interval()
        trial.check_calls(_THEN)
        trial.check_conjugate()
        trial.check_prox()
        trial.check_bounds()
        trial.check_units()


@eqx.filter_jit
@on_any_mesh
def _call(loss: AbstractLoss, name: str, arguments: list[Any]) -> Any:
    return getattr(loss, name)(*arguments)


class _Trial:
    """A loss and the random numbers that it is tried at, all of them exact in float32."""

    def __init__(
        self, loss: AbstractLoss, targets: np.ndarray | None, rng: np.random.Generator
    ) -> None:
        self.loss, self.rng = loss, rng
        if targets is None:
            normal = rng.standard_normal(_COUNT)
            targets = np.where(normal > 0, 1.0, -1.0) if loss.takes_labels else normal
        loss.check_targets(targets)
        if not np.all(np.isfinite(targets)):
            kind = type(loss).__name__
            raise ValueError(f"`targets` has numbers that {kind} is not meant for; leave them out.")
        self.y = _single(np.resize(targets, _COUNT))
        self.unit = float(np.std(self.y)) or float(np.max(np.abs(self.y))) or 1.0  # natural size
        spread = self.unit * np.resize([0.1, 1.0, 10.0], _COUNT)
        self.z = _single(self.y + spread * rng.standard_normal(_COUNT))
        self.z[::16] = self.y[::16]  # where kinks are
        self.Z = _single(self.z + spread * rng.exponential(size=_COUNT))
        self.s = _single(10 ** rng.uniform(-1, 1, _COUNT))
        # Digits that y − z loses.
        self.cancellation = 1 + float(np.max(np.abs(self.y))) / self.unit
        self.check_shapes()
        self.low, self.high = self("interval")
        steep = np.abs(self("slope"))
        largest = 3 * np.quantile(steep, 0.75) or 1.0
        low, high = np.maximum(self.low, -largest), np.minimum(self.high, largest)
        part = np.sort(rng.uniform(_MARGIN, 1 - _MARGIN, (2, _COUNT)), axis=0)
        self.t, self.T = _single(low + (high - low) * part)
        self.room = np.minimum(self.t - low, high - self.t)

    def __call__(self, name: str, **replaced: Any) -> Any:
        """Return a function's float64 results at the points, or at others in their place."""
        inputs = [replaced.get(letter, getattr(self, letter)) for letter in _TAKES[name]]
        return jax.tree.map(np.asarray, _call(self.loss, name, [*map(jnp.asarray, inputs)]))

    def require(self, holds: Any, message: str, **numbers: Any) -> None:
        """Raise `AssertionError` with the numbers of the first failure, unless all hold."""
        if np.all(holds):
            return
        first, total = int(np.argmin(holds)), np.size(holds)
        at = ", ".join(
            f"{_LABELS.get(name, name.replace('_', ' '))} = {np.ravel(values)[first]:.9g}"
            for name, values in numbers.items()
        )
        raise AssertionError(
            f"{self.loss!r}: {message} At {total - np.sum(holds)} of {total} points, such as {at}."
        )

    def close(self, found: Any, expected: Any, tolerance: float) -> Any:
        """Whether numbers agree, relative to their own size or that of their fellows."""
        finite = np.abs(expected)[np.isfinite(expected)]
        typical = np.median(finite) if finite.size else 0.0
        size = tolerance * self.cancellation * (np.abs(expected) + typical)
        with np.errstate(invalid="ignore"):  # infinite ones are equal
            return (found == expected) | (np.abs(found - expected) <= size)

    def size(self, *terms: Any) -> Any:
        """Return what rounding errors of a sum are relative to."""
        size = sum(np.where(np.isfinite(term), np.abs(term), 0) for term in terms)
        return size + np.median(size)

    # Calls.

    def check_shapes(self) -> None:
        """All functions can be traced, and return what they should in both dtypes."""
        for name, letters in _TAKES.items():
            for dtype in (np.float64, np.float32):
                inputs = [jax.ShapeDtypeStruct((_COUNT,), dtype)] * len(letters)
                try:
                    results = jax.eval_shape(getattr(self.loss, name), *inputs)
                except (JAXTypeError, JAXIndexError) as error:
                    raise AssertionError(
                        f"{self.loss!r}: `{name}` does not work under `jax.jit`. Use functions of "
                        "jax.numpy, and `jnp.where` for `if`."
                    ) from error
                for result in jax.tree.leaves(results):
                    if jnp.shape(result) != (_COUNT,) or result.dtype != dtype:
                        raise AssertionError(
                            f"{self.loss!r}: `{name}` returns {result.dtype} of shape "
                            f"{result.shape} where the inputs are {np.dtype(dtype)} of shape "
                            f"({_COUNT},). Return one number a sample of the dtype of the inputs: "
                            "take no sums, and cast parameters by `.astype(targets.dtype)`."
                        )

    def check_calls(self, functions: dict[str, str]) -> None:
        """Each function is the same one wherever and however it is called."""
        kept = np.arange(_COUNT) % 2 == 0
        for name, letters in functions.items():
            function, expected = getattr(self.loss, name), self(name)
            inputs = [getattr(self, letter) for letter in letters]
            order = self.rng.permutation(_COUNT)
            mixed = [jnp.asarray(np.where(kept, array, array[order])) for array in inputs]
            rows = [jnp.asarray(array.reshape(_CASES, _GRID)) for array in inputs]
            narrow = [jnp.asarray(array, jnp.float32) for array in inputs]
            with np.errstate(all="ignore"):
                on_host = function(*inputs)
            results = {
                "mixed": _call(self.loss, name, mixed),
                "rows": jax.vmap(function)(*rows),
                "on host": on_host,
                "narrow": _call(self.loss, name, narrow),
            }
            if name.endswith("_above"):  # larger in float32, see `check_bounds`
                results.pop("narrow")
            for way, found in results.items():
                for one, other in zip(*map(jax.tree.leaves, (found, expected)), strict=True):
                    array = np.ravel(np.asarray(one, np.float64))
                    holds = self.close(array, other, _SINGLE if way == "narrow" else _EXACT)
                    holds |= np.isnan(other)  # is found later
                    if way == "mixed":
                        holds |= ~kept
                    if way == "narrow":
                        holds |= np.isfinite(other) & (np.abs(other) > _LARGEST)
                    if name in _JUMPS and np.mean(holds) > 1 - _KINKS:
                        continue  # a rounding error may lie between two sides of a kink
                    numbers = dict(zip(letters, inputs, strict=True))
                    numbers |= {"found": array, "expected": other}
                    self.require(holds, f"`{name}` {_WAYS[way]}", **numbers)

    # φ.

    def check_value(self) -> None:
        z, Z, y, value, slope = self.z, self.Z, self.y, self("value"), self("slope")
        rounding = _ROUNDING * self.size(value, slope * z, slope * y)
        message = "`value` is negative or no number: add a constant."
        self.require(value >= -rounding, message, z=z, y=y, value=value)
        part = self.rng.uniform(size=_COUNT)
        between = self("value", z=z + part * (Z - z))
        chord = (1 - part) * value + part * self("value", z=Z)
        holds = between <= chord + _EXACT * self.size(chord)
        message = "`value` is not convex in ŷ: no bound holds then, take another loss."
        self.require(holds, message, z=z, Z=Z, y=y, between=between, chord=chord)
        message = (
            "`slope` is no subgradient of `value`: leave it to JAX, and guard by `jnp.where` what "
            "is no number in places."
        )
        for step in (-_STEP * self.unit, _STEP * self.unit):
            beside = self("value", z=z + step)
            holds = beside >= value + step * slope - rounding
            numbers = {"slope": slope, "difference": (beside - value) / step}
            self.require(holds, message, z=z, y=y, **numbers)
        self.check_derivative("slope", "curvature", "z", _STEP * self.unit)

    def check_derivative(self, function: str, derivative: str, letter: str, step: Any) -> None:
        """Compare with central differences, except beside kinks."""
        at, found = getattr(self, letter), self(derivative)
        left, middle, right = (self(function, **{letter: at + k * step}) for k in (-1, 0, 1))
        expected = (right - left) / (2 * step)
        kink = ~self.close(right - middle, middle - left, 0.01)
        # In the middle of a jump both sides are the same, but not half as far away.
        near, far = (self(function, **{letter: at + k * step}) for k in (-0.5, 0.5))
        kink |= ~self.close(2 * (far - near), right - left, 0.01)
        holds = self.close(found, expected, _DIFFERENCES) | (kink & ~np.isnan(found))
        message = f"`{derivative}` is not the derivative of `{function}`: leave it to JAX."
        self.require(holds, message, **{letter: at}, y=self.y, found=found, difference=expected)

    # ψ.

    def check_interval(self) -> None:
        remedy = "its ends are inf and sup of −φ' over all ŷ."
        numbers = {"y": self.y, "low": self.low, "high": self.high}
        holds = (self.low <= 0) & (self.high >= 0)
        self.require(holds, f"`interval` does not hold 0: {remedy}", **numbers)
        for z in (self.z, self.y + 100 * (self.z - self.y)):
            dual = -self("slope", z=z)
            slack = _EXACT * np.abs(dual)
            holds = (dual >= self.low - slack) & (dual <= self.high + slack)
            message = f"`interval` is too narrow, −φ'(ŷ) is outside: {remedy}"
            self.require(holds, message, z=z, t=dual, **numbers)
        _, at, inside = self.supremum(self.t)
        message = f"`interval` is too wide, −tz − φ(z) has no supremum: {remedy}"
        self.require(inside, message, t=self.t, y=self.y, z=at)
        for end in (self.low, self.high):
            dual = np.where(np.isfinite(end), end, 0)
            farther, at, _ = self.supremum(dual)
            far, *_ = self.supremum(dual, _FARTHEST - 5)
            # At an end it may grow, but not as fast as z does; φ itself has rounding errors.
            slack = 1e-7 * np.abs(dual[:_CASES]) * self.unit * np.sinh(_FARTHEST)
            slack += _ROUNDING * self.size(farther, far, self("value")[:_CASES])
            holds = ~(farther - far > slack)
            self.require(holds, message, t=dual, y=self.y, z=at)

    def supremum(self, dual: Any, farthest: float = _FARTHEST) -> tuple[Any, Any, Any]:
        """Return sup_z −tz − φ(z) by a search, where that is, and if far from where it stops."""
        t, y = (np.repeat(array[:_CASES], _GRID) for array in (dual, self.y))
        left, right = np.full((2, _CASES), [[-farthest], [farthest]])
        for _ in range(_ZOOMS):
            places = np.linspace(left, right, _GRID, axis=1)
            z = (y + self.unit * np.sinh(places).ravel()).reshape(places.shape)
            values = (-t * z.ravel() - self("value", z=z.ravel(), y=y)).reshape(places.shape)
            values = np.where(np.isnan(values), -np.inf, values)
            best = np.argmax(values, axis=1)
            beside = np.clip([best - 1, best, best + 1], 0, _GRID - 1)
            left, place, right = np.take_along_axis(places, beside.T, axis=1).T
        found, at = (np.take_along_axis(a, best[:, None], axis=1)[:, 0] for a in (values, z))
        return found, at, np.abs(place) < 0.9 * farthest

    def check_conjugate(self) -> None:
        z, t, T, y, value, conjugate = (
            self.z,
            self.t,
            self.T,
            self.y,
            self("value"),
            self("conjugate"),
        )
        supremum, at, _ = self.supremum(t)
        found = conjugate[:_CASES]
        size = self.size(supremum, t[:_CASES] * at, t[:_CASES] * y[:_CASES])
        message = "`conjugate` is not sup_z −tz − φ(z): mind the sign, it is φ*(−t)."
        numbers = {"found": found, "supremum": supremum, "z": at}
        self.require(np.abs(found - supremum) <= _SEARCH * size, message, t=t, y=y, **numbers)
        message = (
            "`conjugate` is no number at an end of the interval or 0: guard it by `jnp.where`."
        )
        for end in (self.low, self.high):
            end = np.where(np.isfinite(end), end, 0)
            self.require(~np.isnan(self("conjugate", t=end)), message, t=end, y=y)
        attained = np.clip(-self("slope"), self.low, self.high)
        for relation, at in (("≥ −tŷ", t), ("= −tŷ at t = −φ'(ŷ)", attained)):
            other = self("conjugate", t=at)
            slack = _EXACT * self.size(value, other, at * z, at * y)
            gap = value + other + at * z
            holds = (gap >= -slack) & ((gap <= slack) | (at is t))
            message = f"`conjugate` and `value` break Fenchel and Young's φ(ŷ) + ψ(t) {relation}."
            self.require(holds, message, z=z, t=at, y=y, value=value, conjugate=other)
        part = self.rng.uniform(size=_COUNT)
        between = self("conjugate", t=t + part * (T - t))
        chord = (1 - part) * conjugate + part * self("conjugate", t=T)
        holds = between <= chord + _EXACT * self.size(chord, T * y)
        message = "`conjugate` is not convex in t, as every supremum of linear functions is."
        self.require(holds, message, t=t, T=T, y=y, between=between, chord=chord)
        self.check_derivative("conjugate", "conjugate_slope", "t", _STEP * self.room)
        self.check_derivative("conjugate_slope", "conjugate_curvature", "t", _STEP * self.room)

    # What follows from both.

    def check_prox(self) -> None:
        center, found = self.z, self("prox")

        def objective(z: Any) -> Any:
            return self("value", z=z) + np.square(z - center) / (2 * self.s)

        least, slope, pull = objective(found), self("slope", z=found), (found - center) / self.s
        size = self.size(least, slope * found, slope * self.y, pull * found, pull * center)
        message = (
            "`prox` does not minimize φ(z) + (z − center)²/(2·step): leave it out, it is then "
            "found by bisection."
        )
        for step in (1e-6, -1e-6, 1e-3, -1e-3, 1.0, -1.0):
            beside = objective(found + step * self.unit)
            numbers = {"center": center, "y": self.y, "s": self.s, "found": found}
            numbers |= {"objective": least, "less": beside}
            self.require(least <= beside + _ROUNDING * size, message, **numbers)

    def check_bounds(self) -> None:
        for name, low, high in (("value", "z", "Z"), ("conjugate", "t", "T")):
            lower, upper, exact = getattr(self, low), getattr(self, high), self(name)
            largest = np.maximum(exact, self(name, **{low: upper}))
            slope = self(f"{name}_slope" if low == "t" else "slope")
            size = self.size(exact, slope * lower, slope * self.y, lower * self.y)
            for dtype, tolerance in ((np.float64, _EXACT), (np.float32, _SINGLE)):
                for end, most, slack in ((upper, largest, np.inf), (lower, exact, tolerance)):
                    inputs = [jnp.asarray(array, dtype) for array in (lower, end, self.y)]
                    bound = np.asarray(_call(self.loss, f"{name}_above", inputs), np.float64)
                    numbers = {low: lower, high: end, "y": self.y, "bound": bound, name: most}
                    where = f"`{name}` in {np.dtype(dtype)}"
                    message = f"`{name}_above` is below {where}: allow for more rounding."
                    self.require(bound >= most, message, **numbers)
                    message = f"`{name}_above` is far above {where}: allow for less."
                    holds = (bound <= most + slack * size) | (size > _LARGEST)
                    self.require(holds, message, **numbers)

    def check_units(self) -> None:
        degree = self.loss.degree
        if degree is None:
            return
        for b in (0.25, 3.0):
            scaled = self.loss.rescaled(jnp.asarray(b))
            for name, letter, factor in (("value", "z", b), ("conjugate", "t", b ** (degree - 1))):
                at = getattr(self, letter)
                inputs = [jnp.asarray(factor * at), jnp.asarray(b * self.y)]
                found, expected = np.asarray(_call(scaled, name, inputs)), b**degree * self(name)
                self.require(
                    self.close(found, expected, _EXACT),
                    f"`{name}` of `rescaled({b:g})` is not {b:g}^degree times as large: override "
                    "`rescaled` if a parameter has units of y, let `degree` be None if y has none.",
                    **{letter: at},
                    y=self.y,
                    found=found,
                    expected=expected,
                )


def _single(array: np.ndarray) -> np.ndarray:
    return array.astype(np.float32).astype(np.float64)
