"""A problem in the units of solvers, harmless numbers in place of invalid ones."""

from __future__ import annotations

import dataclasses
from typing import Any

from jaxtyping import Array, Bool, Float

from .._base.lift import LiftedMap
from .._base.types import Scalar, across, namespace, record
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
    has_intercept: bool = dataclasses.field(metadata={"static": True})

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
        return ScaledSamples(lifted, corner, homogeneous, activation, problem.fit_intercept)

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
    center: Scalar | None  # what is subtracted from targets, with an intercept

    def scaled_intercept(self, intercept: Scalar | None) -> Scalar | None:
        """Return the intercept of a solution in these units."""
        if intercept is None or self.center is None:
            return None
        return (intercept - self.center) * self.units.target

    @staticmethod
    def of(
        samples: ScaledSamples, y: Array, beta: Scalar, usable: Array, loss: AbstractLoss
    ) -> Scaled:
        """Change the units."""
        xp, lifted, activation = namespace(y, beta), samples.lifted, samples.activation
        y, beta = xp.where(usable, y, loss.any_target), xp.where(usable, beta, 1)
        center = None
        if samples.has_intercept:
            counted = across(samples.counted, y)
            center = loss.center(xp.where(counted, y, 0), lifted.weight)
            y = xp.where(counted, y - center, y)
        units = lifted.units_for(y, loss.degree)
        y = lifted.scale_targets(y, units, loss.any_target)
        beta = units.scale_beta(beta)
        usable = usable & xp.all(beta > 0)
        beta, loss = xp.where(usable, beta, 1), loss.rescaled(units.target)
        shift = xp.where(lifted.counted, xp.ones_like(lifted.weight), 0)
        shift = shift if samples.has_intercept else None
        data = lifted.X, lifted.weight, y, beta, loss, samples.corner, shift
        core = Core(*data, activation.sign, activation.layout)
        return Scaled(core, units, usable, center)
