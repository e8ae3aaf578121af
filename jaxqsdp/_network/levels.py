"""The levels that first-layer weights take, and how they are stored."""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Array, Bool, Float, UInt8
from numpy.typing import NDArray

from .._base.types import as_number, check_count, epsilon, namespace
from .packing import last_axis, pack_bits, pack_digits, unpack_bits, unpack_digits

MOST_BITS, MOST_COEFFICIENTS = 8, 8
_SAME = 1e-12  # sums that are closer are one level
_SMALLEST = 1e-6  # coefficient, of the sum of all
_NORMALIZED = 1e-14  # from 1, that their sum may be
_ROUNDINGS = 4  # that a weight may be from its level


@dataclasses.dataclass(frozen=True, init=False, repr=False)
class Levels:
    """First-layer weights Σ_k c_k b_k with b_k = ±1, normalized so that the largest is 1.

    As all alphabets have the largest level 1, they have one optimum over networks of any size, and
    one bound holds for all: those of ±1. What more levels buy are fewer neurons.

    - `Levels()` or `Levels(bits=1)`: −1, +1.
    - `Levels(bits=b)`: 2^b levels at equal distances, ±1 and ±1/3 for 2 bits; up to 8 bits.
    - `Levels.ternary()`: −1, 0, +1.
    - `Levels(coefficients=(c_1, …, c_k))`: all sums of ±c_k, divided by Σ|c_k|; up to 8 of them.

    Weights are stored as indices into the levels in ascending order, ⌈log₂ L⌉ bits each, the most
    significant first, or as digits of base L in a byte where that is shorter: ternary weights five
    to a byte.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """

    coefficients: tuple[float, ...]  # descending, their sum 1

    def __init__(self, bits: int | None = None, *, coefficients: Sequence[float] | None = None):
        if coefficients is None:
            bits = 1 if bits is None else bits
            check_count(bits, "bits")
            if bits > MOST_BITS:
                raise ValueError(f"`bits` must be at most {MOST_BITS}, got {bits}.")
            numbers = [2.0**power for power in reversed(range(int(bits)))]
        elif bits is None:
            numbers = _checked(coefficients)
        else:
            raise ValueError("`bits` and `coefficients` are two ways to say one thing; give one.")
        total = math.fsum(numbers)
        if abs(total - 1) > _NORMALIZED:  # those of a file are as they were
            numbers = [number / total for number in numbers]
        object.__setattr__(self, "coefficients", tuple(sorted(numbers, reverse=True)))

    @staticmethod
    def ternary() -> Levels:
        """Return the levels −1, 0 and +1."""
        return Levels(coefficients=(1.0, 1.0))

    @functools.cached_property
    def values(self) -> NDArray[np.float64]:
        """The levels, ascending from −1 to 1."""
        return np.array([value for value, _ in self._sums])

    @functools.cached_property
    def signs(self) -> NDArray[np.float64]:
        """Signs (L, k) that make the levels, `signs @ coefficients`."""
        return np.array([signs for _, signs in self._sums])

    @functools.cached_property
    def _sums(self) -> list[tuple[float, tuple[float, ...]]]:
        """The levels, each with signs that make it."""
        total, found = math.fsum(self.coefficients), []
        for signs in itertools.product((-1.0, 1.0), repeat=len(self.coefficients)):
            products = [sign * c for sign, c in zip(signs, self.coefficients, strict=True)]
            found.append((math.fsum(products) / total, signs))
        found.sort(key=lambda pair: pair[0])
        # Levels are symmetric, and 0 where it is one is exactly that.
        middle = [(0.0, signs) for value, signs in found if abs(value) <= _SAME]
        levels = middle[:1]
        positive: list[tuple[float, tuple[float, ...]]] = []
        for value, signs in reversed(found):  # from the largest, which is 1
            if value > _SAME and (not positive or positive[-1][0] - value > _SAME):
                positive.append((value, signs))
        levels += reversed(positive)
        opposite = [(-v, tuple(-s for s in signs)) for v, signs in reversed(levels) if v > 0]
        return opposite + levels

    def repeated(self, dtype: Any) -> NDArray:
        """The levels, the last one again up to a power of two, so that they share programs."""
        missing = (1 << self._whole_bits) - self.count
        return np.pad(self.values, (0, missing), mode="edge").astype(dtype)

    @property
    def count(self) -> int:
        """L."""
        return len(self.values)

    @property
    def bits(self) -> float:
        """Bits that a weight takes as it is stored: an integer, or 8 over weights in a byte."""
        digits = self._digits
        return 8 / digits if digits else float(self._whole_bits)

    @property
    def _whole_bits(self) -> int:
        return (self.count - 1).bit_length()

    @property
    def _digits(self) -> int:
        """Weights in a byte if they are stored as digits, else 0."""
        most = int(8 / math.log2(self.count) + 1e-9)
        return most if 8 / most < self._whole_bits else 0

    def bits_for(self, count: int) -> int:
        """Return how many bits a row of so many weights takes, but for what fills its last byte."""
        if self._digits:
            return 8 * -(-count // self._digits)
        return count * self._whole_bits

    def bytes_for(self, count: int) -> int:
        """Return how many bytes a row of so many weights takes."""
        return -(-self.bits_for(count) // 8)

    def holds(self, weights: NDArray) -> bool:
        """Whether all weights are among the levels, but for their rounding."""
        wide: Any = np.asarray(weights, np.float64)
        nearest = self.values[self.indices(wide)]
        return bool(np.all(np.abs(weights - nearest) <= _ROUNDINGS * epsilon(weights.dtype)))

    def indices(self, weights: Any) -> UInt8[Array, "*m d"]:
        """Return the index of the nearest level, of the lower one in the middle between two."""
        xp = namespace(weights)
        if self.count == 2:
            return (weights > 0).astype(np.uint8)
        wide = weights[..., None]
        between = last_axis((self.values[1:] + self.values[:-1]) / 2, wide)
        return xp.sum(wide > between, axis=-1).astype(np.uint8)

    def of_signs(self, positive: Bool[Array, "*m d"]) -> Array:
        """Return the indices of weights ±1, given where they are +1; truth values for one bit."""
        return positive if self.count == 2 else positive.astype(np.uint8) * (self.count - 1)

    def weights(self, indices: Array, dtype: Any) -> Float[Array, "*m d"]:
        """Return the levels of indices, rounded to a dtype."""
        xp = namespace(indices)
        if self.count == 2:
            return 2 * indices.astype(dtype) - 1
        return xp.asarray(self.values, dtype)[indices]

    def to_signs(self, weights: NDArray) -> NDArray:
        """Return signs (…, k·d) of levels (…, d), for k·d features c_k·x."""
        if self.count == 2:
            return weights
        wide: Any = np.asarray(weights, np.float64)
        signs = self.signs[self.indices(wide)]  # (…, d, k)
        shape = *weights.shape[:-1], signs.shape[-1] * signs.shape[-2]
        return np.swapaxes(signs, -1, -2).reshape(shape).astype(weights.dtype)

    def from_signs(self, signs: NDArray) -> NDArray:
        """Inverse of `to_signs`."""
        if self.count == 2:
            return signs
        k = len(self.coefficients)
        parts = signs.reshape(*signs.shape[:-1], k, signs.shape[-1] // k)
        sums = np.tensordot(self.coefficients, parts, axes=(0, parts.ndim - 2))
        return self.values[self.indices(sums)].astype(signs.dtype)

    def pack(self, indices: UInt8[Array, "*m d"]) -> UInt8[Array, "*m bytes"]:
        """Store rows of indices; for two levels they may be truth values."""
        if self._digits:
            return pack_digits(indices, self.count, self._digits)
        return pack_bits(indices, self._whole_bits)

    def unpack(
        self, packed: UInt8[Array, "*m bytes"], count: int, dtype: Any
    ) -> Float[Array, "*m d"]:
        """Return the weights of rows that `pack` has stored."""
        xp = namespace(packed)
        if packed.size == 0:  # no neurons; `unpackbits` refuses empty arrays
            return xp.ones((*packed.shape[:-1], count), dtype)
        return self.weights(self._unpacked(packed, count), dtype)

    def _unpacked(self, packed: UInt8[Array, "*m bytes"], count: int) -> UInt8[Array, "*m d"]:
        if self._digits:
            return unpack_digits(packed, self.count, self._digits, count)
        return unpack_bits(packed, self._whole_bits, count, np.uint8)

    def has_rest(self, packed: Any, count: int) -> bool:
        """Whether rows hold anything but so many weights: later bits, or indices of no level."""
        if packed.size == 0:
            return False
        indices = self._unpacked(packed, count)
        if np.any(indices >= self.count):
            return True
        return not np.array_equal(self.pack(indices), packed)

    def __repr__(self) -> str:
        if self == Levels.ternary():
            return "Levels.ternary()"
        bits = len(self.coefficients)
        if self == Levels(bits):
            return f"Levels(bits={bits})"
        numbers = ", ".join(f"{c:.6g}" for c in self.coefficients)
        return f"Levels(coefficients=({numbers}{',' if bits == 1 else ''}))"


def _checked(coefficients: Any) -> list[float]:
    """Return the magnitudes of coefficients, which do not matter with a sign."""
    try:
        numbers = [as_number(number, "coefficients") for number in coefficients]
    except TypeError:
        raise TypeError(
            f"`coefficients` must be a sequence of numbers, got {coefficients!r}."
        ) from None
    magnitudes = [abs(float(number)) for number in numbers]
    if not 1 <= len(magnitudes) <= MOST_COEFFICIENTS:
        raise ValueError(
            f"`coefficients` must be 1 to {MOST_COEFFICIENTS} numbers, got {len(magnitudes)}."
        )
    if not all(0 < number < math.inf for number in magnitudes):
        raise ValueError(f"`coefficients` must be finite and not zero, got {coefficients!r}.")
    if max(magnitudes) > 1:  # sums may overflow
        magnitudes = [number / max(magnitudes) for number in magnitudes]
    if min(magnitudes) < _SMALLEST * math.fsum(magnitudes):
        raise ValueError(
            f"`coefficients` must be at least {_SMALLEST:g} of their sum, got {coefficients!r}."
        )
    return magnitudes


ONE_BIT = Levels()


def check_levels(levels: Levels | None) -> Levels:
    """Return the levels, those of one bit for None, or raise `TypeError`."""
    if levels is None:
        return ONE_BIT
    if not isinstance(levels, Levels):
        raise TypeError(f"`levels` must be `Levels(bits=…)`, got {levels!r}.")
    return levels
