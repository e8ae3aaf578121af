"""Inner products without rounding errors, from ordinary floating-point matrix products.

A column of numbers is written as a power of two times integer *digits* of few bits. A matrix
product of digits is then exact whatever the order of summation, with or without fused multiply-add,
on any backend: integers below 2^24 (2^53) add without rounding in float32 (float64), and digits
of eight bits survive TF32 and bfloat16 multipliers as well. Nothing here relies on the compiler
leaving `(a + b) - a` alone, which compensated summation would.

The bound in `_bound.relaxation` needs this: the a-priori error of a plain float32 sum for
G = Xᵀ diag(λ) X is proportional to n·|X|ᵀ|diag λ||X|, at small β several times the constraint it
enters.
"""

import dataclasses
import functools
import operator
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.types import epsilon, namespace, record, tiny
from .powers import power_of_two

_ROWS = 1024  # rows that one exact product sums: 2^10 products of two digits fit the mantissa
_BLOCK = 16 * _ROWS  # rows whose digits NumPy holds at a time


def _digit_bits(dtype: jnp.dtype) -> int:
    """Bits b of a balanced digit: 2^10 products of size 2^(2b−2) must fit the mantissa."""
    return (jnp.finfo(dtype).nmant + 1 - 8) // 2


def _num_digits(dtype: jnp.dtype) -> int:
    """Digits kept of a number: 40 bits in float32, 66 in float64, well beyond the mantissa.

    The surplus lets entries much smaller than their column's largest keep their own last bit.
    """
    return 5 if jnp.finfo(dtype).bits == 32 else 3


@record
class Digits:
    """Columns x_j = scale_j · Σ_t digits[t, :, j] · 2^(lead − b·t), up to a remainder.

    `digits` (t, n, k) holds integers of at most b bits in floating point. Each |x_ij| is at most
    `scale_j` and is represented to within `remainder · scale_j`.
    """

    digits: Float[Array, "t n k"]
    scale: Float[Array, " k"]
    remainder: float = dataclasses.field(metadata={"static": True})
    lead: int = dataclasses.field(metadata={"static": True})


def to_digits(x: Float[Array, "n k"]) -> Digits:
    """Split each column into balanced digits; every operation here is exact."""
    bits = _digit_bits(x.dtype)
    xp = namespace(x)
    scale = power_of_two(xp.max(xp.abs(x), axis=0))
    # Out of range or not finite: NaN, which `_bound` turns into the trivial bound.
    fits = xp.abs(x) <= scale[None, :]
    rest = xp.where(fits, x / scale[None, :] * 2.0 ** (bits - 1), xp.nan)
    digits = []
    for _ in range(_num_digits(x.dtype)):
        digit = xp.round(rest)
        digits.append(digit)
        rest = (rest - digit) * 2.0**bits
    kept = xp.stack(digits)
    if xp is jnp:  # fused into what uses them, digits would be computed over and over
        kept = jax.lax.optimization_barrier(kept)
    return Digits(kept, scale, remainder=2.0 ** -(bits * len(digits)), lead=1 - bits)


def _carry(levels: list[Array], bits: int) -> list[Array]:
    """Bring integers at weights 2^(−b·t) to balanced digits; the first takes what is left over."""
    base = 2.0**bits
    digits = []
    xp = namespace(*levels)
    carry = xp.zeros_like(levels[0])
    for level in reversed(levels[1:]):
        level = level + carry
        carry = xp.round(level / base)
        digits.append(level - carry * base)
    return [levels[0] + carry, *reversed(digits)]


def _antidiagonals(products: Callable[[int, int], Array], rows: int, columns: int) -> list[Array]:
    """Return Σ products(l, r) over l + r = t for each t, unrolled, so that it fuses."""
    levels: list[list[Array]] = [[] for _ in range(rows + columns - 1)]
    for left in range(rows):
        for right in range(columns):
            levels[left + right].append(products(left, right))
    return [functools.reduce(operator.add, level) for level in levels]


def scale_rows(weight: Digits, x: Digits) -> Digits:
    """Return the digits of weight_i · x_ij, where `weight` is a single column."""
    bits, kept = _digit_bits(x.digits.dtype), x.digits.shape[0]
    levels = _antidiagonals(lambda i, j: weight.digits[i] * x.digits[j], kept, kept)
    lead = weight.lead + x.lead + bits  # level 0 is empty so far: products have twice the bits
    xp = namespace(*levels)
    digits = xp.stack(_carry([xp.zeros_like(levels[0]), *levels], bits)[: kept + 1])
    # The digits left out are at most 2^(b−1) each. Both factors are at most 1 relative to their
    # scales, so their own remainders add (twice, to cover the product of the two).
    left_out = 2.0 ** (lead - bits * (kept + 1) + bits)
    remainder = left_out + 2.0 * (weight.remainder + x.remainder)
    return Digits(digits, weight.scale * x.scale, remainder, lead)


def weighted_rows(weight: Float[Array, " n"], x: Float[Array, "n k"]) -> tuple[Digits, Digits]:
    """Return the digits of r_i²·weight_i·(x_i/r_i) and of x_i/r_i, which are at most 1.

    The products of their columns are those of Σ_i weight_i x_i x_iᵀ. The power of two r_i is a
    row's own size, so that a large row of small weight does not hide the others.
    """
    xp = namespace(x)
    size = power_of_two(xp.max(xp.abs(x), axis=1))
    rows = to_digits(x / size[:, None])
    return scale_rows(to_digits((weight * size * size)[:, None]), rows), rows


def join(left: Digits, right: Digits) -> Digits:
    """Put columns side by side."""
    assert (left.remainder, left.lead) == (right.remainder, right.lead)
    return jax.tree.map(lambda *parts: namespace(*parts).concatenate(parts, axis=-1), left, right)


def _relative_norm(x: Digits) -> Float[Array, " k"]:
    """Bound ‖x_j‖₁ / scale_j from above by the first two digits, rounded up."""
    base = 2.0 ** _digit_bits(x.digits.dtype)
    xp = namespace(x.digits)
    leading = xp.abs(x.digits[0] + x.digits[1] / base) + 1 / base
    rounding = 1.01 + leading.shape[0] * epsilon(leading.dtype)
    return rounding * xp.sum(leading, axis=0) * 2.0**x.lead


def inner(left: Digits, right: Digits) -> tuple[Float[Array, "j k"], Float[Array, "j k"]]:
    """Return Σ_i left_ij · right_ik and a bound on the absolute error of each.

    The sums are exact until the last step, which adds balanced digits from the smallest up: each
    partial sum is below 0.51 units of the next digit, so the result is within 2.1 unit roundoffs
    of the sum over the digits. The remainders of the factors come on top.
    """
    dtype = left.digits.dtype
    bits = _digit_bits(dtype)
    base = 2.0**bits
    xp = namespace(left.digits, right.digits)
    # All digits in one matrix product for each chunk of rows.
    wide = _products_by_chunk(left.digits, right.digits)
    # Each product is an integer of up to three digits; their low digits can be summed exactly.
    middle = xp.round(wide / base)
    low = xp.sum(wide - middle * base, axis=0)
    high = xp.round(middle / base)
    middle, high = xp.sum(middle - high * base, axis=0), xp.sum(high, axis=0)

    def by_level(parts: Array) -> list[Array]:
        counts = left.digits.shape[0], right.digits.shape[0]
        return _antidiagonals(lambda i, j: parts[i, :, j], *counts)

    zero = xp.zeros((left.scale.size, right.scale.size), dtype)
    shifted = (
        [*by_level(high), zero, zero],
        [zero, *by_level(middle), zero],
        [zero, zero, *by_level(low)],
    )
    digits = _carry(
        [functools.reduce(operator.add, level) for level in zip(*shifted, strict=True)], bits
    )
    total = functools.reduce(lambda total, digit: total / base + digit, reversed(digits))
    scale = left.scale[:, None] * right.scale[None, :]
    total = total * 2.0 ** (left.lead + right.lead + 2 * bits) * scale
    # |Σ (l̂ + δl)(r̂ + δr) − Σ l̂ r̂| ≤ remainder_l · ‖r‖₁ + remainder_r · ‖l‖₁, to first order.
    remainder = (
        2.0
        * scale
        * (
            right.remainder * _relative_norm(left)[:, None]
            + left.remainder * _relative_norm(right)[None, :]
        )
    )
    return total, 2 * epsilon(dtype) * xp.abs(total) + remainder + tiny(dtype)


def _products_by_chunk(
    left: Float[Array, "t n j"], right: Float[Array, "s n k"]
) -> Float[Array, "c t j s k"]:
    """Return the products of all columns of digits, summed over each chunk of rows."""
    xp, n = namespace(left, right), left.shape[1]
    rows = min(n, _ROWS)
    chunks = -(-n // rows)

    def chunked(digits: Array) -> Array:
        padded = xp.pad(digits, ((0, 0), (0, chunks * rows - n), (0, 0)))
        return padded.reshape(digits.shape[0], chunks, rows, digits.shape[2])

    left, right = chunked(left), chunked(right)
    if xp is jnp:
        return jnp.einsum("tcrj,scrk->ctjsk", left, right)
    # NumPy's `tensordot` is one matrix product; its `einsum` of these is a loop.
    return xp.stack([xp.tensordot(left[:, c], right[:, c], (1, 1)) for c in range(chunks)])


def over_blocks(
    function: Callable[..., tuple[Array, Array]], *arrays: Array
) -> tuple[Array, Array]:
    """Return Σ over rows and its error bound, given a function that does so for some of them.

    In NumPy many rows are taken a block at a time, so that digits need little memory.
    """
    n = arrays[0].shape[0]
    if namespace(*arrays) is jnp or n <= _BLOCK:
        return function(*arrays)
    starts = range(0, n, _BLOCK)
    parts = [function(*(array[s : s + _BLOCK] for array in arrays)) for s in starts]
    totals, errors = (np.stack(part) for part in zip(*parts, strict=True))
    # |fl(Σ t) − Σ t| ≤ (number − 1)·u·Σ|t|, to first order; what underflows is below `tiny` each.
    eps, count = epsilon(totals.dtype), len(parts)
    rounding = count * (eps * np.sum(np.abs(totals), axis=0) + tiny(totals.dtype))
    return np.sum(totals, axis=0), (np.sum(errors, axis=0) + rounding) * (1 + count * eps)
