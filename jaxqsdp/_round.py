"""From the relaxation to a network: Grothendieck's identity in Krivine's form, and a refit."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import NDArray

from ._base.mesh import on_any_mesh
from ._base.types import check_count, check_key, highest_precision, in_float64
from ._exact.powers import power_of_two
from ._host.programs import on_host
from ._host.random import normal_numbers
from ._network.network import QuantizedNetwork, pack, predictions_of
from ._problem.host_core import HostCore
from ._problem.problem import Problem, check_fits, check_single
from ._relaxation.gaussian import Vectors, draw, shape_of_normal
from ._relaxation.solution import Solution, check_solution
from ._search.target import Target
from ._solver.lasso import lasso
from ._solver.output_weights import best_output_weights


def round(
    problem: Problem,
    solution: Solution,
    *,
    num_neurons: int,
    key: PRNGKeyArray,
    refit: bool = True,
) -> QuantizedNetwork:
    """Draw a network of `num_neurons` neurons from the relaxation.

    With γ = ln(1+√2), V_s = V/ρ, Z_s = Z/ρ, the matrix

        S = [[sinh γV_s, sin γZ_s], [sin γZ_s, sinh γV_s]]   (elementwise)

    is positive semidefinite with unit diagonal. For (g_u, g_v) ~ N(0, S), u = sign g_u and
    v = sign g_v satisfy E[u vᵀ] = (2γ/π) Z_s, so α_j = Kρ/m makes the network an unbiased estimate
    of xᵀZx. Neurons of a `Polynomial` are u = sign(g·g_s) of (g, g_s) ~ N(0, P/ρ₊) and N(0, N/ρ₋),
    in proportion to ρ₊ and ρ₋, which is biased. `refit` replaces that α by the best one for the
    neurons drawn, the minimizer of the objective, which is a LASSO and sets many α_j to zero
    (`network.prune()` removes them).

    Where the problem has more levels than ±1, neurons that are refitted have the levels nearest to
    (g_u, g_v), and those that are not the signs, which are levels, too.

    Shapes are fixed, so this works under `jit` and `vmap`; the same key draws the same neurons
    with and without `refit`.

    **Arguments:**

    - `problem`, `solution`: the problem and its `solve`.
    - `num_neurons`: neurons drawn. With targets (n, c) this is the total; outputs get shares in
        proportion to their ρ, and the refit lets every output use every neuron.
    - `key`: a JAX random key.
    - `refit`: whether to fit α (default) or to keep the one above, that of the paper.

    **Returns:** a `QuantizedNetwork` with α of shape (m,), or (m, c).

    **Raises:** `TypeError` or `ValueError` naming the argument.

    Source: Krivine (1979); Alon & Naor (2006); Bartan & Pilanci, ICML 2021.
    """
    check_single(problem)
    check_count(num_neurons, "num_neurons")
    num_neurons = operator.index(num_neurons)
    key = check_key(key)
    check_solution(problem, solution)
    if on_host(problem, solution, key):
        return _round_on_host(problem, solution, num_neurons, key, refit)
    return _round(problem, solution, num_neurons, key, refit)


@eqx.filter_jit
@on_any_mesh
@highest_precision
def _round(
    problem: Problem, solution: Solution, num_neurons: int, key: PRNGKeyArray, refit: bool
) -> QuantizedNetwork:
    shape = shape_of_normal(problem.activation, num_neurons, problem.num_features)
    normal = jax.random.normal(key, shape, problem.X.dtype)
    drawn = draw(problem.activation, solution, normal)
    network = _with_intercept(problem, _packed(problem, *drawn, refit), solution)
    return _refitted(problem, network, jnp.ones((num_neurons,), bool)) if refit else network


def _round_on_host(
    problem: Problem, solution: Solution, num_neurons: int, key: PRNGKeyArray, refit: bool
) -> QuantizedNetwork:
    shape = shape_of_normal(problem.activation, num_neurons, problem.num_features)
    dtype = problem.X.dtype
    alpha: Any
    vectors, alpha = draw(problem.activation, solution, normal_numbers(key, shape, dtype))
    if refit:
        network = jax.tree.map(np.asarray, _packed(problem, vectors, alpha, refit))
        alpha = best_alpha(HostCore.of(problem), *network.vectors(np.float64))
    network = _packed(problem, vectors, alpha.astype(dtype), refit)
    if refit and problem.fit_intercept:
        return with_best_intercept(problem, network)
    return _with_intercept(problem, network, solution)


def _with_intercept(
    problem: Problem, network: QuantizedNetwork, solution: Solution
) -> QuantizedNetwork:
    """Return the network with the intercept of the relaxation, if it has one."""
    if solution.intercept is None or not problem.fit_intercept:
        return network
    return dataclasses.replace(network, intercept=solution.intercept)


def with_best_intercept(problem: Problem, network: QuantizedNetwork) -> QuantizedNetwork:
    """Return the network with the intercept that is best for its neurons; on the host."""
    wide: Any = in_float64((problem, dataclasses.replace(network, intercept=None)))
    columns, loss = wide[0].columns, wide[0].loss
    weight = columns.weight / power_of_two(np.max(columns.weight))
    X: Any = np.where(weight[:, None] > 0, columns.X, 0)
    predictions = predictions_of(wide[1], X)
    with np.errstate(all="ignore"):
        if loss.couples_outputs:
            level = loss.best_intercept(predictions, columns.y, weight)
        else:
            lanes = zip(predictions.T, columns.y.T, strict=True)
            level = np.array([loss.best_intercept(*lane, weight) for lane in lanes])
    shape = network.alpha.shape[1:]
    return network.with_intercept(level.reshape(shape).astype(network.alpha.dtype))


def _packed(problem: Problem, vectors: Vectors, alpha: Array, refit: bool) -> QuantizedNetwork:
    """Return the network of Gaussian vectors: their signs, or nearest levels if α is refitted."""
    levels = problem.levels
    if refit and levels.count > 2:
        indices = [levels.indices(each) for each in vectors]
    else:
        indices = [levels.of_signs(each >= 0) for each in vectors]
    alpha = alpha if problem.y.ndim == 2 else alpha[:, 0]
    return pack(*indices, alpha=alpha, levels=levels, activation=problem.activation)


def best_alpha(core: HostCore, *vectors: NDArray) -> NDArray[np.float64]:
    """Return the best output weights (m, c) of some neurons, in the units of the problem."""
    features = core.neurons(*vectors)
    alpha = [target.best_weights(features) for target in Target.all_of(core)]
    return core.restore_alpha(np.column_stack(alpha))


def refit(problem: Problem, network: QuantizedNetwork) -> QuantizedNetwork:
    """Fit the output weights of a network, keeping its neurons.

    The α that minimizes the objective for these u and v, a LASSO, solved to a relative duality gap
    of 1e-9 (float64) or 30 eps (float32). Neurons whose α is zero for every output count as pruned
    and stay so. Works under `jit` and `vmap`.

    **Raises:** `ValueError` if network and problem do not fit together.
    """
    check_fits(problem, network)
    if network.num_neurons == 0 and not problem.fit_intercept:
        return network
    if on_host(problem, network):
        return _refit_on_host(problem, network)
    return _refit(problem, network, jnp.any(network.alpha_columns != 0, axis=1))


def _refit_on_host(problem: Problem, network: QuantizedNetwork) -> QuantizedNetwork:
    host = jax.tree.map(np.asarray, network)
    kept = np.any(host.alpha_columns != 0, axis=1)
    vectors = (weights[kept] for weights in host.vectors(np.float64))
    alpha = np.zeros(host.alpha_columns.shape)
    if np.any(kept):
        alpha[kept] = best_alpha(HostCore.of(problem), *vectors)
    alpha = alpha.reshape(network.alpha.shape).astype(problem.X.dtype)
    network = network.with_alpha(jnp.asarray(alpha))
    return with_best_intercept(problem, network) if problem.fit_intercept else network


@eqx.filter_jit
@on_any_mesh
@highest_precision
def _refit(problem: Problem, network: QuantizedNetwork, kept: Array) -> QuantizedNetwork:
    return _refitted(problem, network, kept)


def _refitted(problem: Problem, network: QuantizedNetwork, kept: Array) -> QuantizedNetwork:
    columns, dtype = problem.columns, problem.X.dtype
    # What does not count may overflow in the products.
    X = jnp.where(problem.weight[:, None] > 0, problem.X, 0)
    features = problem.activation.neurons(X, *network.vectors(dtype)) * kept[None, :].astype(dtype)
    y, weight, loss, has_intercept = columns.y, problem.weight, problem.loss, problem.fit_intercept
    if has_intercept:
        y, center, features, middle = _centered(y, weight, features, loss)
    if network.num_neurons == 0:
        alpha = jnp.zeros((0, y.shape[1]), dtype)
    elif loss.is_quadratic:
        alpha = lasso(features, y, weight, columns.beta)
    elif loss.couples_outputs:
        alpha = best_output_weights(features, y, weight, columns.beta, loss, has_intercept)
    else:

        def fit_output(y: Array, beta: Array) -> Array:
            return best_output_weights(features, y, weight, beta, loss, has_intercept)

        alpha = jax.vmap(fit_output, in_axes=(1, 0), out_axes=1)(y, columns.beta)
    single = problem.y.ndim == 1
    network = network.with_alpha(alpha[:, 0] if single else alpha)
    if not has_intercept:
        return network
    predictions, moderate = features @ alpha, weight / power_of_two(jnp.max(weight))
    if loss.couples_outputs:
        level = loss.best_intercept(predictions, y, moderate)
    else:
        level = jax.vmap(loss.best_intercept, in_axes=(1, 1, None))(predictions, y, moderate)
    intercept = center + level - middle @ alpha
    return dataclasses.replace(network, intercept=intercept[0] if single else intercept)


def _centered(
    y: Float[Array, "n c"], weight: Float[Array, " n"], features: Float[Array, "n m"], loss: Any
) -> tuple[Array, Array, Array, Array]:
    """Return targets less their centers, these, and the same of features for the squared loss."""
    moderate = weight / power_of_two(jnp.max(weight))
    y = jnp.where(moderate[:, None] > 0, y, loss.any_target)
    center = jax.vmap(loss.center, in_axes=(1, None))(y, moderate)
    middle = jnp.zeros((features.shape[1],), features.dtype)
    if loss.is_quadratic:
        middle = moderate @ features / jnp.sum(moderate)
    return y - center[None], center, features - middle[None], middle
