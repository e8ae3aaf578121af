"""Choosing the penalty by cross-validation, all folds and penalties in one batch."""

from __future__ import annotations

import operator
from typing import TYPE_CHECKING, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from ._beta_max import check_one_target
from ._path import grid_of, repeated, single_outputs
from ._plot import plot_cross_validation
from ._problem import Problem
from ._round import round
from ._solution import Solution, Status
from ._solve import solve
from ._solver import AbstractSolver
from ._types import Scalar, check_count, check_key, epsilon, highest_precision, is_concrete

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_PREDICTORS = ("relaxation", "network")
_METRICS = ("mse", "accuracy")


class CrossValidation(eqx.Module):
    """Held-out scores for k penalties, and the two usual choices among them.

    All penalties are for the full data set: pass them to `fit` as they are, with features prepared
    in the same way.

    **Attributes:**

    - `betas` (k,): the penalties, descending.
    - `scores` (folds, k): weighted mean squared error, or accuracy, on the held-out samples; NaN
        where the solve had invalid data.
    - `mean`, `standard_error` (k,): over folds, std(scores, ddof=1)/√folds.
    - `best_index`, `best_beta`: the best mean, the larger penalty of equals.
    - `index_one_standard_error`, `beta_one_standard_error`: the largest penalty whose mean is
        within one standard error (of the best) of the best.
    - `fold` (n,): the fold in which each sample was held out.
    - `status` (folds, k) and `gap`, the largest certified gap of all solves.
    - `predictor`, `metric`: what was scored, and how.
    """

    betas: Float[Array, " k"]
    scores: Float[Array, "folds k"]
    mean: Float[Array, " k"]
    standard_error: Float[Array, " k"]
    best_index: Int[Array, ""]
    index_one_standard_error: Int[Array, ""]
    fold: Int[Array, " n"]
    status: Status
    gap: Scalar
    predictor: str = eqx.field(static=True)
    metric: str = eqx.field(static=True)

    @property
    def best_beta(self) -> Scalar:
        """The penalty with the best mean score; NaN if no mean is a number."""
        return jnp.where(
            jnp.isnan(self.mean[self.best_index]), jnp.nan, self.betas[self.best_index]
        )

    @property
    def beta_one_standard_error(self) -> Scalar:
        """The largest penalty within one standard error of the best."""
        return self.betas[self.index_one_standard_error]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the scores with error bars and mark both choices; return the axes.

        **Raises:** `ImportError` without matplotlib, which the `demo` extra brings.
        """
        return plot_cross_validation(self, ax)

    def __repr__(self) -> str:
        if not is_concrete(self):
            return "CrossValidation(traced)"
        if self.scores.ndim > 2:
            return f"CrossValidation(stacked={self.scores.shape[:-2]})"
        marks = {int(self.index_one_standard_error): "  one standard error"}
        marks[int(self.best_index)] = "  best" + (
            " and one standard error" if int(self.best_index) in marks else ""
        )
        last = len(self.betas) - 1
        if int(self.best_index) in (0, last) and last > 0:
            marks[int(self.best_index)] += ", at the edge of the grid: try others beyond"
        title = f"{self.metric} of the {self.predictor}"
        lines = [
            f"CrossValidation({title}, {self.scores.shape[0]} folds, largest gap={self.gap:.1e}",
            f"{'beta':>12}{self.metric:>12}{'± error':>12}",
        ]
        for index, row in enumerate(zip(self.betas, self.mean, self.standard_error, strict=True)):
            lines.append("".join(f"{number:>12.4g}" for number in row) + marks.get(index, ""))
        return "\n".join([*lines, ")"])


def cross_validate(
    X: ArrayLike,
    y: ArrayLike,
    betas: ArrayLike | None = None,
    *,
    key: PRNGKeyArray,
    folds: int = 5,
    sample_weight: ArrayLike | None = None,
    num_betas: int = 20,
    ratio: float = 1e-3,
    standardize: bool = True,
    constant: bool = True,
    score: Literal["relaxation", "network"] = "relaxation",
    num_neurons: int | None = None,
    metric: Literal["mse", "accuracy"] = "mse",
    solver: AbstractSolver | None = None,
    max_steps: int | None = None,
) -> CrossValidation:
    """Score penalties on held-out samples, all folds × penalties in one batch.

    A fold is the same problem with zero weight on its held-out samples, which leaves them out
    exactly. The loss is a sum, so a fold is trained with β·Σw_train/Σw: every β here, given and
    returned, is the one for the full data set. Works under `jit`; compiles once per shape.

    **Arguments:**

    - `X`, `y`, `sample_weight`: as those of `Problem`, with y of shape (n,). Weights count in
        training, in preparing features and in the scores.
    - `betas`, `num_betas`, `ratio`: as those of `path`, for the prepared full data set.
    - `key`: a JAX random key, split in two: for the permutation that makes the folds, and for the
        networks, which draw with one key a fold, the same for all penalties.
    - `folds`: from 2 to n; their sizes differ by one at most.
    - `standardize`: subtract the training samples' weighted mean from each feature and divide by
        their spread, in each fold anew; features constant there become zero.
    - `constant`: append a feature that is one, for linear and constant terms.
    - `score`: what predicts: "relaxation" (ŷ = xᵀZx, deterministic and cheap) or "network", the
        one of `num_neurons` neurons that `round` draws and refits.
    - `metric`: "mse", or "accuracy" of the sign, for targets ±1.
    - `solver`, `max_steps`: as those of `solve`. Failed solves do not raise, see `status`.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    problem = Problem(X, y, 1.0, sample_weight=sample_weight)
    check_one_target(problem)
    _check_options(problem, score, num_neurons, metric)
    folds = _check_folds(folds, problem.num_samples)
    shuffle_key, draw_key = jax.random.split(check_key(key))
    fold = _assign(problem.num_samples, folds, shuffle_key)
    _check_weights(problem, fold, folds)
    options = standardize, constant
    features = _prepared(problem.X, problem.weight, *options)
    full = Problem(features, problem.y, 1.0, sample_weight=problem.sample_weight)
    grid = grid_of(full, betas, num_betas, ratio)
    keys = jax.random.split(draw_key, folds)
    scores, status, gap = _scores(
        problem, grid, fold, keys, options, num_neurons, metric, solver, max_steps
    )
    return _select(grid, scores, fold, status, gap, score, metric)


@eqx.filter_jit
@highest_precision
def _scores(
    problem: Problem,
    betas: Float[Array, " k"],
    fold: Int[Array, " n"],
    keys: PRNGKeyArray,
    options: tuple[bool, bool],
    num_neurons: int | None,
    metric: str,
    solver: AbstractSolver | None,
    max_steps: int | None,
) -> tuple[Float[Array, "folds k"], Status, Scalar]:
    y, weight = problem.y, problem.weight

    def score_fold(index: Array, key: PRNGKeyArray) -> tuple[Array, Status, Array]:
        train = jnp.where(fold == index, 0, weight)
        held_out = jnp.where(fold == index, weight, 0)
        features = _prepared(problem.X, train, *options)
        single = Problem(features, y, 1.0, sample_weight=train)
        scaled = betas * (jnp.sum(train) / jnp.sum(weight))
        solution = solve(repeated(single, scaled), solver, max_steps=max_steps, throw=False)

        def network_predictions(beta: Scalar, solution: Solution) -> Array:
            one = Problem(features, y, beta, sample_weight=train)
            assert num_neurons is not None
            network = round(one, solution, num_neurons=num_neurons, key=key)
            return jax.vmap(network)(features)

        if num_neurons is None:
            predictions = solution.predictions.T
        else:
            predictions = jax.vmap(network_predictions)(scaled, single_outputs(solution))
        if metric == "mse":
            point_scores = jnp.square(predictions - y[None, :])
        else:
            point_scores = ((predictions >= 0) == (y > 0)[None, :]).astype(y.dtype)
        # Samples that do not count may hold anything.
        point_scores = jnp.where((held_out > 0)[None, :], point_scores, 0)
        score = (point_scores @ held_out) / jnp.sum(held_out)
        invalid = solution.status == Status.invalid_data
        return jnp.where(invalid, jnp.nan, score), solution.status, solution.stats.gap

    indices = jnp.arange(keys.shape[0], dtype=fold.dtype)
    scores, status, gaps = jax.vmap(score_fold)(indices, keys)
    return scores, status, jnp.max(gaps)


def _prepared(
    X: Float[Array, "n p"], weight: Float[Array, " n"], standardize: bool, constant: bool
) -> Float[Array, "n d"]:
    """Standardize by the samples that count, and append a constant feature."""
    if standardize:
        share = (weight / jnp.sum(weight))[:, None]
        counted = jnp.where(share > 0, X, 0)
        center = jnp.sum(share * counted, axis=0)
        deviation = jnp.where(share > 0, X - center[None, :], 0)
        spread = jnp.sqrt(jnp.sum(share * jnp.square(deviation), axis=0))
        # A constant feature has the spread of rounding errors.
        varies = spread > 10 * epsilon(X.dtype) * jnp.max(jnp.abs(counted), axis=0)
        factor = jnp.where(varies, 1 / jnp.where(varies, spread, 1), 0)
        X = (X - center[None, :]) * factor[None, :]
    return jnp.concatenate([X, jnp.ones_like(X[:, :1])], axis=1) if constant else X


def _assign(n: int, folds: int, key: PRNGKeyArray) -> Int[Array, " n"]:
    """Deal the samples, in random order, to the folds in turn."""
    order = jax.random.permutation(key, n)
    return jnp.zeros((n,), jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32) % folds)


def _select(
    betas: Float[Array, " k"],
    scores: Float[Array, "folds k"],
    fold: Int[Array, " n"],
    status: Status,
    gap: Scalar,
    predictor: str,
    metric: str,
) -> CrossValidation:
    mean = jnp.mean(scores, axis=0)
    error = jnp.std(scores, axis=0, ddof=1) / scores.shape[0] ** 0.5
    # Penalties descend, so the first of equals is the largest.
    cost = mean if metric == "mse" else -mean
    cost = jnp.where(jnp.isnan(cost), jnp.inf, cost)
    best = jnp.argmin(cost)
    simple = jnp.argmax(cost <= cost[best] + error[best])
    return CrossValidation(
        betas, scores, mean, error, best, simple, fold, status, gap, predictor, metric
    )


def _check_options(problem: Problem, score: str, num_neurons: int | None, metric: str) -> None:
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
    y = problem.y
    if metric == "accuracy" and is_concrete(y) and not np.all(np.abs(np.asarray(y)) == 1):
        raise ValueError('`y` must hold only −1 and +1 for metric="accuracy"; use "mse".')


def _check_folds(folds: int, n: int) -> int:
    if isinstance(folds, bool) or not hasattr(folds, "__index__") or not 2 <= folds <= n:
        raise ValueError(f"`folds` must be an integer from 2 to {n}, the samples, got {folds!r}.")
    return operator.index(folds)


def _check_weights(problem: Problem, fold: Array, folds: int) -> None:
    weight = problem.sample_weight
    if weight is None or not is_concrete(weight, fold):
        return
    counted = np.bincount(np.asarray(fold)[np.asarray(weight) > 0], minlength=folds)
    if np.any(counted == 0):
        raise ValueError(
            f"`sample_weight` is zero for all samples of fold {int(np.argmin(counted))}; use fewer "
            "`folds`, another `key`, or drop the samples that do not count."
        )
