"""From the relaxation to a network: Grothendieck's identity in Krivine's form, and a refit."""

from __future__ import annotations

import math
import operator
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray
from numpy.typing import NDArray

from ._base.cone import square_root
from ._base.mesh import on_any_mesh
from ._base.types import Scalar, check_count, check_key, highest_precision, namespace, over_leading
from ._host.programs import on_host
from ._host.random import normal_numbers
from ._network.network import QuantizedNetwork, pack
from ._problem.core import Core
from ._problem.problem import Problem, check_fits, check_single
from ._relaxation.solution import Solution, check_solution
from ._search.restricted import best_weights
from ._solver.lasso import lasso

_GAMMA = math.asinh(1.0)  # ln(1 + √2)

KRIVINE_CONSTANT = math.pi / (2 * _GAMMA)
"""K = π/(2 ln(1+√2)) = 1.78221…: p_sdp ≤ optimum ≤ K·p_sdp."""


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
    of xᵀZx. `refit` replaces that α by the best one for the neurons drawn, the minimizer of the
    objective, which is a LASSO and sets many α_j to zero (`network.prune()` removes them).

    Shapes are fixed, so this works under `jit` and `vmap`; the same key draws the same neurons
    with and without `refit`.

    **Arguments:**

    - `problem`, `solution`: the problem and its `solve`.
    - `num_neurons`: neurons drawn. With targets (n, c) this is the total; outputs get shares in
        proportion to their ρ, and the refit lets every output use every neuron.
    - `key`: a JAX random key.
    - `refit`: whether to fit α (default) or to keep the unbiased one of the paper.

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
    normal = jax.random.normal(key, (2, num_neurons, problem.num_features), problem.X.dtype)
    u, v, alpha = draw(solution, normal)
    network = pack(u >= 0, v >= 0, alpha if problem.y.ndim == 2 else alpha[:, 0])
    return _refitted(problem, network, jnp.ones((num_neurons,), bool)) if refit else network


def _round_on_host(
    problem: Problem, solution: Solution, num_neurons: int, key: PRNGKeyArray, refit: bool
) -> QuantizedNetwork:
    shape, dtype = (2, num_neurons, problem.num_features), problem.X.dtype
    alpha: Any
    u, v, alpha = draw(solution, normal_numbers(key, shape, dtype))
    if refit:
        core = Core.of(problem)
        alpha = best_alpha(core, np.where(u >= 0, 1.0, -1.0), np.where(v >= 0, 1.0, -1.0))
    alpha = alpha.astype(dtype)
    return pack(u >= 0, v >= 0, alpha if problem.y.ndim == 2 else alpha[:, 0])


def best_alpha(core: Core, u: NDArray, v: NDArray) -> NDArray[np.float64]:
    """Return the best output weights (m, c) of some neurons, in the units of the problem."""
    features = (core.X @ u.T) * (core.X @ v.T)
    outputs = zip(core.y.T, core.beta, strict=True)
    alpha = [best_weights(features, y, float(beta)) for y, beta in outputs]
    return core.restore_alpha(np.stack(alpha, axis=1))


def draw(
    solution: Solution, normal: Any
) -> tuple[Float[Array, "m d"], Float[Array, "m d"], Float[Array, "m c"]]:
    """Return (g_u, g_v) ~ N(0, S), whose signs are the neurons, and the unbiased α beside them.

    From independent normal numbers (2, m, d); on the host if these are NumPy's.
    """
    if isinstance(normal, np.ndarray):
        solution = jax.tree.map(np.asarray, solution)
    xp, num_neurons = namespace(normal), normal.shape[1]
    scale = xp.atleast_1d(solution.scale)
    c, d = scale.shape[0], solution.quadratic_form.shape[-1]
    forms = solution.quadratic_form.reshape(c, d, d)
    blocks = solution.block.reshape(c, d, d)

    def gaussians(form: Array, block: Array, scale: Scalar) -> tuple[Array, Array]:
        return _gaussians(form, block, scale, normal)

    g_u, g_v = over_leading(gaussians, forms, blocks, scale)
    owner = _shares(scale, num_neurons)
    neurons = np.arange(num_neurons)
    owned = (owner[:, None] == np.arange(c, dtype=owner.dtype)[None, :]).astype(scale.dtype)
    count = xp.maximum(xp.sum(owned, axis=0), 1)
    alpha = owned * (KRIVINE_CONSTANT * scale / count)[None, :]
    return g_u[owner, neurons], g_v[owner, neurons], alpha


def refit(problem: Problem, network: QuantizedNetwork) -> QuantizedNetwork:
    """Fit the output weights of a network, keeping its neurons.

    The α that minimizes the objective for these u and v, a LASSO, solved to a relative duality gap
    of 1e-9 (float64) or 30 eps (float32). Neurons whose α is zero for every output count as pruned
    and stay so. Works under `jit` and `vmap`.

    **Raises:** `ValueError` if network and problem do not fit together.
    """
    check_fits(problem, network)
    if network.num_neurons == 0:
        return network
    if on_host(problem, network):
        return _refit_on_host(problem, network)
    return _refit(problem, network, jnp.any(network.alpha_columns != 0, axis=1))


def _refit_on_host(problem: Problem, network: QuantizedNetwork) -> QuantizedNetwork:
    host = jax.tree.map(np.asarray, network)
    kept = np.any(host.alpha_columns != 0, axis=1)
    u, v = (np.asarray(signs, np.float64)[kept] for signs in (host.u, host.v))
    alpha = np.zeros(host.alpha_columns.shape)
    alpha[kept] = best_alpha(Core.of(problem), u, v)
    alpha = alpha.reshape(network.alpha.shape).astype(problem.X.dtype)
    return eqx.tree_at(lambda network: network.alpha, network, jnp.asarray(alpha))


@eqx.filter_jit
@on_any_mesh
@highest_precision
def _refit(problem: Problem, network: QuantizedNetwork, kept: Array) -> QuantizedNetwork:
    return _refitted(problem, network, kept)


def _refitted(problem: Problem, network: QuantizedNetwork, kept: Array) -> QuantizedNetwork:
    columns, dtype = problem.columns, problem.X.dtype
    u, v = network.u.astype(dtype), network.v.astype(dtype)
    # What does not count may overflow in the products.
    X = jnp.where(problem.weight[:, None] > 0, problem.X, 0)
    features = (X @ u.T) * (X @ v.T) * kept[None, :].astype(dtype)
    alpha = lasso(features, columns.y, problem.weight, columns.beta)
    alpha = alpha if problem.y.ndim == 2 else alpha[:, 0]
    return eqx.tree_at(lambda network: network.alpha, network, alpha)


def _gaussians(
    form: Float[Array, "d d"],
    block: Float[Array, "d d"],
    scale: Scalar,
    normal: Float[Array, "2 m d"],
) -> tuple[Float[Array, "m d"], Float[Array, "m d"]]:
    """Draw (g_u, g_v) for one output, of unit variance.

    S has the invariant subspaces (x, ±x), so two d × d factors T± = sinh γV_s ± sin γZ_s do.
    """
    xp = namespace(form, normal)
    positive = scale > 0
    divisor = xp.where(positive, scale, 1)
    identity = xp.eye(form.shape[0], dtype=form.dtype)
    within = xp.sinh(_GAMMA * xp.where(positive, block / divisor, identity))
    across = xp.sin(_GAMMA * form / divisor)
    even = normal[0] @ square_root(within + across)
    odd = normal[1] @ square_root(within - across)
    return (even + odd) / 2**0.5, (even - odd) / 2**0.5


def _shares(scale: Float[Array, " c"], num_neurons: int) -> Array:
    """Return which output each neuron is drawn for, in proportion to ρ."""
    xp = namespace(scale)
    cumulative = xp.cumsum(scale)
    total = xp.where(cumulative[-1] > 0, cumulative[-1], 1)
    position = (xp.arange(num_neurons, dtype=scale.dtype) + 0.5) / num_neurons
    owner = xp.searchsorted(cumulative / total, position, side="right")
    return xp.clip(owner, 0, scale.shape[0] - 1)
