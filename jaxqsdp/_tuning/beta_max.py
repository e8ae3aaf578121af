"""The smallest penalty at which the relaxation, and so the best network, is zero."""

from __future__ import annotations

import equinox as eqx
import jax
import numpy as np
from jaxtyping import ArrayLike

from .._base.mesh import on_any_mesh
from .._base.types import Scalar, highest_precision, in_float64, namespace, tiny
from .._bound.max_norm import dual_norm
from .._bound.relaxation import rounded_below
from .._exact.sums import inner, weighted_rows
from .._exact.units import moderate
from .._host.blas import one_blas_thread
from .._host.programs import on_host
from .._problem.problem import Problem


def beta_max(X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None) -> Scalar:
    """Return the smallest β at which the best network has no neurons, from above.

        min 1ᵀp   s.t.   Diag(p) ± G ⪰ 0,   G = Xᵀ diag(w·y) X

    For any β of at least that, λ = w·y is feasible in the dual and the relaxation's optimum is
    Z = 0, ρ = 0. It is the dual of the max-norm at G, in units of X² y. The result is about 1e-7
    (float64) or 1e-4 (float32; 1e-3 at d = 100) too large, relative, and never too small but for
    the rounding of w·y. Works under `jit` and `vmap`; the cost is a few dozen factorizations of
    d × d matrices.

    **Arguments:** X (n, d), y (n,), sample_weight (n,) or None, as those of `Problem`.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    problem = Problem(X, y, 1.0, sample_weight=sample_weight)
    check_one_target(problem)
    if on_host(problem):
        return beta_max_on_host(problem)
    return _beta_max_traced(problem)


def check_one_target(problem: Problem) -> None:
    """Raise `ValueError` for targets (n, c)."""
    if problem.y.ndim != 1:
        raise ValueError(
            f"`y` must have shape (n,), got {problem.y.shape}. Outputs have penalties of their "
            "own: call this once per column."
        )


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
    X, y, weight = problem.X, problem.y, problem.weight
    xp = namespace(X, y, weight)
    samples = moderate(xp.where((y != 0)[:, None], X, 0), weight)
    units = samples.units_for(y)
    dual = samples.weight * samples.scale_targets(y, units)
    # Error-free, as a plain float32 sum is wrong by more than what is left after cancellation.
    left, rows = weighted_rows(dual, samples.X)
    gram, error = inner(left, rows)
    budget = xp.maximum(units.restore_diagonal(dual_norm(gram, error)), tiny(gram.dtype))
    result = xp.where(xp.any(gram != 0), budget, 0)
    return xp.where(problem.is_valid, result, xp.nan)


_beta_max_traced = eqx.filter_jit(on_any_mesh(_beta_max))
