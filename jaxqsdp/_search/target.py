"""What a network fits, whatever the loss, and the output weights that fit it best.

There is a target for each output, and one for all of them together where the loss couples them. The
squared loss has ways of its own, in `restricted`; all others share one method.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._problem.host_core import HostCore
from .._solver.output_weights import best_output_weights
from .._solver.predictor_corrector import fit_weights
from .projected_newton import refitted
from .restricted import Restricted, basic_weights, best_weights, solve_restricted

_DEPENDENT = 1e-8  # columns
_ROUNDING = 1e-10  # of the objective: what fewer neurons may cost

Columns = NDArray[np.float64]  # (n, m), what each neuron gives
Vector = NDArray[np.float64]
Points = NDArray[np.float64]  # a vector, or one for each of the outputs together: (…, c)


@dataclasses.dataclass(frozen=True)
class Target:
    """Targets, weights, penalty and loss of one output or all, on the host in float64."""

    y: Any  # (n,) or (n, c)
    weight: Any  # (n,), ones where they are absorbed
    beta: Any  # a float or (c,)
    loss: Any  # AbstractLoss
    has_intercept: bool = False  # to be fitted beside the neurons

    @staticmethod
    def all_of(core: HostCore) -> list[Target]:
        """Return the targets of a core: one for each output, or one if the loss couples them."""
        if core.loss.couples_outputs:
            return [Target(core.y, core.weight, core.beta, core.loss, core.has_free_intercept)]
        return [
            Target(core.y[:, output], core.weight, float(beta), core.loss, core.has_free_intercept)
            for output, beta in enumerate(core.beta)
        ]

    def rescaled(self, exponent: int) -> Target:
        """Return what fits 2^k·y: then α is 2^k times as large."""
        unit, degree = np.ldexp(1.0, exponent), self.loss.degree or 0
        return Target(
            np.ldexp(self.y, exponent) if exponent else self.y,
            self.weight,
            np.ldexp(self.beta, (degree - 1) * exponent),
            self.loss.rescaled(unit),
            self.has_intercept,
        )

    @property
    def dual_of_nothing(self) -> Points:
        """−∇ℓ(0), the dual point that belongs to no neurons: ∇ℓ(μ) with the best intercept μ."""
        none = np.zeros_like(self.y)
        if self.has_intercept:
            with np.errstate(all="ignore"):
                return self.loss.balanced_slope(none, self.y, self.weight)[1]
        return self.loss.dual_at(none, self.y, self.weight)

    def shifted(self, predictions: Points) -> Points:
        """Return predictions with the best intercept added, if there is one."""
        if not self.has_intercept:
            return predictions
        with np.errstate(all="ignore"):
            level = self.loss.best_intercept(predictions, self.y, self.weight)
        return predictions + level

    def objective(self, columns: Columns, alpha: Points) -> float:
        """Return ℓ(Φα) + β‖α‖₁."""
        loss = self.loss(self.shifted(columns @ alpha), self.y, self.weight)
        return float(loss + np.dot(self.beta, np.abs(alpha).sum(axis=0)))

    @property
    def limit(self) -> float:
        """What `correlation` may be: the largest β."""
        return float(np.max(self.beta))

    def correlation(self, dual: Points, columns: Columns) -> Vector:
        """Return |φᵀλ| of each column φ, of outputs together the largest, as if β were the same."""
        return largest(np.abs(dual.T @ columns).T * (self.limit / self.beta))

    @staticmethod
    def norms(dual: Points, columns: Columns) -> Vector:
        """Return the largest |φᵀλ| of any column, of each output."""
        return np.abs(np.atleast_2d(dual.T) @ columns).max(axis=1, initial=0.0)

    def sizes(self, columns: Columns) -> Vector:
        """Return the norm of each column, samples weighted."""
        return np.linalg.norm(np.sqrt(self.weight)[:, None] * columns, axis=0)

    def restricted(
        self,
        columns: Columns,
        start: Points,
        tol: float,
        cutoff: float = np.inf,
        deadline: float = np.inf,
    ) -> Restricted:
        """Solve for these columns to a relative gap, from a dual point.

        No further than it takes to know that the objective is above the cutoff, where that is known
        on the way; until a deadline where a step may take long.
        """
        if self.loss.is_quadratic:
            return solve_restricted(columns, self.y, self.beta, start, tol)
        if columns.shape[1] == 0:
            nothing = np.zeros((0, *self.y.shape[1:]))
            value = self.objective(columns, nothing)
            return Restricted(nothing, self.dual_of_nothing, value, value)
        data: tuple[Any, ...] = columns, self.y, self.weight, np.asarray(self.beta), self.loss
        with np.errstate(all="ignore"):  # steps that are not taken may overflow
            limits = cutoff, self.has_intercept, deadline
            fitted: Any = fit_weights(*(*data, start, tol, *limits))
        return Restricted(fitted.alpha, fitted.dual, float(fitted.value), float(fitted.bound))

    def refitted(
        self, columns: Columns, start: Restricted, tol: float, cutoff: float = np.inf
    ) -> Restricted:
        """Solve as `restricted`, from a solution for some columns that are nearly the same."""
        if self.loss.couples_outputs and not self.has_intercept:
            with np.errstate(all="ignore"):
                data = columns, self.y, self.weight, self.beta, self.loss
                found = refitted(*data, start.alpha, tol, cutoff)
            if found is not None:
                return found
        return self.restricted(columns, start.dual, tol, cutoff)

    def best_weights(self, columns: Columns) -> Points:
        """Return the best output weights, zero where they are, few of them not where they can."""
        if self.loss.is_quadratic:
            return best_weights(columns, self.y, self.beta)
        data: tuple[Any, ...] = columns, self.y, self.weight, np.asarray(self.beta), self.loss
        with np.errstate(all="ignore"):
            alpha: Any = best_output_weights(*(*data, self.has_intercept))
        used = np.flatnonzero(largest(np.abs(alpha)))
        if not _depend(columns[:, used]):
            return alpha
        fewer = np.zeros_like(alpha)
        fewer[used] = self.basic_weights(columns[:, used], alpha[used])
        limit = self.objective(columns, alpha) * (1 + _ROUNDING)
        return fewer if self.objective(columns, fewer) <= limit else alpha

    def basic_weights(self, columns: Columns, alpha: Points) -> Points:
        """Return weights of as few neurons as suffice for the same predictions and penalty."""
        columns = np.sqrt(self.weight)[:, None] * columns
        if alpha.ndim == 1:
            return basic_weights(columns, alpha)
        basic = np.zeros_like(alpha)
        for output, each in enumerate(alpha.T):
            used = np.flatnonzero(each)
            basic[used, output] = basic_weights(columns[:, used], each[used])
        return basic

    def admissible(self, dual: Points) -> Points:
        """Return a dual point next to one, whose sum is zero if there is an intercept."""
        if not self.has_intercept:
            return dual
        with np.errstate(all="ignore"):
            return self.loss.balanced_dual(dual, self.y, self.weight)

    def best_dual(self, dual: Points, norm: Any) -> tuple[Points, float]:
        """Return c·λ with the best c ≥ 0 that no neuron violates, and the bound.

        The norm is max |φᵀλ|, for each output. For the squared loss, c = clip(λᵀy/‖λ‖², 0, β/norm).
        """
        with np.errstate(divide="ignore"):
            limit = np.min(np.asarray(self.beta) / norm)
        if self.loss.is_quadratic:
            square = dual @ dual
            c = np.clip(dual @ self.y / square, 0, limit) if square > 0 else 0.0
            scaled = c * dual
            return scaled, float(scaled @ self.y - 0.5 * scaled @ scaled)
        data = self.y, self.weight
        with np.errstate(all="ignore"):
            c = self.loss.best_factor_on_dual_ray(dual, *data, limit)
            scaled = self.loss.clip_dual(c * dual, *data)
            return scaled, float(self.loss.dual_value(scaled, *data))


def largest(each: Points) -> Vector:
    """Return the largest entry over the outputs, if there are several."""
    return each if each.ndim == 1 else each.max(axis=1)


def _depend(columns: Columns) -> bool:
    """Whether columns depend on each other."""
    if columns.shape[1] > columns.shape[0]:
        return True
    diagonal = np.abs(np.diagonal(np.linalg.qr(columns, mode="r")))
    return bool(diagonal.min(initial=np.inf) <= _DEPENDENT * diagonal.max(initial=0))
