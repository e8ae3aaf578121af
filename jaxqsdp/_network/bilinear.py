"""The bilinear neuron."""

from __future__ import annotations

from typing import Any


def neurons(X: Any, u: Any, v: Any) -> Any:
    """Return (xᵀu_j)(xᵀv_j), (n, m), for samples (n, d) and signs (m, d); for one sample, (m,)."""
    return (X @ u.T) * (X @ v.T)
