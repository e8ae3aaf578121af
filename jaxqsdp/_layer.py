"""The relaxation as a layer of a larger model."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from ._adjoint.implicit import AbstractAdjoint, Implicit
from ._base.types import across_outputs, as_float_array, cast, highest_precision, is_concrete
from ._loss.base import AbstractLoss
from ._loss.squared import SquaredLoss
from ._network.activation import AbstractActivation
from ._network.bilinear import BILINEAR
from ._network.network import QuantizedNetwork
from ._problem.problem import Problem, check_flag, check_loss, check_trained
from ._relaxation.solution import Solution
from ._round import round
from ._solve import solve
from ._solver import AbstractSolver


class FittedRelaxation(eqx.Module):
    """What `RelaxationLayer.fit` returns: a layer that predicts, x ↦ xᵀZx.

    Takes one sample (d,) and gives a scalar, or (c,) for targets (n, c), as the layers of Equinox
    do; `jax.vmap` is for many. So it can end an `eqx.nn.Sequential`, which passes `key`.

    **Attributes:** `quadratic_form`: Z, shape (d, d) or (c, d, d); `activation`: of the neurons
    that were trained.
    """

    quadratic_form: Float[Array, "k k"] | Float[Array, "c k k"]
    activation: AbstractActivation = BILINEAR
    intercept: Float[Array, ""] | Float[Array, " c"] | None = None

    def __call__(
        self, x: Float[Array, " d"], *, key: PRNGKeyArray | None = None
    ) -> Float[Array, ""] | Float[Array, " c"]:
        """Return the prediction for one sample. `key` is not used."""
        d = self.quadratic_form.shape[-1] - self.activation.num_lifted(0)
        if np.shape(x) != (d,):
            raise ValueError(
                f"`x` must have shape ({d},), got {np.shape(x)}; use `jax.vmap` for many samples."
            )
        x = cast(as_float_array(x, "x"), self.quadratic_form.dtype, "x")
        return _predict(x[None], self.quadratic_form, self.activation, self.intercept)[0]


class RelaxationLayer(eqx.Module):
    """The relaxation as a layer: training features and targets in, query predictions out.

        Z = argmin ℓ(ŷ, y) + βρ,  ŷ_i = x_iᵀ Z x_i,    prediction of a query q:  qᵀ Z q

    It is `solve` with a trainable penalty, for models trained through it: the predictions have
    derivatives with respect to X, y, sample_weight, query and `log_beta`, as `adjoint` says. Works
    under `jit`, `vmap` and `grad`, in float32 and float64.

    To predict without targets, in an `eqx.nn.Sequential` for instance, put in its place what `fit`
    returns, `model = eqx.nn.Sequential([embedding, layer.fit(jax.vmap(embedding)(X), y)])`; then
    `jax.vmap(model)(queries)` are the predictions.

    **Attributes:**

    - `log_beta`: log β, shape () or (c,), the only parameter, so that any step keeps β > 0.
    - `loss`: as that of `Problem`; numbers that it depends on are not trained.
    - `activation`, `fit_intercept`: as those of `Problem`.
    - `solver`, `adjoint`: as those of `solve`, static.

    **Arguments:** `beta`: the penalty to start from, in the units of `Problem`, shape () or (c,);
    `loss`, by default `SquaredLoss()`, `activation`, `fit_intercept`, `solver`, `adjoint`: the
    attributes.

    **Raises:** `TypeError` or `ValueError` naming the argument. The sign of `beta` is checked where
    it can be seen; under a transform, a bad one gives `Status.invalid_data` instead.
    """

    log_beta: Float[Array, ""] | Float[Array, " c"]
    loss: AbstractLoss
    activation: AbstractActivation
    fit_intercept: bool = eqx.field(static=True)
    solver: AbstractSolver | None = eqx.field(static=True)
    adjoint: AbstractAdjoint = eqx.field(static=True)

    def __init__(
        self,
        beta: ArrayLike,
        *,
        loss: AbstractLoss | None = None,
        activation: AbstractActivation | None = None,
        fit_intercept: bool = False,
        solver: AbstractSolver | None = None,
        adjoint: AbstractAdjoint = Implicit(),
    ):
        beta = as_float_array(beta, "beta")
        if beta.ndim > 1:
            raise ValueError(f"`beta` must have shape () or (c,), got {beta.shape}.")
        if is_concrete(beta) and not np.all((np.asarray(beta) > 0) & np.isfinite(beta)):
            raise ValueError(f"`beta` must be positive and finite, got {beta}.")
        # Not weakly typed, as a Python number is, or the first update would compile all anew.
        self.log_beta = jnp.log(beta.astype(beta.dtype))
        self.loss = check_loss(SquaredLoss() if loss is None else loss)
        self.activation = check_trained(activation)
        self.fit_intercept = check_flag(fit_intercept, "fit_intercept")
        self.solver, self.adjoint = solver, adjoint

    @property
    def beta(self) -> Float[Array, ""] | Float[Array, " c"]:
        """The penalty β."""
        return jnp.exp(self.log_beta)

    def problem(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> Problem:
        """Return the `Problem` of these data at the present penalty."""
        loss = jax.lax.stop_gradient(self.loss)
        kinds = None, self.activation, self.fit_intercept
        return Problem(X, y, self.beta, loss, sample_weight, *kinds)

    def __call__(
        self,
        X: ArrayLike,
        y: ArrayLike | None = None,
        query: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
        *,
        key: PRNGKeyArray | None = None,
    ) -> tuple[Solution, Float[Array, " m"] | Float[Array, "m c"]]:
        """Solve, and predict for `query` (m, d), or for X if that is left out.

        Returns the `Solution` and predictions (m,), or (m, c) for y of shape (n, c) and for c
        classes, whose scores they are. A failed solve does not raise: look at `solution.status`.
        With invalid data the predictions are zero.

        **Arguments:** `X`, `y`, `sample_weight`: as those of `Problem`; `key`: not used, layers of
        Equinox take one.

        **Raises:** `TypeError` or `ValueError` naming the argument.
        """
        if y is None:
            raise TypeError(
                "`y` is missing: this layer learns from targets. To predict without them, in an "
                "`eqx.nn.Sequential` for instance, use what `layer.fit(X, y)` returns in its place."
            )
        problem = self.problem(X, y, sample_weight)
        d = problem.num_features
        if query is not None:
            query = cast(as_float_array(query, "query"), problem.X.dtype, "query")
        if query is not None and (query.ndim != 2 or query.shape[1] != d):
            raise ValueError(f"`query` must have shape (m, {d}) to match `X`, got {query.shape}.")
        solution = solve(problem, self.solver, adjoint=self.adjoint, throw=False)
        if query is None:
            return solution, solution.predictions
        return solution, _predict(
            query, solution.quadratic_form, self.activation, solution.intercept
        )

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> FittedRelaxation:
        """Solve, and return the layer that predicts without targets.

        Differentiable with respect to X, y, sample_weight and `log_beta`, as the layer is.

        **Raises:** what `solve` raises, `SolveError` outside transforms if the solve failed.
        """
        problem = self.problem(X, y, sample_weight)
        solution = solve(problem, self.solver, adjoint=self.adjoint)
        return FittedRelaxation(solution.quadratic_form, self.activation, solution.intercept)

    def round(
        self,
        X: ArrayLike,
        y: ArrayLike,
        *,
        num_neurons: int,
        key: PRNGKeyArray,
        sample_weight: ArrayLike | None = None,
        refit: bool = True,
    ) -> QuantizedNetwork:
        """Solve, and draw a network as `jaxqsdp.round` does, with its arguments.

        **Raises:** what `solve` and `jaxqsdp.round` raise; `SolveError` if the solve failed.
        """
        problem = self.problem(X, y, sample_weight)
        solution = solve(problem, self.solver, adjoint=self.adjoint)
        return round(problem, solution, num_neurons=num_neurons, key=key, refit=refit)


@highest_precision
def _predict(
    query: Array, form: Array, activation: AbstractActivation, intercept: Array | None
) -> Array:
    outputs = activation.lifted(query).outputs(form)
    if intercept is None:
        return outputs
    return outputs + across_outputs(intercept, outputs)
