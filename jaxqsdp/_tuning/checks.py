"""What the arguments of a cross-validation must be, where that can be seen."""

from __future__ import annotations

import operator
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from .._base.types import check_count, is_concrete
from .._network.bilinear import BILINEAR
from .._problem.features import checked_constant, default_constant
from .._problem.problem import Problem

_PREDICTORS = ("relaxation", "network")
_METRICS = ("loss", "mse", "accuracy")


def checked_constants(constant: Any, problem: Problem) -> Float[Array, " s"] | None:
    """Return the scales to try, None for no constant feature."""
    if constant is None:
        constant = problem.activation == BILINEAR
    if constant is False:
        return None
    dtype = problem.X.dtype
    if constant is True:
        return jnp.full((1,), default_constant(problem.num_features), dtype)
    if not is_concrete(constant):
        return jnp.atleast_1d(constant).astype(dtype)
    scales = list(constant) if np.ndim(constant) else [constant]
    if np.ndim(constant) > 1 or not scales:
        raise ValueError(
            f"`constant` must be True, False, a number or several of them, got {constant!r}."
        )
    return jnp.asarray([checked_constant(scale, "constant") for scale in scales], dtype)


def check_options(problem: Problem, score: str, num_neurons: int | None, metric: str) -> None:
    """Raise `ValueError` for what is scored, or how, if these do not go together."""
    if score not in _PREDICTORS:
        raise ValueError(f"`score` must be one of {_PREDICTORS}, got {score!r}.")
    if metric not in _METRICS:
        raise ValueError(f"`metric` must be one of {_METRICS}, got {metric!r}.")
    if score == "network" and num_neurons is None:
        raise ValueError('`num_neurons` is needed for score="network": how many `round` draws.')
    if score == "relaxation" and num_neurons is not None:
        raise ValueError('`num_neurons` needs score="network"; the relaxation has no neurons.')
    if num_neurons is not None:
        check_count(num_neurons, "num_neurons")
    y, loss = problem.y, problem.loss
    if metric == "mse" and (loss.takes_labels or loss.takes_classes):
        raise ValueError(
            f'`metric="mse"` is for numbers, and {type(loss).__name__} takes labels; use "loss" or '
            '"accuracy".'
        )
    if metric == "accuracy" and is_concrete(y) and not loss.takes_classes:
        if not np.all(np.abs(np.asarray(y)) == 1):
            raise ValueError('`y` must hold only −1 and +1 for metric="accuracy"; use "loss".')
        if y.ndim == 2 and y.shape[1] > 1 and np.any(np.sum(np.asarray(y) > 0, axis=1) != 1):
            raise ValueError(
                '`y` must have one +1 in each row, the sample\'s class, for metric="accuracy"; use '
                '"loss" for columns that do not exclude each other.'
            )


def checked_folds(folds: int, n: int) -> int:
    """Return the number of folds, or raise `ValueError`."""
    if isinstance(folds, bool) or not hasattr(folds, "__index__") or not 2 <= folds <= n:
        raise ValueError(f"`folds` must be an integer from 2 to {n}, the samples, got {folds!r}.")
    return operator.index(folds)


def check_weights(problem: Problem, fold: Array, folds: int) -> None:
    """Raise `ValueError` if no sample of a fold counts."""
    weight = problem.sample_weight
    if weight is None or not is_concrete(weight, fold):
        return
    counted = np.bincount(np.asarray(fold)[np.asarray(weight) > 0], minlength=folds)
    if np.any(counted == 0):
        raise ValueError(
            f"`sample_weight` is zero for all samples of fold {int(np.argmin(counted))}; use fewer "
            "`folds`, another `key`, or drop the samples that do not count."
        )
