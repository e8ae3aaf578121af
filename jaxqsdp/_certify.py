"""The statement that everything is for: bound ≤ optimum ≤ objective of the network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike

from ._base.mesh import on_any_mesh
from ._base.text import numbers_of, outline, rounded_down, rounded_up, shape_of
from ._base.types import (
    Scalar,
    check_positive,
    highest_precision,
    host_numbers,
    in_float64,
    is_concrete,
    namespace,
    over_leading,
    tiny,
)
from ._bound.combinatorial import combinatorial_bound
from ._bound.largest import Proven
from ._bound.objective import objective_above
from ._bound.relaxation import rounded_below, scaled_dual_bound
from ._host.blas import with_one_blas_thread
from ._network.network import QuantizedNetwork, predictions_of
from ._problem.host_core import HostCore
from ._problem.problem import Problem, check_fits, check_numbers, check_single
from ._relaxation.solution import Solution, check_solution, sum_below
from ._run.on_host import solve_once
from ._search.optimum import Optimum, check_size, find_optimum, joined_dual, joined_proofs
from ._solve import solve

_ROUNDING = 1e-6  # of a gap that is told
_KINDS = ("best", "relaxation", "combinatorial")
_TOLERANCE = 1e-6  # gap at which a better bound is no longer looked for
_FEW_FEATURES = 20  # up to which "best" looks for the largest form, in a tenth of a second
_SECONDS = 60.0  # for that, where nothing else is said


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
        return percentage(float(self.gap))

    def __repr__(self) -> str:
        arrays = numbers_of(self.lower_bound, self.objective, self.gap)
        if arrays is None or any(array.ndim for array in arrays):
            shape = shape_of(self.gap)
            return (
                outline(self) if shape is None else f"Certificate({self.kind} bound, shape {shape})"
            )
        lower_bound, objective, _ = map(float, arrays)
        return (
            f"Certificate({rounded_down(lower_bound)} ≤ optimum ≤ {rounded_up(objective)}, "
            f"gap {self.percentage}, {self.kind} bound)"
        )


def percentage(gap: float) -> str:
    """Return a relative gap in words."""
    # It is itself rounded; by less than this, and 7 % are not 7.01 %.
    return "below 0.0001 %" if gap < 1e-6 else f"{rounded_up(100 * gap * (1 - _ROUNDING), 3)} %"


def certify(
    problem: Problem,
    network: QuantizedNetwork,
    solution: Solution | None = None,
    *,
    dual: ArrayLike | None = None,
    kind: Literal["best", "relaxation", "combinatorial"] = "best",
    time_limit: float | None = None,
) -> Certificate:
    """Prove how far a network, whoever trained it, can be from the global optimum.

    The bounds are for networks of any size and all weights in [−1, 1], so of any levels; with
    polynomial neurons, for weights ±1. There are two. That of the relaxation is computed from the
    problem and the dual point (λ, p) of `solution`. The combinatorial one, from λ alone, is no
    weaker but for its allowance for rounding, and needs the largest |uᵀGv| of all sign vectors; it
    is tried with λ of the solution, with the dual point −∇ℓ(f(X)) of the network, which proves it
    optimal if it is, and with `dual`; given time, with one that is looked for as `solve_exactly`
    does, and beyond 20 features with that or with `dual` alone. They are computed anew and nothing
    is believed, so a wrong or unfinished solution weakens a bound but cannot make it false.
    Rounding errors are allowed for throughout. Outside `jit` and `vmap` that is done by NumPy in
    float64, in which float32 data are exact, and nothing is compiled.

    **Arguments:**

    - `problem`: the training problem.
    - `network`: any network for it.
    - `solution`: a `Solution` of the problem; solved here if left out.
    - `dual`: another λ to try, of the shape of y, such as `solve_exactly(problem).dual`. Beyond 16
        features it is proven as it is; multiples of it might prove more.
    - `kind`: the bound. "best" is the larger one. It leaves the combinatorial one out under
        transforms, where there is none, and beyond 20 features if neither `dual` nor `time_limit`
        is given.
    - `time_limit`: seconds to look for a better bound in, the more the better. Without it a
        combinatorial bound takes a minute at most, beyond 16 features; at the end of its time it is
        what is proven by then.

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
    if time_limit is not None:
        time_limit = check_positive(time_limit, "time_limit")
    seconds = _SECONDS if time_limit is None else time_limit
    concrete = is_concrete(problem, network, solution, dual)
    if not concrete and (kind == "combinatorial" or time_limit is not None):
        name = '`kind="combinatorial"`' if time_limit is None else "`time_limit`"
        raise ValueError(f"{name} works outside `jit` and `vmap` only.")
    if not concrete:
        solution = solve(problem, throw=False) if solution is None else solution
        check_solution(problem, solution)
        return _certify(problem, network, solution.dual, solution.dual_diagonal)
    # Evaluated now even inside `jit`, which would stage what its body closes over.
    with jax.ensure_compile_time_eval():
        solution = solve_once(problem) if solution is None else solution
        check_solution(problem, solution)
        deadline = time.monotonic() + seconds
        duals, found = [] if dual is None else [dual], []
        if time_limit is not None and kind != "relaxation":
            found = _better_bound(problem, solution, time_limit)
            duals.append(joined_dual(problem, found))
        many = problem.num_lifted > _FEW_FEATURES
        kind = "relaxation" if kind == "best" and many and not duals else kind
        known = joined_proofs(found)
        return certify_on_host(problem, network, solution, duals, kind, deadline, known)


@np.errstate(all="ignore")
def certify_on_host(
    problem: Problem,
    network: QuantizedNetwork,
    solution: Solution,
    duals: list[Any],
    kind: str,
    deadline: float,
    known: Sequence[Proven] = (),
) -> Certificate:
    """Certify in float64 NumPy, in which float32 data are exact; nothing is compiled."""
    wide, narrow = in_float64((problem, network)), problem.X.dtype
    lambdas = in_float64((solution.dual, solution.dual_diagonal))
    above = objective_above(*wide)
    below: Any = -np.inf
    which = "relaxation"
    if kind != "combinatorial":
        below = _relaxation_bound(wide[0], *lambdas)
    if kind != "relaxation":
        others: list[Any] = []
        if not duals or problem.num_lifted <= _FEW_FEATURES:
            others = [lambdas[0], _network_dual(*wide)]
        bound = _combinatorial_bound(wide[0], duals, others, deadline, known)
        if kind == "combinatorial" or bound > below:
            below, which = bound, "combinatorial"
    numbers = _numbers(rounded_below(below, narrow), 0.0 - rounded_below(-above, narrow))
    lower_bound, objective, gap = (jax.device_put(np.asarray(number)) for number in numbers)
    return Certificate(lower_bound, objective, gap, which)


@eqx.filter_jit
@on_any_mesh
@highest_precision
def _certify(
    problem: Problem, network: QuantizedNetwork, dual: Array, dual_diagonal: Array
) -> Certificate:
    bound = _relaxation_bound(problem, dual, dual_diagonal)
    return Certificate(*_numbers(bound, objective_above(problem, network)), "relaxation")


def _relaxation_bound(problem: Problem, dual: Array, dual_diagonal: Array) -> Scalar:
    """Return the bound of the relaxation, summed over outputs."""
    columns, X, weight = problem.columns, problem.X, problem.weight
    c, xp, activation = columns.y.shape[1], namespace(X, dual), problem.activation
    kinds = problem.loss, activation, problem.fit_intercept
    shape = activation.layout.multiplier_shape(problem.num_lifted)

    def bound_of(y: Array, beta: Array, dual: Array, diagonal: Array) -> Scalar:
        return scaled_dual_bound(X, y, weight, beta, dual, diagonal, *kinds)

    if problem.loss.couples_outputs:
        bound = bound_of(columns.y, columns.beta, dual, dual_diagonal)
        return xp.where(problem.is_valid, bound, -xp.inf)
    points = dual.reshape(-1, c).T, dual_diagonal.reshape(c, *shape)
    bounds = over_leading(bound_of, columns.y.T, columns.beta, *points)
    return xp.where(xp.all(problem.is_valid), sum_below(bounds), -xp.inf)


def _better_bound(problem: Problem, solution: Solution, time_limit: float) -> list[Optimum]:
    """Return the optimum, or what comes nearest in time, and what proves that it does."""
    check_single(problem)
    check_numbers(problem)
    check_size(problem)
    deadline = time.monotonic() + time_limit
    found = find_optimum(HostCore.of(problem), solution, _TOLERANCE, deadline=deadline)
    if found[-1].was_interrupted:  # which a certificate does not tell
        raise KeyboardInterrupt
    return found


@with_one_blas_thread
def _combinatorial_bound(
    problem: Any, given: list[Any], others: list[Any], deadline: float, known: Sequence[Proven]
) -> np.floating:
    """Return the bound, summed over outputs, from the best of some dual points for each.

    What is given is to be proven as it is, of others the largest form is looked for.
    """
    if not np.all(problem.is_valid):
        return np.float64(-np.inf)
    columns, total = problem.columns, np.float64(0)
    kinds = problem.loss, problem.activation, problem.fit_intercept
    y, beta = columns.y, columns.beta
    if problem.loss.couples_outputs:
        data = problem.X, y, problem.weight, beta
        bounds = [
            combinatorial_bound(*data, dual, *kinds, place < len(given), deadline, known)
            for place, dual in enumerate([*given, *others])
        ]
        return np.float64(max(bounds))
    for index in range(y.shape[1]):
        data = problem.X, y[:, index], problem.weight, beta[index]
        bounds = [
            combinatorial_bound(
                *data, dual.reshape(y.shape)[:, index], *kinds, place < len(given), deadline, known
            )
            for place, dual in enumerate([*given, *others])
        ]
        best = max(bounds)
        total = np.nextafter(total + best, -np.inf) if best > 0 else total
    return total


def _network_dual(problem: Problem, network: QuantizedNetwork) -> Array:
    """Return −∇ℓ(f(X)), the dual point that belongs to a network."""
    columns = problem.columns
    predictions = predictions_of(network, problem.X)
    dual, loss = problem.loss.dual_at(predictions, columns.y, columns.weight), problem.loss
    if not problem.fit_intercept or loss.couples_outputs:
        return dual
    each = [
        loss.balanced_dual(*pair, columns.weight) for pair in zip(dual.T, columns.y.T, strict=True)
    ]
    return namespace(dual).stack(each, axis=1)


def _numbers(lower_bound: Any, objective: Any) -> tuple[Any, Any, Any]:
    """Return bound, objective and gap, which is 0 where both are."""
    xp = namespace(lower_bound, objective)
    gap = (objective - lower_bound) / xp.maximum(xp.abs(objective), tiny(objective.dtype))
    return lower_bound, objective, xp.where(xp.isfinite(objective), gap, xp.inf)
