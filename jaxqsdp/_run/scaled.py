"""A problem in the units of solvers, harmless numbers in place of invalid ones."""

from __future__ import annotations

from jaxtyping import Array, Bool

from .._base.types import Scalar, namespace, record
from .._exact.units import Samples, Units, moderate
from .._loss.base import AbstractLoss
from .._problem.core import Core
from .._problem.problem import Problem


def scaled_samples(problem: Problem) -> Samples:
    """Return the samples in moderate units, which all outputs share."""
    X, weight = problem.X, problem.weight
    xp = namespace(X, weight)
    valid = xp.all(xp.isfinite(X)) & xp.all(xp.isfinite(weight) & (weight >= 0))
    return moderate(xp.where(valid, X, 0), xp.where(valid, weight, 1))


@record
class Scaled:
    """One output of a problem, or all outputs if the loss couples them, in moderate units."""

    core: Core
    units: Units
    usable: Bool[Array, ""]

    @staticmethod
    def of(samples: Samples, y: Array, beta: Scalar, usable: Array, loss: AbstractLoss) -> Scaled:
        """Change the units."""
        xp = namespace(y, beta)
        y, beta = xp.where(usable, y, loss.any_target), xp.where(usable, beta, 1)
        units = samples.units_for(y, loss.degree)
        y = samples.scale_targets(y, units, loss.any_target)
        beta = units.scale_beta(beta)
        usable = usable & xp.all(beta > 0)
        beta, loss = xp.where(usable, beta, 1), loss.rescaled(units.target)
        return Scaled(Core(samples.X, samples.weight, y, beta, loss), units, usable)
