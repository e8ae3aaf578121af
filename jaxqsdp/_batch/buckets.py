"""Problems of any shapes, sorted into buckets of one padded shape."""

from __future__ import annotations

import abc
from typing import Any

import jax
import numpy as np

from .._loss.base import AbstractLoss
from .._problem.problem import Problem
from .._relaxation.solution import Solution
from .._run.padding import pad, rung, unpad
from .._solver import AbstractSolver, default_solver


class Bucket(abc.ABC):
    """Problems of one shape, fetched as they are needed."""

    X_shape: tuple[int, ...]
    num_lifted: int  # the size of Z
    dtype: Any
    count: int
    shares_features: bool
    loss: AbstractLoss
    num_outputs: int

    @abc.abstractmethod
    def fetch(self, places: np.ndarray) -> Problem:
        """Return some of them as a stacked problem, on the host."""

    def solver(self, given: AbstractSolver | None) -> AbstractSolver:
        """Return the solver given, or the one for problems of this shape."""
        if given is not None:
            return given
        return default_solver(self.X_shape[0], self.num_lifted, self.dtype, self.loss)

    @property
    def signature(self) -> tuple[Any, ...]:
        """Shapes and dtypes, for which programs compile."""
        one = self.fetch(np.zeros(1, int))
        return tuple((leaf.shape[1:], str(leaf.dtype)) for leaf in jax.tree.leaves(one))


class StackedBucket(Bucket):
    """The lanes of a stacked problem."""

    def __init__(self, problem: Problem):
        self._problem = jax.tree.map(np.asarray, problem)
        self.X_shape = problem.X.shape[1:]
        self.num_lifted = problem.num_lifted
        self.dtype = problem.X.dtype
        self.count = problem.X.shape[0]
        self.loss = problem.loss
        self.num_outputs = 1 if problem.y.ndim == 2 else problem.y.shape[-1]
        shared = jax.tree.leaves((self._problem.X, self._problem.sample_weight, self._problem.loss))
        self.shares_features = problem.y.ndim == 2 and self.count > 1
        self.shares_features &= all(bool(np.all(array == array[:1])) for array in shared)

    def fetch(self, places: np.ndarray) -> Problem:
        """Return some lanes."""
        return jax.tree.map(lambda leaf: leaf[places], self._problem)


class PaddedBucket(Bucket):
    """Problems from a list, padded to a common shape."""

    shares_features = False

    def __init__(self, problems: list[Problem], indices: list[int], shape: tuple[int, int]):
        self._problems = problems
        self.indices = indices
        self.X_shape = shape
        self.num_lifted = problems[0].activation.num_lifted(shape[1])
        self.dtype = problems[0].X.dtype
        self.loss = problems[0].loss
        self.num_outputs = problems[0].num_outputs
        self.count = len(problems)

    def fetch(self, places: np.ndarray) -> Problem:
        """Pad and stack some of them."""
        padded = [pad(self._problems[place], self.X_shape) for place in places]
        return jax.tree.map(lambda *leaves: np.stack(leaves), *padded)

    def slice(self, place: int, solution: Solution) -> Solution:
        """Return the solution of one problem without its padding."""
        return unpad(solution, self._problems[place])


def sorted_into_buckets(problems: list[Problem]) -> list[PaddedBucket]:
    """Sort problems by their padded shape, outputs, dtype, neurons and kind of loss."""
    groups: dict[Any, list[int]] = {}
    for index, problem in enumerate(problems):
        n, d = problem.X.shape
        kind = jax.tree.structure((problem.loss, problem.activation)), problem.fit_intercept
        tail = problem.y.shape[1:], problem.beta.shape, str(problem.X.dtype), kind
        groups.setdefault(((rung(n), rung(d)), *tail), []).append(index)
    return [
        PaddedBucket([problems[index] for index in indices], indices, key[0])
        for key, indices in groups.items()
    ]
