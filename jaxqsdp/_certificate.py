"""The statement that everything is for: bound ≤ optimum ≤ objective of the network."""

from __future__ import annotations

from typing import Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike

from ._bound import scaled_dual_bound
from ._combinatorial import combinatorial_bound
from ._network import QuantizedNetwork
from ._pricing import MOST_FEATURES
from ._problem import Problem, check_fits
from ._solution import Solution, check_solution, sum_below
from ._solve import solve
from ._types import Scalar, epsilon, highest_precision, host_numbers, is_concrete, tiny

_KINDS = ("best", "relaxation", "combinatorial")
_FEW_FEATURES = 20  # up to which "best" enumerates sign vectors, in a tenth of a second


class Certificate(eqx.Module):
    """A proof that no network is better than `lower_bound`, beside one that has `objective`.

    **Attributes:**

    - `lower_bound`: a true lower bound on the optimum of the training problem, rounded down.
    - `objective`: the objective of the network certified, rounded up.
    - `gap`: (objective − lower_bound) / max(|objective|, tiny).
    - `kind`: which bound it is: "relaxation", of the semidefinite relaxation, or "combinatorial",
        of the training problem itself.
    """

    lower_bound: Scalar
    objective: Scalar
    gap: Scalar
    kind: str = eqx.field(static=True)

    @property
    def percentage(self) -> str:
        """The gap in words."""
        return "below 0.0001 %" if self.gap < 1e-6 else f"{100 * self.gap:.3g} %"

    def __repr__(self) -> str:
        if not is_concrete(self) or self.gap.ndim > 0:
            return f"Certificate({self.kind} bound, shape {self.gap.shape})"
        return (
            f"Certificate({self.lower_bound:.7g} ≤ optimum ≤ {self.objective:.7g}, "
            f"gap {self.percentage}, {self.kind} bound)"
        )


def certify(
    problem: Problem,
    network: QuantizedNetwork,
    solution: Solution | None = None,
    *,
    dual: ArrayLike | None = None,
    kind: Literal["best", "relaxation", "combinatorial"] = "best",
) -> Certificate:
    """Prove how far a network, whoever trained it, can be from the global optimum.

    There are two bounds. That of the relaxation is computed from the problem and the dual point
    (λ, p) of `solution`. The combinatorial one, from λ alone, is no weaker but for its allowance
    for rounding, and needs all 2^(d−1) sign vectors; it is tried with λ of the solution, with the
    residual of the network, which proves it optimal if it is, and with `dual`. They are computed
    anew and nothing is believed, so
    a wrong or unfinished solution weakens a bound but cannot make it false. Rounding errors are
    allowed for throughout. Float32 data outside `jit` and `vmap` are certified in float64, in which
    they are exact.

    **Arguments:**

    - `problem`: the training problem.
    - `network`: any network for it.
    - `solution`: a `Solution` of the problem; solved here if left out.
    - `dual`: another λ to try, of the shape of y, such as `solve_exactly(problem).dual`.
    - `kind`: the bound. "best" is the larger one. It leaves the combinatorial one out under
        transforms, where there is none, and beyond 20 features, 26 if `dual` is given.

    **Raises:** `ValueError` naming the argument.
    """
    check_fits(problem, network)
    if kind not in _KINDS:
        raise ValueError(f"`kind` must be one of {_KINDS}, got {kind!r}.")
    if dual is not None and is_concrete(dual):
        dual = host_numbers(dual, "dual").astype(np.float64)
    if dual is not None and np.shape(dual) != problem.y.shape:
        raise ValueError(
            f"`dual` must have the shape of y, {problem.y.shape}, got {np.shape(dual)}."
        )
    if kind == "combinatorial" and problem.num_features > MOST_FEATURES:
        raise ValueError(
            f'`kind="combinatorial"` takes at most {MOST_FEATURES} features, `problem` has '
            f"{problem.num_features}."
        )
    concrete = is_concrete(problem, network, solution, dual)
    if kind == "combinatorial" and not concrete:
        raise ValueError('`kind="combinatorial"` works outside `jit` and `vmap` only.')
    if not concrete:
        solution = solve(problem, throw=False) if solution is None else solution
        check_solution(problem, solution)
        return _certify(problem, network, solution.dual, solution.dual_diagonal)
    # Evaluated now even inside `jit`, which would stage what its body closes over.
    with jax.ensure_compile_time_eval():
        solution = solve(problem, throw=False) if solution is None else solution
        check_solution(problem, solution)
        relaxed = _certify_on_host(problem, network, solution)
        many = problem.num_features > (_FEW_FEATURES if dual is None else MOST_FEATURES)
        if kind == "relaxation" or (kind == "best" and many):
            return relaxed
        duals: list[ArrayLike] = [solution.dual, _network_residual(problem, network)]
        bound = _combinatorial_bound(problem, duals if dual is None else [*duals, dual])
        if kind == "best" and not bound > relaxed.lower_bound:
            return relaxed
        return _assemble(jnp.asarray(bound), relaxed.objective, "combinatorial")


def _certify_on_host(
    problem: Problem, network: QuantizedNetwork, solution: Solution
) -> Certificate:
    """Certify float32 data in float64, on the CPU if there is one."""
    arguments = (problem, network, solution.dual, solution.dual_diagonal)
    host = _host_device()
    if problem.X.dtype != jnp.float32 or host is None:
        return _certify(*arguments)
    with jax.enable_x64(True), jax.default_device(host):
        wide = _certify(*jax.tree.map(_widened, arguments))
        bounds = np.float64(wide.lower_bound), np.float64(wide.objective)
    lower_bound, objective = _outward(*bounds)
    return _assemble(jnp.asarray(lower_bound), jnp.asarray(objective))


def _certify(
    problem: Problem, network: QuantizedNetwork, dual: Array, dual_diagonal: Array
) -> Certificate:
    # Two programs: networks of another size need only the second one anew.
    bound = _relaxation_bound(problem, dual, dual_diagonal)
    return _assemble(bound, _objective_above(problem, network))


@eqx.filter_jit
@highest_precision
def _relaxation_bound(problem: Problem, dual: Array, dual_diagonal: Array) -> Scalar:
    columns = problem.columns
    c = columns.y.shape[1]
    bounds = jax.vmap(scaled_dual_bound, in_axes=(None, 1, None, 0, 1, 0))(
        problem.X,
        columns.y,
        problem.weight,
        columns.beta,
        dual.reshape(-1, c),
        dual_diagonal.reshape(c, -1),
    )
    return jnp.where(jnp.all(problem.is_valid), sum_below(bounds), -jnp.inf)


def _combinatorial_bound(problem: Problem, duals: list[ArrayLike]) -> np.floating:
    """Return the bound, summed over outputs, from the best of some dual points for each."""
    columns = problem.columns
    X, y, weight, beta = (
        np.asarray(a) for a in (columns.X, columns.y, columns.weight, columns.beta)
    )
    if not bool(np.all(np.asarray(problem.is_valid))):
        return X.dtype.type(-np.inf)
    total = np.float64(0)
    for index in range(y.shape[1]):
        points = [np.asarray(dual).reshape(y.shape)[:, index] for dual in duals]
        best = max(
            combinatorial_bound(X, y[:, index], weight, float(beta[index]), point)
            for point in points
        )
        total = np.nextafter(total + best, -np.inf) if best > 0 else total
    return _outward(total, np.float64(0))[0] if X.dtype == np.float32 else total


def _network_residual(problem: Problem, network: QuantizedNetwork) -> Array:
    """Return w·(y − f(X)), the dual point that belongs to a network."""
    columns = problem.columns
    predictions = jax.vmap(network)(columns.X).reshape(columns.y.shape)
    return (columns.weight[:, None] * (columns.y - predictions)).reshape(problem.y.shape)


def _assemble(lower_bound: Array, objective: Array, kind: str = "relaxation") -> Certificate:
    gap = (objective - lower_bound) / jnp.maximum(jnp.abs(objective), tiny(objective.dtype))
    gap = jnp.where(jnp.isfinite(objective), gap, jnp.inf)
    return Certificate(lower_bound, objective, gap, kind)


@eqx.filter_jit
@highest_precision
def _objective_above(problem: Problem, network: QuantizedNetwork) -> Scalar:
    """Return the objective, summed over outputs, rounded up.

    |fl(f(x)) − f(x)| ≤ γ · ‖x‖₁² Σ_j |α_j|, γ counting the roundings of two inner products of
    length d, their product and a sum over m neurons. What underflows, inputs included, is below the
    smallest normal number in each factor or product.
    """
    columns = problem.columns
    weight = columns.weight[:, None]
    X, y = (jnp.where(weight > 0, array, 0) for array in (columns.X, columns.y))
    alpha, (n, d) = network.alpha_columns.astype(X.dtype), X.shape
    m, c = alpha.shape
    eps, least = epsilon(X.dtype), tiny(X.dtype)

    hidden = (X @ network.u.astype(X.dtype).T) * (X @ network.v.astype(X.dtype).T)
    mass = (jnp.sum(jnp.abs(alpha), axis=0) + m * least)[None, :]
    reach = jnp.sum(jnp.abs(X), axis=1)[:, None] + d * least
    underflow = least * (1 + m + mass * (1 + 2 * d * reach) + m * reach * reach)
    error = (2 * d + m + 8) * eps * reach * reach * mass + underflow
    residual = jnp.abs(hidden @ alpha - y) * (1 + 2 * eps) + error
    loss = jnp.sum(0.5 * (weight + least) * jnp.square(residual) + least * (1 + weight))
    penalty = jnp.sum((columns.beta[None, :] + least) * mass + m * least)
    objective = (loss + penalty) * (1 + (n * c + m + c + 12) * eps)
    return jnp.where(jnp.isfinite(objective), objective, jnp.inf)


def _host_device() -> jax.Device | None:
    """Return a CPU device, which has float64, unless the process was told not to load one."""
    try:
        return jax.local_devices(backend="cpu")[0]
    except RuntimeError:
        return None


def _widened(leaf: Array) -> Array:
    array = np.asarray(leaf)
    return jnp.asarray(array.astype(np.float64) if array.dtype == np.float32 else array)


def _outward(lower_bound: np.float64, objective: np.float64) -> tuple[np.float32, np.float32]:
    """Round to float32, the bound down and the objective up."""
    with np.errstate(over="ignore"):
        low, high = np.float32(lower_bound), np.float32(objective)
    if low > lower_bound:
        low = np.nextafter(low, np.float32(-np.inf))
    if high < objective:
        high = np.nextafter(high, np.float32(np.inf))
    return low, high
