"""What the network of one output fits, whatever the loss, and the output weights that fit it best.

The squared loss has ways of its own, in `restricted`; all others share one method.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._problem.core import Core
from .._solver.output_weights import best_output_weights
from .._solver.predictor_corrector import fit_weights
from .restricted import Restricted, basic_weights, best_weights, solve_restricted

_DEPENDENT = 1e-8  # columns
_ROUNDING = 1e-10  # of the objective: what fewer neurons may cost

Columns = NDArray[np.float64]  # (n, m), what each neuron gives
Vector = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Target:
    """Targets, weights, penalty and loss of one output, on the host in float64."""

    y: Any  # (n,)
    weight: Any  # (n,), ones where they are absorbed
    beta: float
    loss: Any  # AbstractLoss

    @staticmethod
    def of(core: Core, output: int) -> Target:
        """Take one output of a core."""
        return Target(core.y[:, output], core.weight, float(core.beta[output]), core.loss)

    def rescaled(self, exponent: int) -> Target:
        """Return what fits 2^k·y: then α is 2^k times as large."""
        unit, degree = np.ldexp(1.0, exponent), self.loss.degree or 0
        return Target(
            np.ldexp(self.y, exponent) if exponent else self.y,
            self.weight,
            float(np.ldexp(self.beta, (degree - 1) * exponent)),
            self.loss.rescaled(unit),
        )

    @property
    def dual_of_nothing(self) -> Vector:
        """−∇ℓ(0), the dual point that belongs to no network."""
        return self.loss.dual_at(np.zeros_like(self.y), self.y, self.weight)

    def objective(self, columns: Columns, alpha: Vector) -> float:
        """Return ℓ(Φα) + β‖α‖₁."""
        loss = self.loss(columns @ alpha, self.y, self.weight)
        return float(loss + self.beta * np.abs(alpha).sum())

    def sizes(self, columns: Columns) -> Vector:
        """Return the norm of each column, samples weighted."""
        return np.linalg.norm(np.sqrt(self.weight)[:, None] * columns, axis=0)

    def restricted(self, columns: Columns, start: Vector, tol: float) -> Restricted:
        """Solve for these columns to a relative gap, from a dual point."""
        if self.loss.is_quadratic:
            return solve_restricted(columns, self.y, self.beta, start, tol)
        if columns.shape[1] == 0:
            value = self.objective(columns, np.zeros(0))
            return Restricted(np.zeros(0), self.dual_of_nothing, value, value)
        data: tuple[Any, ...] = columns, self.y, self.weight, np.float64(self.beta), self.loss
        with np.errstate(all="ignore"):  # steps that are not taken may overflow
            fitted: Any = fit_weights(*(*data, start, tol))
        return Restricted(fitted.alpha, fitted.dual, float(fitted.value), float(fitted.bound))

    def best_weights(self, columns: Columns) -> Vector:
        """Return the best output weights, zero where they are, few of them not where they can."""
        if self.loss.is_quadratic:
            return best_weights(columns, self.y, self.beta)
        data: tuple[Any, ...] = columns, self.y, self.weight, np.float64(self.beta), self.loss
        with np.errstate(all="ignore"):
            alpha: Any = best_output_weights(*data)
        used = np.flatnonzero(alpha)
        if not _depend(columns[:, used]):
            return alpha
        fewer = np.zeros_like(alpha)
        fewer[used] = self.basic_weights(columns[:, used], alpha[used])
        limit = self.objective(columns, alpha) * (1 + _ROUNDING)
        return fewer if self.objective(columns, fewer) <= limit else alpha

    def basic_weights(self, columns: Columns, alpha: Vector) -> Vector:
        """Return weights of as few neurons as suffice for the same predictions and penalty."""
        return basic_weights(np.sqrt(self.weight)[:, None] * columns, alpha)

    def best_dual(self, dual: Vector, norm: float) -> tuple[Vector, float]:
        """Return c·λ with the best c ≥ 0 that no neuron violates, and the bound; norm: max |φᵀλ|.

        For the squared loss, c = clip(λᵀy/‖λ‖², 0, β/norm).
        """
        limit = self.beta / norm if norm > 0 else np.inf
        if self.loss.is_quadratic:
            square = dual @ dual
            c = np.clip(dual @ self.y / square, 0, limit) if square > 0 else 0.0
            scaled = c * dual
            return scaled, float(scaled @ self.y - 0.5 * scaled @ scaled)
        data = self.y, self.weight
        with np.errstate(all="ignore"):
            c = self.loss.best_factor_on_dual_ray(dual, *data, np.float64(limit))
            scaled = self.loss.clip_dual(c * dual, *data)
            return scaled, float(self.loss.dual_value(scaled, *data))


def _depend(columns: Columns) -> bool:
    """Whether columns depend on each other."""
    if columns.shape[1] > columns.shape[0]:
        return True
    diagonal = np.abs(np.diagonal(np.linalg.qr(columns, mode="r")))
    return bool(diagonal.min(initial=np.inf) <= _DEPENDENT * diagonal.max(initial=0))
