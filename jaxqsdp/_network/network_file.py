"""Networks in NPZ files."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from .._base.types import as_float_array
from .._host.files import read_arrays, write_arrays
from .activation import AbstractActivation
from .bilinear import BILINEAR
from .levels import ONE_BIT, Levels
from .packing import pack_bits, unpack_bits
from .polynomial import Polynomial

_REQUIRED = {"packed_u", "num_features"}
_OPTIONAL = {
    *("packed_v", "alpha", "packed_alpha", "alpha_scale", "alpha_bits"),
    *("levels", "polynomial", "intercept"),
}
_T = TypeVar("_T")
_DTYPES = np.float16, np.float32, np.float64
MOST_ALPHA_BITS = 16


def write_network(path: Path, network: Any, others: Mapping[str, ArrayLike]) -> Path:
    """Write a `QuantizedNetwork`, as its `save` says."""
    own: dict[str, Any] = {
        "packed_u": np.asarray(network.packed_u),
        "num_features": np.asarray(network.num_features),
        **_alpha_members(network),
    }
    if network.packed_v is not None:
        own["packed_v"] = np.asarray(network.packed_v)
    if network.levels != ONE_BIT:
        own["levels"] = np.asarray(network.levels.coefficients)
    if isinstance(network.activation, Polynomial):
        own["polynomial"] = np.asarray(network.activation.coefficients)
    if network.intercept is not None:
        intercept = np.asarray(network.intercept)
        own["intercept"] = (
            intercept if intercept.dtype.kind == "f" else intercept.astype(np.float32)
        )
    arrays = {name: _plain_array(array, name) for name, array in others.items()}
    taken = {*_REQUIRED, *_OPTIONAL, "file", "allow_pickle"} & set(arrays)  # the last to NumPy
    if taken:
        raise ValueError(f"`{min(taken)}` is a name that the file needs itself; use another.")
    _members(**own)
    write_arrays(path, own | arrays)
    return path


def read_network(path: Path, make: Callable[..., _T]) -> _T:
    """Read what `write_network` has written, as `QuantizedNetwork.load` does."""
    try:
        return make(**_members(**read_arrays(path, _REQUIRED, _OPTIONAL)))
    except ValueError as error:
        raise ValueError(f"`path` holds no network: {os.fspath(path)!r}: {error}.") from None


def _alpha_members(network: Any) -> dict[str, Any]:
    alpha = np.asarray(network.alpha)
    if alpha.dtype.kind != "f":  # NumPy has no bfloat16
        return {"alpha": alpha.astype(np.float32)}
    if network.alpha_bits is None:
        return {"alpha": alpha}
    scale, most = np.asarray(network.alpha_scale), largest_integer(network.alpha_bits)
    wide = np.where(scale == 0, 1, scale).astype(np.float64)
    integers: Any = np.clip(np.rint(alpha / wide), -most, most)
    if not np.array_equal(integers.astype(alpha.dtype) * scale, alpha):
        raise ValueError(
            f"`alpha` is no longer `alpha_scale` times integers of {network.alpha_bits} bits; use "
            "`network.with_alpha(alpha)` to store floats, or `quantize_alpha`"
        )
    return {
        "packed_alpha": pack_bits((integers.T + most).astype(np.uint16), network.alpha_bits),
        "alpha_scale": scale,
        "alpha_bits": np.asarray(network.alpha_bits),
    }


def largest_integer(bits: int) -> int:
    """Return the largest magnitude of integers of so many bits, 2^(b−1) − 1, as for −1, 0, 1."""
    return 2 ** (bits - 1) - 1


def _members(
    packed_u: np.ndarray,
    num_features: np.ndarray,
    packed_v: np.ndarray | None = None,
    levels: np.ndarray | None = None,
    polynomial: np.ndarray | None = None,
    intercept: np.ndarray | None = None,
    **of_alpha: np.ndarray,
) -> dict[str, Any]:
    """Return what a network is made of, or raise `ValueError` if that does not make one."""
    activation: AbstractActivation = BILINEAR
    if polynomial is not None:
        activation = Polynomial(*_numbers("polynomial", polynomial, 3))
    alphabet = ONE_BIT
    if levels is not None:
        alphabet = Levels(coefficients=_numbers("levels", levels, levels.size))
    d = _positive("num_features", num_features)
    m, width = packed_u.shape[:1], alphabet.bytes_for(d)
    vectors = {"packed_u": packed_u}
    if activation.num_vectors == 2:
        if packed_v is None:
            raise ValueError("it has no 'packed_v'")
        vectors["packed_v"] = packed_v
    elif packed_v is not None:
        raise ValueError("its neurons have one vector, and it has 'packed_v'")
    for name, packed in vectors.items():
        if packed.dtype != np.uint8 or packed.shape != (*m, width) or packed.ndim != 2:
            raise ValueError(
                f"{name} is {packed.dtype} of shape {packed.shape}, where {d} features take uint8 "
                f"of shape (neurons, {width})"
            )
        if alphabet.has_rest(packed, d):
            raise ValueError(f"{name} has bits set beyond its {d} features, or what is no level")
    return {
        **{name: jnp.asarray(packed) for name, packed in vectors.items()},
        **({} if "packed_v" in vectors else {"packed_v": None}),
        "num_features": d,
        "activation": activation,
        "levels": alphabet,
        **(members := _alpha(m[0], **of_alpha)),
        "intercept": None if intercept is None else _intercept(members["alpha"], intercept),
    }


def _intercept(alpha: Array, intercept: np.ndarray) -> Array:
    if intercept.dtype not in _DTYPES or intercept.shape != alpha.shape[1:]:
        raise ValueError(
            f"intercept is {intercept.dtype} of shape {intercept.shape}, where alpha has shape "
            f"{alpha.shape}"
        )
    if not np.all(np.isfinite(intercept)):
        raise ValueError("intercept is not finite")
    return as_float_array(intercept, "intercept").astype(alpha.dtype)


def _alpha(
    m: int,
    alpha: np.ndarray | None = None,
    packed_alpha: np.ndarray | None = None,
    alpha_scale: np.ndarray | None = None,
    alpha_bits: np.ndarray | None = None,
) -> dict[str, Any]:
    """Return the output weights of m neurons as a network has them, or raise `ValueError`."""
    if (packed_alpha is None) == (alpha is None):
        raise ValueError("it has no 'alpha', or two")
    if packed_alpha is None:
        if alpha is None or alpha_scale is not None or alpha_bits is not None:
            raise ValueError("it has 'alpha_scale' or 'alpha_bits' without 'packed_alpha'")
        return {"alpha": _checked_alpha(m, alpha)}
    if alpha_scale is None or alpha_bits is None:
        raise ValueError("it has no 'alpha_scale' or no 'alpha_bits'")
    bits = _positive("alpha_bits", alpha_bits)
    if not 2 <= bits <= MOST_ALPHA_BITS or alpha_scale.dtype not in _DTYPES:
        raise ValueError(f"alpha has {bits} bits and a scale of {alpha_scale.dtype}")
    if not np.all(np.isfinite(alpha_scale) & (alpha_scale >= 0)):
        raise ValueError("alpha_scale is not finite, or negative")
    shape = (*alpha_scale.shape, -(-m * bits // 8))
    if packed_alpha.dtype != np.uint8 or packed_alpha.shape != shape:
        raise ValueError(
            f"packed_alpha is {packed_alpha.dtype} of shape {packed_alpha.shape}, where {m} "
            f"neurons take uint8 of shape {shape}"
        )
    packed: Any = packed_alpha
    integers: Any = unpack_bits(packed, bits, m, np.uint16).astype(np.int64).T
    if not np.array_equal(pack_bits(integers.T.astype(np.uint16), bits), packed_alpha):
        raise ValueError("packed_alpha has bits set beyond its numbers")
    integers -= largest_integer(bits)
    if np.any(integers > largest_integer(bits)):
        raise ValueError(f"packed_alpha has numbers above {largest_integer(bits)}")
    with np.errstate(all="ignore"):  # what overflows is refused below
        products = integers.astype(alpha_scale.dtype) * alpha_scale
    return {
        "alpha": _checked_alpha(m, products),
        "alpha_scale": as_float_array(alpha_scale, "alpha_scale"),
        "alpha_bits": bits,
    }


def _checked_alpha(m: int, alpha: np.ndarray) -> Array:
    if alpha.dtype not in _DTYPES:
        raise ValueError(f"alpha is {alpha.dtype}; it must be real and floating-point")
    if alpha.ndim not in (1, 2) or alpha.shape[0] != m or 0 in alpha.shape[1:]:
        raise ValueError(f"alpha has shape {alpha.shape}, but there are {m} neurons")
    numbers = as_float_array(alpha, "alpha")
    if not np.all(np.isfinite(np.asarray(numbers))):
        raise ValueError(f"alpha is not finite in {numbers.dtype}")
    return numbers


def _positive(name: str, number: np.ndarray) -> int:
    if number.shape != () or number.dtype.kind not in "iu" or number < 1:
        raise ValueError(f"{name} is {number}, which is no positive integer")
    return int(number)


def _numbers(name: str, numbers: np.ndarray, count: int) -> list[float]:
    if numbers.dtype.kind != "f" or numbers.shape != (count,) or not np.all(np.isfinite(numbers)):
        raise ValueError(f"{name} is {numbers.dtype} of shape {numbers.shape}")
    return [float(number) for number in numbers]


def _plain_array(value: ArrayLike, name: str) -> np.ndarray:
    """Return what NumPy can write without pickling it."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` is no array: {error}") from None
    if array.dtype.hasobject:
        raise TypeError(f"`{name}` must hold numbers or text, got objects.")
    return array
