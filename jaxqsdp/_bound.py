"""A lower bound on the relaxation, hence on the training problem, that survives rounding errors."""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from ._exact import inner, join, power_of_two, scale_rows, to_digits, weighted_rows
from ._lift import slacks
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

    # One exact product: (λ∘X, λ)ᵀ (X, y, λ/w) holds G, λᵀy and Σ λ²/w. The quotient is rounded,
    # and rows of X are at unit size here, see `weighted_rows`.
    quotient = jnp.where(counted, dual / jnp.where(counted, weight, 1), 0)
    weighted, rows = weighted_rows(dual, X)
    alone = scale_rows(to_digits(dual[:, None]), to_digits(jnp.ones_like(y)[:, None]))
    right = join(rows, to_digits(jnp.column_stack([y, quotient])))
    sums, error = inner(join(weighted, alone), right)
    # Scaling may have flushed entries of X and y below the smallest normal number to zero.
    flushed = 4 * X.shape[0] * least * (1 + jnp.max(jnp.abs(X)))

    d = p.size
    gram, gram_error = sums[:d, :d], error[:d, :d] + flushed
    both = slacks(p, gram)
    # Diagonal entries are rounded sums; all entries carry the error of the Gram matrix.
    diagonals = jnp.abs(both) * jnp.eye(d, dtype=dtype)[None]
    errors = jax.vmap(norm_above)(gram_error[None] + eps * diagonals)
    needed = (errors - jax.vmap(smallest_eigenvalue_bound)(both)) * (1 + 2 * eps)
    shift = jnp.maximum(jnp.max(needed), 0)
    budget = jnp.sum(jnp.maximum(p + shift, 0)) * (1 + (d + 8) * eps)

    linear = sums[d, d] - error[d, d] - flushed
    quadratic = (sums[d, d + 1] + error[d, d + 1]) * (1 + 4 * eps)
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
