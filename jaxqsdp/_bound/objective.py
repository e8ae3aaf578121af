"""The objective of a network: its value, and a bound on it from above that survives rounding."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Array, Float

from .._base.types import Scalar, epsilon, highest_precision, namespace, tiny, widened
from .._exact.sums import is_subnormal, root

if TYPE_CHECKING:
    from .._network.network import QuantizedNetwork
    from .._problem.problem import Problem

_ENTRIES = 2**20  # outputs of neurons that NumPy holds at a time


@highest_precision
def predictions_of(network: QuantizedNetwork, X: Float[Array, "n d"]) -> Float[Array, "n c"]:
    """Return f(X), a block of samples at a time in NumPy."""
    parts = network.u.T, network.v.T, network.alpha_columns
    u, v, alpha = (part.astype(X.dtype) for part in parts)
    xp = namespace(X, alpha)
    if xp is not np:
        return ((X @ u) * (X @ v)) @ alpha
    step = max(1, _ENTRIES // max(1, len(alpha)))
    blocks = [X[start : start + step] for start in range(0, len(X), step)]
    return xp.concatenate([((block @ u) * (block @ v)) @ alpha for block in blocks])


def objective(problem: Problem, network: QuantizedNetwork) -> Scalar:
    """Return ½ Σ w (f(x) − y)² + Σ_k β_k Σ_j |α_jk|."""
    columns, alpha = problem.columns, network.alpha_columns.astype(problem.X.dtype)
    xp = namespace(problem.X, columns.y, alpha)
    residual = root(columns.weight)[:, None] * (predictions_of(network, problem.X) - columns.y)
    # Samples that do not count may overflow.
    counted = (columns.weight != 0) | is_subnormal(columns.weight)
    loss = xp.sum(xp.where(counted[:, None], xp.square(residual), 0)) / 2
    return loss + xp.sum(columns.beta * xp.sum(xp.abs(alpha), axis=0))


def objective_above(problem: Problem, network: QuantizedNetwork) -> Scalar:
    """Return the objective, summed over outputs, rounded up, and 0 only where it is exactly that.

    |fl(f(x)) − f(x)| ≤ γ · ‖x‖₁² Σ_j |α_j|, γ counting the roundings of two inner products of
    length d, their product and a sum over m neurons. What underflows, inputs included, is below the
    smallest normal number in each factor or product. Infinite where numbers are not finite.
    """
    columns = problem.columns
    roots = root(columns.weight)[:, None]
    alpha, (n, d) = network.alpha_columns.astype(columns.X.dtype), columns.X.shape
    xp = namespace(columns.X, columns.y, roots, alpha)
    X, y = (xp.where(roots == 0, 0, array) for array in (columns.X, columns.y))
    m, c = alpha.shape
    eps, least = epsilon(X.dtype), tiny(X.dtype)

    active = xp.any((alpha != 0) | is_subnormal(alpha), axis=0)[None, :]
    mass = xp.where(active, (xp.sum(xp.abs(alpha), axis=0) + m * least)[None, :], 0)
    reach = xp.sum(xp.abs(X), axis=1)[:, None] + d * least
    underflow = least * (1 + m + mass * (1 + 2 * d * reach) + m * reach * reach)
    error = xp.where(active, (2 * d + m + 8) * eps * reach * reach * mass + underflow, 0)
    error = error + xp.where(is_subnormal(y), least, 0)
    predictions = xp.where(active, predictions_of(network, X), 0)
    residual = xp.abs(predictions - y) * (1 + 2 * eps) + error
    # (√w·r)², unlike w·r², is in range wherever the loss is.
    scaled = roots * (1 + 2 * eps) * residual + least
    loss = xp.sum(xp.where((residual == 0) | (roots == 0), 0, xp.square(scaled) / 2 + least))
    beta = columns.beta[None, :] + least
    penalty = xp.sum(xp.where(active, beta * mass + m * least, 0))
    total = (loss + penalty) * (1 + (n * c + m + c + 14) * eps)
    return xp.where(xp.isfinite(total), total, xp.inf)


def in_float64(tree: Any) -> Any:
    """Return a pytree with NumPy leaves, float64 in place of float32, in which it is exact."""

    def leaf_on_host(leaf: Array) -> np.ndarray:
        array = np.asarray(leaf)
        return widened(array) if np.issubdtype(array.dtype, np.floating) else array

    return jax.tree.map(leaf_on_host, tree)
