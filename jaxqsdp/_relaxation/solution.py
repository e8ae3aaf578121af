"""What `solve` returns."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from .._base.enumeration import count_items
from .._base.text import is_traced, numbers_of, outline, rounded_down, shape_of
from .._base.types import Scalar, epsilon, namespace
from .._problem.problem import Problem
from .status import Status


def has_status(solution: Solution, status: Status) -> np.ndarray:
    """Whether each output of a concrete solution has a status; with nothing to compile."""
    found, sought = (np.asarray(*jax.tree.leaves(each)) for each in (solution.status, status))
    return found == sought


class Stats(eqx.Module):
    """What the solver measured. `gap` is certified: it uses the rigorous lower bound."""

    num_steps: Int[Array, ""] | Int[Array, " c"]
    gap: Float[Array, ""] | Float[Array, " c"]
    residual: Float[Array, ""] | Float[Array, " c"]


class Solution(eqx.Module):
    """A feasible point of the relaxation, a proven lower bound, and the dual point that proves it.

    `value`, `quadratic_form`, `scale`, `gram` and `predictions` belong to one feasible point, with
    diag(gram) = scale exactly, so p_sdp ≤ `value` up to the rounding of its own evaluation.
    `lower_bound` is rounded outward: it is a true lower bound on p_sdp and on the optimum of the
    training problem. A lane with invalid data has value +inf, bound −inf and zeros elsewhere.

    With targets (n, c) the leading axis of every field is c, save `predictions` and `dual` (n, c).
    If the loss couples outputs, as `SoftmaxLoss` does, they are one problem with one `value`,
    `lower_bound`, `status` and `stats`.

    **Attributes:**

    - `value`: ℓ(ŷ, y) + βρ.
    - `lower_bound`: from (λ, p), see `jaxqsdp.certify`.
    - `quadratic_form`: Z (d, d), predicting ŷ = xᵀZx with bilinear neurons.
    - `scale`: ρ, the max-norm of Z or more.
    - `gram`: Q = [[V, Z], [Z, V]] (2d, 2d), positive semidefinite.
    - `dual`: λ (n,), at the optimum −∇ℓ(ŷ), for the squared loss w·(y − ŷ).
    - `dual_diagonal`: p (d,), with Diag(p) ± Xᵀdiag(λ)X ⪰ 0 and Σp = β at an optimum with ρ > 0.
    - `predictions`: ŷ (n,).
    - `intercept`: of a problem with `fit_intercept`, what ŷ has besides; else None.
    - `status`: a `Status`.
    - `stats`: `num_steps`, certified relative `gap`, `residual`.

    With `Polynomial` neurons Z and V are (d + 1, d + 1), of the weights (u, 1): Z is P − N and V is
    P + N, ρ = ρ₊ + ρ₋, and the diagonal of Z is ρ₊ − ρ₋; p is (2, d + 1), one for each of P and N.
    """

    value: Float[Array, ""] | Float[Array, " c"]
    lower_bound: Float[Array, ""] | Float[Array, " c"]
    quadratic_form: Float[Array, "d d"] | Float[Array, "c d d"]
    scale: Float[Array, ""] | Float[Array, " c"]
    gram: Float[Array, "e e"] | Float[Array, "c e e"]
    dual: Float[Array, " n"] | Float[Array, "n c"]
    dual_diagonal: Float[Array, " d"] | Float[Array, "c d"]
    predictions: Float[Array, " n"] | Float[Array, "n c"]
    intercept: Float[Array, ""] | Float[Array, " c"] | None
    status: Status
    stats: Stats

    multi_output: bool = eqx.field(static=True)

    @property
    def block(self) -> Float[Array, "d d"] | Float[Array, "c d d"]:
        """V, the diagonal block of `gram`."""
        d = self.quadratic_form.shape[-1]
        return self.gram[..., :d, :d]

    @property
    def total_value(self) -> Scalar:
        """`value` summed over outputs."""
        return jnp.sum(self.value, axis=-1) if self._is_separate else self.value

    @property
    def total_lower_bound(self) -> Scalar:
        """`lower_bound` summed over outputs, rounded down."""
        return sum_below(self.lower_bound) if self._is_separate else self.lower_bound

    @property
    def _is_separate(self) -> bool:
        """Whether there are several outputs, each a problem of its own."""
        return self.value.ndim == self.scale.ndim and self.multi_output

    def __repr__(self) -> str:
        if is_traced(self):
            return "Solution(traced)"
        gap, num_steps = (getattr(self.stats, name, None) for name in ("gap", "num_steps"))
        arrays = numbers_of(self.value, self.lower_bound, gap, num_steps)
        counts = count_items(Status, self.status)
        if arrays is None or counts is None or 0 in [array.size for array in arrays]:
            return outline(self)
        value, lower_bound, gaps, steps = arrays
        many = any(array.ndim > 0 for array in arrays)
        status = ", ".join(
            f"{name} ×{count}" if many else name for name, count in counts.items() if count
        )
        if many:
            numbers = (
                f"{value.size} values, largest gap={float(np.max(gaps)):.1e}, "
                f"most steps={np.max(steps)}"
            )
        else:
            numbers = (
                f"value={float(value):.8g}, lower_bound={rounded_down(float(lower_bound), 8)}, "
                f"gap={float(gaps):.1e}, steps={steps}"
            )
        *_, d = shape_of(self.quadratic_form) or ("?",)
        return f"Solution({status}: {numbers}, d={d}, {value.dtype})"


def outputs_first(solution: Solution) -> Solution:
    """One lane per output: λ and ŷ (n, c) become (c, n)."""
    return dataclasses.replace(
        solution, dual=solution.dual.T, predictions=solution.predictions.T, multi_output=False
    )


def outputs_last(lanes: Solution) -> Solution:
    """Inverse of `outputs_first`."""
    return dataclasses.replace(outputs_first(lanes), multi_output=True)


def solution_like(problem: Problem) -> Solution:
    """Return what a solution of a problem looks like, of `jax.ShapeDtypeStruct`."""
    n, d, outputs, dtype = len(problem.y), problem.num_lifted, problem.y.shape[1:], problem.y.dtype
    is_coupled = problem.loss.couples_outputs

    def numbers(*shape: int, outputs: tuple[int, ...] = outputs) -> Any:
        return jax.ShapeDtypeStruct((*outputs, *shape), dtype)

    problems = () if is_coupled else outputs

    def integers() -> Any:
        return jax.ShapeDtypeStruct(problems, np.int32)

    one = numbers(outputs=problems)
    samples = numbers(n, *outputs, outputs=())
    return Solution(
        value=one,
        lower_bound=one,
        quadratic_form=numbers(d, d),
        scale=numbers(),
        gram=numbers(2 * d, 2 * d),
        dual=samples,
        dual_diagonal=numbers(*problem.activation.layout.multiplier_shape(d)),
        predictions=samples,
        intercept=numbers() if problem.fit_intercept else None,
        status=jax.tree.map(lambda _: integers(), Status.solved),
        stats=Stats(integers(), one, one),
        multi_output=bool(outputs),
    )


def sum_below(bounds: Float[Array, " c"]) -> Scalar:
    """Sum over the last axis, rounded down."""
    eps = epsilon(bounds.dtype)
    xp, largest = namespace(bounds), float(jnp.finfo(bounds.dtype).max)
    # Finite bounds may add up to more than the dtype holds; its largest number is a bound, too.
    total = xp.minimum(xp.sum(bounds, axis=-1), largest)
    size = xp.minimum(xp.sum(xp.abs(bounds), axis=-1), largest)
    return xp.where(xp.isfinite(total), total - bounds.shape[-1] * eps * size, total)


def check_solution(problem: Problem, solution: Solution, name: str = "solution") -> None:
    """Raise `TypeError` or `ValueError` unless it is a solution with the shapes of the problem."""
    if not isinstance(solution, Solution):
        raise TypeError(f"`{name}` must be a `Solution`, got {type(solution).__name__}.")
    d = problem.num_lifted
    has = (solution.dual.shape, solution.quadratic_form.shape[-2:])
    shape = problem.activation.layout.multiplier_shape(d)
    is_of_others = solution.dual_diagonal.shape[problem.y.ndim - 1 :] != shape
    if has == (problem.y.shape, (d, d)) and is_of_others:
        raise ValueError(
            f"`{name}` is for other neurons than those of `problem`, {problem.activation!r}: its "
            f"`dual_diagonal` has shape {solution.dual_diagonal.shape}."
        )
    if (solution.intercept is None) == problem.fit_intercept:
        raise ValueError(
            f"`{name}` is of a problem with `fit_intercept={not problem.fit_intercept}`, `problem` "
            f"has `fit_intercept={problem.fit_intercept}`."
        )
    if has != (problem.y.shape, (d, d)):
        raise ValueError(
            f"`{name}` is for y of shape {has[0]} and Z of shape {has[1]}, but `problem`, of "
            f"{problem.num_features} features, has y of shape {problem.y.shape} and Z of shape "
            f"{(d, d)}."
        )
