"""Choosing the penalty and the constant by cross-validation."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from .._base.plot import axes_for, finished
from .._base.text import is_traced, numbers_of, outline, shape_of
from .._base.types import Scalar, check_count, check_key, namespace, over_leading
from .._host.programs import on_host, program
from .._loss.base import AbstractLoss
from .._problem.problem import Problem
from .._relaxation.status import Status
from .._run.on_host import solver_for
from .._solve import check_limits
from .._solver import AbstractSolver
from .beta_max import beta_max_on_host, beta_max_traced
from .checks import check_options, check_weights, checked_constants, checked_folds
from .data import data_of
from .path import grid_of
from .scoring import Candidates, Scoring, prepared

if TYPE_CHECKING:
    from matplotlib.axes import Axes


class CrossValidation(eqx.Module):
    """Held-out scores of k candidates, and the two usual choices among them.

    A candidate is a penalty, or a constant and a penalty where several constants were given: the
    first constant with all its penalties, then the next. All penalties are for the full data set:
    pass them to `fit` as they are, with features prepared in the same way.

    **Attributes:**

    - `betas` (k,): the penalties, descending (for each constant).
    - `constants` (k,): the constant feature of each candidate, 0 if there is none.
    - `scores` (folds, k): weighted mean of the metric over the held-out samples; NaN where the
        solve had invalid data.
    - `mean`, `standard_error` (k,): over folds, std(scores, ddof=1)/√folds.
    - `best_index`, `best_beta`, `best_constant`: the best mean; of equals the first, which has the
        larger penalty.
    - `index_one_standard_error`, `beta_one_standard_error`: with the best constant, the largest
        penalty whose mean is within one standard error (of the best) of the best. Penalties of
        different constants do not compare, so the constant stays.
    - `fold` (n,): the fold in which each sample was held out.
    - `status` (folds, k), the worst of the outputs, and `gap`, the largest certified gap of all
        solves.
    - `predictor`, `metric`: what was scored, and how.
    """

    betas: Float[Array, " k"]
    constants: Float[Array, " k"]
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
        mean, beta = self.mean[self.best_index], self.betas[self.best_index]
        xp = namespace(mean, beta)
        return xp.where(xp.isnan(mean), xp.nan, beta)

    @property
    def best_constant(self) -> Scalar:
        """The scale that goes with `best_beta`, for `with_constant`; 0 if there is no constant."""
        return self.constants[self.best_index]

    @property
    def beta_one_standard_error(self) -> Scalar:
        """The largest penalty within one standard error of the best, with `best_constant`."""
        return self.betas[self.index_one_standard_error]

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot the scores with error bars and mark both choices; return the axes.

        **Raises:** `ImportError` without matplotlib, which the `demo` extra brings.
        """
        return plot_cross_validation(self, ax)

    def __repr__(self) -> str:
        if is_traced(self):
            return "CrossValidation(traced)"
        shape = shape_of(self.scores) or ()
        if len(shape) > 2:
            return f"CrossValidation(stacked={shape[:-2]})"
        vectors = numbers_of(self.betas, self.constants, self.mean, self.standard_error)
        scalars = numbers_of(self.best_index, self.index_one_standard_error, self.gap)
        if not (len(shape) == 2 and vectors and scalars) or any(a.ndim for a in scalars):
            return outline(self)
        if any(array.shape != shape[1:] for array in vectors):
            return outline(self)
        constants = np.asarray(self.constants)
        several = bool(np.any(constants != constants[0]))
        marks = {int(self.index_one_standard_error): "  one standard error"}
        marks[int(self.best_index)] = "  best" + (
            " and one standard error" if int(self.best_index) in marks else ""
        )
        alike = np.flatnonzero(constants == constants[int(self.best_index)])
        if int(self.best_index) in (alike[0], alike[-1]) and len(alike) > 1:
            marks[int(self.best_index)] += ", at the edge of the grid: try others beyond"
        title = f"{self.metric} of the {self.predictor}, {self.scores.shape[0]} folds"
        if constants[0] and not several:
            title += f", constant {constants[0]:.4g}"
        columns = {"beta": self.betas, self.metric: self.mean, "± error": self.standard_error}
        if several:
            columns = {"constant": self.constants, **columns}
        lines = [
            f"CrossValidation({title}, largest gap={self.gap:.1e}",
            "".join(f"{name:>12}" for name in columns),
        ]
        table = np.stack([np.asarray(column) for column in columns.values()], axis=1)
        for index, row in enumerate(table):
            lines.append("".join(f"{number:>12.4g}" for number in row) + marks.get(index, ""))
        return "\n".join([*lines, ")"])


def cross_validate(
    X: ArrayLike | Problem,
    y: ArrayLike | None = None,
    betas: ArrayLike | None = None,
    *,
    key: PRNGKeyArray,
    folds: int = 5,
    loss: AbstractLoss | None = None,
    sample_weight: ArrayLike | None = None,
    num_betas: int = 20,
    ratio: float = 1e-3,
    standardize: bool = True,
    constant: bool | float | Sequence[float] | Array | np.ndarray | None = None,
    score: Literal["relaxation", "network"] = "relaxation",
    num_neurons: int | None = None,
    metric: Literal["loss", "mse", "accuracy"] | None = None,
    solver: AbstractSolver | None = None,
    max_steps: int | None = None,
) -> CrossValidation:
    """Score penalties on held-out samples, for all folds × constants × penalties.

    A fold leaves out its held-out samples, or gives them zero weight, which is the same. The loss
    is a sum, so a fold is trained with β·Σw_train/Σw: every β here, given and returned, is the one
    for the full data set. Works under `jit`, as one program; outside, penalties are a batch, folds
    and constants share one program, near shapes too, and cores share the work.

    **Arguments:**

    - `X`, `y`, `loss`, `sample_weight`: as those of `Problem`; or a `Problem` in place of X, whose
        penalty does not matter. Weights count in training, in preparing features and in the scores.
        Targets (n, c) share one penalty.
    - `betas`, `num_betas`, `ratio`: as those of `path`, for the prepared full data set. The default
        grid starts at the largest β_max of all columns of y, for each constant anew.
    - `key`: a JAX random key, split in two: for the permutation that makes the folds, and for the
        networks, which draw with one key a fold, the same for all penalties.
    - `folds`: from 2 to n; their sizes differ by one at most.
    - `standardize`: subtract the training samples' weighted mean from each feature and divide by
        their spread, in each fold anew; features constant there become zero.
    - `constant`: the scale of the constant feature to append, see `with_constant`: True for its
        rule, a number, several numbers to choose among, or False for none. None means True with
        bilinear neurons and False with polynomial ones, which have a constant of their own.
    - `score`: what predicts: "relaxation" (ŷ = A(Z), deterministic and cheap) or "network", the
        one of `num_neurons` neurons that `round` draws and refits.
    - `metric`: "loss", φ of the loss, or "mse", the squared error, each the mean over the columns
        of y that the loss does not couple; or "accuracy": of the sign for targets ±1; for classes,
        also as targets (n, c) with 1 for the sample's class and −1 for the others, of the largest
        output. None means "mse" with squared loss, which is twice that, and "loss" with any other.
    - `solver`, `max_steps`: as those of `solve`. Failed solves do not raise, see `status`.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    problem = data_of(X, y, loss, sample_weight)
    if metric is None:
        metric = "mse" if problem.loss.is_quadratic else "loss"
    check_options(problem, score, num_neurons, metric)
    folds = checked_folds(folds, problem.num_samples)
    constants = checked_constants(constant, problem)
    key = check_key(key)
    check_limits(solver, max_steps)
    count = 1 if constants is None else len(constants)
    solver = solver_for(problem, solver)
    limit = solver.max_steps if max_steps is None else operator.index(max_steps)
    scoring = Scoring(standardize, num_neurons, metric, solver, limit)
    training = None
    largest = functools.partial(_largest_betas, problem, constants, standardize)
    grid = None
    if betas is None:
        check_count(num_betas, "num_betas")
    else:
        grid = grid_of(betas, num_betas, ratio, problem.X.dtype, largest)
    if on_host(problem, constants, key, grid):
        several = num_betas if grid is None else grid.shape[0]
        training = scoring.prepare(problem, several, 0 if constants is None else count, folds)
    fold, keys = _assign(problem.num_samples, folds, key)
    check_weights(problem, fold, folds)
    if grid is None:
        grid = grid_of(betas, num_betas, ratio, problem.X.dtype, largest)
    grid = jnp.broadcast_to(grid, (count, grid.shape[-1]))
    candidates = Candidates(
        problem, grid, constants, fold, keys=None if num_neurons is None else keys
    )
    scores, status, gap = scoring.scores(candidates, folds, training)
    xp = namespace(*jax.tree.leaves((scores, status, gap)))
    scales = jnp.zeros((1,), grid.dtype) if constants is None else constants
    pairs = xp.asarray(grid).reshape(-1), xp.repeat(xp.asarray(scales), grid.shape[1])
    with np.errstate(all="ignore"):  # what overflows in NumPy is not chosen
        result = _select(*pairs, scores, xp.asarray(fold), status, gap, score, metric)
    return result if training is None else jax.device_put(result)


def _largest_betas(
    problem: Problem, constants: Float[Array, " s"] | None, standardize: bool
) -> Float[Array, " s"]:
    """Return β_max for each constant, the largest of all columns."""
    if on_host(problem, constants):
        problem, constants = jax.tree.map(np.asarray, (problem, constants))

    def largest(constant: Any) -> Scalar:
        features = prepared(problem.X, problem.weight, standardize, constant)

        def of_targets(y: Array) -> Scalar:
            if isinstance(features, np.ndarray):
                return beta_max_on_host(problem.with_numbers(X=features, y=y))
            return beta_max_traced(problem.with_numbers(X=features, y=y))

        if problem.loss.couples_outputs:
            return of_targets(problem.y)
        each = over_leading(of_targets, problem.columns.y.T)
        return namespace(each).max(each)

    with np.errstate(all="ignore"):
        result = largest(None)[None] if constants is None else over_leading(largest, constants)
    return jnp.asarray(result)


@program(level=0)
def _assign(n: int, folds: int, key: PRNGKeyArray) -> tuple[Int[Array, " n"], PRNGKeyArray]:
    """Deal the samples, in random order, to the folds in turn, and give each fold a key."""
    shuffle_key, draw_key = jax.random.split(key)
    order = jax.random.permutation(shuffle_key, n)
    fold = jnp.zeros((n,), jnp.int32).at[order].set(jnp.arange(n, dtype=jnp.int32) % folds)
    return fold, jax.random.split(draw_key, folds)


def _select(
    betas: Float[Array, " k"],
    constants: Float[Array, " k"],
    scores: Float[Array, "folds k"],
    fold: Int[Array, " n"],
    status: Status,
    gap: Scalar,
    predictor: str,
    metric: str,
) -> CrossValidation:
    xp = namespace(betas, constants, scores)
    mean = xp.mean(scores, axis=0)
    error = xp.std(scores, axis=0, ddof=1) / scores.shape[0] ** 0.5
    # Penalties of a constant descend, so the first of equals is the largest.
    cost = -mean if metric == "accuracy" else mean
    cost = xp.where(xp.isnan(cost), xp.inf, cost)
    best = xp.argmin(cost)
    alike = constants == constants[best]
    simple = xp.argmax(alike & (cost <= cost[best] + error[best]))
    return CrossValidation(
        betas, constants, scores, mean, error, best, simple, fold, status, gap, predictor, metric
    )


def plot_cross_validation(result: CrossValidation, ax: Axes | None = None) -> Axes:
    """Plot mean scores with their standard errors, and mark both choices of the penalty."""
    ax = axes_for(ax)
    constants = np.asarray(result.constants)
    distinct = list(dict.fromkeys(constants.tolist()))
    for index, constant in enumerate(distinct):
        alike = constants == constant
        name = f"{result.predictor}: mean ± standard error"
        ax.errorbar(
            np.asarray(result.betas)[alike],
            np.asarray(result.mean)[alike],
            yerr=np.asarray(result.standard_error)[alike],
            fmt="o-",
            markersize=3,
            capsize=2,
            color=f"C{(0, 1, 4, 5, 6, 7, 8, 9)[index % 8]}",  # C2 and C3 mark the choices
            label=name if len(distinct) == 1 else f"{result.predictor}, constant {constant:.3g}",
        )
    best, simple = float(result.best_beta), float(result.beta_one_standard_error)
    ax.axvline(best, color="C2", label=f"best: {best:.3g}")
    ax.axvline(simple, color="C3", linestyle="--", label=f"one standard error: {simple:.3g}")
    ax.set_ylabel(f"{result.metric} on held-out samples")
    return finished(ax)
