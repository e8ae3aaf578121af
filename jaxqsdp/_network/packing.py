"""Rows of small integers packed into bytes: as bits, or as digits of a base, several to a byte."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, UInt8

from .._base.types import namespace


def pack_bits(numbers: Array, bits: int) -> UInt8[Array, "*m bytes"]:
    """Store numbers (…, d) of so many bits, most significant bit first, rows ending whole bytes."""
    xp = namespace(numbers)
    if bits > 1:
        places = last_axis(np.arange(bits - 1, -1, -1), numbers[..., None])
        each = (numbers[..., None] >> places) & xp.asarray(1, numbers.dtype)
        numbers = xp.reshape(each, (*numbers.shape[:-1], numbers.shape[-1] * bits))
    return xp.packbits(numbers.astype(bool), axis=-1)


def unpack_bits(packed: UInt8[Array, "*m bytes"], bits: int, count: int, dtype: Any) -> Array:
    """Inverse of `pack_bits`, for so many numbers a row."""
    xp = namespace(packed)
    each = xp.unpackbits(packed, axis=-1, count=count * bits)
    if bits == 1:
        return each.astype(dtype)
    groups = xp.reshape(each, (*packed.shape[:-1], count, bits)).astype(dtype)
    powers = last_axis(2 ** np.arange(bits - 1, -1, -1), groups)
    return xp.sum(groups * powers, axis=-1, dtype=dtype)


def pack_digits(numbers: UInt8[Array, "*m d"], base: int, digits: int) -> UInt8[Array, "*m bytes"]:
    """Store numbers (…, d) below the base as so many digits a byte, most significant first."""
    xp = namespace(numbers)
    room = [(0, 0)] * (numbers.ndim - 1) + [(0, -numbers.shape[-1] % digits)]
    filled = xp.pad(numbers.astype(np.uint8), room)
    shape = *numbers.shape[:-1], filled.shape[-1] // digits, digits
    groups = xp.reshape(filled, shape)
    return xp.sum(groups * _powers(base, digits, groups), axis=-1, dtype=np.uint8)


def unpack_digits(
    packed: UInt8[Array, "*m bytes"], base: int, digits: int, count: int
) -> UInt8[Array, "*m d"]:
    """Inverse of `pack_digits`, for so many numbers a row."""
    xp = namespace(packed)
    wide = packed[..., None]
    each = wide // _powers(base, digits, wide) % xp.asarray(base, np.uint8)
    return xp.reshape(each, (*packed.shape[:-1], packed.shape[-1] * digits))[..., :count]


def last_axis(numbers: Any, like: Array) -> Array:
    """Return plain numbers along the last axis of as many as `like` has, in its dtype."""
    shape = (1,) * (like.ndim - 1) + (len(numbers),)
    return namespace(like).asarray(np.reshape(numbers, shape), like.dtype)


def _powers(base: int, digits: int, like: Array) -> Array:
    return last_axis(base ** np.arange(digits - 1, -1, -1), like)
