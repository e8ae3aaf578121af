"""Which solver `solve` takes when none is given."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from .._base.lift import lifted_size
from .._loss.base import AbstractLoss
from .._loss.squared import SQUARED
from .admm import ADMM
from .base import AbstractSolver
from .interior_point import InteriorPoint

_MOST_UNKNOWNS = 2048  # of a Newton system: beyond, a dozen factorizations cost more than ADMM
_MOST_SAMPLES_FLOAT32 = 128
_MOST_ENTRIES = 2**27  # of the lifted data
_MOST_COUPLED = 512  # samples of a loss that couples outputs


def default_solver(n: int, d: int, dtype: Any, loss: AbstractLoss = SQUARED) -> AbstractSolver:
    """Choose a solver by the size of the problem, dtype and loss (`benchmarks/single.py`).

    `InteriorPoint` wherever its Newton systems are small: it is faster at equal accuracy and its
    steps hardly vary, so a batch has no stragglers. In float32 with fewer samples than entries of
    Z, graded systems cost more than `ADMM` as the samples grow; but with other losses than the
    squared one ADMM takes hundreds of steps. A loss that couples outputs adds a system of n
    unknowns.
    """
    size = lifted_size(d)
    if size < n:
        small = size <= _MOST_UNKNOWNS and n * size <= _MOST_ENTRIES
    else:
        single = jnp.finfo(dtype).bits == 32 and loss.is_quadratic
        small = n <= (_MOST_SAMPLES_FLOAT32 if single else _MOST_UNKNOWNS)
    if loss.couples_outputs:
        small = small and n <= _MOST_COUPLED
    return InteriorPoint() if small else ADMM()
