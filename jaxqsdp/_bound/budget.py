"""The constraint of the dual, 1ᵀp ≤ β and Diag(p) ± G ⪰ 0, for any p, however far from feasible."""

from __future__ import annotations

from jaxtyping import Array, Float

from .._base.types import Scalar, epsilon, namespace, over_leading
from .._network.layout import Layout
from .eigenvalues import norm_above, smallest_eigenvalue_bound


def budget_above(
    layout: Layout,
    diagonal: Float[Array, "*g d"],
    gram: Float[Array, "d d"],
    error: Float[Array, "d d"],
) -> Scalar:
    """Return 1ᵀ(p + t·1), rounded up, for a t ≥ 0 proven to make Diag(p + t·1) ± G ⪰ 0.

    Entries of G are known to within `error`. t = max(0, −λmin(Diag(p) ± G)), eigenvalues bounded a
    posteriori and every step rounded up. Negative entries of p + t·1 count as 0, which is more. If
    cones have diagonals p± of their own, they have a t each, and the larger budget counts.
    """
    xp, d = namespace(diagonal, gram, error), diagonal.shape[-1]
    eps = epsilon(gram.dtype)
    both = layout.constraints(diagonal, gram)
    # Diagonal entries are rounded sums; all entries carry the error of the Gram matrix.
    diagonals = xp.abs(both) * xp.eye(d, dtype=gram.dtype)[None]
    errors = over_leading(norm_above, error[None] + eps * diagonals)
    needed = (errors - over_leading(smallest_eigenvalue_bound, both)) * (1 + 2 * eps)
    raised = layout.lifted(diagonal, xp.maximum(needed, 0))
    # What is no number, or beyond all numbers, satisfies nothing.
    raised = xp.where(xp.all(xp.isfinite(raised)), raised, xp.inf)
    if layout.shares_diagonal:  # Diag(p) ± G ⪰ 0 leaves no negative entries
        return layout.budget(xp.maximum(raised, 0)) * (1 + (d + 8) * eps)
    sums = layout.sums(raised) + (d + 8) * eps * layout.sums(xp.abs(raised))
    return xp.max(sums)
