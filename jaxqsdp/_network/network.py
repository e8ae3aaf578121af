"""The quantized two-layer network."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, UInt8

from .._base.fork import check_process
from .._base.text import outline, shape_of
from .._base.types import as_float_array, highest_precision, is_concrete, namespace
from .activation import AbstractActivation, check_activation
from .bilinear import BILINEAR
from .conversion import bilinear_from_square, polynomial_from_bilinear
from .levels import ONE_BIT, Levels, check_levels
from .network_file import read_network, write_network
from .polynomial import Polynomial

_ENTRIES = 2**20  # outputs of neurons that NumPy holds at a time


class QuantizedNetwork(eqx.Module):
    """f(x) = Σ_j α_j (xᵀu_j)(xᵀv_j) with weights u_j, v_j among a few levels, ±1 by default.

    Takes one sample x (d,) and gives a scalar, or (c,) where α is (m, c); `jax.vmap(network)(X)`
    for many. Differentiable with respect to x and α. The weights are stored packed, as `levels`
    says: one bit each, eight to a byte, most significant bit first, a set bit meaning +1. Neurons
    of a `Polynomial` activation, Σ_j α_j σ(xᵀu_j), have no v. Weights are the levels themselves,
    also where `u` and `v` and outputs round them to the dtype at hand.

    Build one with `QuantizedNetwork.from_weights`, or let `jaxqsdp.round` and `jaxqsdp.fit` do it.

    **Attributes:** `alpha` (m,) or (m, c); `activation` and `levels`; `alpha_bits`, where
    `quantize_alpha` has made α integers times `alpha_scale` (), or (c,), else None; `intercept` (),
    or (c,), which f(x) has besides the neurons, or None.
    """

    packed_u: UInt8[Array, "m bytes"]
    packed_v: UInt8[Array, "m bytes"] | None
    alpha: Float[Array, " m"] | Float[Array, "m c"]
    num_features: int = eqx.field(static=True)
    activation: AbstractActivation = BILINEAR
    levels: Levels = eqx.field(static=True, default=ONE_BIT)
    alpha_scale: Float[Array, ""] | Float[Array, " c"] | None = None
    alpha_bits: int | None = eqx.field(static=True, default=None)
    intercept: Float[Array, ""] | Float[Array, " c"] | None = None

    @staticmethod
    def from_weights(
        u: ArrayLike,
        v: ArrayLike | None = None,
        alpha: ArrayLike | None = None,
        *,
        activation: AbstractActivation | None = None,
        levels: Levels | None = None,
        intercept: ArrayLike | None = None,
    ) -> QuantizedNetwork:
        """Pack a network given by its weights.

        **Arguments:** `u`, `v`: (m, d), every entry among the levels; `v` is None for an activation
        of one vector. `alpha`: (m,) or (m, c). `activation`: `Bilinear()` if left out. `levels`:
        ±1 if left out, else `Levels(bits=2)` and the like. `intercept`: (), or (c,).

        **Raises:** `TypeError`, or `ValueError` for wrong shapes or, where the numbers can be seen,
        weights that are no levels or a non-finite `alpha`.

        Example: `QuantizedNetwork.from_weights([[1, 0], [0, -1]], alpha=[0.5, 2.0],
        activation=Polynomial(1.0), levels=Levels.ternary())`.
        """
        if alpha is None:
            raise TypeError("`alpha` is missing: the output weights, (m,) or (m, c).")
        activation = check_activation(BILINEAR if activation is None else activation)
        levels = check_levels(levels)
        if (v is None) != (activation.num_vectors == 1):
            takes = "one vector, `u`" if activation.num_vectors == 1 else "two vectors, `u` and `v`"
            raise ValueError(f"`v` does not fit: neurons of {activation!r} have {takes}.")
        vectors = {"u": as_float_array(u, "u")}
        if v is not None:
            vectors["v"] = as_float_array(v, "v")
        alpha, shape = as_float_array(alpha, "alpha"), vectors["u"].shape
        if len(shape) != 2 or shape[1] == 0:
            raise ValueError(f"`u` must have shape (m, d) with d ≥ 1, got {shape}.")
        if "v" in vectors and vectors["v"].shape != shape:
            raise ValueError(f"`v` must have the shape of `u`, {shape}, got {vectors['v'].shape}.")
        if alpha.ndim not in (1, 2) or alpha.shape[0] != shape[0] or 0 in alpha.shape[1:]:
            raise ValueError(
                f"`alpha` must have shape ({shape[0]},) or ({shape[0]}, c), one row per "
                f"neuron, got {alpha.shape}."
            )
        for name, weights in vectors.items():
            if is_concrete(weights) and not levels.holds(np.asarray(weights)):
                raise ValueError(_not_among(name, np.asarray(weights), levels))
        if is_concrete(alpha) and not np.all(np.isfinite(np.asarray(alpha))):
            raise ValueError("`alpha` has non-finite values.")
        network = _from_vectors(tuple(vectors.values()), alpha, levels, activation)
        return network if intercept is None else network.with_intercept(intercept)

    @property
    def u(self) -> Float[Array, "m d"]:
        """First vector of each neuron."""
        return self.levels.unpack(self.packed_u, self.num_features, self.alpha.dtype)

    @property
    def v(self) -> Float[Array, "m d"] | None:
        """Second vector of each neuron, None where it has one only."""
        if self.packed_v is None:
            return None
        return self.levels.unpack(self.packed_v, self.num_features, self.alpha.dtype)

    def vectors(self, dtype: Any) -> tuple[Float[Array, "m d"], ...]:
        """Return the one or two vectors of each neuron, levels rounded to a dtype."""
        packed = (self.packed_u,) if self.packed_v is None else (self.packed_u, self.packed_v)
        return tuple(self.levels.unpack(each, self.num_features, dtype) for each in packed)

    def is_among(self, levels: Levels) -> bool:
        """Whether all weights are among other levels; on the host, where nothing is compiled."""
        vectors = jax.tree.map(np.asarray, self).vectors(np.float64)
        return levels == self.levels or all(levels.holds(weights) for weights in vectors)

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
        """Bits that the first-layer weights take as stored, but for what fills a row's last byte.

        Two signs per neuron and feature, for bilinear neurons of ±1.
        """
        rows = self.activation.num_vectors * self.num_neurons
        return rows * self.levels.bits_for(self.num_features)

    @property
    def total_bits(self) -> int:
        """Bits of both layers: `num_bits`, those of α, of its scale if quantized, of intercepts."""
        width = 8 * self.alpha.dtype.itemsize
        several = self.alpha.ndim == self.packed_u.ndim
        outputs = self.alpha.shape[-1] if several else 1
        others = 0 if self.intercept is None else width * outputs
        if self.alpha_bits is None:
            return self.num_bits + width * outputs * self.num_neurons + others
        return self.num_bits + outputs * (self.alpha_bits * self.num_neurons + width) + others

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
        neurons = self.activation.neurons(x.astype(dtype), *self.vectors(dtype))
        outputs = neurons @ self.alpha.astype(dtype)
        return outputs if self.intercept is None else outputs + self.intercept.astype(dtype)

    @property
    def alpha_integers(self) -> Int[Array, " m"] | Int[Array, "m c"]:
        """α as multiples of `alpha_scale`.

        **Raises:** `ValueError` for a network whose α is not quantized.
        """
        if self.alpha_scale is None:
            raise ValueError("α is not quantized; `jaxqsdp.quantize_alpha` does that.")
        self._check_single()
        scale = jnp.where(self.alpha_scale == 0, 1, self.alpha_scale)
        return jnp.rint(self.alpha / jnp.broadcast_to(scale, self.alpha.shape)).astype(jnp.int32)

    def _check_single(self) -> None:
        if self.packed_u.ndim != 2:
            raise ValueError("The network is stacked; use `jax.vmap`.")

    def prune(self) -> QuantizedNetwork:
        """Drop the neurons whose α is zero for every output. Changes shapes, so not under `jit`.

        **Raises:** `ValueError` under a transform.
        """
        if not is_concrete(self.alpha):
            raise ValueError("`prune` changes shapes; call it outside `jit` and `vmap`.")
        return self.subset(np.flatnonzero(np.any(_columns(np.asarray(self.alpha)) != 0, axis=1)))

    def subset(self, neurons: np.ndarray) -> QuantizedNetwork:
        """Return the network of some of the neurons; on the host, where nothing is compiled."""
        names = ("packed_u", "packed_v", "alpha")
        leaves = {name: getattr(self, name) for name in names}
        some: dict[str, Any] = {
            name: jnp.asarray(np.asarray(leaf)[neurons])
            for name, leaf in leaves.items()
            if leaf is not None
        }
        return dataclasses.replace(self, **some)

    def with_alpha(self, alpha: Array) -> QuantizedNetwork:
        """Return the network with other output weights, which are not quantized."""
        return dataclasses.replace(self, alpha=alpha, alpha_scale=None, alpha_bits=None)

    def with_intercept(self, intercept: ArrayLike) -> QuantizedNetwork:
        """Return the network with an intercept, (), or (c,) for α of shape (m, c).

        **Raises:** `TypeError` or `ValueError` naming the argument.
        """
        number = as_float_array(intercept, "intercept").astype(self.alpha.dtype)
        shape = self.alpha.shape[self.packed_u.ndim - 1 :]
        if number.shape != shape:
            raise ValueError(f"`intercept` must have shape {shape}, got {number.shape}.")
        if is_concrete(number) and not np.all(np.isfinite(np.asarray(number))):
            raise ValueError("`intercept` is not finite.")
        return dataclasses.replace(self, intercept=number)

    def to_polynomial(self, a: float, b: float = 0.0, c: float = 0.0) -> QuantizedNetwork:
        """Return a network of neurons σ(xᵀw), σ(t) = at² + bt + c, with the same outputs.

            (xᵀu)(xᵀv) = (xᵀw₊)² − (xᵀw₋)²,   w± = (u ± v)/2,   2a·t² = σ(t) + σ(−t) − 2c

        So a neuron of ±1 becomes two ternary ones where b = 0, and four elsewhere, w and −w of
        each; the constants cancel. Works under `jit` and `vmap`.

        **Raises:** `TypeError` or `ValueError` naming the argument; `ValueError` for levels of more
        than four bits.

        Source: Bartan & Pilanci, ICML 2021, section 4.

        Example: `network.to_polynomial(0.09, 0.5, 0.47)`.
        """
        activation = Polynomial(a, b, c)
        self._check_single()
        if self.activation != BILINEAR:
            raise ValueError(f"The network must have bilinear neurons, got {self.activation!r}.")
        vectors = self.vectors(self.alpha.dtype)
        found = polynomial_from_bilinear(vectors, self.alpha, self.levels, activation)
        if is_concrete(found[1]) and not np.all(np.isfinite(np.asarray(found[1]))):
            raise ValueError(f"`a` is too small, {a!r}: α/a is beyond the range of its dtype.")
        return dataclasses.replace(_from_vectors(*found, activation), intercept=self.intercept)

    def to_bilinear(self) -> QuantizedNetwork:
        """Return a bilinear network with the outputs of one of neurons a·(xᵀw)².

        What `to_polynomial(a)` gives becomes what it was made from; any other neuron one with
        u = v = w, also under `jit` and `vmap`. Then `certify` takes it.

        **Raises:** `ValueError` for other neurons.
        """
        activation = self.activation
        self._check_single()
        if not (isinstance(activation, Polynomial) and activation.is_square):
            raise ValueError(
                f"The network must have neurons a·(xᵀw)², got {activation!r}; those with b or c "
                "are bilinear only with a constant feature."
            )
        alpha = self.alpha * activation.a
        found = _from_vectors(*bilinear_from_square(self.u, alpha, self.levels), BILINEAR)
        return dataclasses.replace(found, intercept=self.intercept)

    def save(self, path: str | os.PathLike[str], **others: ArrayLike) -> Path:
        """Write the network to an NPZ file of packed weights and α, readable by plain NumPy.

        Other arrays, such as mean and scale of the features, are written beside it under the names
        given; `load` leaves them alone. A file that is there already is replaced once all is
        written, and stays as it is if that fails.

        **Raises:** `TypeError` or `ValueError` naming what cannot be written; `OSError`.
        """
        return write_network(Path(path), self, others)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> QuantizedNetwork:
        """Read a network that `save` wrote. α becomes float32 if float64 is disabled.

        **Raises:** `ValueError` if the file holds no network: if it is of another kind or damaged,
        if members are missing or do not fit together, or if α is not finite; `OSError`.
        """
        return read_network(Path(path), QuantizedNetwork)

    def __repr__(self) -> str:
        packed, alpha = shape_of(self.packed_u), shape_of(self.alpha)
        if packed is None or alpha is None or len(packed) < 2 or self.activation is None:
            return outline(self)
        if len(alpha) not in (len(packed) - 1, len(packed)):
            return outline(self)
        stacked = "" if len(packed) == 2 else f", stacked={packed[:-2]}"
        outputs = "" if len(alpha) < len(packed) else f", outputs={alpha[-1]}"
        kind = "" if self.activation == BILINEAR else f", {self.activation!r}"
        kind += "" if self.levels == ONE_BIT else f", {self.levels!r}"
        bits = self.alpha.dtype if self.alpha_bits is None else f"{self.alpha_bits} bits"
        stacked = ("" if self.intercept is None else ", intercept") + stacked
        return (
            f"QuantizedNetwork(neurons={self.num_neurons}, features={self.num_features}{outputs}"
            f"{kind}, first layer {self.num_bits} bits, alpha {bits}{stacked})"
        )


@highest_precision
def predictions_of(network: QuantizedNetwork, X: Float[Array, "n d"]) -> Float[Array, "n c"]:
    """Return f(X), a block of samples at a time in NumPy."""
    alpha, vectors = network.alpha_columns.astype(X.dtype), network.vectors(X.dtype)
    xp, neurons = namespace(X, alpha), network.activation.neurons
    if xp is not np:
        outputs = neurons(X, *vectors) @ alpha
    else:
        step = max(1, _ENTRIES // max(1, len(alpha)))
        blocks = [X[start : start + step] for start in range(0, len(X), step)]
        outputs = xp.concatenate([neurons(block, *vectors) @ alpha for block in blocks])
    if network.intercept is None:
        return outputs
    return outputs + network.intercept.astype(X.dtype).reshape(1, -1)


def _columns(alpha: Any) -> Any:
    return alpha if alpha.ndim == 2 else alpha[:, None]


def pack(
    *indices: Any,
    alpha: Any,
    activation: AbstractActivation = BILINEAR,
    levels: Levels = ONE_BIT,
) -> QuantizedNetwork:
    """Build a network from α and the indices (m, d) of its levels, of NumPy or JAX.

    For two levels these may be truth values, which are the positions of +1.
    """
    packed = [jnp.asarray(levels.pack(each)) for each in indices]
    u, v = packed if len(packed) == 2 else (packed[0], None)
    d = indices[0].shape[-1]
    return QuantizedNetwork(u, v, jnp.asarray(alpha), d, activation, levels)


def _from_vectors(
    vectors: tuple[Any, ...], alpha: Any, levels: Levels, activation: AbstractActivation
) -> QuantizedNetwork:
    indices = map(levels.indices, vectors)
    return pack(*indices, alpha=alpha, activation=activation, levels=levels)


def _not_among(name: str, weights: np.ndarray, levels: Levels) -> str:
    if levels == ONE_BIT:
        return (
            f"`{name}` must hold only −1 and +1; quantize it first, or say of what `levels` it is."
        )
    return f"`{name}` must hold only levels of {levels!r}, {levels.values}; quantize it first."
