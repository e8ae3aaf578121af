"""Padding to a few common shapes, so that problems of near shapes share a program.

Features that are zero and samples of zero weight change nothing, whatever the padded rows hold; the
results are those of the problem itself, up to rounding.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import numpy as np

from .._problem.problem import Problem
from .._relaxation.solution import Solution

_FEW_SAMPLES = 256


def rung(size: int) -> int:
    """Round up to 4, 5, 6, 7 or 8 times a power of two: a quarter more at most."""
    power = max(1, 2 ** (max(size - 1, 1).bit_length() - 3))
    return -(-size // power) * power


def coarse_rung(size: int, least: int, most: int) -> int:
    """Round up to a power of two, `least` or more, and beyond `most` as `rung` does."""
    if size > most:
        return rung(size)
    return max(2 ** (size - 1).bit_length(), least)


def padded_shape(n: int, d: int) -> tuple[int, int]:
    """Return the shape at which a single problem is solved when it is not solved often."""
    return coarse_rung(n, 16, _FEW_SAMPLES), rung(d)


def pad(problem: Problem, shape: tuple[int, ...]) -> Problem:
    """Add features that are zero and samples of zero weight; the leaves become NumPy arrays."""
    n, d = problem.X.shape
    rows, columns = shape[0] - n, shape[1] - d
    y = np.asarray(problem.y)
    given = problem.sample_weight
    weight = np.ones(n, problem.X.dtype) if given is None else np.asarray(given)
    return problem.of_one_bit.with_numbers(
        X=np.pad(np.asarray(problem.X), ((0, rows), (0, columns))),
        y=np.pad(y, ((0, rows),) + ((0, 0),) * (y.ndim - 1)),
        beta=np.asarray(problem.beta),
        sample_weight=np.pad(weight, (0, rows)),
    )


def unpad(solution: Solution, problem: Problem) -> Solution:
    """Return a solution as one of this problem, its leaves as NumPy arrays."""
    n, d = problem.X.shape
    width = solution.quadratic_form.shape[-1]
    # What activations append to the features comes last.
    one = np.delete(np.arange(width), np.s_[d : width - (problem.num_lifted - d)])
    kept = np.concatenate([one, width + one])
    host: Any = jax.tree.map(np.asarray, solution)
    return dataclasses.replace(
        host,
        quadratic_form=host.quadratic_form[..., one[:, None], one],
        gram=host.gram[..., kept[:, None], kept],
        dual=host.dual[:n],
        dual_diagonal=host.dual_diagonal[..., one],
        predictions=host.predictions[:n],
    )
