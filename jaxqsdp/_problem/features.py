"""The constant feature, which gives a network its linear and constant terms."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._base.types import as_float_array, is_concrete

_SCALE = 1.5  # per root of a feature; from 1 to 3 test scores hardly differ


def with_constant(X: ArrayLike, scale: ArrayLike | None = None) -> Float[Array, "*n d+1"]:
    """Append a feature that is the same for every sample, for linear and constant terms.

        x̃ = (x, s),   s = 1.5·√d by default,
        (x̃ᵀu)(x̃ᵀv) = (xᵀu')(xᵀv') + s·xᵀ(u_s·v' + v_s·u') + s²·u_s·v_s

    with u = (u', u_s). The scale is not a matter of taste: for features of unit variance xᵀu' has
    the size √d, so beside a constant 1 the linear terms are √d times smaller than the products and
    cost that much more penalty. At √d both are equally cheap. The default depends on the number of
    features alone, so that new samples, or a single one, get the scale of the training samples.
    It is meant for standardized features. Where they have another size r, pass 1.5·√d·r: scale and
    features have the same units. `cross_validate(..., constant=scales)` chooses among several.

    **Arguments:**

    - `X`: samples (n, d), or a single one (d,), or any stack of them.
    - `scale`: the number s > 0 to append; None means 1.5·√d.

    **Returns:** shape (..., d + 1), a NumPy array for what NumPy can hold and a JAX array for JAX
    arrays. Floating-point dtypes stay, integers become floats, half precisions float32. Works under
    `jit` and `vmap`, over X or scale.

    **Raises:** `TypeError` or `ValueError` naming the argument.

    Example: `qs.with_constant(np.eye(4))[0]` is `[1, 0, 0, 0, 3]`.
    """
    on_host = not isinstance(X, jax.Array) and is_concrete(X, scale)
    array: Any = _host_floats(X) if on_host else as_float_array(X, "X")
    if array.ndim == 0 or array.shape[-1] == 0:
        raise ValueError(f"`X` must have shape (n, d) or (d,), with d ≥ 1, got {array.shape}.")
    if scale is None:
        scale = default_constant(array.shape[-1])
    elif is_concrete(scale):
        scale = checked_constant(scale, "scale")
    else:
        scale = as_float_array(scale, "scale")
        if scale.ndim:
            raise ValueError(f"`scale` must be one number, got shape {scale.shape}.")
    xp: Any = np if on_host else jnp
    column = xp.full((*array.shape[:-1], 1), scale, array.dtype)
    return xp.concatenate([array, column], axis=-1)


def default_constant(num_features: int) -> float:
    """Return the rule's scale for features of unit variance, the constant not counted."""
    return _SCALE * num_features**0.5


def checked_constant(value: Any, name: str) -> float:
    """Return a scale as a float, or raise `ValueError` unless it is one positive number."""
    number = np.asarray(value)
    real = number.dtype.kind in "fiu" or jnp.issubdtype(number.dtype, jnp.floating)
    if number.shape or not real or not 0 < float(number) < np.inf:
        raise ValueError(f"`{name}` must be a positive number, got {value!r}.")
    return float(number)


def _host_floats(X: Any) -> np.ndarray:
    array = np.asarray(X)
    if array.dtype == object:  # a table of several dtypes
        try:
            array = array.astype(np.float64)
        except (TypeError, ValueError) as error:
            raise TypeError(f"`X` must hold real numbers: {error}") from None
    kind = array.dtype.kind
    if kind not in "fiub" and not jnp.issubdtype(array.dtype, jnp.floating):
        raise TypeError(f"`X` must hold real numbers, got dtype {array.dtype}.")
    return array.astype(np.result_type(array.dtype, np.float32))
