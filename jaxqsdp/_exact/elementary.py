"""Logarithm and exponential from additions, multiplications and divisions alone, rounded up.

A proof may not rest on those of NumPy or XLA, which promise no accuracy. Here

    ln m = 2 artanh s = 2(s + s³/3 + s⁵/5 + …),  s = (m − 1)/(m + 1),  e^r = 1 + r + r²/2 + …

after an exact change to moderate arguments, with so many terms that those left out are below a
rounding error. Allowances are several times what the roundings can add up to, so that a division
that is off by two units in the last place, as on some devices, does not matter.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array

from .._base.types import at_largest, epsilon, namespace, tiny
from .powers import power_of_two, power_with_exponent

_LN2 = 0.6931471805599453
_LN2_HIGH = 355 / 512  # nine bits, so that multiples of it are exact
_LN2_LOW = -2.121944400546906e-4  # the rest
_ARTANH_TERMS = 19  # for s² up to 1/9: 9⁻¹⁹/39 is below 2⁻⁶⁵
_EXP_TERMS = 16  # for |r| up to ½: 2⁻¹⁶/16! is below 2⁻⁶⁰
_LOG_ROUNDINGS = 16
_EXP_ROUNDINGS = 16


def entropy_above(q: Array) -> Array:
    """Return an upper bound on q ln q + (1 − q) ln(1 − q) for q in [0, 1], 0 for others."""
    xp, eps, least = namespace(q), epsilon(q.dtype), 16 * tiny(q.dtype)
    small = xp.where(q <= 0.5, q, 1 - q)  # exact
    used = xp.where(small > least, small, 0.5)
    first, error = _log(used)
    second = _log_one_plus(-used)
    value, large = used * first + (1 - used) * second, 1 - used
    allowance = used * (error + 4 * eps * xp.abs(first)) + large * (
        (_LOG_ROUNDINGS + 4) * eps * xp.abs(second)
    )
    bound = value + allowance + 2 * eps * xp.abs(value) + tiny(q.dtype)
    # It never exceeds 0.
    return xp.where(small > least, bound, xp.where(xp.isnan(q), q, 0))


def x_log_x_above(q: Array) -> Array:
    """Return an upper bound on q ln q for q in [0, 1], known to a unit in the last place."""
    xp, eps, least = namespace(q), epsilon(q.dtype), 16 * tiny(q.dtype)
    used = xp.where((q > least) & (q < 1), q, 0.5)
    logarithm, error = _log(used)
    value = used * logarithm
    bound = value + used * (error + 4 * eps) + 4 * eps * xp.abs(value) + tiny(q.dtype)
    return xp.where((q > least) & (q < 1), xp.minimum(bound, 0), xp.where(xp.isnan(q), q, 0))


def log_one_plus_exp_above(x: Array) -> Array:
    """Return an upper bound on ln(1 + e^x)."""
    xp, eps = namespace(x), epsilon(x.dtype)
    falling = _exp_minus_above(xp.abs(x))
    logarithm = _log_one_plus(falling) * (1 + (_LOG_ROUNDINGS + 4) * eps)
    return (xp.maximum(x, 0) + logarithm) * (1 + 4 * eps) + tiny(x.dtype)


def log_sum_exp_above(x: Array) -> Array:
    """Return an upper bound on ln Σ_k exp x_k, k the last axis, of at least one number ≥ 0."""
    xp, eps, count = namespace(x), epsilon(x.dtype), x.shape[-1]
    largest = xp.max(x, axis=-1)
    falling = _exp_minus_above((largest[..., None] - x) * (1 - 2 * eps))
    others = xp.sum(xp.where(at_largest(x), 0, falling), axis=-1) * (1 + count * eps)
    few = _log_one_plus(xp.minimum(others, 1)) * (1 + (_LOG_ROUNDINGS + 4) * eps)
    many, error = _log(1 + xp.maximum(others, 1))
    logarithm = xp.where(others <= 1, few, many + error + 4 * eps)
    return (largest + logarithm) * (1 + 4 * eps) + tiny(x.dtype)


def _log(x: Array) -> tuple[Array, Array]:
    """Return ln x of normal numbers, and a bound on its error."""
    xp, eps = namespace(x), epsilon(x.dtype)
    power = power_of_two(x) / 2
    exponent = (xp.frexp(power)[1] - 1).astype(x.dtype)
    mantissa = x / power  # 3/4 to 3/2
    inside = 2 * _artanh((mantissa - 1) / (mantissa + 1))
    outside = exponent * _LN2
    error = _LOG_ROUNDINGS * eps * (xp.abs(inside) + xp.abs(outside))
    return outside + inside, error


def _log_one_plus(u: Array) -> Array:
    """Return ln(1 + u) for u in [−½, 1], right to sixteen units in the last place."""
    return 2 * _artanh(u / (2 + u))


def _artanh(s: Array) -> Array:
    square = s * s
    total: Any = 0.0
    for term in reversed(range(1, _ARTANH_TERMS)):
        total = (total + 1 / (2 * term + 1)) * square
    return s + s * total


def _exp_minus_above(distance: Array) -> Array:
    """Return an upper bound on e^(−x) for x ≥ 0."""
    xp, eps = namespace(distance), epsilon(distance.dtype)
    # More than e^(−x) where that is out of range.
    distance = xp.minimum(distance, -0.9 * float(np.log(tiny(distance.dtype))))
    return _exp_minus(distance) * (1 + (_EXP_ROUNDINGS + 4 * distance) * eps)


def _exp_minus(distance: Array) -> Array:
    """Return e^(−x) for x ≥ 0 within range, right to 16 + 4x units in the last place."""
    xp = namespace(distance)
    halvings = xp.round(distance / _LN2)
    rest = (halvings * _LN2_HIGH - distance) + halvings * _LN2_LOW
    total: Any = xp.ones_like(distance)
    for term in reversed(range(1, _EXP_TERMS)):
        total = 1 + total * rest / term
    exponent = -halvings.astype(np.int32)
    if xp is np:
        return np.ldexp(total, exponent)
    return total * power_with_exponent(exponent, distance.dtype)
