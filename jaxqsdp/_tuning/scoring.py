"""Held-out scores of penalties, for cross-validation.

A lane is a fold with a constant. Its penalties are outputs of one problem:

    features, prepared by the training samples ──► solutions ──► predictions ──► scores

With a loss that couples outputs each penalty is a problem of its own.

Where numbers are traced the lanes follow each other in one program, and held-out samples have zero
weight. On the host they are left out, and as many lanes are worked at as there are cores.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PRNGKeyArray

from .._base.mesh import on_any_mesh
from .._base.types import Scalar, epsilon, highest_precision, in_float64, namespace, over_leading
from .._host.threads import map_in_threads
from .._loss.base import AbstractLoss
from .._loss.squared import SQUARED
from .._network.network import predictions_of
from .._problem.features import with_constant
from .._problem.problem import Problem
from .._relaxation.solution import Solution, outputs_first, outputs_last
from .._relaxation.status import Status
from .._round import round
from .._run.on_host import come_often, numbers, threads_for_solves
from .._run.padding import padded_shape
from .._solve import solve
from .._solver import AbstractSolver
from .path import repeated, solutions_at


class _Training(NamedTuple):
    """How training problems are solved on the host: padded to a shape, and perhaps often."""

    shape: tuple[int, int]
    often: bool


class Candidates(NamedTuple):
    """What is scored: penalties for each constant, in folds.

    `keys`, one for each fold, draw the networks.
    """

    problem: Problem
    betas: Float[Array, "s b"]
    constants: Float[Array, " s"] | None
    fold: Int[Array, " n"]
    keys: PRNGKeyArray | None


@dataclasses.dataclass(frozen=True)
class Scoring:
    """How penalties are scored; `num_neurons` is that of networks, None for the relaxation."""

    standardize: bool
    num_neurons: int | None
    metric: str
    solver: AbstractSolver
    max_steps: int

    def prepare(
        self, problem: Problem, num_betas: int, num_constants: int, folds: int
    ) -> _Training:
        """Start to compile what the scores of a problem take on the host, 0 for no constant."""
        (n, d), outputs = problem.X.shape, problem.num_outputs
        coupled = problem.loss.couples_outputs
        # Folds differ by a sample: all get the shape of those that hold out fewer.
        shape = padded_shape(n - n // folds, d + (num_constants > 0))

        def zeros(*sizes: int) -> Any:
            return np.zeros(sizes, problem.X.dtype)

        columns = outputs if coupled else outputs * num_betas
        like = problem.with_numbers(
            X=zeros(*shape),
            y=zeros(shape[0], columns),
            beta=zeros() if coupled else zeros(columns),
            sample_weight=zeros(shape[0]),
        )
        lanes = folds * max(num_constants, 1) * (num_betas if coupled else 1)
        often = come_often(like, shape, self.solver, self.max_steps, lanes)
        return _Training(shape, often)

    def scores(
        self, candidates: Candidates, folds: int, training: _Training | None
    ) -> tuple[Float[Array, "folds k"], Status, Scalar]:
        """Return the scores, the worst status of the outputs, and the largest gap of all solves.

        Those of the first constant's penalties, then of the next one's. On the host `training` is
        what `prepare` has returned, elsewhere None.
        """
        if training is None:
            return _scores_traced(self, candidates, folds)
        *arrays, keys = candidates
        problem, betas, constants, fold = jax.tree.map(np.asarray, arrays)
        count = len(betas)

        def score(lane: int) -> tuple[Any, Any, Any]:
            index, which = divmod(lane, count)
            key = None if keys is None else keys[index]
            constant = None if constants is None else float(constants[which])
            with np.errstate(all="ignore"):
                return self._score(problem, fold, index, key, betas[which], constant, training)

        threads = threads_for_solves(self.solver, problem.X.dtype)
        lanes = map_in_threads(score, range(folds * count), threads)
        scores, status, gaps = jax.tree.map(lambda *leaves: np.stack(leaves), *lanes)
        by_fold = jax.tree.map(lambda leaf: leaf.reshape(folds, -1), (scores, status))
        return *by_fold, np.max(gaps)

    def _score(
        self,
        problem: Problem,
        fold: Int[Array, " n"],
        index: Any,
        key: PRNGKeyArray | None,
        betas: Float[Array, " b"],
        constant: Any,
        training: _Training | None = None,
    ) -> tuple[Float[Array, " b"], Status, Float[Array, " k"]]:
        """Return the scores of a lane, the worst status of each, and the gaps."""
        weight, columns = problem.weight, problem.columns.y
        xp = namespace(problem.X, weight)
        train = xp.where(fold == index, 0, weight)
        held_out = xp.where(fold == index, weight, 0)
        features = prepared(problem.X, train, self.standardize, constant)
        rows: Any = slice(None)
        tested: Any = rows
        if xp is np:
            rows, tested = np.flatnonzero(train > 0), np.flatnonzero(held_out > 0)
        scaled = betas * (xp.sum(train) / xp.sum(weight)).astype(betas.dtype)
        single = problem.with_numbers(
            X=features[rows], y=problem.y[rows], sample_weight=train[rows]
        )
        solution = self._solve(single, scaled, training)
        targets, held_out = columns[tested], held_out[tested]
        predictions = self._predictions(single, solution, scaled, key, features[tested])
        point_scores = scores_of_points(predictions, targets, self.metric, problem.loss)
        # Samples that do not count may hold anything.
        point_scores = xp.where((held_out > 0)[None, :], point_scores, 0)
        score = (point_scores @ held_out) / xp.sum(held_out)
        worst = jax.tree.map(
            lambda leaf: xp.max(leaf.reshape(len(betas), -1), axis=1), solution.status
        )
        invalid = worst == Status.invalid_data
        return xp.where(invalid, xp.nan, score), worst, solution.stats.gap

    def _solve(
        self, problem: Problem, betas: Float[Array, " b"], training: _Training | None
    ) -> Solution:
        """Return the solutions of all penalties, a lane per output unless the loss couples them."""

        def solved(problem: Problem) -> Solution:
            if training is not None:
                limits = self.solver, self.max_steps
                return numbers(problem, training.shape, *limits, often=training.often)
            return solve(problem, self.solver, max_steps=self.max_steps, throw=False)

        if problem.loss.couples_outputs:
            return solutions_at(problem, betas, solved)
        return outputs_first(solved(repeated(problem, betas)))

    def _predictions(
        self,
        problem: Problem,
        lanes: Solution,
        betas: Float[Array, " b"],
        key: PRNGKeyArray | None,
        X: Float[Array, "n d"],
    ) -> Float[Array, "b n c"]:
        """Return what is predicted for X with each penalty."""
        xp, coupled = namespace(X, betas), problem.loss.couples_outputs
        several = problem.y.ndim == 2 and not coupled
        outputs, k = problem.num_outputs, problem.num_lifted

        if self.num_neurons is None:
            forms = lanes.quadratic_form.reshape(-1, k, k)
            predictions = over_leading(problem.activation.lifted(X).outputs, forms)
            if lanes.intercept is not None:
                predictions = predictions + lanes.intercept.reshape(-1, 1)
            return xp.moveaxis(predictions.reshape(len(betas), outputs, len(X)), 1, 2)

        def drawn(beta: Scalar, solution: Solution) -> Float[Array, "n c"]:
            assert self.num_neurons is not None
            assert key is not None
            solution = outputs_last(solution) if several else solution
            one = problem.with_numbers(beta=beta)
            network = round(one, solution, num_neurons=self.num_neurons, key=key)
            if xp is np:
                network = jax.tree.map(np.asarray, network)
            return predictions_of(network, X)

        if several:
            lanes = jax.tree.map(
                lambda leaf: leaf.reshape((len(betas), outputs, *leaf.shape[1:])), lanes
            )
        return over_leading(drawn, betas, lanes)


@eqx.filter_jit
@on_any_mesh
@highest_precision
def _scores_traced(
    scoring: Scoring, candidates: Candidates, folds: int
) -> tuple[Float[Array, "folds k"], Status, Scalar]:
    problem, betas, constants, fold, keys = candidates
    # One lane after the other, as the penalties of a lane are a batch already: on 398 × 31 that is
    # a quarter faster and takes half the memory, to compile too.
    count = betas.shape[0]
    indices = jnp.repeat(jnp.arange(folds, dtype=fold.dtype), count)
    lane_keys = None if keys is None else keys[indices]
    scales = None if constants is None else jnp.tile(constants, folds)
    lanes = indices, lane_keys, jnp.tile(betas, (folds, 1)), scales
    scores, status, gaps = jax.lax.map(lambda lane: scoring._score(problem, fold, *lane), lanes)
    by_fold = jax.tree.map(lambda leaf: leaf.reshape(folds, -1), (scores, status))
    return *by_fold, jnp.max(gaps)


def scores_of_points(
    predictions: Float[Array, "b n c"],
    targets: Float[Array, "n c"],
    metric: str,
    loss: AbstractLoss = SQUARED,
) -> Float[Array, "b n"]:
    """Return the score of each sample, for several predictions of all."""
    xp = namespace(predictions, targets)
    if metric == "mse":
        return xp.mean(xp.square(predictions - targets[None]), axis=2)
    if metric == "loss":
        each = loss.value(predictions, xp.broadcast_to(targets[None], predictions.shape))
        return xp.asarray(each) if loss.couples_outputs else xp.mean(xp.asarray(each), axis=2)
    if targets.shape[1] == 1:
        right = (predictions[..., 0] >= 0) == (targets[:, 0] > 0)[None]
    else:
        right = xp.argmax(predictions, axis=2) == xp.argmax(targets, axis=1)[None]
    return right.astype(targets.dtype)


def prepared(
    X: Float[Array, "n p"],
    weight: Float[Array, " n"],
    standardize: bool,
    constant: Scalar | float | None,
) -> Float[Array, "n d"]:
    """Standardize by the samples that count, and append the constant feature if there is one.

    In NumPy that is done in float64, whatever the dtype.
    """
    xp, dtype = namespace(X, weight), X.dtype
    if standardize:
        X, weight = in_float64((X, weight)) if xp is np else (X, weight)
        share = (weight / xp.sum(weight))[:, None]
        counted = xp.where(share > 0, X, 0)
        center = xp.sum(share * counted, axis=0)
        deviation = xp.where(share > 0, X - center[None, :], 0)
        spread = xp.sqrt(xp.sum(share * xp.square(deviation), axis=0))
        # A constant feature has the spread of rounding errors.
        varies = spread > 10 * epsilon(dtype) * xp.max(xp.abs(counted), axis=0)
        factor = xp.where(varies, 1 / xp.where(varies, spread, 1), 0)
        X = ((X - center[None, :]) * factor[None, :]).astype(dtype)
    return X if constant is None else with_constant(X, constant)
