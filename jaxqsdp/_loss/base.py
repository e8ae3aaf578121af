"""What a loss can say about itself."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from .._base.control_flow import fori_loop
from .._base.text import settings
from .._base.types import Scalar, across, epsilon, namespace, tiny
from .._exact.powers import bits_of, number_of, power_of_two

_NEAR = 64.0  # units in the last place, to both sides of a kink
_FAR = 64.0  # times 1 and the size of targets and predictions: how far an intercept is looked for
_ROUNDING = 256  # units in the last place that a loss may be wrong by; XLA's log1p is, by 120


class AbstractLoss(eqx.Module):
    """ℓ(ŷ, y) = Σ_i w_i φ(ŷ_i, y_i), a sum over samples, convex in ŷ and nowhere below zero.

    Its dual side is ψ(t) = φ*(−t) = sup_z −tz − φ(z): −Σ w_i ψ(λ_i/w_i) bounds the optimum from
    below where λ and p satisfy the constraints of the relaxation's dual, and at the optimum
    λ_i = −w_i φ'(ŷ_i). A loss of your own is a subclass with three functions, elementwise and for
    weight 1, `value`, `conjugate` and `interval`; `jaxqsdp.testing.check_loss` tries them:

        class SquareRoot(qs.AbstractLoss):
            def value(self, predictions, targets):
                square = jnp.square(predictions - targets)
                return square / (jnp.sqrt(1 + square) + 1)  # √(1 + r²) − 1

            def conjugate(self, dual, targets):
                square = jnp.square(dual)
                return square / (1 + jnp.sqrt(1 - square)) - dual * targets

            def interval(self, targets):
                return -jnp.ones_like(targets), jnp.ones_like(targets)

    The rest follows from these, derivatives by JAX; a member that has formulas of its own
    overrides them. Those of this library take NumPy arrays, too, and then compile nothing. Only
    `Problem.to_cvxpy` needs one more, `modelled`, the loss in terms of CVXPY.
    """

    # May weights be absorbed, samples rotated?
    is_quadratic: ClassVar[bool] = False
    # Targets are ±1.
    takes_labels: ClassVar[bool] = False
    # Targets are rows that are 1 at the class and 0 elsewhere.
    takes_classes: ClassVar[bool] = False
    # φ depends on all outputs of a sample: the last axis of predictions, targets and dual points,
    # which `value` and `conjugate` sum over. The outputs are one problem then, not one each.
    couples_outputs: ClassVar[bool] = False
    # k if the loss `rescaled(b)` is b^k times as large at (bŷ, by); None if y has no units.
    degree: ClassVar[int | None] = None
    # φ is a function of ŷ − y: targets may be shifted, where an intercept follows them.
    is_of_residual: ClassVar[bool] = False

    # Methods as Python binds them: as pytrees they take longer to make than to run on few numbers,
    # and a search on the host calls them by the hundred thousand.
    __getattribute__ = object.__getattribute__

    @abc.abstractmethod
    def value(self, predictions: Array, targets: Array) -> Array:
        """Return φ(ŷ, y) of each sample."""

    @abc.abstractmethod
    def conjugate(self, dual: Array, targets: Array) -> Array:
        """Return ψ(t) of each sample, for t within the interval."""

    @abc.abstractmethod
    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return the least and the largest t of each sample for which ψ is finite, or infinity."""

    def slope(self, predictions: Array, targets: Array) -> Array:
        """Return φ' of each sample, any subgradient where there are several."""
        return _derivative(self.value, predictions, targets)

    def curvature(self, predictions: Array, targets: Array) -> Array:
        """Return φ'' of each sample, 0 at kinks."""
        return _derivative(self.slope, predictions, targets)

    def conjugate_slope(self, dual: Array, targets: Array) -> Array:
        """Return ψ' of each sample, inside the interval."""
        return _derivative(self.conjugate, dual, targets)

    def conjugate_curvature(self, dual: Array, targets: Array) -> Array:
        """Return ψ'' of each sample, inside the interval."""
        return _derivative(self.conjugate_slope, dual, targets)

    def prox(self, center: Array, targets: Array, step: Array) -> Array:
        """Return argmin_z φ(z) + (z − center)²/(2·step) of each sample.

        By bisection, through which JAX does not differentiate.
        """
        xp = namespace(center, targets, step)
        slope = self.slope(center, targets)
        downhill = -xp.sign(slope)

        def rises(distance: Array) -> Array:
            slope = self.slope(center + downhill * distance, targets)
            return ~(downhill * slope + distance / step < 0)

        return center + downhill * least(rises, step * xp.abs(slope))

    def rescaled(self, unit: Scalar) -> AbstractLoss:
        """Return the loss for targets and predictions `unit` times as large, see `degree`."""
        return self

    def modelled(self, cp: Any, predictions: Any, targets: Any) -> Any:
        """Return φ of each sample in terms of the module `cvxpy`, for `Problem.to_cvxpy`."""
        raise NotImplementedError(
            f"`to_cvxpy` needs a method `modelled` of {type(self).__name__}, which returns the "
            "loss of each sample in terms of CVXPY."
        )

    @property
    def any_target(self) -> float:
        """A target that can stand for one of a sample that does not count."""
        return 1.0 if self.takes_labels else 0.0

    def encoded(self, targets: Any) -> Any:
        """Return targets as a problem holds them."""
        return targets

    def check_targets(self, targets: np.ndarray) -> None:
        """Raise `ValueError` for targets that the loss is not meant for."""
        if self.takes_labels and not np.all(np.abs(targets) == 1):
            raise ValueError(
                f"`y` must be −1 or 1 for {type(self).__name__}: code two classes by "
                "`np.where(y == positive, 1.0, -1.0)`, and more of them as one such column each, "
                "shape (n, c)."
            )

    def are_targets(self, targets: Array) -> Bool[Array, ...]:
        """Whether each target is one that the loss is meant for, and what it depends on as well.

        The interval holds 0, as φ ≥ 0 has a lower bound, and more; with bad parameters it does not.
        """
        xp = namespace(targets)
        known = xp.abs(targets) == 1 if self.takes_labels else xp.isfinite(targets)
        low, high = self.interval(targets)
        return known & (low <= 0) & (high >= 0) & (low < high)

    def predict(self, scores: Array) -> Array:
        """Return what a network's outputs predict: the number, or for labels the class, ±1."""
        xp = namespace(scores)
        return xp.where(scores >= 0, 1, -1).astype(scores.dtype) if self.takes_labels else scores

    @property
    def has_probabilities(self) -> bool:
        """Whether `predict_proba` is one of this loss's own."""
        return type(self).predict_proba is not AbstractLoss.predict_proba

    def predict_proba(self, scores: Array) -> Array:
        """Return the probability of the class 1."""
        raise TypeError(f"{type(self).__name__} has no probabilities; `LogisticLoss` has.")

    # What follows is written once, for all losses.

    def __repr__(self) -> str:
        return settings(self)

    def __call__(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
    ) -> Scalar:
        """Return ℓ of the predictions; samples of weight zero do not count, whatever they hold."""
        check_alike(predictions, targets)
        xp = namespace(predictions, targets, weight)
        return xp.sum(xp.where(weight > 0, weight * self.value(predictions, targets), 0))

    def weighted(self, predictions: Array, targets: Array, root: Array) -> Array:
        """Return w·φ of each sample from √w, in range wherever that is."""
        value = self.value(predictions, targets)
        root = across(root, value)
        return root * (root * value)

    def dual_value(
        self, dual: Float[Array, " n"], targets: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Scalar:
        """Return −Σ w_i ψ(λ_i/w_i), −∞ outside the intervals; λ_i must be 0 where w_i is."""
        xp = namespace(dual, targets, weight)
        safe = xp.where(weight > 0, weight, 1)
        low, high = self.interval(targets)
        # As `clip_dual` rounds, so that what it returns is within.
        wide = across(safe, dual)
        within = (dual >= wide * low) & (dual <= wide * high)
        unit = xp.clip(dual / wide, low, high)
        each = xp.where(weight > 0, safe * self.conjugate(unit, targets), 0)
        within = within | (across(weight, dual) == 0)
        return xp.where(xp.all(within), -xp.sum(each), -xp.inf)

    def dual_at(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
    ) -> Float[Array, " n"]:
        """Return −∇ℓ, the dual point that belongs to predictions."""
        xp, weight = namespace(predictions, targets, weight), across(weight, predictions)
        return xp.where(weight > 0, -weight * self.slope(predictions, targets), 0)

    def clip_dual(
        self, dual: Float[Array, " n"], targets: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """Return the point of the product of intervals next to λ."""
        xp = namespace(dual, targets, weight)
        low, high = self.interval(targets)
        safe = xp.where(weight > 0, weight, 1)  # infinite ends times zero are no numbers
        return xp.where(weight > 0, xp.clip(dual, safe * low, safe * high), 0)

    def center(self, targets: Float[Array, " n"], weight: Float[Array, " n"]) -> Scalar:
        """Return what to subtract from targets where an intercept follows: their mean, or 0.

        For weights that are moderate; any finite number is right.
        """
        xp = namespace(targets, weight)
        if not self.is_of_residual:
            return xp.zeros((), targets.dtype)
        size = power_of_two(xp.max(xp.abs(targets)))
        mean = xp.sum(weight * (targets / size)) / xp.sum(weight) * size
        return xp.where(xp.isfinite(mean), mean, 0)

    def balanced_dual(
        self, dual: Float[Array, " n"], targets: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """Return λ − w·δ within the intervals, with the δ that makes its sum zero."""
        xp = namespace(dual, targets, weight)
        counted = weight > 0
        unit = xp.where(counted, dual / xp.where(counted, weight, 1), 0)

        def moved(shift: Scalar) -> Array:
            return self.clip_dual(weight * (unit - shift), targets, weight)

        sign = xp.where(xp.sum(moved(xp.zeros((), dual.dtype))) > 0, 1.0, -1.0).astype(dual.dtype)
        limit = xp.full_like(dual, xp.inf, shape=())
        shift = least(lambda c: sign * xp.sum(moved(sign * c)) <= 0, limit)
        return moved(sign * xp.where(xp.isfinite(shift), shift, 0))

    def best_intercept(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
    ) -> Scalar:
        """Return the μ that minimizes ℓ(ŷ + μ), the nearest to zero if many do.

        None as far as that from zero is tried that weights of moderate size would forget all else.
        """
        xp = namespace(predictions, targets, weight)
        counted = weight > 0

        def rise(shift: Scalar) -> Scalar:
            each = weight * self.slope(predictions + shift, targets)
            return xp.sum(xp.where(counted, each, 0))

        zero = xp.zeros((), predictions.dtype)
        sign = xp.where(rise(zero) < 0, 1.0, -1.0).astype(predictions.dtype)
        size = xp.max(xp.where(counted, xp.abs(predictions) + xp.abs(targets), 0))
        shift = least(lambda c: sign * rise(sign * c) >= 0, _FAR * (1 + size))
        return sign * shift

    def balanced_slope(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
    ) -> tuple[Scalar, Float[Array, " n"]]:
        """Return the best intercept μ, and a λ = −∇ℓ(ŷ + μ) whose sum is zero.

        Where φ has a kink, as at the median, λ is between the slopes on both sides.
        """
        xp = namespace(predictions, targets, weight)
        level = self.best_intercept(predictions, targets, weight)
        counted = weight > 0
        size = xp.max(xp.where(counted, xp.abs(predictions) + xp.abs(targets), 0)) + xp.abs(level)
        near = _NEAR * epsilon(level.dtype) * size
        below, above = (
            self.dual_at(predictions + (level + end), targets, weight) for end in (-near, near)
        )
        first, second = xp.sum(below), xp.sum(above)
        fall = first - second
        share = xp.where(fall > 0, first / xp.where(fall > 0, fall, 1), 0.5)
        share = xp.clip(share, 0, 1)
        return level, (1 - share) * below + share * above

    def best_on_primal_ray(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
        penalty: Scalar,
    ) -> Scalar:
        """Return the c ≥ 0 that minimizes ℓ(c·ŷ) + c·penalty, the least of them if many do."""
        xp, weight = namespace(predictions, targets, weight), across(weight, predictions)

        def rises(c: Scalar) -> Bool[Array, ""]:
            each = weight * self.slope(c * predictions, targets) * predictions
            return ~(xp.sum(xp.where(weight > 0, each, 0)) + penalty < 0)

        return least(rises, xp.full_like(targets, xp.inf, shape=()))

    def best_factor_on_dual_ray(
        self,
        dual: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
        limit: Scalar,
    ) -> Scalar:
        """Return the c in [0, limit], and within the intervals, that minimizes Σψ(c·λ)."""
        xp, weight = namespace(dual, targets, weight), across(weight, dual)
        counted = weight > 0
        unit = xp.where(counted, dual / xp.where(counted, weight, 1), 0)
        limit = xp.minimum(limit, self._longest(dual, targets, weight))

        def rises(c: Scalar) -> Bool[Array, ""]:
            each = weight * self.conjugate_slope(c * unit, targets) * unit
            return ~(xp.sum(xp.where(counted & (unit != 0), each, 0)) < 0)

        return least(rises, limit)

    def _longest(
        self, dual: Float[Array, " n"], targets: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Scalar:
        """Return the largest c with c·λ within the intervals."""
        xp, weight = namespace(dual, targets, weight), across(weight, dual)
        low, high = self.interval(targets)
        end = xp.where(dual > 0, high, low) * xp.where(weight > 0, weight, 1)
        bounded = (weight > 0) & (dual != 0)
        return xp.min(xp.where(bounded, end / xp.where(dual != 0, dual, 1), xp.inf))

    def best_on_dual_ray(
        self,
        dual: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
        limit: Scalar,
    ) -> Scalar:
        """Return the largest −Σψ(c·λ) for 0 ≤ c ≤ limit; λ_i must be 0 where w_i is."""
        factor = self.best_factor_on_dual_ray(dual, targets, weight, limit)
        dual = self.clip_dual(factor * dual, targets, weight)
        return self.dual_value(dual, targets, weight)

    # What the proof asks.

    def value_above(self, lower: Array, upper: Array, targets: Array) -> Array:
        """Return an upper bound on φ(ŷ) for all ŷ from `lower` to `upper`, of each sample.

        φ is convex, so that it is largest at an end. Evaluations are taken to be right to 256 units
        in the last place of φ(ŷ) and of |φ'(ŷ)|·(|ŷ| + |y|).
        """
        return self._above(self.value, self.slope, lower, upper, targets)

    def conjugate_above(self, lower: Array, upper: Array, targets: Array) -> Array:
        """Return an upper bound on ψ(t) for all t from `lower` to `upper`, as `value_above`."""
        return self._above(self.conjugate, self.conjugate_slope, lower, upper, targets)

    def _above(
        self,
        function: Callable[[Array, Array], Array],
        slope: Callable[[Array, Array], Array],
        lower: Array,
        upper: Array,
        targets: Array,
    ) -> Array:
        xp = namespace(lower, upper, targets)

        def above(at: Array) -> Array:
            value, steepness = function(at, targets), xp.abs(slope(at, targets))
            # JAX may have computed with fewer digits than the inputs have.
            eps, least = epsilon(value.dtype), tiny(value.dtype)
            size = xp.where(at == 0, 0, steepness * xp.abs(at)) + xp.abs(at * targets)
            size = size + xp.where(targets == 0, 0, steepness * xp.abs(targets))
            allowance = _ROUNDING * eps * (xp.abs(value) + size) + (4 + 4 * steepness) * least
            return value + allowance

        return xp.maximum(above(lower), above(upper))


def _derivative(function: Callable[[Array, Array], Array], at: Array, targets: Array) -> Array:
    """Differentiate an elementwise function in its first argument; by JAX, also for NumPy."""
    xp = namespace(at, targets)
    at, targets = jnp.asarray(at), jnp.asarray(targets)
    _, slope = jax.jvp(lambda at: function(at, targets), (at,), (jnp.ones_like(at),))
    found: Any = np.asarray(slope) if xp is np else slope
    return found


def least(rises: Callable[[Array], Array], limit: Array) -> Array:
    """Return where in [0, limit] convex functions are least, given whether they rise at a number.

    By bisection of the bits, so that however large or small the number is, it is right to the last
    of them, or to what rounding in `rises` permits.
    """
    xp = namespace(limit)

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = low + ((high - low) >> 1)
        beyond = rises(number_of(middle, limit.dtype))
        return xp.where(beyond, low, middle), xp.where(beyond, middle, high)

    high = bits_of(xp.where(limit > 0, limit, 0)) + 1  # never tried
    low, _ = fori_loop(0, 8 * limit.dtype.itemsize, halve, (xp.zeros_like(high), high), xp)
    return number_of(low, limit.dtype)


def check_alike(predictions: Any, targets: Any) -> None:
    """Raise `ValueError` unless both have one shape, `TypeError` unless both are floats."""
    if np.shape(predictions) != np.shape(targets):
        raise ValueError(
            f"`predictions` and `targets` must have one shape, got {np.shape(predictions)} and "
            f"{np.shape(targets)}."
        )
    for name, array in (("predictions", predictions), ("targets", targets)):
        if not jnp.issubdtype(jnp.result_type(array), jnp.floating):
            raise TypeError(f"`{name}` must be floating-point, got {jnp.result_type(array)}.")
