"""The objective of a network, as it is computed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._base.types import Scalar, namespace
from .._exact.powers import is_subnormal, root
from .._network.network import predictions_of

if TYPE_CHECKING:
    from .._network.network import QuantizedNetwork
    from .problem import Problem


def objective(problem: Problem, network: QuantizedNetwork) -> Scalar:
    """Return ½ Σ w (f(x) − y)² + Σ_k β_k Σ_j |α_jk|."""
    columns, alpha = problem.columns, network.alpha_columns.astype(problem.X.dtype)
    xp = namespace(problem.X, columns.y, alpha)
    residual = root(columns.weight)[:, None] * (predictions_of(network, problem.X) - columns.y)
    # Samples that do not count may overflow.
    counted = (columns.weight != 0) | is_subnormal(columns.weight)
    loss = xp.sum(xp.where(counted[:, None], xp.square(residual), 0)) / 2
    return loss + xp.sum(columns.beta * xp.sum(xp.abs(alpha), axis=0))
