"""The smallest penalty at which the relaxation, and so the best network, is zero."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._base.mesh import on_any_mesh
from .._base.types import (
    Scalar,
    highest_precision,
    in_float64,
    namespace,
    over_leading,
    tiny,
)
from .._bound.max_norm import dual_norm
from .._bound.relaxation import mask_of, masked, rounded_below
from .._exact.powers import is_subnormal
from .._exact.sums import inner, weighted_rows
from .._exact.units import moderate
from .._host.blas import one_blas_thread
from .._host.programs import on_host
from .._loss.base import AbstractLoss
from .._problem.problem import Problem
from .data import check_one_target, data_of


def beta_max(
    X: ArrayLike | Problem,
    y: ArrayLike | None = None,
    sample_weight: ArrayLike | None = None,
    *,
    loss: AbstractLoss | None = None,
) -> Scalar:
    """Return the smallest β at which the best network has no neurons, from above.

        min 1ᵀp   s.t.   Diag(p) ± G ⪰ 0,   G = Xᵀ diag(λ) X,   λ = −∇ℓ(0)

    For `Polynomial` neurons p and the cones are those of their relaxation. For any β of at least
    that, λ is feasible in the dual and the relaxation's optimum is Z = 0,
    ρ = 0, with value ℓ(0). With squared loss λ = w·y. A loss that couples outputs, such as softmax,
    has a column of λ and a G for each; Z = 0 is optimal if every output's β is at least its own
    minimum, and the result is the largest. It is the dual of the max-norm at G, in units
    of X² λ. The result is about 1e-7 (float64) or 1e-4 (float32; 1e-3 at d = 100) too large,
    relative, and never too small but for the rounding of λ. Works under `jit` and `vmap`; the cost
    is a few dozen factorizations of d × d matrices.

    With an intercept μ, λ = −∇ℓ(μ) at the best one, where 1ᵀλ = 0 but for rounding. Where several
    are best, as medians are and constants for classes that all samples are of, one of them counts.

    Where φ has a kink at 0, as absolute and quantile losses have for y_i = 0, any subgradient gives
    a λ_i that proves Z = 0, and 0 is taken: a smaller β may do then.

    **Arguments:** X (n, d), y (n,) or what the loss takes for classes, sample_weight (n,) or None
    and loss, as those of `Problem`; or a `Problem` in place of X, whose penalty does not matter.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    problem = data_of(X, y, loss, sample_weight)
    check_one_target(problem)
    if on_host(problem):
        return beta_max_on_host(problem)
    return beta_max_traced(problem)


def beta_max_on_host(problem: Problem) -> Scalar:
    """Compute in float64 NumPy, in which float32 data are exact; nothing is compiled."""
    narrow = problem.X.dtype
    valid = jax.tree.map(np.asarray, problem).is_valid
    with np.errstate(all="ignore"), one_blas_thread():
        result = _beta_max(in_float64(problem)) if valid else np.float64(np.nan)
        above = 0.0 - rounded_below(-result, narrow)
        above = np.maximum(above, tiny(narrow)) if above > 0 else above
    return jax.device_put(np.asarray(above, narrow))


@highest_precision
def _beta_max(problem: Problem) -> Scalar:
    X, y, weight, loss = problem.X, problem.y, problem.weight, problem.loss
    xp = namespace(X, y, weight)
    # Rows that G is without may not decide its units.
    pulled = (loss.slope(xp.zeros_like(y), y) != 0) | is_subnormal(y)
    pulled = xp.any(pulled.reshape(len(y), -1), axis=1) | problem.fit_intercept
    activation = problem.activation
    homogeneous = activation.homogeneous(X)
    samples = moderate(xp.where(pulled[:, None], homogeneous, 0), weight)
    units = samples.units_for(y, loss.degree)
    targets = samples.scale_targets(y, units, loss.any_target)
    scaled, none = loss.rescaled(units.target), xp.zeros_like(y)
    if problem.fit_intercept:
        _, dual = scaled.balanced_slope(none, targets, samples.weight)
    else:
        dual = scaled.dual_at(none, targets, samples.weight)

    def budget_of(dual: Float[Array, " n"]) -> Scalar:
        # Error-free, as a plain float32 sum is wrong by more than is left after cancellation.
        left, rows = weighted_rows(dual, samples.X)
        gram, error = masked(mask_of(activation, samples.X), *inner(left, rows))
        budget = units.restore_diagonal(dual_norm(activation.layout, gram, error))
        budget = xp.maximum(budget, tiny(gram.dtype))
        return xp.where(xp.any(gram != 0), budget, 0)

    result = budget_of(dual) if dual.ndim == 1 else xp.max(over_leading(budget_of, dual.T))
    return xp.where(problem.is_valid, result, xp.nan)


beta_max_traced = eqx.filter_jit(on_any_mesh(_beta_max))
