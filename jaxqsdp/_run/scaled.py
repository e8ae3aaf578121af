"""A problem in the units of solvers, harmless numbers in place of invalid ones."""

from __future__ import annotations

from typing import Any

from jaxtyping import Array, Bool, Float

from .._base.lift import LiftedMap
from .._base.types import Scalar, namespace, record
from .._bound.relaxation import checked_mask, mask_of
from .._exact.powers import rescaled
from .._exact.units import Samples, Units, moderate
from .._loss.base import AbstractLoss
from .._network.activation import AbstractActivation
from .._problem.core import Core
from .._problem.problem import Problem


@record
class ScaledSamples:
    """The samples in moderate units, which all outputs share."""

    lifted: Samples  # rows of the map A
    corner: Float[Array, " n"] | None  # of A
    homogeneous: Samples  # rows that the proof takes, often the same
    activation: AbstractActivation

    @staticmethod
    def of(problem: Problem) -> ScaledSamples:
        """Change the units of a problem's."""
        X, weight, activation = problem.X, problem.weight, problem.activation
        xp = namespace(X, weight)
        valid = xp.all(xp.isfinite(X)) & xp.all(xp.isfinite(weight) & (weight >= 0))
        X, weight = xp.where(valid, X, 0), xp.where(valid, weight, 1)
        map = activation.lifted(X)
        lifted = homogeneous = moderate(map.X, weight)
        corner = None
        if map.corner is not None:
            unit = lifted.feature_unit
            corner = xp.where(lifted.counted, map.corner * unit * unit, 0)
        if activation.mask is not None:
            homogeneous = moderate(activation.homogeneous(X), weight)
        return ScaledSamples(lifted, corner, homogeneous, activation)

    @property
    def counted(self) -> Bool[Array, " n"]:
        """Which samples count."""
        return self.lifted.counted

    @property
    def mask(self) -> Any:
        """The mask of G of the homogeneous rows, in the units of the others."""
        mask = mask_of(self.activation, self.homogeneous.X)
        if mask is None:
            return None
        xp, ratio = namespace(mask), self.lifted.feature_unit / self.homogeneous.feature_unit
        return checked_mask(xp.where(mask == 0, 0, mask * ratio * ratio), mask != 0)

    def map_of(self, X: Float[Array, "n d"]) -> LiftedMap:
        """Return the map of other samples in these units."""
        map, unit = self.activation.lifted(X), self.lifted.feature_unit
        corner = None if map.corner is None else map.corner * unit * unit
        return LiftedMap(rescaled(map.X, unit), corner, map.sign)


@record
class Scaled:
    """One output of a problem, or all outputs if the loss couples them, in moderate units."""

    core: Core
    units: Units
    usable: Bool[Array, ""]

    @staticmethod
    def of(
        samples: ScaledSamples, y: Array, beta: Scalar, usable: Array, loss: AbstractLoss
    ) -> Scaled:
        """Change the units."""
        xp, lifted, activation = namespace(y, beta), samples.lifted, samples.activation
        y, beta = xp.where(usable, y, loss.any_target), xp.where(usable, beta, 1)
        units = lifted.units_for(y, loss.degree)
        y = lifted.scale_targets(y, units, loss.any_target)
        beta = units.scale_beta(beta)
        usable = usable & xp.all(beta > 0)
        beta, loss = xp.where(usable, beta, 1), loss.rescaled(units.target)
        data = lifted.X, lifted.weight, y, beta, loss, samples.corner
        return Scaled(Core(*data, activation.sign, activation.layout), units, usable)
