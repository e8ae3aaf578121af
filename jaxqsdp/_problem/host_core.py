"""The problem on the host, as what fits and searches for good neurons takes it."""

from __future__ import annotations

import dataclasses
from typing import Any, cast

import jax
import numpy as np
from numpy.typing import NDArray

from .._base.lift import LiftedMap
from .._base.types import across, in_float64, unit_vector, without
from .._loss.base import AbstractLoss
from .._network.activation import AbstractActivation
from .._network.bilinear import BILINEAR
from .._network.levels import Levels
from .core import Core
from .problem import Problem


@dataclasses.dataclass(frozen=True)
class HostCore:
    """All outputs of a problem in moderate units, weights absorbed if the loss is quadratic.

    One unit serves all outputs, which share their neurons. With X' = 2^a·X, w' = 2^c·w and, where
    targets have units, y' = 2^b·y, the loss is 2^(kb+c) times as large, k its degree, and the
    penalties are 2^(2a+(k−1)b+c)·β. X are the rows of the map A of the relaxation.
    """

    X: NDArray  # (n, d) X', ⁴√w'·X' with weights absorbed
    y: NDArray  # (n, c) y', √w'·y' with weights absorbed
    weight: NDArray  # (n,) w', or ones
    beta: NDArray  # (c,)
    loss: AbstractLoss  # for y'
    root: NDArray  # (n,) √w' where weights are absorbed, else 1; zero for samples that do not count
    exponents: tuple[int, int, int]  # a, b, c

    corner: NDArray | None = None  # (n,) of A, scaled as X² is
    activation: AbstractActivation = BILINEAR
    # (n,) what an intercept of 1 adds; if the loss is squared, y and neurons are less what it fits.
    shift: NDArray | None = None

    @staticmethod
    def of(problem: Problem) -> HostCore:
        """Change the units, in float64; samples that do not count become zero."""
        y, beta = np.asarray(problem.y, np.float64), np.asarray(problem.beta, np.float64)
        y = y.reshape(len(y), -1)
        beta = np.broadcast_to(beta, y.shape[1])
        X, given = np.asarray(problem.X, np.float64), problem.sample_weight
        weight = np.ones(len(X)) if given is None else np.asarray(given, np.float64)
        c = -exponent_of(weight)
        weight = np.ldexp(weight, c)
        counted, loss = weight > 0, in_float64(problem.loss)
        if problem.fit_intercept:  # which follows
            y = y - np.array([loss.center(each, weight) for each in np.where(counted, y.T, 0)])
        arrays: Any = *(np.where(counted[:, None], array, 0) for array in (X, y)), weight, beta
        X, y, weight, beta = arrays
        map: Any = problem.activation.lifted(X)
        rows: Any = np.where(counted[:, None], map.X, 0)
        corner: Any = None if map.corner is None else np.where(counted, map.corner, 0)
        core: Any = Core(rows, weight, y, beta, loss, corner, sign=map.sign)
        root, absorbed = np.where(counted, core.root, 0), core.absorbed
        a, b = -exponent_of(absorbed.X), 0 if loss.degree is None else -exponent_of(absorbed.y)
        X, y = np.ldexp(absorbed.X, a), np.ldexp(absorbed.y, b)
        corner = None if corner is None else np.ldexp(absorbed.corner, 2 * a)
        units = a, b, c
        host = HostCore(X, y, absorbed.weight, beta, loss, root, units, corner, problem.activation)
        if problem.fit_intercept:
            ones = root if loss.is_quadratic else counted.astype(np.float64)
            host = dataclasses.replace(host, shift=ones).centered()
        with np.errstate(all="ignore"):  # what is out of range `solve` calls invalid
            beta = np.ldexp(beta, 2 * a + host._of_dual)
            loss = loss.rescaled(np.ldexp(1.0, b))
        return dataclasses.replace(host, beta=beta, loss=loss)

    def centered(self) -> HostCore:
        """Return it with targets less what an intercept fits, if the loss is squared."""
        if self.shift is None or not self.loss.is_quadratic:
            return self
        return dataclasses.replace(self, y=self.rest(self.y))

    def rest(self, columns: Any) -> Any:
        """Return columns less what an intercept fits of them."""
        return without(self.direction, columns)

    @property
    def direction(self) -> Any:
        """The unit vector that an intercept adds, if the loss is squared; None without one."""
        return unit_vector(self.shift) if self.loss.is_quadratic else None

    @property
    def has_free_intercept(self) -> bool:
        """Whether an intercept is still to be fitted beside neurons as they are here."""
        return self.shift is not None and not self.loss.is_quadratic

    @property
    def map(self) -> LiftedMap:
        """A."""
        X, corner = cast(Any, (self.X, self.corner))
        return LiftedMap(X, corner, self.activation.sign)

    @property
    def num_features(self) -> int:
        """Return d."""
        return self.X.shape[1] - self.activation.num_lifted(0)

    def neurons(self, *vectors: Any) -> Any:
        """Return what neurons give, (n, m), in the units of predictions over those of α.

        Of their weights (m, d).
        """
        images = [self.X[:, : each.shape[1]] @ each.T for each in vectors]
        if len(images) == 2:
            return self.rest(images[0] * images[1])
        assert self.corner is not None
        squares = (images[0] + 2 * self.X[:, -1:]) * images[0]
        return self.rest(self.map.sign * squares + self.corner[:, None])

    @property
    def _of_value(self) -> int:
        """The exponent of the unit of values, kb + c."""
        _, b, c = self.exponents
        return (self.loss.degree or 0) * b + c

    @property
    def _of_dual(self) -> int:
        """The exponent of the unit of dual points, (k − 1)b + c."""
        return self._of_value - self.exponents[1]

    def restore_alpha(self, alpha: NDArray) -> NDArray:
        """Output weights back to the units of the problem."""
        a, b, _ = self.exponents
        return np.ldexp(alpha, 2 * a - b)

    def scale_predictions(self, predictions: NDArray) -> NDArray:
        """Predictions of the problem in the units of the core."""
        return np.ldexp(predictions, self.exponents[1])

    def restore_value(self, value: float) -> float:
        """Values back to the units of the problem."""
        return float(np.ldexp(value, -self._of_value))

    def restore_dual(self, dual: NDArray) -> NDArray:
        """A dual point (n,) or (n, c) back to the units of the problem."""
        return np.ldexp(across(self.root, dual) * dual, -self._of_dual)

    def scale_dual(self, dual: NDArray) -> NDArray:
        """Inverse of `restore_dual`."""
        dual = np.ldexp(dual, self._of_dual)
        root = across(self.root, dual)
        return np.divide(dual, root, out=np.zeros_like(dual), where=root > 0)

    def lifted(self, levels: Levels) -> HostCore:
        """Return the problem with k·d features c_k·X, whose neurons of ±1 are those of levels."""
        if levels.count == 2:
            return self
        parts = [coefficient * self.X for coefficient in levels.coefficients]
        return dataclasses.replace(self, X=np.concatenate(parts, axis=1))

    def padded(self, shape: tuple[int, int], dtype: np.dtype) -> HostCore:
        """Add zero samples and features, which change nothing, and round to a dtype."""
        rows, columns = shape[0] - self.X.shape[0], shape[1] - self.X.shape[1]
        X = np.pad(self.X, ((0, rows), (0, columns)))
        y = np.pad(self.y, ((0, rows), (0, 0)))
        weight, root = (np.pad(array, (0, rows)) for array in (self.weight, self.root))
        shift = None if self.shift is None else np.pad(self.shift, (0, rows)).astype(dtype)
        X, y, weight, beta, root, loss = jax.tree.map(
            lambda array: np.asarray(array, dtype), (X, y, weight, self.beta, root, self.loss)
        )
        arrays = {"X": X, "y": y, "weight": weight, "beta": beta, "root": root, "shift": shift}
        return dataclasses.replace(self, loss=loss, **arrays)


def exponent_of(array: NDArray[np.float64]) -> int:
    """Return the k for which array / 2^k is below 1 in magnitude."""
    return int(np.frexp(np.abs(array).max(initial=0))[1])
