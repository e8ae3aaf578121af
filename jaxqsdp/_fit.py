"""Everything in one call."""

from __future__ import annotations

import operator

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PRNGKeyArray

from . import _improve
from ._adjoint.implicit import Implicit
from ._base.types import as_float_array, check_count, check_positive, is_concrete
from ._certify import Certificate, certify
from ._host.programs import Stopwatch
from ._loss.base import AbstractLoss
from ._network.activation import AbstractActivation
from ._network.levels import Levels
from ._network.network import QuantizedNetwork, predictions_of
from ._problem.problem import Problem
from ._relaxation.solution import Solution, has_status
from ._relaxation.status import Status
from ._round import round
from ._run.on_host import prepare_solve_once, solve_once
from ._solve import check_arguments, raise_if_failed, solve
from ._solver import AbstractSolver

_LEAST_SECONDS = 1e-6  # left to improve in when the time is over


class FitResult(eqx.Module):
    """A trained network, the relaxation it came from, and the proof of how good it is.

    `interrupted`: whether `time_limit` ended the solve or the improvement before it was done, or
    Ctrl-C the search for a better proof.

    The network's output for a sample, `jax.vmap(result.network)(X)` for many, is a number, or a
    score for losses that take labels or classes; `predict` and `predict_proba` say what it means.
    """

    network: QuantizedNetwork
    solution: Solution
    certificate: Certificate
    problem: Problem
    interrupted: bool = eqx.field(default=False, static=True)

    def predict(self, X: ArrayLike) -> Float[Array, " n"] | Float[Array, "n c"] | Int[Array, " n"]:
        """Return what is predicted for samples (n, d): numbers, or for labels the class, ±1.

        With squared and other losses for numbers these are the network's outputs, also if the
        targets were ±1: then the sign is the class. Outputs (n, c) are predicted each by itself,
        but with softmax loss one class is, 0 … c − 1, shape (n,).

        **Raises:** `TypeError` or `ValueError` naming the argument.
        """
        return jnp.asarray(self.problem.loss.predict(self._outputs(X)))

    def predict_proba(self, X: ArrayLike) -> Float[Array, " n"] | Float[Array, "n c"]:
        """Return the probability of the class 1 for samples (n, d), if the loss has that.

        With softmax loss those of all classes, (n, c), which add up to 1.

        **Raises:** `TypeError` for a loss without probabilities; what `predict` raises.
        """
        return jnp.asarray(self.problem.loss.predict_proba(self._outputs(X)))

    def _outputs(self, X: ArrayLike) -> Array:
        samples, d = as_float_array(X, "X"), self.network.num_features
        if samples.ndim != 2 or samples.shape[1] != d:
            raise ValueError(f"`X` must have shape (n, {d}), got {samples.shape}.")
        network = self.network
        samples = samples.astype(np.promote_types(samples.dtype, network.alpha.dtype))
        if is_concrete(samples, network):
            samples, network = jax.tree.map(np.asarray, (samples, network))
        outputs = predictions_of(network, samples)
        return outputs if network.alpha.ndim == 2 else outputs[:, 0]

    def __repr__(self) -> str:
        parts = [repr(self.problem), repr(self.solution), repr(self.network)]
        parts.append(repr(self.certificate))
        if self.interrupted:
            parts.append("stopped by `time_limit`: with more time the network may improve")
        return "FitResult(\n" + "".join(f"  {part}\n" for part in parts) + ")"


def fit(
    X: ArrayLike,
    y: ArrayLike,
    *,
    beta: ArrayLike,
    num_neurons: int,
    key: PRNGKeyArray,
    loss: AbstractLoss | None = None,
    sample_weight: ArrayLike | None = None,
    levels: Levels | None = None,
    activation: AbstractActivation | None = None,
    fit_intercept: bool = False,
    solver: AbstractSolver | None = None,
    max_steps: int | None = None,
    refit: bool = True,
    improve: bool | None = None,
    time_limit: float | None = None,
    prove: float | None = None,
    progress: bool | None = None,
) -> FitResult:
    """Train a quantized two-layer network and prove how close to the global optimum it is.

    Chains `Problem`, `solve`, `round`, `improve`, `QuantizedNetwork.prune` and `certify`; their
    docstrings hold the formulas. It prunes, which changes shapes, so call it outside `jit` and
    `vmap`, and chain the functions yourself inside.

    **Arguments:** `X`, `y`, `beta`, `loss`, `sample_weight`, `levels`, `activation` and
    `fit_intercept` as those of `Problem`; `solver`, `max_steps` of `solve`; `key`, `refit` of
    `round`; and

    - `num_neurons`: the most that the network may have.
    - `improve`: whether to look for the best network of that size or to keep what rounding gives.
        None (default) means to look, unless `refit=False` asks for the paper's algorithm.
    - `time_limit`: seconds, compilation not counted, for the solve and the improvement together.
        A solve that it ends has the status `interrupted`; its bound holds, and so does the proof.
    - `prove`: seconds to look for a better proof than the relaxation's, as `certify` with a
        `time_limit`: the gap shrinks to that between the network and the optimum over all of them.
    - `progress`: whether to show that of `improve`; None means if there is a terminal.

    **Returns:** a `FitResult` with `.network`, `.solution`, `.certificate`, `.problem` and
    `.interrupted`, whether the time limit cut it short, or Ctrl-C the search that `prove` asks for.
    Predict with `result.predict(X)`, and with logistic or softmax loss `result.predict_proba(X)`.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    if improve is None:
        improve = refit
    if improve and not refit:
        raise ValueError("`improve=True` needs `refit=True`: what it finds is refitted.")
    problem = Problem(X, y, beta, loss, sample_weight, levels, activation, fit_intercept)
    if not is_concrete(problem, key):
        raise ValueError(
            "`fit` prunes the network, which changes shapes: call it outside `jit` and `vmap`, or "
            "chain `solve`, `round` and `certify` inside."
        )
    check_arguments(problem, solver, max_steps, None, Implicit())
    check_count(num_neurons, "num_neurons")
    if time_limit is not None:
        time_limit = check_positive(time_limit, "time_limit")
    if prove is not None:
        prove = check_positive(prove, "prove")
    if time_limit is None:
        prepare_solve_once(problem, solver, max_steps)
    if improve:
        _improve.prepare_improve(problem, operator.index(num_neurons))
    watch = Stopwatch()
    if time_limit is None:
        solution = solve_once(problem, solver, max_steps)
    else:
        solution = solve(problem, solver, max_steps=max_steps, time_limit=time_limit, throw=False)
    raise_if_failed(solution, in_time=False)
    if time_limit is not None:
        time_limit = max(time_limit - watch.seconds, _LEAST_SECONDS)
    interrupted = bool(np.any(has_status(solution, Status.interrupted)))
    network = round(problem, solution, num_neurons=num_neurons, key=key, refit=refit).prune()
    if improve:
        network, late = _improve.improve_within(
            problem,
            network,
            max_neurons=num_neurons,
            key=jax.random.fold_in(key, 1),
            solution=solution,
            time_limit=time_limit,
            progress=progress,
        )
        interrupted = interrupted or late
    try:
        certificate = certify(problem, network, solution, time_limit=prove)
    except KeyboardInterrupt:  # the network stays
        certificate, interrupted = certify(problem, network, solution), True
    return FitResult(network, solution, certificate, problem, interrupted)
