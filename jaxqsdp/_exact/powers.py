"""Powers of two and the bits of floating-point numbers: what multiplies without rounding."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from .._base.types import namespace


def power_of_two(x: Array) -> Array:
    """Return a power of two s with 3s/8 ≤ |x| ≤ 3s/4 elementwise, and 1 where x is 0 or not finite.

    Multiplying and dividing by it is exact. Exponents are kept within the range where both the
    power and its reciprocal are normal numbers.
    """
    xp = namespace(x)
    usable = xp.isfinite(x) & (x != 0)
    nearest = _nearest_power(xp.where(usable, xp.abs(x), xp.ones_like(x) / 2))
    limit = _largest_unit(x.dtype)
    return 2 * xp.clip(nearest, 0.5 / limit, 0.5 * limit)


def _largest_unit(dtype: Any) -> float:
    """Return the largest power of two whose reciprocal is normal with room to spare."""
    return 2.0 ** -(int(jnp.finfo(dtype).minexp) + 1)


def _nearest_power(x: Any) -> Any:
    """Round positive numbers to powers of two: to the nearest number without mantissa bits.

    Half-way, at 3·2^k, to the even exponent as it is stored, in NumPy as in JAX: units that one
    finds are undone with those that the other finds.
    """
    info = jnp.finfo(x.dtype)
    if namespace(x) is jnp:
        return jax.lax.reduce_precision(x, info.nexp, 0)
    whole = bits_of(x)
    kind = whole.dtype.type
    below_half, mantissa = kind((1 << (info.nmant - 1)) - 1), kind((1 << info.nmant) - 1)
    odd = (whole >> kind(info.nmant)) & kind(1)
    return number_of((whole + below_half + odd) & ~mantissa, x.dtype)


def bits_of(x: Any) -> Any:
    """Return the bits of floating-point numbers as unsigned integers."""
    if namespace(x) is jnp:
        return jax.lax.bitcast_convert_type(x, f"uint{8 * x.dtype.itemsize}")
    return np.asarray(x).view(f"u{x.dtype.itemsize}")


def number_of(bits: Any, dtype: Any) -> Any:
    """Return the floating-point numbers that have these bits."""
    if namespace(bits) is jnp:
        return jax.lax.bitcast_convert_type(bits, dtype)
    return np.asarray(bits).view(dtype)


def power_with_exponent(exponent: Array, dtype: Any) -> Array:
    """Return 2^exponent exactly, in JAX, with exponents clipped to those of normal numbers.

    `jnp.ldexp` takes a power, which on GPUs is off by a bit in double precision.
    """
    info = jnp.finfo(dtype)
    bias = 1 - int(info.minexp)
    whole = (jnp.clip(exponent, info.minexp, info.maxexp - 1) + bias).astype(f"uint{info.bits}")
    return jax.lax.bitcast_convert_type(whole << whole.dtype.type(info.nmant), dtype)


def is_subnormal(x: Array) -> Array:
    """Whether numbers are nonzero and below the smallest normal one.

    XLA computes with these as with zero, and NumPy does in a process that some library has told to.
    Only their bits tell.
    """
    whole, info = bits_of(x), jnp.finfo(x.dtype)
    magnitude = whole & whole.dtype.type((1 << (info.bits - 1)) - 1)
    return (magnitude != 0) & (magnitude < whole.dtype.type(1 << info.nmant))


def rescaled(x: Array, power: Array | float) -> Array:
    """Return x·power for powers of two, exactly unless that underflows, for subnormal x too."""
    whole, info = bits_of(x), jnp.finfo(x.dtype)
    mantissa = (whole & whole.dtype.type((1 << info.nmant) - 1)).astype(x.dtype)
    exponent = int(info.minexp) - int(info.nmant)  # of the smallest subnormal number
    half = exponent // 2
    xp, lifted = namespace(x), mantissa * 2.0**half
    if xp is jnp:  # XLA would multiply the constants first, which underflows
        lifted = jax.lax.optimization_barrier(lifted)
    small = lifted * (power * 2.0 ** (exponent - half))
    small = xp.where(whole >> whole.dtype.type(info.bits - 1) == 1, -small, small)
    return xp.where(is_subnormal(x), small, x * power)


def unit_for(x: Array, factor: Array) -> Array:
    """Return the power of two that brings max |factor·x| to 3/8 to 3/4, subnormal x included.

    Factors are moderate. Where the power would be out of range, it is the nearest one within.
    """
    xp, limit = namespace(x, factor), _largest_unit(x.dtype)
    # Twice, as factor·x may not be normal where x is not.
    lift = 2.0 ** (int(jnp.finfo(x.dtype).nmant) + 2)  # makes every subnormal number normal
    lift = xp.where(xp.max(xp.abs(x)) < 1, xp.ones_like(x, shape=()) * lift, 1)
    largest = xp.max(xp.abs(rescaled(x, lift)))
    first = xp.minimum(1 / power_of_two(largest), limit / lift) * lift
    second = 1 / power_of_two(xp.max(xp.abs(factor * rescaled(x, first))))
    return xp.where(largest > 0, xp.minimum(second, limit / first) * first, 1)


def is_negative(x: Any) -> Any:
    """Whether numbers are below zero, subnormal ones included."""
    return (x < 0) | (is_subnormal(x) & namespace(x).signbit(x))


def root(x: Array) -> Array:
    """Return √x to within a unit in the last place, for subnormal x too."""
    xp, lift = namespace(x), 2 * (-int(jnp.finfo(x.dtype).minexp) // 4)
    small = xp.sqrt(rescaled(x, 2.0**lift)) * 2.0 ** (-lift // 2)
    return xp.where(x < 2.0**-lift, small, xp.sqrt(x))
