"""Output weights refitted from good ones, under a loss that couples outputs, in a few steps.

Newton's method on the weights in use, which are those that are not zero and those at zero of which
|φᵀλ| exceeds β. They keep their signs: those that a step would turn become zero. An equal shift of
all outputs changes nothing but the penalty, so that each neuron has one output without it, that of
its median. An interior point needs three times as many steps: it cannot start from where it ends.

Source: Bertsekas, *Projected Newton methods for optimization problems with simple constraints*
(1982).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

from .._loss.base import AbstractLoss
from .restricted import Restricted

_MAX_STEPS = 25
_HALVINGS = 12
_SUFFICIENT = 1e-4  # of the decrease that the slope promises
_RIDGE = 1e-12  # of the diagonal
_EQUAL = 1e-12  # penalties
_IN_USE = 1 + 1e-9  # |φᵀλ|/β

Columns = NDArray[np.float64]


def refitted(
    columns: Columns,
    y: NDArray[np.float64],
    weight: NDArray[np.float64],
    beta: NDArray[np.float64],
    loss: AbstractLoss,
    start: NDArray[np.float64],
    tol: float,
    cutoff: float,
) -> Restricted | None:
    """Solve for the columns (n, m) to a relative gap, from weights (m, c); None if that fails.

    It ends before where the optimum is known to be above the cutoff.
    """
    a_loss: Any = loss
    alpha = start.copy()

    def objective(alpha: NDArray[np.float64]) -> float:
        return float(a_loss(columns @ alpha, y, weight) + beta @ np.abs(alpha).sum(axis=0))

    for _ in range(_MAX_STEPS):
        unit = -a_loss.slope(columns @ alpha, y)
        dual = weight[:, None] * unit
        correlation = columns.T @ dual
        alpha, free = _shifted(alpha, beta, np.abs(correlation))
        value = objective(alpha)
        factor = min(1.0, 1 / np.max(np.abs(correlation) / beta, initial=1.0))
        bound = float(a_loss.dual_value(a_loss.clip_dual(factor * dual, y, weight), y, weight))
        if value - bound <= tol * value or bound > cutoff:
            return Restricted(alpha, factor * dual, value, bound)
        signs = np.sign(np.where(alpha != 0, alpha, correlation))
        in_use = free & ((alpha != 0) | (np.abs(correlation) > _IN_USE * beta))
        neuron, output = np.nonzero(in_use)
        slope = (beta * signs - correlation)[neuron, output]
        hessian = _hessian(columns, weight, 1 / a_loss.conjugate_curvature(unit, y), neuron, output)
        hessian[np.diag_indices_from(hessian)] *= 1 + _RIDGE
        if len(slope) == 0:
            return None
        # SciPy's `solve` warns where this is nearly singular; what is wrong then ends below.
        _, step, failed = linalg.lapack.dposv(hessian, -slope)
        if failed:
            return None
        for _ in range(_HALVINGS):
            moved = alpha.copy()
            moved[neuron, output] += step
            moved = np.where(moved * signs > 0, moved, 0)
            promised = slope @ (moved - alpha)[neuron, output]
            reached = objective(moved)
            if reached <= value + _SUFFICIENT * min(promised, 0.0):
                break
            step = step / 2
        else:
            return None
        alpha = moved
    return None


def _shifted(
    alpha: NDArray[np.float64], beta: NDArray[np.float64], correlation: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Shift each neuron's weights by one of them, to the least penalty; return which are left.

    Of several that are as good, the one whose |φᵀλ| is farthest below β.
    """
    penalty = np.abs(alpha[:, :, None] - alpha[:, None, :]) @ beta
    least = penalty.min(axis=1, keepdims=True, initial=np.inf)
    place = np.where(penalty <= least * (1 + _EQUAL), correlation - beta, np.inf).argmin(axis=1)
    shifted = alpha - np.take_along_axis(alpha, place[:, None], axis=1)
    return shifted, place[:, None] != np.arange(alpha.shape[1])


def _hessian(
    columns: Columns,
    weight: NDArray[np.float64],
    share: NDArray[np.float64],
    neuron: NDArray[np.intp],
    output: NDArray[np.intp],
) -> NDArray[np.float64]:
    """Return Σ_i w_i L(share_i) ⊗ φ_i φ_iᵀ at some entries, L(g) = diag g − g gᵀ/1ᵀg."""
    heavy = weight[:, None] * share
    each = np.matmul(columns.T[None], heavy.T[:, :, None] * columns[None])
    half = (heavy / np.sqrt(heavy.sum(axis=1, keepdims=True) + (weight == 0)[:, None]))[:, output]
    half = half * columns[:, neuron]
    same = output[:, None] == output[None]
    alone = each[output[:, None], neuron[:, None], neuron[None]]
    hessian: Any = np.where(same, alone, 0.0) - half.T @ half
    return hessian
