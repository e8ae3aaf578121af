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
from .._base.types import Scalar, epsilon, namespace, over_leading, tiny

_FACTORS = (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 4.0, 16.0)  # tried along a ray, then Newton's ...
_NEWTON_STEPS = 3  # ... method from the best of them
_BISECTIONS = 60
_ROUNDING = 64  # units in the last place that the evaluation of a loss may be wrong by


class AbstractLoss(eqx.Module):
    """ℓ(ŷ, y) = Σ_i w_i φ(ŷ_i, y_i), a sum over samples, convex in ŷ and nowhere below zero.

    Its dual side is ψ(t) = φ*(−t) = sup_z −tz − φ(z): −Σ w_i ψ(λ_i/w_i) bounds the optimum from
    below where λ and p satisfy the constraints of the relaxation's dual, and at the optimum
    λ_i = −w_i φ'(ŷ_i). A loss of your own is a subclass with three functions, elementwise and for
    weight 1, `value`, `conjugate` and `interval`; `jaxqsdp.testing.check_loss` tries them:

        class SquareRoot(qs.AbstractLoss):
            def value(self, predictions, targets):
                return jnp.sqrt(1 + jnp.square(predictions - targets)) - 1

            def conjugate(self, dual, targets):
                return 1 - jnp.sqrt(1 - jnp.square(dual)) - dual * targets

            def interval(self, targets):
                return -jnp.ones_like(targets), jnp.ones_like(targets)

    The rest follows from these, derivatives by JAX; a member that has formulas of its own
    overrides them. Those of this library take NumPy arrays, too, and then compile nothing.
    """

    # May weights be absorbed, samples rotated?
    is_quadratic: ClassVar[bool] = False
    # Targets are ±1.
    takes_labels: ClassVar[bool] = False
    # k if the loss `rescaled(b)` is b^k times as large at (bŷ, by); None if y has no units.
    degree: ClassVar[int | None] = None

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
        """Return argmin_z φ(z) + (z − center)²/(2·step) of each sample; by bisection."""
        other = center - step * self.slope(center, targets)

        def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
            low, high = bracket
            middle = low + (high - low) / 2
            rises = self.slope(middle, targets) + (middle - center) / step > 0
            return jnp.where(rises, low, middle), jnp.where(rises, middle, high)

        start = jnp.minimum(center, other), jnp.maximum(center, other)
        low, high = fori_loop(0, _BISECTIONS, halve, start)
        return low + (high - low) / 2

    def rescaled(self, unit: Scalar) -> AbstractLoss:
        """Return the loss for targets and predictions `unit` times as large, see `degree`."""
        return self

    @property
    def any_target(self) -> float:
        """A target that can stand for one of a sample that does not count."""
        return 1.0 if self.takes_labels else 0.0

    def check_targets(self, targets: np.ndarray) -> None:
        """Raise `ValueError` for targets that the loss is not meant for."""
        if self.takes_labels and not np.all(np.abs(targets) == 1):
            raise ValueError(
                f"`y` must be −1 or 1 for {type(self).__name__}: code two classes by "
                "`np.where(y == positive, 1.0, -1.0)`, and more of them as one such column each, "
                "shape (n, c)."
            )

    def are_targets(self, targets: Array) -> Bool[Array, ...]:
        """Whether each target is one that the loss is meant for."""
        xp = namespace(targets)
        return xp.abs(targets) == 1 if self.takes_labels else xp.isfinite(targets)

    def predict(self, scores: Array) -> Array:
        """Return what a network's outputs predict: the number, or for labels the class, ±1."""
        xp = namespace(scores)
        return xp.where(scores >= 0, 1, -1).astype(scores.dtype) if self.takes_labels else scores

    def predict_proba(self, scores: Array) -> Array:
        """Return the probability of the class 1."""
        raise TypeError(f"{type(self).__name__} has no probabilities; `LogisticLoss` has.")

    # What follows is written once, for all losses.

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
        return root * (root * self.value(predictions, targets))

    def dual_value(
        self, dual: Float[Array, " n"], targets: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Scalar:
        """Return −Σ w_i ψ(λ_i/w_i), −∞ outside the intervals; λ_i must be 0 where w_i is."""
        xp = namespace(dual, targets, weight)
        safe = xp.where(weight > 0, weight, 1)
        low, high = self.interval(targets)
        unit = dual / safe
        within = (unit >= low) & (unit <= high)
        each = xp.where(weight > 0, safe * self.conjugate(xp.clip(unit, low, high), targets), 0)
        return xp.where(xp.all(within | (weight == 0)), -xp.sum(each), -xp.inf)

    def dual_at(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
    ) -> Float[Array, " n"]:
        """Return −∇ℓ, the dual point that belongs to predictions."""
        xp = namespace(predictions, targets, weight)
        return xp.where(weight > 0, -weight * self.slope(predictions, targets), 0)

    def clip_dual(
        self, dual: Float[Array, " n"], targets: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Float[Array, " n"]:
        """Return the point of the product of intervals next to λ."""
        xp = namespace(dual, targets, weight)
        low, high = self.interval(targets)
        # Infinite ends times zero weights are no numbers.
        low = xp.where(xp.isfinite(low), weight * low, low)
        high = xp.where(xp.isfinite(high), weight * high, high)
        return xp.where(weight > 0, xp.clip(dual, low, high), 0)

    def best_on_primal_ray(
        self,
        predictions: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
        penalty: Scalar,
    ) -> Scalar:
        """Return a c ≥ 0 that nearly minimizes ℓ(c·ŷ) + c·penalty."""

        def slopes(c: Scalar) -> tuple[Scalar, Scalar]:
            xp = namespace(predictions, targets, weight)
            first = self.slope(c * predictions, targets) * predictions
            second = self.curvature(c * predictions, targets) * xp.square(predictions)
            counted = weight > 0
            return (
                xp.sum(xp.where(counted, weight * first, 0)) + penalty,
                xp.sum(xp.where(counted, weight * second, 0)),
            )

        def objective(c: Scalar) -> Scalar:
            return self(c * predictions, targets, weight) + c * penalty

        xp = namespace(predictions, targets, weight)
        return _least_along(objective, slopes, xp.asarray(_FACTORS, targets.dtype))

    def best_factor_on_dual_ray(
        self,
        dual: Float[Array, " n"],
        targets: Float[Array, " n"],
        weight: Float[Array, " n"],
        limit: Scalar,
    ) -> Scalar:
        """Return a c in [0, limit], and within the intervals, that nearly minimizes Σψ(c·λ)."""
        xp = namespace(dual, targets, weight)
        counted = weight > 0
        unit = xp.where(counted, dual / xp.where(counted, weight, 1), 0)
        low, high = self.interval(targets)
        limit = xp.minimum(limit, self._longest(dual, targets, weight))

        def slopes(c: Scalar) -> tuple[Scalar, Scalar]:
            first = self.conjugate_slope(c * unit, targets) * unit
            second = self.conjugate_curvature(c * unit, targets) * xp.square(unit)
            return (
                xp.sum(xp.where(counted & (unit != 0), weight * first, 0)),
                xp.sum(xp.where(counted & (unit != 0), weight * second, 0)),
            )

        def objective(c: Scalar) -> Scalar:
            each = self.conjugate(xp.clip(c * unit, low, high), targets)
            return xp.sum(xp.where(counted, weight * each, 0))

        factors = xp.minimum(xp.asarray(_FACTORS, targets.dtype), xp.maximum(limit, 0))
        return _least_along(objective, slopes, factors)

    def _longest(
        self, dual: Float[Array, " n"], targets: Float[Array, " n"], weight: Float[Array, " n"]
    ) -> Scalar:
        """Return the largest c with c·λ within the intervals."""
        xp = namespace(dual, targets, weight)
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
        """Return the largest −Σψ(c·λ) for 0 ≤ c ≤ limit, nearly; λ_i must be 0 where w_i is."""
        factor = self.best_factor_on_dual_ray(dual, targets, weight, limit)
        dual = self.clip_dual(factor * dual, targets, weight)
        return self.dual_value(dual, targets, weight)

    # What the proof asks.

    def value_above(self, lower: Array, upper: Array, targets: Array) -> Array:
        """Return an upper bound on φ(ŷ) for all ŷ from `lower` to `upper`, of each sample.

        φ is convex, so that it is largest at an end. Evaluations are taken to be right to 64 units
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
        xp, eps = namespace(lower, upper, targets), epsilon(lower.dtype)

        def above(at: Array) -> Array:
            value, steepness = function(at, targets), xp.abs(slope(at, targets))
            size = xp.where(at == 0, 0, steepness * xp.abs(at)) + xp.abs(at * targets)
            size = size + xp.where(targets == 0, 0, steepness * xp.abs(targets))
            return value + _ROUNDING * eps * (xp.abs(value) + size) + tiny(lower.dtype)

        return xp.maximum(above(lower), above(upper))


def _derivative(function: Callable[[Array, Array], Array], at: Array, targets: Array) -> Array:
    """Differentiate an elementwise function in its first argument; by JAX, also for NumPy."""
    xp = namespace(at, targets)
    at = jnp.asarray(at)
    _, slope = jax.jvp(lambda at: function(at, jnp.asarray(targets)), (at,), (jnp.ones_like(at),))
    derivative: Any = np.asarray(slope) if xp is np else slope
    return derivative


def _least_along(
    objective: Callable[[Scalar], Scalar],
    slopes: Callable[[Scalar], tuple[Scalar, Scalar]],
    factors: Float[Array, " k"],
) -> Scalar:
    """Return where a convex function is small: the best of some numbers, then Newton's method.

    Numbers are kept between the least and the largest of those tried.
    """
    xp = namespace(factors)
    values = over_leading(objective, factors)
    index = xp.argmin(xp.where(xp.isnan(values), xp.inf, values))
    best, value = factors[index], values[index]
    for _ in range(_NEWTON_STEPS):
        first, second = slopes(best)
        curved = xp.isfinite(first) & xp.isfinite(second) & (second > 0)
        step = xp.where(curved, first / xp.where(curved, second, 1), 0)
        moved = xp.clip(best - step, factors[0], factors[-1])
        moved_value = objective(moved)
        better = moved_value < value
        best, value = xp.where(better, moved, best), xp.where(better, moved_value, value)
    return best


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
