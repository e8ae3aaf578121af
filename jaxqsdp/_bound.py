"""A lower bound on the relaxation, hence on the training problem, that survives rounding errors."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._exact import inner, power_of_two, scale_rows, to_digits
from ._linalg import norm_above, smallest_eigenvalue_bound
from ._types import Scalar, epsilon, tiny
from ._units import moderate


def dual_bound(
    X: Float[Array, "n d"],
    y: Float[Array, " n"],
    weight: Float[Array, " n"],
    beta: Scalar,
    dual: Float[Array, " n"],
    dual_diagonal: Float[Array, " d"],
) -> Scalar:
    """Bound the optimal value from below, starting from any (λ, p), however inexact.

    The dual of the relaxation with squared loss is

        max λᵀy − ½ Σ_i λ_i²/w_i   s.t.  Diag(p) ± G ⪰ 0,  1ᵀp ≤ β,  G = Σ_i λ_i x_i x_iᵀ,

    with λ_i = 0 where w_i = 0. Given (λ, p), p + t·1 with t = max(0, −λmin(Diag(p) ± G)) satisfies
    the first constraint; multiplying both by c = clip(λᵀy / Σλ²/w, 0, β/1ᵀ(p + t)) satisfies the
    second and maximizes the value along the ray. Each step is rounded towards the safe side: the
    sums over samples are error-free up to their last bit (`_exact`), eigenvalues are bounded a
    posteriori, and the data count as exact. A bound below zero, or none at all, becomes 0, which
    the loss and the penalty never fall below.

    Data must be of moderate scale, as `_units.moderate` makes them; an invalid β (NaN) gives 0.
    """
    dtype, eps, least = X.dtype, epsilon(X.dtype), tiny(X.dtype)
    counted = weight > 0
    dual = jnp.where(counted & jnp.isfinite(dual), dual, 0)
    p = jnp.where(jnp.isfinite(dual_diagonal), dual_diagonal, 0)
    # The bound is the same all along the ray of (λ, p); at size 1 nothing under- or overflows.
    size = power_of_two(jnp.max(jnp.abs(dual)))
    dual, p = dual / size, p / size

    x_digits, dual_digits = to_digits(X), to_digits(dual[:, None])
    gram, gram_error = inner(scale_rows(dual_digits, x_digits), x_digits)
    # Scaling may have flushed entries of X and y below the smallest normal number to zero.
    flushed = 4 * X.shape[0] * least * (1 + jnp.max(jnp.abs(X)))
    gram_error = gram_error + flushed
    shift = jnp.zeros((), dtype)
    for sign in (-1.0, 1.0):
        slack = jnp.diag(p) + sign * gram
        # Diagonal entries are rounded sums; all entries carry the error of the Gram matrix.
        error = norm_above(gram_error + eps * jnp.diag(jnp.abs(jnp.diag(slack))))
        shift = jnp.maximum(shift, (error - smallest_eigenvalue_bound(slack)) * (1 + 2 * eps))
    budget = jnp.sum(jnp.maximum(p + shift, 0)) * (1 + (p.size + 8) * eps)

    # λ_i² / w_i: the quotient is rounded, the sum is not.
    quotient = jnp.where(counted, dual / jnp.where(counted, weight, 1), 0)
    sums, sums_error = inner(dual_digits, to_digits(jnp.stack([y, quotient], axis=1)))
    linear = sums[0, 0] - sums_error[0, 0] - flushed
    quadratic = (sums[0, 1] + sums_error[0, 1]) * (1 + 4 * eps)
    unconstrained = jnp.where(quadratic > 0, linear / jnp.where(quadratic > 0, quadratic, 1), 0)
    limit = jnp.where(budget > 0, beta / jnp.where(budget > 0, budget, 1), jnp.inf)
    c = jnp.clip(unconstrained, 0, limit * (1 - 4 * eps))
    gain, loss = c * linear, 0.5 * (c * (c * quadratic)) + least
    bound = (gain - loss) - 8 * eps * (gain + loss)
    return jnp.where(jnp.isfinite(bound), jnp.maximum(bound, 0), 0)


def scaled_dual_bound(
    X: Float[Array, "n d"],
    y: Float[Array, " n"],
    weight: Float[Array, " n"],
    beta: Scalar,
    dual: Float[Array, " n"],
    dual_diagonal: Float[Array, " d"],
) -> Scalar:
    """Return `dual_bound` for data of any scale, through an exact change of units."""
    samples = moderate(X, weight)
    units = samples.units_for(y)
    bound = dual_bound(
        samples.X,
        samples.scale_targets(y, units),
        samples.weight,
        units.scale_beta(beta),
        units.scale_dual(dual),
        units.scale_diagonal(dual_diagonal),
    )
    return units.restore_bound(bound)
