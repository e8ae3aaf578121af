"""Inner products without rounding errors, from ordinary floating-point matrix products.

A column of numbers is written as a power of two times integer *digits* of few bits. A matrix
product of digits is then exact whatever the order of summation, with or without fused multiply-add,
on any backend: integers below 2^24 (2^53) add without rounding in float32 (float64), and digits
of eight bits survive TF32 and bfloat16 multipliers as well. Nothing here relies on the compiler
leaving `(a + b) - a` alone, which compensated summation would.

The bound of `_bound.py` needs this: the a-priori error of a plain float32 sum for G = Xᵀ diag(λ) X
is proportional to n·|X|ᵀ|diag λ||X|, at small β several times the constraint it enters.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

_ROWS = 1024  # rows that one exact product sums: 2^10 products of two digits fit the mantissa


def _digit_bits(dtype: jnp.dtype) -> int:
    """Bits b of a balanced digit: 2^10 products of size 2^(2b−2) must fit the mantissa."""
    return (jnp.finfo(dtype).nmant + 1 - 8) // 2


def _num_digits(dtype: jnp.dtype) -> int:
    """Digits kept of a number: 40 bits in float32, 66 in float64, well beyond the mantissa.

    The surplus lets entries much smaller than their column's largest keep their own last bit.
    """
    return 5 if jnp.finfo(dtype).bits == 32 else 3


class Digits(eqx.Module):
    """Columns x_j = scale_j · Σ_t digits[t, :, j] · 2^(lead − b·t), up to a remainder.

    `digits` (t, n, k) holds integers of at most b bits in floating point. Each |x_ij| is at most
    `scale_j` and is represented to within `remainder · scale_j`.
    """

    digits: Float[Array, "t n k"]
    scale: Float[Array, " k"]
    remainder: float = eqx.field(static=True)
    lead: int = eqx.field(static=True)


def power_of_two(x: Array) -> Array:
    """Return the power of two s with s/2 ≤ |x| < s elementwise, and 1 where x is 0 or not finite.

    Multiplying and dividing by it is exact. Exponents are kept within the range where both the
    power and its reciprocal are normal numbers.
    """
    info = jnp.finfo(x.dtype)
    usable = jnp.isfinite(x) & (x != 0)
    _, exponent = jnp.frexp(jnp.where(usable, x, 1.0))
    exponent = jnp.clip(exponent, info.minexp + 1, -info.minexp - 1)
    return jnp.where(usable, jnp.ldexp(jnp.ones_like(x), exponent), jnp.ones_like(x))


def to_digits(x: Float[Array, "n k"]) -> Digits:
    """Split each column into balanced digits; every operation here is exact."""
    bits = _digit_bits(x.dtype)
    scale = power_of_two(jnp.max(jnp.abs(x), axis=0))
    rest = (x / scale[None, :]) * 2.0 ** (bits - 1)
    digits = []
    for _ in range(_num_digits(x.dtype)):
        digit = jnp.round(rest)
        digits.append(digit)
        rest = (rest - digit) * 2.0**bits
    return Digits(jnp.stack(digits), scale, remainder=2.0 ** -(bits * len(digits)), lead=1 - bits)


def _carry(levels: list[Array], bits: int) -> list[Array]:
    """Bring integers at weights 2^(−b·t) to balanced digits; the first takes what is left over."""
    base = 2.0**bits
    carried = list(levels)
    for t in range(len(levels) - 1, 0, -1):
        carry = jnp.round(carried[t] / base)
        carried[t] = carried[t] - carry * base
        carried[t - 1] = carried[t - 1] + carry
    return carried


def scale_rows(weight: Digits, x: Digits) -> Digits:
    """Return the digits of weight_i · x_ij, where `weight` is a single column."""
    bits, kept = _digit_bits(x.digits.dtype), x.digits.shape[0]
    levels = [jnp.zeros_like(x.digits[0]) for _ in range(2 * kept)]
    for a in range(kept):
        for c in range(kept):
            levels[a + c + 1] = levels[a + c + 1] + weight.digits[a] * x.digits[c]
    lead = weight.lead + x.lead + bits  # level 0 is empty so far: products have twice the bits
    digits = _carry(levels, bits)[: kept + 1]
    # The digits left out are at most 2^(b−1) each. Both factors are at most 1 relative to their
    # scales, so their own remainders add (twice, to cover the product of the two).
    left_out = 2.0 ** (lead - bits * (kept + 1) + bits)
    remainder = left_out + 2.0 * (weight.remainder + x.remainder)
    return Digits(jnp.stack(digits), weight.scale * x.scale, remainder, lead)


def _relative_norm(x: Digits) -> Float[Array, " k"]:
    """Bound ‖x_j‖₁ / scale_j from above by the first two digits, rounded up."""
    base = 2.0 ** _digit_bits(x.digits.dtype)
    leading = jnp.abs(x.digits[0] + x.digits[1] / base) + 1 / base
    rounding = 1.01 + leading.shape[0] * float(jnp.finfo(leading.dtype).eps)
    return rounding * jnp.sum(leading, axis=0) * 2.0**x.lead


def inner(left: Digits, right: Digits) -> tuple[Float[Array, "j k"], Float[Array, "j k"]]:
    """Return Σ_i left_ij · right_ik and a bound on the absolute error of each.

    The sums are exact until the last step, which adds balanced digits from the smallest up: each
    partial sum is below 0.51 units of the next digit, so the result is within 2.1 unit roundoffs
    of the sum over the digits. The remainders of the factors come on top.
    """
    dtype = left.digits.dtype
    bits = _digit_bits(dtype)
    base = 2.0**bits
    n = left.digits.shape[1]
    rows = min(n, _ROWS)
    chunks = -(-n // rows)

    def chunked(digits: Array) -> Array:
        padded = jnp.pad(digits, ((0, 0), (0, chunks * rows - n), (0, 0)))
        return padded.reshape(digits.shape[0], chunks, rows, digits.shape[2])

    products = jnp.einsum("tcrj,scrk->tscjk", chunked(left.digits), chunked(right.digits))
    # Each product is an integer of up to three digits; their low digits can be summed exactly.
    middle = jnp.round(products / base)
    low = jnp.sum(products - middle * base, axis=2)
    high = jnp.round(middle / base)
    middle, high = jnp.sum(middle - high * base, axis=2), jnp.sum(high, axis=2)
    num_left, num_right = products.shape[:2]
    levels = [jnp.zeros_like(low[0, 0]) for _ in range(num_left + num_right + 1)]
    for t in range(num_left):
        for s in range(num_right):
            for place, digit in enumerate((high, middle, low)):
                levels[t + s + place] = levels[t + s + place] + digit[t, s]
    total = jnp.zeros_like(levels[0])
    for level in reversed(_carry(levels, bits)):
        total = total / base + level
    scale = left.scale[:, None] * right.scale[None, :]
    total = total * 2.0 ** (left.lead + right.lead + 2 * bits) * scale
    info = jnp.finfo(dtype)
    # |Σ (l̂ + δl)(r̂ + δr) − Σ l̂ r̂| ≤ remainder_l · ‖r‖₁ + remainder_r · ‖l‖₁, to first order.
    remainder = 2.0 * scale * (
        right.remainder * _relative_norm(left)[:, None]
        + left.remainder * _relative_norm(right)[None, :]
    )
    return total, 2 * float(info.eps) * jnp.abs(total) + remainder + float(info.tiny)
