"""The bilinear neuron."""

from __future__ import annotations

from jaxtyping import Array, Float


def neurons(
    X: Float[Array, "*n d"], u: Float[Array, "m d"], v: Float[Array, "m d"]
) -> Float[Array, "*n m"]:
    """Return (xᵀu_j)(xᵀv_j) for each sample and neuron; NumPy's arrays of NumPy's."""
    return (X @ u.T) * (X @ v.T)
