"""What the arguments of a problem must be, where that can be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array

from .._base.types import tiny
from .._exact.powers import is_negative
from .._network.activation import AbstractActivation


def check_shapes(X: Array, y: Array, beta: Array, weight: Array | None) -> None:
    """Raise `ValueError` unless the shapes fit together."""
    if X.ndim != 2:
        raise ValueError(
            f"`X` must have shape (n, d), got {X.shape}. For one feature pass X[:, None]; for many "
            "problems at once build them under `jax.vmap`."
        )
    n, d = X.shape
    if n == 0 or d == 0:
        raise ValueError(f"`X` is empty: shape {X.shape}.")
    if y.ndim not in (1, 2) or y.shape[0] != n:
        raise ValueError(
            f"`y` must have shape ({n},) or ({n}, c) to match the {n} rows of `X`, got {y.shape}."
        )
    if y.ndim == 2 and y.shape[1] == 0:
        raise ValueError(f"`y` has no columns: shape {y.shape}.")
    allowed = [()] if y.ndim == 1 else [(), (y.shape[1],)]
    if beta.shape not in allowed:
        choices = " or ".join(map(str, allowed))
        raise ValueError(f"`beta` must have shape {choices}, got {beta.shape}.")
    if weight is not None and weight.shape != (n,):
        raise ValueError(
            f"`sample_weight` must have shape ({n},), one per row of `X`, got {weight.shape}."
        )


def check_values(X: Array, y: Array, beta: Array, weight: Array | None) -> None:
    """Raise `ValueError` for numbers that are not finite, and for weights of no use."""
    for name, array in (("X", X), ("y", y), ("beta", beta), ("sample_weight", weight)):
        if array is None:
            continue
        bad = np.argwhere(~np.isfinite(np.asarray(array)))
        if len(bad):
            remedy = "" if name == "beta" else "; remove or impute them"
            where = f" (first at index {tuple(map(int, bad[0]))})" if array.ndim else ""
            raise ValueError(
                f"`{name}` has {len(bad)} non-finite value{'s' * (len(bad) > 1)}{where}{remedy}."
            )
    if weight is not None:
        if np.any(is_negative(np.asarray(weight))):
            raise ValueError("`sample_weight` has negative entries; weights must be ≥ 0.")
        if not np.any(np.asarray(weight) > 0):
            raise ValueError("`sample_weight` is zero everywhere; no sample would count.")


def check_sign(given: np.ndarray, beta: np.ndarray) -> None:
    """Raise `ValueError` unless β is positive, as given and in its dtype."""
    if np.any(given <= 0):
        raise ValueError(f"`beta` must be positive, got {given}.")
    if np.any(beta < tiny(beta.dtype)):
        raise ValueError(f"`beta` is too small for {beta.dtype}, got {given}.")


def check_largest_weight(weight: np.ndarray) -> None:
    """Raise `ValueError` if no weight is a normal number of its dtype."""
    if not np.any(weight >= tiny(weight.dtype)):
        raise ValueError(f"`sample_weight` is too small for {weight.dtype} everywhere; rescale it.")


def check_activation_range(activation: AbstractActivation, X: Any) -> None:
    """Raise `ValueError` if what an activation makes of samples is beyond their dtype."""
    if not np.all(np.isfinite(X)):
        return
    with np.errstate(all="ignore"):
        map: Any = activation.lifted(X)
        squares = np.square(np.abs(map.X).max(initial=0))
    if not (np.isfinite(squares) and np.all(np.isfinite(map.corner))):
        raise ValueError(
            f"`activation` is {activation!r}, which is beyond the range of {X.dtype} on these X; "
            "rescale X, or a, b and c."
        )
