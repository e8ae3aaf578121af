"""A lower bound on the training problem itself, beyond the relaxation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .._base.types import in_float64
from .._exact.powers import power_of_two
from .._exact.units import moderate
from .._loss.base import AbstractLoss
from .._loss.squared import SQUARED
from .._network.activation import AbstractActivation
from .._network.bilinear import BILINEAR
from .intercept import intercept_cost
from .largest import Proven, largest_form
from .ray import best_below, best_below_of
from .relaxation import mask_of

_UNIT = 2.0**-53  # a rounding error, relative
_LEAST = 2.0**-940  # bounds, with room, what underflow takes from a product of moderate numbers


@np.errstate(all="ignore")  # what overflows proves nothing
def combinatorial_bound(
    X: Any,
    y: Any,
    weight: Any,
    beta: Any,
    dual: Any,
    loss: AbstractLoss = SQUARED,
    activation: AbstractActivation = BILINEAR,
    has_intercept: bool = False,
    as_given: bool = False,
    deadline: float = np.inf,
    known: Sequence[Proven] = (),
) -> float:
    """Bound the optimum of training from below, starting from any λ.

    For one output, or all of them where the loss couples them.

    The dual of the training problem, that is, of the LASSO over all neurons, is

        max −Σ_i w_i ψ(λ_i/w_i)   s.t.  max_{u,v} |uᵀGv| ≤ β,  G = Σ_i λ_i x_i x_iᵀ,

    with λ_i = 0 where w_i = 0. The maximum is taken over all sign vectors u, with v = sign(Gu), or
    it is that of |uᵀGu| for neurons of one vector, G and u as in their relaxation;
    c·λ with c ≤ β/max is feasible, and the best c on its ray is taken. Computed on the
    host in float64, in which float32 data are exact; sums carry their a-priori error bounds, which
    hold for any order of summation, and every step is rounded to the safe side. A bound below zero
    becomes 0, which loss and penalty never fall below.

    With `as_given` it is enough that λ itself is feasible: where sign vectors are many, to prove
    that the maximum is below β may take a small part of the time that the maximum takes. At the
    deadline a larger number stands for it, see `largest_form`. What is known of G, or a multiple of
    it, is not proven again.
    """
    X, y, weight, dual, beta = (np.asarray(a, np.float64) for a in (X, y, weight, dual, beta))
    # Exact changes of units; what they flush to zero is below any of the allowances.
    samples: Any = moderate(activation.homogeneous(X), weight)
    units: Any = samples.units_for(y, loss.degree)
    y, penalty = samples.scale_targets(y, units, loss.any_target), units.scale_beta(beta)
    loss = in_float64(loss).rescaled(units.target)
    if not loss.is_quadratic:
        dual = loss.clip_dual(units.scale_dual(dual), y, samples.weight)
    # Any λ will do, one without some of the samples too.
    usable = (samples.weight > 2.0**-200) & np.isfinite(dual).reshape(len(X), -1).all(axis=1)
    X, y, weight, dual = samples.X[usable], y[usable], samples.weight[usable], dual[usable]
    aim = penalty
    if loss.is_quadratic:  # the same all along the ray of λ
        size = power_of_two(np.abs(dual).max(initial=0))
        aim = penalty / units.scale_dual(np.asarray(size))
        dual = dual / size
    if not (np.any(dual != 0) and np.all(np.isfinite(X)) and np.all(np.isfinite(y))):
        return 0.0
    if not np.all((penalty > 2.0**-900) & (penalty < 2.0**900)):
        return 0.0
    n, d = X.shape
    mask = mask_of(activation, X)
    most = 0.0 if mask is None else float(np.abs(mask).max())

    def rounding(operations: int) -> float:
        return 1.01 * operations * _UNIT

    def norm_of(dual: Any, aim: Any) -> Any:
        # |fl(uᵀGv) − uᵀGv| ≤ γ Σ_i |λ_i| ‖x_i‖₁² for all signs, |mask| within the sum.
        gram = X.T @ (dual[:, None] * X)
        if mask is None:
            mass = float(np.abs(dual) @ np.square(np.abs(X).sum(axis=1)))
        else:
            gram, sizes = mask * gram, np.abs(X)
            mass = float(np.abs(dual) @ np.sum((sizes @ np.abs(mask)) * sizes, axis=1))
        aim = float(aim) if as_given else 0.0
        norm = largest_form(gram, activation.layout, aim, deadline, known)
        return norm + 2 * rounding(2 * n + 4 * d + 20) * mass + _LEAST * (1 + most)

    cost: Any = None
    if has_intercept:
        cost = intercept_cost(X, y, weight, penalty, dual, loss, mask)
    norm: Any
    if dual.ndim == 1:
        norm = norm_of(dual, aim)
    else:
        norm = np.array([norm_of(*pair) for pair in zip(dual.T, aim, strict=True)])
    if not loss.is_quadratic:
        # Samples left out have λ = 0, and ψ(0) ≤ 0 as the loss is never negative.
        below: Any = best_below_of(loss, dual, y, weight, penalty, norm, cost)
        return float(units.restore_bound(np.maximum(below - _LEAST, 0)))
    linear = dual @ y - 2 * rounding(n + 2) * (np.abs(dual) @ np.abs(y)) - _LEAST
    if has_intercept:
        linear = linear - cost - 2 * rounding(2) * (np.abs(linear) + np.abs(cost))
    quadratic = np.sum(np.square(dual) / weight) * (1 + 2 * rounding(n + 4)) + _LEAST
    bound = np.maximum(best_below(linear, quadratic, penalty, norm) - _LEAST, 0)
    return float(units.restore_bound(bound))
