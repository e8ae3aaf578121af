"""A bound on the objective of a network from above, that survives rounding."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from .._base.types import Scalar, across, epsilon, namespace, tiny
from .._exact.powers import is_subnormal, root
from .._network.network import predictions_of

if TYPE_CHECKING:
    from .._network.network import QuantizedNetwork
    from .._problem.problem import Problem


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
    neurons = predictions_of(dataclasses.replace(network, intercept=None), X)
    predictions = xp.where(active, neurons, 0)
    if network.intercept is not None:
        predictions = predictions + network.intercept.astype(X.dtype).reshape(1, -1)
        error = error + 2 * eps * xp.abs(predictions) + least
        error = error + 2 * eps * xp.abs(network.intercept.astype(X.dtype)).reshape(1, -1)
    residual = xp.abs(predictions - y) * (1 + 2 * eps) + error
    if problem.loss.is_quadratic:
        # (√w·r)², unlike w·r², is in range wherever the loss is.
        scaled = roots * (1 + 2 * eps) * residual + least
        each = xp.where((residual == 0) | (roots == 0), 0, xp.square(scaled) / 2 + least)
    else:
        above = problem.loss.value_above(predictions - error, predictions + error, y)
        shared = across(roots[:, 0], above)
        each = shared * (shared * above * (1 + 8 * eps)) + least
        each = xp.where((shared == 0) | (above == 0), 0, each)
    loss = xp.sum(each)
    beta = columns.beta[None, :] + least
    penalty = xp.sum(xp.where(active, beta * mass + m * least, 0))
    total = (loss + penalty) * (1 + (n * c + m + c + 14) * eps)
    return xp.where(xp.isfinite(total), total, xp.inf)
