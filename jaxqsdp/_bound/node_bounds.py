"""Bounds on what undecided features can still add, for nodes that have the same ones undecided.

See `branching` for the formulas. S_s = Diag(p) − sG for each sign s, G among the undecided.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

_STEPS = 4  # of Newton's method for p
_BARRIER = 1e-4  # of 1ᵀp
_UNIT = 2.0**-53

Vector = NDArray[np.float64]
Images = NDArray[np.float64]  # (N, m), g of each node


def recentered(
    inner: NDArray, moments: list[NDArray], signs: tuple[int, ...], diagonal: Vector, scale: float
) -> Vector:
    """Return a p of nearly the least 1ᵀp + Σ_s tr(S_s⁻¹M_s), M the mean of ggᵀ; from one.

    A barrier keeps S definite; `scale` is about 1ᵀp where nothing is decided.
    """
    m = len(inner)
    weight = _BARRIER * scale / m

    def parts(p: Vector) -> tuple[list[NDArray], float] | None:
        inverses, value = [], float(p.sum())
        for sign, moment in zip(signs, moments, strict=True):
            found = _inverse(np.diag(p) - sign * inner)
            if found is None:
                return None
            inverse, logarithm = found
            inverses.append(inverse)
            value += float(np.sum(inverse * moment)) - weight * logarithm
        return inverses, value

    found = parts(diagonal)
    if found is None:
        return diagonal
    for _ in range(_STEPS):
        inverses, value = found
        gradient, hessian = np.ones(m), np.zeros((m, m))
        for inverse, moment in zip(inverses, moments, strict=True):
            turned = inverse @ moment @ inverse
            gradient -= np.diag(turned) + weight * np.diag(inverse)
            hessian += 2 * turned * inverse + weight * np.square(inverse)
        _, step, failed = lapack.dposv(hessian, gradient, lower=1)
        if failed:
            break
        decrement, length = float(gradient @ step), 1.0
        while length > 1e-3:
            moved = parts(diagonal - length * step)
            if moved is not None and moved[1] <= value - 0.1 * length * decrement:
                break
            length /= 2
        else:
            break
        diagonal, found = diagonal - length * step, moved
        if decrement < 0.1 * weight * m:
            break
    return diagonal


def feasible(
    inner: NDArray, signs: tuple[int, ...], diagonal: Vector, scale: float
) -> tuple[Vector, list[NDArray]]:
    """Return a p proven feasible, from one that nearly is, and about the inverses of S."""
    m = len(inner)
    traces = float(np.abs(diagonal).sum() + np.abs(np.diag(inner)).sum())
    shift = 4 * (m + 8) * _UNIT * (scale + traces)
    while True:
        inverses = []
        for sign in signs:
            found = _inverse(np.diag(diagonal) - sign * inner)
            if found is None:
                break
            inverses.append(found[0])
        else:
            # S of the p returned is at least the computed factor times its transpose.
            return diagonal + shift, inverses
        diagonal, shift = diagonal + shift, 4 * shift


@dataclasses.dataclass(frozen=True)
class Rounding:
    """What rounding makes of the bounds of nodes, p and K ≈ S⁻¹ given, and of their falls.

    For one sign. `above` is what may be missing from gᵀx + |g − Sx|ᵀ(2 + |x|), x = fl(gᵀK); and
    with `inflated`, K + Diag(e) ⪰ S⁻¹, some features can be eliminated in floating point.
    """

    above: float
    inflated: NDArray  # (m, m)
    size: float  # at least the largest entry of |x|
    stiffness: float  # at least ‖S‖

    @staticmethod
    def of(slack: NDArray, inverse: NDArray, reach: Vector, d: int, steps: int) -> Rounding:
        """Bound it from S, K, Σ|G| between the two sets of features, and how many are eliminated.

        For sums of d or m products in any order.
        """
        m = len(slack)
        sizes = np.abs(slack) @ np.abs(inverse)
        error = np.abs(np.eye(m) - slack @ inverse) + (m + 4) * _UNIT * (sizes + np.eye(m))
        far = reach @ np.abs(inverse) * (1 + 1e-9)  # at least |x|
        of_image = (d + 4) * _UNIT * reach
        # |g − Sx|, with what rounding makes of g, twice, and of x.
        residual = error @ reach + (m + 4) * _UNIT * (np.abs(slack) @ far) + 2 * of_image
        above = float(residual @ (2 + far)) + (m + 8) * _UNIT * float(reach @ far)
        # |S⁻¹ − K| ≤ |K|·r/(1 − r) by rows and, symmetric, by columns; Gershgorin's theorem.
        share = float(error.sum(axis=1).max(initial=0.0))
        share = share / (1 - share) if share < 0.5 else np.inf
        extra = m * share * np.abs(inverse).sum(axis=1)
        extra = extra + (4 * steps * (steps + 2) * _UNIT + 1e-12) * np.diag(inverse)
        return Rounding(
            above * (1 + 1e-9),
            inverse + np.diag(extra),
            float(far.max(initial=0.0)),
            float(np.abs(slack).sum(axis=1).max(initial=0.0)),
        )

    def of_falls(self, size: float, steps: int, most: float) -> float:
        """Return by how much the falls of so many steps may be too large, where bounds end.

        `size` is at least the largest entry of any x on the way, `most` the largest bound.
        """
        error = 2 * (steps + 2) * _UNIT * (1 + size)
        root = error * np.sqrt(steps * self.stiffness)  # √(eᵀSe)
        # Of sums of the terms of (t − x)²/v, where that is no more than `most`, and 1/v than ‖S‖.
        sums = 64 * (steps + 2) * _UNIT * (most + self.stiffness)
        return float(4 * root * np.sqrt(most) + 4 * root**2 + sums)


def _inverse(slack: NDArray) -> tuple[NDArray, float] | None:
    """Return about the inverse, symmetric, and log det; None if it is not positive definite."""
    factor, failed = lapack.dpotrf(slack, lower=1)
    if failed:
        return None
    inverse, failed = lapack.dpotri(factor, lower=1)
    if failed:
        return None
    logarithm = 2 * float(np.log(np.diag(factor)).sum())
    return np.tril(inverse) + np.tril(inverse, -1).T, logarithm
