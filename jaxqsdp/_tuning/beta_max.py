"""The smallest penalty at which the relaxation, and so the best network, is zero."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float, Int

from .._base.cone import definite_solve, norm_above, smallest_eigenvalue_bound
from .._base.control_flow import while_loop
from .._base.lift import slacks
from .._base.mesh import on_any_mesh
from .._base.types import Scalar, epsilon, highest_precision, namespace, over_leading, tiny
from .._bound.objective import in_float64
from .._bound.relaxation import rounded_below
from .._exact.sums import inner, power_of_two, weighted_rows
from .._exact.units import moderate
from .._host.blas import one_blas_thread
from .._host.programs import on_host
from .._problem.problem import Problem

_SHRINK = 0.05  # of the barrier, whenever its minimizer is near
_NEAR = 0.5  # Newton decrement below which full steps converge quadratically
_MAX_STEPS = 400  # a few dozen are taken


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
    budget = xp.maximum(units.restore_diagonal(_dual_norm(gram, error)), tiny(gram.dtype))
    result = xp.where(xp.any(gram != 0), budget, 0)
    return xp.where(problem.is_valid, result, xp.nan)


_beta_max_traced = eqx.filter_jit(on_any_mesh(_beta_max))


class _State(eqx.Module):
    diagonal: Float[Array, " d"]  # p, strictly feasible
    barrier: Scalar  # μ
    steps: Int[Array, ""]
    done: Bool[Array, ""]


def _dual_norm(gram: Float[Array, "d d"], error: Float[Array, "d d"]) -> Scalar:
    """Return 1ᵀp of a feasible p that is nearly the best, rounded up.

    Newton's method on 1ᵀp − μ log det(Diag p − G) − μ log det(Diag p + G), which is self-concordant
    and d-dimensional: with S± = Diag p ± G the gradient is 1 − μ diag(S₊⁻¹ + S₋⁻¹), the Hessian
    μ (S₊⁻¹∘S₊⁻¹ + S₋⁻¹∘S₋⁻¹), a step 1/(1 + decrement) stays feasible, and at the minimizer 1ᵀp is
    within 2dμ of the optimum.

    Source: Nesterov & Nemirovskii, *Interior-point polynomial algorithms* (1994), for the steps.
    """
    xp, d, dtype, eps = namespace(gram), gram.shape[0], gram.dtype, epsilon(gram.dtype)
    size = power_of_two(xp.max(xp.abs(gram)))
    gram, error = gram / size, error / size
    tol = 1e-6 if jnp.finfo(dtype).bits > 32 else 1e-4
    eye = xp.eye(d, dtype=dtype)

    def inverse(slack: Array) -> Array:
        return definite_solve(slack, eye)

    def body(state: _State) -> _State:
        p, mu = state.diagonal, state.barrier
        inverses = over_leading(inverse, slacks(p, gram))
        gradient = 1 - mu * xp.sum(xp.diagonal(inverses, axis1=1, axis2=2), axis=0)
        hessian = mu * xp.sum(xp.square(inverses), axis=0)
        step = -definite_solve(hessian, gradient)
        decrement = xp.sqrt(xp.maximum(-xp.sum(gradient * step) / mu, 0))
        near = decrement <= _NEAR
        moved = p + xp.where(near, 1, 1 / (1 + decrement)) * step
        broken = ~xp.all(xp.isfinite(moved))
        p = xp.where(broken, p, moved)
        # Entries of G reach 3/8 after scaling, so the optimum is at least that, unless G = 0.
        enough = 2 * d * mu <= tol * xp.maximum(xp.sum(p), 0.375)
        return _State(
            p, xp.where(near, _SHRINK * mu, mu), state.steps + 1, broken | (near & enough)
        )

    # Diagonally dominant, hence strictly feasible.
    start = xp.sum(xp.abs(gram), axis=1) + 0.1
    initial = _State(start, xp.sum(start) / (2 * d), xp.zeros((), np.int32), xp.zeros((), bool))
    final = while_loop(lambda s: ~s.done & (s.steps < _MAX_STEPS), body, initial, xp)

    # As in `_bound`: whatever p is, p + shift is feasible, rounding errors included.
    p, shift = final.diagonal, xp.zeros((), dtype)
    for sign in (-1.0, 1.0):
        slack = xp.diag(p) + sign * gram
        doubt = norm_above(error + eps * xp.diag(xp.abs(xp.diag(slack))))
        shift = xp.maximum(shift, (doubt - smallest_eigenvalue_bound(slack)) * (1 + 2 * eps))
    return xp.sum(xp.maximum(p + shift, 0)) * (1 + (d + 8) * eps) * size
