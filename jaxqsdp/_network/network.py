"""The quantized two-layer network."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, UInt8

from .._base.fork import check_process
from .._base.text import outline, shape_of
from .._base.types import as_float_array, highest_precision, is_concrete, namespace
from .._host.files import read_arrays, write_arrays
from .activation import AbstractActivation
from .bilinear import BILINEAR
from .levels import ONE_BIT, Levels

_ENTRIES = 2**20  # outputs of neurons that NumPy holds at a time


class QuantizedNetwork(eqx.Module):
    """f(x) = Σ_j α_j (xᵀu_j)(xᵀv_j) with u_j, v_j ∈ {−1, +1}^d, one bit a first-layer weight.

    Takes one sample x (d,) and gives a scalar, or (c,) where α is (m, c); `jax.vmap(network)(X)`
    for many. Differentiable with respect to x and α. The weights are stored packed, eight to a
    byte, most significant bit first, a set bit meaning +1.

    Build one with `QuantizedNetwork.from_weights`, or let `jaxqsdp.round` and `jaxqsdp.fit` do it.
    """

    packed_u: UInt8[Array, "m bytes"]
    packed_v: UInt8[Array, "m bytes"]
    alpha: Float[Array, " m"] | Float[Array, "m c"]
    num_features: int = eqx.field(static=True)

    activation: ClassVar[AbstractActivation] = BILINEAR
    levels: ClassVar[Levels] = ONE_BIT

    @staticmethod
    def from_weights(u: ArrayLike, v: ArrayLike, alpha: ArrayLike) -> QuantizedNetwork:
        """Pack a network given by its weights.

        **Arguments:** `u`, `v`: (m, d), every entry −1 or +1. `alpha`: (m,) or (m, c).

        **Raises:** `ValueError` for wrong shapes or, where the numbers can be seen, entries other
        than ±1 or a non-finite `alpha`.
        """
        u, v = as_float_array(u, "u"), as_float_array(v, "v")
        alpha = as_float_array(alpha, "alpha")
        if u.ndim != 2 or u.shape[1] == 0:
            raise ValueError(f"`u` must have shape (m, d) with d ≥ 1, got {u.shape}.")
        if v.shape != u.shape:
            raise ValueError(f"`v` must have the shape of `u`, {u.shape}, got {v.shape}.")
        if alpha.ndim not in (1, 2) or alpha.shape[0] != u.shape[0] or 0 in alpha.shape[1:]:
            raise ValueError(
                f"`alpha` must have shape ({u.shape[0]},) or ({u.shape[0]}, c), one row per "
                f"neuron, got {alpha.shape}."
            )
        for name, signs in (("u", u), ("v", v)):
            if is_concrete(signs) and not QuantizedNetwork.levels.holds(np.asarray(signs)):
                raise ValueError(f"`{name}` must hold only −1 and +1; quantize it first.")
        if is_concrete(alpha) and not np.all(np.isfinite(np.asarray(alpha))):
            raise ValueError("`alpha` has non-finite values.")
        return pack(u > 0, v > 0, alpha)

    @property
    def u(self) -> Float[Array, "m d"]:
        """First factor of each neuron, ±1."""
        return self.levels.unpack(self.packed_u, self.num_features, self.alpha.dtype)

    @property
    def v(self) -> Float[Array, "m d"]:
        """Second factor of each neuron, ±1."""
        return self.levels.unpack(self.packed_v, self.num_features, self.alpha.dtype)

    @property
    def alpha_columns(self) -> Float[Array, "m c"]:
        """α as (m, c), with c = 1 for a scalar output."""
        return _columns(self.alpha)

    @property
    def num_neurons(self) -> int:
        """Number of neurons stored, those with α = 0 included."""
        return self.packed_u.shape[-2]

    @property
    def num_bits(self) -> int:
        """Bits that the first-layer weights need: two signs per neuron and feature."""
        weights = self.activation.num_vectors * self.num_neurons * self.num_features
        return weights * self.levels.bits

    @highest_precision
    def __call__(self, x: Float[Array, " d"]) -> Float[Array, ""] | Float[Array, " c"]:
        """Return the output for one sample."""
        check_process()
        if x.shape != (self.num_features,):
            raise ValueError(
                f"`x` must have shape ({self.num_features},), got {x.shape}; use "
                "`jax.vmap(network)(X)` for many samples."
            )
        # What JAX holds of it: single precision while 64-bit mode is off.
        dtype = jax.dtypes.canonicalize_dtype(np.promote_types(x.dtype, self.alpha.dtype))
        x, u, v = x.astype(dtype), self.u.astype(dtype), self.v.astype(dtype)
        return self.activation.neurons(x, u, v) @ self.alpha.astype(dtype)

    def prune(self) -> QuantizedNetwork:
        """Drop the neurons whose α is zero for every output. Changes shapes, so not under `jit`.

        **Raises:** `ValueError` under a transform.
        """
        if not is_concrete(self.alpha):
            raise ValueError("`prune` changes shapes; call it outside `jit` and `vmap`.")
        return self.subset(np.flatnonzero(np.any(_columns(np.asarray(self.alpha)) != 0, axis=1)))

    def subset(self, neurons: np.ndarray) -> QuantizedNetwork:
        """Return the network of some of the neurons; on the host, where nothing is compiled."""
        leaves = (self.packed_u, self.packed_v, self.alpha)
        u, v, alpha = (jnp.asarray(np.asarray(leaf)[neurons]) for leaf in leaves)
        return QuantizedNetwork(u, v, alpha, self.num_features)

    def save(self, path: str | os.PathLike[str], **others: ArrayLike) -> Path:
        """Write the network to an NPZ file of packed weights and α, readable by plain NumPy.

        Other arrays, such as mean and scale of the features, are written beside it under the names
        given; `load` leaves them alone. A file that is there already is replaced once all is
        written, and stays as it is if that fails.

        **Raises:** `TypeError` or `ValueError` naming what cannot be written; `OSError`.
        """
        path = Path(path)
        alpha = np.asarray(self.alpha)
        own: dict[str, Any] = {
            "packed_u": np.asarray(self.packed_u),
            "packed_v": np.asarray(self.packed_v),
            # NumPy has no bfloat16.
            "alpha": alpha if alpha.dtype.kind == "f" else alpha.astype(np.float32),
            "num_features": np.asarray(self.num_features),
        }
        arrays = {name: _plain_array(array, name) for name, array in others.items()}
        taken = {*own, "file", "allow_pickle"} & set(arrays)  # the last two mean others to NumPy
        if taken:
            raise ValueError(f"`{min(taken)}` is a name that the file needs itself; use another.")
        _checked(**own)
        write_arrays(path, own | arrays)
        return path

    @staticmethod
    def load(path: str | os.PathLike[str]) -> QuantizedNetwork:
        """Read a network that `save` wrote. α becomes float32 if float64 is disabled.

        **Raises:** `ValueError` if the file holds no network: if it is of another kind or damaged,
        if members are missing or do not fit together, or if α is not finite; `OSError`.
        """
        path = Path(path)
        try:
            arrays = read_arrays(path, {"packed_u", "packed_v", "alpha", "num_features"})
            return _checked(**arrays)
        except ValueError as error:
            raise ValueError(f"`path` holds no network: {os.fspath(path)!r}: {error}.") from None

    def __repr__(self) -> str:
        packed, alpha = shape_of(self.packed_u), shape_of(self.alpha)
        if packed is None or alpha is None or len(packed) < 2:
            return outline(self)
        if len(alpha) not in (len(packed) - 1, len(packed)):
            return outline(self)
        stacked = "" if len(packed) == 2 else f", stacked={packed[:-2]}"
        outputs = "" if len(alpha) < len(packed) else f", outputs={alpha[-1]}"
        return (
            f"QuantizedNetwork(neurons={self.num_neurons}, features={self.num_features}{outputs}, "
            f"first layer {self.num_bits} bits, alpha {self.alpha.dtype}{stacked})"
        )


@highest_precision
def predictions_of(network: QuantizedNetwork, X: Float[Array, "n d"]) -> Float[Array, "n c"]:
    """Return f(X), a block of samples at a time in NumPy."""
    parts = network.u, network.v, network.alpha_columns
    u, v, alpha = (part.astype(X.dtype) for part in parts)
    xp = namespace(X, alpha)
    if xp is not np:
        return network.activation.neurons(X, u, v) @ alpha
    step = max(1, _ENTRIES // max(1, len(alpha)))
    blocks = [X[start : start + step] for start in range(0, len(X), step)]
    return xp.concatenate([network.activation.neurons(block, u, v) @ alpha for block in blocks])


def _columns(alpha: Any) -> Any:
    return alpha if alpha.ndim == 2 else alpha[:, None]


def pack(u: Any, v: Any, alpha: Any) -> QuantizedNetwork:
    """Build a network from the positions (m, d) of the +1 weights, of NumPy or JAX, and α."""
    packed_u, packed_v = (jnp.asarray(QuantizedNetwork.levels.pack(signs)) for signs in (u, v))
    return QuantizedNetwork(packed_u, packed_v, jnp.asarray(alpha), num_features=u.shape[-1])


def _plain_array(value: ArrayLike, name: str) -> np.ndarray:
    """Return what NumPy can write without pickling it."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` is no array: {error}") from None
    if array.dtype.hasobject:
        raise TypeError(f"`{name}` must hold numbers or text, got objects.")
    return array


def _checked(
    packed_u: np.ndarray, packed_v: np.ndarray, alpha: np.ndarray, num_features: np.ndarray
) -> QuantizedNetwork:
    """Return the network of these arrays, or raise `ValueError` if they do not make one."""
    if num_features.shape != () or num_features.dtype.kind not in "iu" or num_features < 1:
        raise ValueError(f"num_features is {num_features}, which is no positive integer")
    d = int(num_features)
    m, width = packed_u.shape[:1], QuantizedNetwork.levels.bytes_for(d)
    for name, packed in (("packed_u", packed_u), ("packed_v", packed_v)):
        if packed.dtype != np.uint8 or packed.shape != (*m, width) or packed.ndim != 2:
            raise ValueError(
                f"{name} is {packed.dtype} of shape {packed.shape}, where {d} features take uint8 "
                f"of shape (neurons, {width})"
            )
        if QuantizedNetwork.levels.has_rest(packed, d):
            raise ValueError(f"{name} has bits set beyond its {d} features")
    if alpha.dtype not in (np.float16, np.float32, np.float64):
        raise ValueError(f"alpha is {alpha.dtype}; it must be real and floating-point")
    if alpha.ndim not in (1, 2) or alpha.shape[:1] != m or 0 in alpha.shape[1:]:
        raise ValueError(f"alpha has shape {alpha.shape}, but there are {m[0]} neurons")
    numbers = as_float_array(alpha, "alpha")
    if not np.all(np.isfinite(np.asarray(numbers))):
        raise ValueError(f"alpha is not finite in {numbers.dtype}")
    return QuantizedNetwork(jnp.asarray(packed_u), jnp.asarray(packed_v), numbers, d)
