"""The statement that everything is for: bound ≤ optimum ≤ objective of the network."""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from ._bound import scaled_dual_bound
from ._network import QuantizedNetwork
from ._problem import Problem, check_fits
from ._solution import Solution, check_solution, sum_below
from ._solve import solve
from ._types import Scalar, epsilon, highest_precision, is_concrete, tiny


class Certificate(eqx.Module):
    """A proof that no network is better than `lower_bound`, beside one that has `objective`.

    **Attributes:**

    - `lower_bound`: a true lower bound on the optimum of the training problem, rounded down.
    - `objective`: the objective of the network certified, rounded up.
    - `gap`: (objective − lower_bound) / max(|objective|, tiny).
    - `kind`: which bound it is: "relaxation", the semidefinite relaxation's.
    """

    lower_bound: Scalar
    objective: Scalar
    gap: Scalar
    kind: str = eqx.field(static=True)

    def __repr__(self) -> str:
        if not is_concrete(self) or self.gap.ndim > 0:
            return f"Certificate({self.kind} bound, shape {self.gap.shape})"
        return (
            f"Certificate({self.lower_bound:.7g} ≤ optimum ≤ {self.objective:.7g}, "
            f"gap {100 * self.gap:.3g} %, {self.kind} bound)"
        )


def certify(
    problem: Problem, network: QuantizedNetwork, solution: Solution | None = None
) -> Certificate:
    """Prove how far a network, whoever trained it, can be from the global optimum.

    The bound is computed anew from the problem and the dual point (λ, p) of `solution`; nothing
    else in `solution` is believed, so a wrong or unfinished one weakens the bound but cannot make
    it false. Rounding errors are allowed for throughout. Float32 data outside `jit` and `vmap` are
    certified in float64, in which they are exact.

    **Arguments:**

    - `problem`: the training problem.
    - `network`: any network for it.
    - `solution`: a `Solution` of the problem; solved here if left out.

    **Raises:** `ValueError` if shapes do not fit together.
    """
    check_fits(problem, network)
    if solution is None:
        solution = solve(problem, throw=False)
    check_solution(problem, solution)
    arguments = (problem, network, solution.dual, solution.dual_diagonal)
    host = _host_device()
    if not is_concrete(arguments) or problem.X.dtype != jnp.float32 or host is None:
        return _certify(*arguments)
    # Evaluated now even inside `jit`, which would stage what its body closes over.
    with jax.ensure_compile_time_eval():
        with jax.enable_x64(True), jax.default_device(host):
            wide = _certify(*jax.tree.map(_widened, arguments))
            bounds = np.float64(wide.lower_bound), np.float64(wide.objective)
        lower_bound, objective = _outward(*bounds)
        return _assemble(jnp.asarray(lower_bound), jnp.asarray(objective))


@eqx.filter_jit
@highest_precision
def _certify(
    problem: Problem, network: QuantizedNetwork, dual: Array, dual_diagonal: Array
) -> Certificate:
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
    valid = jnp.all(problem.is_valid)
    objective = jnp.sum(_objective_above(columns, network))
    objective = jnp.where(jnp.isfinite(objective), objective, jnp.inf)
    return _assemble(jnp.where(valid, sum_below(bounds), -jnp.inf), objective)


def _assemble(lower_bound: Array, objective: Array) -> Certificate:
    gap = (objective - lower_bound) / jnp.maximum(jnp.abs(objective), tiny(objective.dtype))
    gap = jnp.where(jnp.isfinite(objective), gap, jnp.inf)
    return Certificate(lower_bound, objective, gap, kind="relaxation")


def _objective_above(columns: Problem, network: QuantizedNetwork) -> Scalar:
    """Return the objective, summed over outputs, rounded up.

    |fl(f(x)) − f(x)| ≤ γ · ‖x‖₁² Σ_j |α_j|, γ counting the roundings of two inner products of
    length d, their product and a sum over m neurons. What underflows, inputs included, is below the
    smallest normal number in each factor or product.
    """
    X, y, weight = columns.X, columns.y, columns.weight[:, None]
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
    return (loss + penalty) * (1 + (n + m + c + 12) * eps)


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
