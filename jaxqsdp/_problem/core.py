"""The problem on the host, as what fits and searches for good neurons takes it."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

from .problem import Problem


@dataclasses.dataclass(frozen=True)
class Core:
    """All outputs of a problem in moderate units, weights absorbed.

    One unit serves all outputs, which share their neurons. With X' = 2^a·X, y' = 2^b·y and
    w' = 2^c·w the penalties are 2^(2a+b+c)·β.
    """

    X: NDArray  # (n, d) ⁴√w'·X'
    y: NDArray  # (n, c) √w'·y'
    beta: NDArray  # (c,)
    root: NDArray  # (n,) √w', zero for samples that do not count
    exponents: tuple[int, int, int]  # a, b, c

    @staticmethod
    def of(problem: Problem) -> Core:
        """Change the units, in float64; samples that do not count become zero."""
        y, beta = np.asarray(problem.y, np.float64), np.asarray(problem.beta, np.float64)
        y = y.reshape(len(y), -1)
        beta = np.broadcast_to(beta, y.shape[1])
        X, given = np.asarray(problem.X, np.float64), problem.sample_weight
        weight = np.ones(len(X)) if given is None else np.asarray(given, np.float64)
        c = -exponent_of(weight)
        weight = np.ldexp(weight, c)
        counted = weight > 0
        root = np.sqrt(weight)[:, None]
        X = np.sqrt(root) * np.where(counted[:, None], X, 0)
        y = root * np.where(counted[:, None], y, 0)
        a, b = -exponent_of(X), -exponent_of(y)
        with np.errstate(all="ignore"):  # what is out of range `solve` calls invalid
            beta = np.ldexp(beta, 2 * a + b + c)
        return Core(np.ldexp(X, a), np.ldexp(y, b), beta, root[:, 0], (a, b, c))

    def restore_alpha(self, alpha: NDArray) -> NDArray:
        """Output weights back to the units of the problem."""
        a, b, _ = self.exponents
        return np.ldexp(alpha, 2 * a - b)

    def restore_value(self, value: float) -> float:
        """Values back to the units of the problem."""
        _, b, c = self.exponents
        return float(np.ldexp(value, -2 * b - c))

    def restore_dual(self, dual: NDArray) -> NDArray:
        """A dual point (n,) back to the units of the problem."""
        _, b, c = self.exponents
        return np.ldexp(self.root * dual, -b - c)

    def scale_dual(self, dual: NDArray) -> NDArray:
        """Inverse of `restore_dual`."""
        _, b, c = self.exponents
        return np.divide(
            np.ldexp(dual, b + c), self.root, out=np.zeros_like(dual), where=self.root > 0
        )

    def padded(self, shape: tuple[int, int], dtype: np.dtype) -> Core:
        """Add zero samples and features, which change nothing, and round to a dtype."""
        rows, columns = shape[0] - self.X.shape[0], shape[1] - self.X.shape[1]
        X = np.pad(self.X, ((0, rows), (0, columns)))
        y, root = np.pad(self.y, ((0, rows), (0, 0))), np.pad(self.root, (0, rows))
        X, y, beta, root = (array.astype(dtype) for array in (X, y, self.beta, root))
        return Core(X, y, beta, root, self.exponents)


def exponent_of(array: NDArray[np.float64]) -> int:
    """Return the k for which array / 2^k is below 1 in magnitude."""
    return int(np.frexp(np.abs(array).max(initial=0))[1])
