"""A lower bound on the relaxation, hence on the training problem, that survives rounding errors."""

from typing import Any

import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._base.types import (
    Scalar,
    across,
    epsilon,
    in_float64,
    namespace,
    over_leading,
    tiny,
    widened,
)
from .._exact.powers import power_of_two
from .._exact.sums import inner, join, over_blocks, scale_rows, to_digits, weighted_rows
from .._exact.units import moderate
from .._loss.base import AbstractLoss
from .._loss.squared import SQUARED
from .._network.activation import AbstractActivation
from .._network.bilinear import BILINEAR
from .._network.layout import Layout
from .budget import budget_above
from .intercept import intercept_cost
from .ray import best_below, best_below_of


def dual_bound(
    X: Float[Array, "n d"],
    y: Float[Array, "n ..."],
    weight: Float[Array, " n"],
    beta: Float[Array, "*c"],
    dual: Float[Array, "n ..."],
    dual_diagonal: Float[Array, "*cg d"],
    loss: AbstractLoss = SQUARED,
    layout: Layout = BILINEAR.layout,
    mask: Float[Array, "d d"] | None = None,
    has_intercept: bool = False,
    targets_are_rounded: bool = False,
) -> Scalar:
    """Bound the optimal value from below, starting from any (λ, p), however inexact.

    The dual of the relaxation is

        max −Σ_i w_i ψ(λ_i/w_i)   s.t.  Diag(p) ± G ⪰ 0,  1ᵀp ≤ β,  G = Σ_i λ_i x_i x_iᵀ,

    with another diagonal p± in either cone, and with G = mask ∘ Σ_i λ_i x_i x_iᵀ, where activations
    have such; λ_i = 0 where w_i = 0, and λ_i/w_i within the interval of the loss; for the squared
    loss it is max λᵀy − ½ Σ λ²/w. Given (λ, p), p + t·1 with t = max(0, −λmin(Diag(p) ± G))
    satisfies the first constraint, and multiplying both by c ≤ β/1ᵀ(p + t) the second; the best c
    on the ray is taken, clip(λᵀy / Σλ²/w, 0, β/1ᵀ(p + t)) for the squared loss. Each step is
    rounded towards the safe side: the sums over samples are error-free up to their last bit
    (`_exact`), eigenvalues are bounded a posteriori, and the data count as exact. A bound below
    zero, or none at all, becomes 0, which the loss and the penalty never fall below.

    With an intercept in the network 1ᵀλ = 0, and what rounding has left of that costs something,
    see `intercept`. Where the loss couples outputs, each of them has a budget, and c is the same
    for all. `targets_are_rounded` allows for a relative rounding error in each.

    Data must be of moderate scale, as `moderate` makes them; an invalid β (NaN) gives 0.
    """
    xp = namespace(X, y, weight, beta, dual, dual_diagonal)
    eps, least = epsilon(X.dtype), tiny(X.dtype)
    counted = across(weight > 0, dual)
    dual = xp.where(counted & xp.isfinite(dual), dual, 0)
    dual = dual if loss.is_quadratic else loss.clip_dual(dual, y, weight)
    p = xp.where(xp.isfinite(dual_diagonal), dual_diagonal, 0)
    # The bound is the same all along the ray of (λ, p); at size 1 nothing under- or overflows.
    size = power_of_two(xp.max(xp.abs(dual)))
    dual, p = dual / size, p / size
    # Scaling may have flushed entries of X and y below the smallest normal number to zero.
    cost = None
    if has_intercept:
        cost = intercept_cost(X, y, weight, beta, dual, loss, mask)
    flushed = 4 * X.shape[0] * least * (1 + xp.max(xp.abs(X)))

    if loss.couples_outputs:

        def budget_of(dual: Array, p: Array) -> Scalar:
            gram, error = over_blocks(_gram, dual, X)
            return budget_above(layout, p, *masked(mask, gram, error + flushed))

        budgets = over_leading(budget_of, dual.T, p)
        return best_below_of(loss, dual, y, weight, beta, budgets, cost)
    quotient = xp.where(counted, dual / xp.where(counted, weight, 1), 0)
    sums, error = over_blocks(_sums, dual, X, y, quotient)
    d = X.shape[1]
    gram, gram_error = sums[:d, :d], error[:d, :d] + flushed
    budget = budget_above(layout, p, *masked(mask, gram, gram_error))

    if not loss.is_quadratic:
        slack = 2 * eps * xp.abs(y) if targets_are_rounded else None
        return best_below_of(loss, dual, y, weight, beta, budget, cost, slack)
    linear = sums[d, d] - error[d, d] - flushed
    if targets_are_rounded:
        linear = linear - 2 * eps * xp.sum(xp.abs(dual) * xp.abs(y)) * (1 + len(y) * eps)
    if has_intercept:
        linear = linear - cost - 2 * eps * (xp.abs(linear) + xp.abs(cost))
    quadratic = (sums[d, d + 1] + error[d, d + 1]) * (1 + 4 * eps)
    return best_below(linear, quadratic, beta, budget)


def mask_of(activation: AbstractActivation, like: Float[Array, "n d"]) -> Any:
    """Return the mask of G as a matrix in the dtype of rows like these; None for ones."""
    if activation.mask is None:
        return None
    xp, k = namespace(like), like.shape[1]
    with np.errstate(all="ignore"):
        both, one, none = (
            xp.asarray(np.asarray(number).astype(like.dtype)) for number in activation.mask
        )
    last = xp.arange(k) == k - 1
    count = last[:, None].astype(int) + last[None].astype(int)

    def spread(both: Any, one: Any, none: Any) -> Any:
        return xp.where(count == 0, both, xp.where(count == 1, one, none))

    is_used = spread(*(xp.asarray(number != 0) for number in activation.mask))
    return checked_mask(spread(both, one, none), is_used)


def checked_mask(mask: Array, is_used: Array) -> Array:
    """Return the mask, NaN where what is no zero has no more than a few bits left of it.

    Bounds are 0 then.
    """
    xp, size = namespace(mask), namespace(mask).abs(mask)
    normal = (size >= tiny(mask.dtype)) & xp.isfinite(mask)
    return xp.where(normal | ~is_used, mask, xp.nan)


def masked(mask: Any, gram: Array, error: Array) -> tuple[Array, Array]:
    """Return mask ∘ G and its error; the mask is rounded, as is the product."""
    if mask is None:
        return gram, error
    xp, eps = namespace(mask, gram), epsilon(gram.dtype)
    masked = mask * gram
    error = xp.abs(mask) * error * (1 + 4 * eps) + 2 * eps * xp.abs(masked)
    return masked, error + 4 * tiny(gram.dtype) * (1 + xp.abs(gram))


def _sums(dual: Array, X: Array, y: Array, quotient: Array) -> tuple[Array, Array]:
    """Return G, λᵀy and Σ λ²/w, and their errors, as one exact product (λ∘X, λ)ᵀ (X, y, λ/w).

    The quotient is rounded, and rows of X are at unit size here, see `weighted_rows`.
    """
    xp = namespace(dual, X, y, quotient)
    weighted, rows = weighted_rows(dual, X)
    alone = scale_rows(to_digits(dual[:, None]), to_digits(xp.ones_like(y)[:, None]))
    right = join(rows, to_digits(xp.column_stack([y, quotient])))
    return inner(join(weighted, alone), right)


def _gram(dual: Array, X: Array) -> tuple[Array, Array]:
    """Return G and its error, as an exact product."""
    return inner(*weighted_rows(dual, X))


def scaled_dual_bound(
    X: Float[Array, "n d"],
    y: Float[Array, "n ..."],
    weight: Float[Array, " n"],
    beta: Float[Array, "*c"],
    dual: Float[Array, "n ..."],
    dual_diagonal: Float[Array, "*cg d"],
    loss: AbstractLoss = SQUARED,
    activation: AbstractActivation = BILINEAR,
    has_intercept: bool = False,
) -> Scalar:
    """Return `dual_bound` for data of any scale, through an exact change of units."""
    samples = moderate(activation.homogeneous(X), weight)
    units = samples.units_for(y, loss.degree)
    bound = dual_bound(
        samples.X,
        samples.scale_targets(y, units, loss.any_target),
        samples.weight,
        units.scale_beta(beta),
        units.scale_dual(dual),
        units.scale_diagonal(dual_diagonal),
        loss.rescaled(units.target),
        activation.layout,
        mask_of(activation, samples.X),
        has_intercept,
    )
    return units.restore_bound(bound)


def bound_on_host(
    X: ArrayLike,
    y: ArrayLike,
    weight: ArrayLike,
    beta: ArrayLike,
    dual: ArrayLike,
    dual_diagonal: ArrayLike,
    loss: AbstractLoss = SQUARED,
    activation: AbstractActivation = BILINEAR,
) -> np.float64:
    """Return `scaled_dual_bound` of one output for data that can be looked at, in float64.

    Nothing is compiled, and float32 data are exact. The bound speaks of their exact values, so it
    is to be rounded down where it is stored in float32.
    """
    given = (X, y, weight, beta, dual, dual_diagonal)
    arrays: Any = [*(widened(np.asarray(array)) for array in given), in_float64(loss), activation]
    with np.errstate(all="ignore"):  # what overflows gives NaN, and those the bound 0
        return np.float64(scaled_dual_bound(*arrays))


def rounded_below(number: Any, dtype: Any) -> Any:
    """Round down to a dtype, to a normal number: subnormal ones may be taken for zero later."""
    with np.errstate(all="ignore"):
        nearest = np.dtype(dtype).type(number)
    if nearest > number:
        nearest = np.nextafter(nearest, nearest.dtype.type(-np.inf))
    if abs(number) < tiny(dtype):
        return nearest.dtype.type(0 if number >= 0 else -tiny(dtype))
    return nearest
