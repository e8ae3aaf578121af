"""The best output weights for fixed neurons, in any units, zero where they should be.

The squared loss has ways of its own: `lasso` in JAX, `_search.restricted` on the host.
"""

from __future__ import annotations

import math
from typing import Any

from jaxtyping import Array, Bool, Float

from .._base.control_flow import while_loop
from .._base.types import (
    Scalar,
    across,
    across_outputs,
    epsilon,
    highest_precision,
    namespace,
    record,
)
from .._exact.powers import power_of_two
from .._loss.base import AbstractLoss
from .predictor_corrector import fit_weights

_GAP = 1e-10  # relative, or ...
_GAP_IN_EPS = 30
_RISE = 4  # times that gap the objective may rise as small weights become zero
_ROUNDS = 3
_NEGLIGIBLE = 8  # units in the last place: what a neuron adds to the predictions
_FORBIDDING = 2  # times the penalty that leaves nothing, for weights that are to be zero


@record
class _State:
    alpha: Float[Array, "m ..."]  # the best so far
    value: Scalar
    used: Bool[Array, "m ..."]  # what is fitted next
    done: Bool[Array, ""]
    rounds: Scalar


@highest_precision
def best_output_weights(
    features: Float[Array, "n m"],
    y: Float[Array, "n ..."],
    weight: Float[Array, " n"],
    beta: Float[Array, "*c"],
    loss: AbstractLoss,
    has_intercept: bool = False,
) -> Float[Array, "m ..."]:
    """Return the α that minimizes Σ w φ(Φα) + β‖α‖₁, zero where the minimizer is.

    For one output, or for all of them where the loss couples them: then the penalty is
    Σ_k β_k Σ_j |α_jk|, with one β for each output.

    With an intercept, Σ w φ(Φα + μ), also over μ.

    To a relative duality gap of 1e-10 (float64) or 30 eps (float32), or where the dtype stops.
    Which α_j are zero, complementarity tells: |α_j| or β − |φ_jᵀλ| nearly vanishes. Where the rest
    is not as good as all were, it is fitted once more. From β = ‖Φᵀ∇ℓ(0)‖_∞ on all are zero.
    """
    xp, eps = namespace(features, y, weight, beta), epsilon(y.dtype)
    if features.shape[1] == 0:
        return xp.zeros((0, *y.shape[1:]), y.dtype)
    counted = weight > 0
    features = xp.where(counted[:, None], features, 0.0)
    y = xp.where(across(counted, y), y, xp.ones_like(y))
    # Moderate units; targets have them where the loss says so.
    unit = 1 / power_of_two(xp.max(xp.abs(features)))
    share = 1 / power_of_two(xp.max(weight))
    target = xp.ones_like(share)
    degree = loss.degree
    if degree is not None:
        target = 1 / power_of_two(xp.max(xp.where(counted, xp.abs(y), 0.0)))
        loss = loss.rescaled(target)
        beta = beta * target ** (degree - 1)
    features, weight, y, beta = unit * features, share * weight, target * y, unit * share * beta
    none = xp.zeros_like(y)
    if has_intercept:
        _, start = loss.balanced_slope(none, y, weight)
    else:
        start = loss.dual_at(none, y, weight)
    most = xp.max(xp.abs(start.T @ features), axis=-1)
    zero = xp.all(most <= beta)
    tol, how = max(_GAP, _GAP_IN_EPS * eps), (math.inf, has_intercept)

    def objective(alpha: Array) -> Scalar:
        penalty = beta * xp.sum(xp.abs(alpha), axis=0)
        predictions = features @ alpha
        if has_intercept:
            level = loss.best_intercept(predictions, y, weight)
            predictions = predictions + across_outputs(level, predictions)
        return loss(predictions, y, weight) + xp.sum(penalty)

    def fit(state: _State) -> _State:
        if loss.couples_outputs:  # a neuron may be of use to some outputs only
            forbidding = xp.maximum(each, _FORBIDDING * xp.max(most))
            penalty = xp.where(state.used, each, forbidding)
            fitted = fit_weights(features, y, weight, penalty, loss, start, tol, *how)
        else:
            some = xp.where(state.used[None], features, 0.0)
            fitted = fit_weights(some, y, weight, beta, loss, start, tol, *how)
        alpha = xp.where(state.used, fitted.alpha, 0.0)
        predictions = xp.max(xp.sqrt(weight @ xp.square(features @ alpha)))
        size = across(xp.sqrt(weight @ xp.square(features)), alpha)
        reach = xp.abs(alpha) * size / xp.where(predictions > 0, predictions, 1.0)
        slack = 1 - xp.abs(fitted.dual.T @ features).T / each
        sparse = xp.where(reach > xp.maximum(slack, _NEGLIGIBLE * eps), alpha, 0.0)
        least = xp.minimum(state.value, fitted.value)
        chosen = objective(sparse) <= least + _RISE * tol * xp.abs(least)
        alpha = xp.where(chosen, sparse, xp.where(fitted.value < state.value, alpha, state.alpha))
        return _State(alpha, least, sparse != 0, chosen, state.rounds + 1)

    def goes_on(state: _State) -> Any:
        return ~state.done & (state.rounds < _ROUNDS)

    nothing = xp.zeros((features.shape[1], *y.shape[1:]), y.dtype)
    every, each = nothing == 0, xp.broadcast_to(beta, nothing.shape)
    state = _State(nothing, objective(nothing), every, zero, xp.zeros((), y.dtype))
    return while_loop(goes_on, fit, state, xp).alpha * unit / target
