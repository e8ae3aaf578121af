"""Exact changes of units, so that results do not depend on how large X and y are."""

from __future__ import annotations

import dataclasses
import functools
import operator
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Bool, Float

from .._base.types import Scalar, across, namespace, record, tiny
from .powers import power_of_two, power_with_exponent, rescaled, unit_for


def _exponent(power: Any) -> Any:
    return namespace(power).frexp(power)[1] - 1


def _shifted(array: Any, exponent: Any) -> Any:
    """Return 2^exponent times an array, exactly unless that itself is out of range.

    The exponent may be the sum of four, of powers of two whose products would be out of range.
    """
    xp = namespace(array, exponent)
    if xp is np:
        return np.ldexp(array, exponent)
    quarter = exponent // 4
    # Steps that go one way only; XLA would multiply the factors first.
    for part in (quarter, quarter, quarter, exponent - 3 * quarter):
        array = jax.lax.optimization_barrier(array * power_with_exponent(part, array.dtype))
    return array


@record
class Units:
    """Powers of two a, b, ω that bring the data (a·X, b·y, ω·w, a²bω·β) to moderate size.

    The scaled problem is the exact image of the given one. With a loss of degree k, which is b^k
    times as large at (bŷ, by), its value is ωb^k times as large, its quadratic form Z is b/a²
    times, its dual λ is ωb^(k−1) times and its diagonal p is a²ωb^(k−1) times the original's; k is
    2 or 1, and b is 1 where targets have no units. Multiplying by a power of two rounds nothing
    unless the result underflows. Subnormal entries of X, y and w, which XLA computes with as with
    zero, are scaled by their bits.
    """

    feature: Scalar  # a
    weight: Scalar  # ω
    target: Scalar  # b
    degree: int = dataclasses.field(default=2, metadata={"static": True})  # k

    def scale_beta(self, beta: Scalar) -> Scalar:
        """Return a²ωb^(k−1)·β, or NaN where that, or a step towards it, is out of range."""
        scaled = self.scale_diagonal(beta)
        xp = namespace(scaled)
        return xp.where(self.restore_diagonal(scaled) == beta, scaled, xp.nan)

    def restore_predictions(self, predictions: Array) -> Array:
        """ŷ back to the original units."""
        return predictions / self.target

    def scale_dual(self, dual: Array) -> Array:
        """Inverse of `restore_dual`."""
        return (dual * self.target if self.degree == 2 else dual) * self.weight

    def restore_dual(self, dual: Array) -> Array:
        """λ back to the original units."""
        return (dual / self.target if self.degree == 2 else dual) / self.weight

    def _diagonal_shifted(self, diagonal: Array, sign: int) -> Array:
        """Return (a²ωb^(k−1))^sign times p, NaN if a unit is zero to XLA, as subnormal ones are."""
        targets = (self.target,) * (self.degree - 1)
        powers = (self.feature, *targets, self.weight, self.feature)
        xp = namespace(diagonal, *powers)
        are_powers = functools.reduce(operator.and_, (power > 0 for power in powers))
        shifted = _shifted(diagonal, sign * sum(map(_exponent, powers)))
        return shifted * xp.where(are_powers, 1, xp.nan).astype(diagonal.dtype)

    def restore_value(self, value: Array) -> Array:
        """Values back to the original units."""
        return self._times_value(value, 1 / self.target, 1 / self.weight)

    def restore_bound(self, bound: Array) -> Array:
        """Lower bounds back to the original units: 0, which is always true, where out of range."""
        restored = self.restore_value(bound)
        # A step that underflows may round up.
        exact = self._times_value(restored, self.target, self.weight) == bound
        xp = namespace(restored)
        within = exact & xp.isfinite(restored) & (restored > tiny(restored.dtype))
        return xp.where(within, restored, 0)

    def _times_value(self, value: Array, target: Array, weight: Array) -> Array:
        """Return target^k·weight·value, the steps between kept within range at the edges of it."""
        xp = namespace(self.target, value)  # values are moderate or else like b⁻²
        room = xp.where(self.target > 1, 2.0**32, 2.0**-32).astype(value.dtype)
        value = value * room * target * weight
        return (value * target if self.degree == 2 else value) / room

    def restore_form(self, form: Array) -> Array:
        """Z, V and ρ back to the original units."""
        return form * self.feature / self.target * self.feature

    def scale_form(self, form: Array) -> Array:
        """Inverse of `restore_form`."""
        return form / self.feature * self.target / self.feature

    def scale_diagonal(self, diagonal: Array) -> Array:
        """Inverse of `restore_diagonal`."""
        return self._diagonal_shifted(diagonal, 1)

    def restore_diagonal(self, diagonal: Array) -> Array:
        """P back to the original units."""
        return self._diagonal_shifted(diagonal, -1)


@record
class Samples:
    """Features and weights in moderate units; samples that do not count are zero throughout."""

    X: Float[Array, "n d"]
    weight: Float[Array, " n"]
    counted: Bool[Array, " n"]
    feature_unit: Scalar
    weight_unit: Scalar

    def units_for(self, y: Float[Array, " n"], degree: int | None = 2) -> Units:
        """Return the units in which weighted targets are at most 1 in magnitude as well.

        They are for a loss of this degree; None if targets have no units.
        """
        xp = namespace(y, self.weight)
        if degree is None:
            return Units(self.feature_unit, self.weight_unit, xp.ones_like(self.weight_unit), 1)
        target = unit_for(xp.where(self.counted, y, 0), xp.sqrt(self.weight))
        return Units(self.feature_unit, self.weight_unit, target, degree)

    def scale_targets(
        self, y: Float[Array, " n"], units: Units, other: float = 0.0
    ) -> Float[Array, " n"]:
        """Return b·y, and another number for samples that do not count."""
        xp = namespace(y, self.counted)
        return xp.where(across(self.counted, y), rescaled(y, units.target), other)


def moderate(X: Float[Array, "n d"], weight: Float[Array, " n"]) -> Samples:
    """Bring weights and weighted features to at most 1 in magnitude.

    Maxima, unlike means, do not change when zero features or zero-weight samples are added, so
    both are exact padding, whatever the padded rows hold. Weights below √tiny of the largest count
    as zero: leaving a sample out of the dual only weakens a bound.
    """
    xp = namespace(X, weight)
    weight_unit = 1 / power_of_two(xp.max(weight))
    weight = rescaled(weight, weight_unit)
    counted = weight > tiny(weight.dtype) ** 0.5
    weight, X = xp.where(counted, weight, 0), xp.where(counted[:, None], X, 0)
    feature_unit = unit_for(X, xp.sqrt(xp.sqrt(weight))[:, None])
    return Samples(rescaled(X, feature_unit), weight, counted, feature_unit, weight_unit)
