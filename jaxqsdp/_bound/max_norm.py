"""The dual of the max-norm: the smallest 1ᵀp for which Diag(p) ± G is feasible, from above."""

from __future__ import annotations

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from .._base.cone import definite_solve
from .._base.control_flow import while_loop
from .._base.lift import diagonal_matrices
from .._base.types import Scalar, namespace, over_leading
from .._exact.powers import power_of_two
from .._network.layout import Layout
from .budget import budget_above

_SHRINK = 0.05  # of the barrier, whenever its minimizer is near
_NEAR = 0.5  # Newton decrement below which full steps converge quadratically
_MAX_STEPS = 400  # a few dozen are taken


class _State(eqx.Module):
    diagonal: Float[Array, " d"]  # p, strictly feasible
    barrier: Scalar  # μ
    steps: Int[Array, ""]
    done: Bool[Array, ""]


def dual_norm(layout: Layout, gram: Float[Array, "d d"], error: Float[Array, "d d"]) -> Scalar:
    """Return 1ᵀp of a feasible p that is nearly the best, rounded up.

    The larger one, if each cone has a p± of its own.

    Newton's method on 1ᵀp − μ log det(Diag p − G) − μ log det(Diag p + G), which is self-concordant
    and d-dimensional: with S± = Diag p ± G the gradient is 1 − μ diag(S₊⁻¹ + S₋⁻¹), the Hessian
    μ (S₊⁻¹∘S₊⁻¹ + S₋⁻¹∘S₋⁻¹), a step 1/(1 + decrement) stays feasible, and at the minimizer 1ᵀp is
    within 2dμ of the optimum.

    Source: Nesterov & Nemirovskii, *Interior-point polynomial algorithms* (1994), for the steps.
    """
    xp = namespace(gram)
    size = power_of_two(xp.max(xp.abs(gram)))
    gram, error = gram / size, error / size
    if layout.shares_diagonal:
        diagonal = least_diagonal(xp.stack([-gram, gram]))
    else:
        diagonal = over_leading(least_diagonal, xp.stack([-gram, gram])[:, None])
    return budget_above(layout, diagonal, gram, error) * size


def least_diagonal(cones: Float[Array, "s d d"]) -> Float[Array, " d"]:
    """Return p with Diag(p) + C ⪰ 0 for each C, of size 1, and 1ᵀp nearly the least."""
    xp, d, dtype, count = namespace(cones), cones.shape[-1], cones.dtype, len(cones)
    tol = 1e-6 if jnp.finfo(dtype).bits > 32 else 1e-4
    eye = xp.eye(d, dtype=dtype)

    def inverse(slack: Array) -> Array:
        return definite_solve(slack, eye)

    def body(state: _State) -> _State:
        p, mu = state.diagonal, state.barrier
        inverses = over_leading(inverse, diagonal_matrices(p)[None] + cones)
        gradient = 1 - mu * xp.sum(xp.diagonal(inverses, axis1=1, axis2=2), axis=0)
        hessian = mu * xp.sum(xp.square(inverses), axis=0)
        step = -definite_solve(hessian, gradient)
        decrement = xp.sqrt(xp.maximum(-xp.sum(gradient * step) / mu, 0))
        near = decrement <= _NEAR
        moved = p + xp.where(near, 1, 1 / (1 + decrement)) * step
        broken = ~xp.all(xp.isfinite(moved))
        p = xp.where(broken, p, moved)
        # Entries of G reach 3/8 after scaling, so the optimum is at least that where both cones
        # share p, unless G = 0; else the larger of two counts, and this is small beside G.
        enough = count * d * mu <= tol * xp.maximum(xp.sum(p), 0.375)
        return _State(
            p, xp.where(near, _SHRINK * mu, mu), state.steps + 1, broken | (near & enough)
        )

    # Diagonally dominant, hence strictly feasible.
    start = xp.max(xp.sum(xp.abs(cones), axis=2), axis=0) + 0.1
    initial = _State(start, xp.sum(start) / (count * d), xp.zeros((), np.int32), xp.zeros((), bool))
    final = while_loop(lambda s: ~s.done & (s.steps < _MAX_STEPS), body, initial, xp)
    return final.diagonal
