"""The regularization path: one problem, solved for many penalties at once."""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from .._base.plot import axes_for, finished
from .._base.text import is_traced, numbers_of, outline, rounded_down, shape_of
from .._base.types import (
    as_float_array,
    cast,
    check_count,
    check_positive,
    is_concrete,
    namespace,
    over_leading,
)
from .._host.programs import on_host
from .._loss.base import AbstractLoss
from .._problem.problem import Problem
from .._relaxation.solution import Solution, Stats, outputs_first
from .._relaxation.status import Status
from .._solve import solve
from .._solver import AbstractSolver
from .beta_max import beta_max
from .data import check_one_target, data_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_ROWS = 10  # of the table that a path prints


class Path(eqx.Module):
    """Solutions of the relaxation for k penalties, from the largest down.

    **Attributes:**

    - `problems`: the `Problem` with y repeated in k columns, and one penalty each.
    - `solutions`: its `Solution`, one output per penalty.
    - `betas`, `value`, `lower_bound`, `scale` (k,): the penalties, descending, and ρ.
    - `loss` (k,): the data term ℓ(ŷ, y) = value − βρ.
    - `quadratic_form` (k, d, d), `predictions` (n, k), `status` and `stats`.

    With a loss that couples c outputs, `problems` has y (n, c) once, and `solutions` is a stack of
    those of k problems: `scale` is (k, c), `quadratic_form` (k, c, d, d), `predictions` (k, n, c).
    """

    problems: Problem
    solutions: Solution

    @property
    def betas(self) -> Float[Array, " k"]:
        """The penalties, descending."""
        return self.problems.beta

    @property
    def value(self) -> Float[Array, " k"]:
        """Objectives of the relaxation, each of a feasible point."""
        return self.solutions.value

    @property
    def lower_bound(self) -> Float[Array, " k"]:
        """Proven lower bounds on the training problem."""
        return self.solutions.lower_bound

    @property
    def scale(self) -> Float[Array, " k"]:
        """ρ, which the penalty multiplies."""
        return self.solutions.scale

    @property
    def loss(self) -> Float[Array, " k"]:
        """The data term of the value."""
        if self.betas.ndim > 1:
            losses: Float[Array, "*b k"] = over_leading(lambda path: path.loss, self)
            return losses
        y, weight, loss = self.problems.y, self.problems.weight[:, None], self.problems.loss
        xp = namespace(self.predictions, y, weight)
        if loss.couples_outputs:
            each = loss.value(self.predictions, xp.broadcast_to(y, self.predictions.shape)).T
        else:
            each = loss.value(self.predictions, y)
        # Where samples do not count predictions may overflow.
        return xp.sum(xp.where(weight > 0, weight * each, 0), axis=0)

    @property
    def quadratic_form(self) -> Float[Array, "k d d"]:
        """Z of each penalty."""
        return self.solutions.quadratic_form

    @property
    def predictions(self) -> Float[Array, "n k"]:
        """ŷ of each penalty, as columns."""
        return self.solutions.predictions

    @property
    def status(self) -> Status:
        """How each solve ended; look here, as a path does not raise."""
        return self.solutions.status

    @property
    def stats(self) -> Stats:
        """Steps, certified gap and residual of each solve."""
        return self.solutions.stats

    def problem(self, index: int) -> Problem:
        """Return the problem of one penalty, such as `round` and `certify` take."""
        index, problems = self._checked(index), self.problems
        y = problems.y if problems.loss.couples_outputs else problems.y[:, index]
        return dataclasses.replace(problems, y=y, beta=problems.beta[index])

    def solution(self, index: int) -> Solution:
        """Return the solution of one penalty, of the shapes that `solve` gives for its problem."""
        index, solutions = self._checked(index), self.solutions
        lanes = solutions if self.problems.loss.couples_outputs else outputs_first(solutions)
        return jax.tree.map(operator.itemgetter(index), lanes)

    def plot(self, ax: Axes | None = None) -> Axes:
        """Plot value, lower bound, loss and scale against β; return the axes of the first three.

        **Raises:** `ImportError` without matplotlib, which the `demo` extra brings.
        """
        return plot_path(self, ax)

    def _checked(self, index: int) -> int:
        if self.betas.ndim > 1:
            raise ValueError("The path is stacked; take one apart under `jax.vmap`.")
        index, count = operator.index(index), len(self)
        if not -count <= index < count:
            raise IndexError(f"`index` is {index}, but the path has {count} penalties.")
        return index

    def __len__(self) -> int:
        return self.problems.beta.shape[-1]

    def __repr__(self) -> str:
        if is_traced(self):
            return "Path(traced)"
        if not isinstance(self.problems, Problem) or not isinstance(self.solutions, Solution):
            return outline(self)
        shape = shape_of(self.betas) or ()
        if len(shape) > 1:
            return f"Path(stacked={shape[:-1]}, {len(self)} betas)"
        stats = self.solutions.stats
        vectors = numbers_of(self.betas, self.value, self.lower_bound, stats.gap)
        tables = numbers_of(self.problems.y, self.predictions, self.scale)
        if vectors is None or tables is None or shape_of(self.problems.X) is None:
            return outline(self)
        coupled = self.problems.loss.couples_outputs
        counts = [array.shape[-1:] for array in [*vectors, *(() if coupled else tables)]]
        if len(shape) != 1 or any(count != shape for count in counts):
            return outline(self)
        columns = {
            "beta": self.betas,
            "value": self.value,
            "lower bound": self.lower_bound,
            "loss": jax.device_get(self).loss,  # without a program for it
            "scale": _total_scale(self),
            "gap": self.stats.gap,
        }
        rows = np.unique(np.linspace(0, len(self) - 1, _ROWS).round().astype(int))
        lines = ["".join(f"{name:>12}" for name in columns)]
        table = np.stack([np.asarray(column, float) for column in columns.values()], axis=1)
        bound = list(columns).index("lower bound")
        for *row, gap in table[rows]:
            texts = [f"{number:.5g}" for number in row]
            texts[bound] = rounded_down(row[bound], 5)
            lines.append("".join(f"{text:>12}" for text in texts) + f"{gap:>12.1e}")
        some = "" if len(rows) == len(self) else f", {len(rows)} of them below"
        return f"Path({len(self)} betas{some}: {self.solutions!r}\n" + "\n".join(lines) + "\n)"


def path(
    X: ArrayLike | Problem,
    y: ArrayLike | None = None,
    betas: ArrayLike | None = None,
    *,
    loss: AbstractLoss | None = None,
    sample_weight: ArrayLike | None = None,
    num_betas: int = 30,
    ratio: float = 1e-3,
    solver: AbstractSolver | None = None,
    max_steps: int | None = None,
) -> Path:
    """Solve the relaxation for a grid of penalties that share X and its factorization.

    It is one problem whose outputs are copies of y, or with a loss that couples outputs one problem
    for each penalty, which all outputs share. Never raises `SolveError`: how each penalty ended is
    in `Path.status`, and the bounds hold in any case. Works under `jit` and `vmap`.

    **Arguments:**

    - `X`, `y`, `loss`, `sample_weight`: as those of `Problem`, with y of shape (n,) unless the loss
        couples outputs; or a `Problem` in place of X, whose penalty does not matter.
    - `betas`: penalties (k,) in any order. Default: `num_betas` from β_max, the `beta_max` of the
        data, where ρ = 0, down to `ratio`·β_max in equal ratios.
    - `num_betas`, `ratio`: of the default grid; 0 < ratio < 1.
    - `solver`, `max_steps`: as those of `solve`.

    **Raises:** `TypeError` or `ValueError` naming the argument.

    Example: `qs.path(problem, betas=[1.0, 0.1])`.
    """
    problem = data_of(X, y, loss, sample_weight)
    check_one_target(problem)
    largest = functools.partial(beta_max, problem)
    grid = grid_of(betas, num_betas, ratio, problem.X.dtype, largest)
    of = functools.partial(solve, solver=solver, max_steps=max_steps, throw=False)
    if problem.loss.couples_outputs:
        lanes: Any = np.asarray(grid) if on_host(problem, grid) else grid
        solutions = jax.device_put(solutions_at(problem, lanes, of))
        return Path(problem.with_numbers(beta=grid), solutions)
    problems = repeated(problem, grid)
    return Path(problems, of(problems))


def solutions_at(
    problem: Problem, betas: Float[Array, " k"], solve: Callable[[Problem], Solution]
) -> Solution:
    """Solve for one penalty after the other, which a loss that couples outputs needs: a stack.

    All outputs of a problem have the penalty.
    """
    return over_leading(lambda beta: solve(problem.with_numbers(beta=beta)), betas)


def repeated(problem: Problem, betas: Float[Array, " k"]) -> Problem:
    """Return the problem with all its targets for one penalty after the other, k·c columns."""
    xp, columns = namespace(problem.y, betas), problem.columns.y
    k, c = betas.shape[0], columns.shape[1]
    return problem.with_numbers(y=xp.tile(columns, (1, k)), beta=xp.repeat(betas, c))


def grid_of(
    betas: ArrayLike | None,
    num_betas: int,
    ratio: float,
    dtype: Any,
    largest: Callable[[], Float[Array, "*s"]],
) -> Float[Array, "*s k"]:
    """Return the penalties given, checked and in descending order, or the default grid.

    That starts at each of the `largest`, which is called only if need be.
    """
    if betas is not None:
        grid = cast(as_float_array(betas, "betas"), dtype, "betas")
        if grid.ndim != 1 or grid.size == 0:
            raise ValueError(
                f"`betas` must have shape (k,) with k ≥ 1, got {grid.shape}; for one penalty call "
                "`solve`."
            )
        if is_concrete(grid) and not np.all(np.isfinite(grid) & (np.asarray(grid) > 0)):
            raise ValueError(f"`betas` must be positive and finite, got {grid}.")
        return -jnp.sort(-grid)
    check_count(num_betas, "num_betas")
    ratio = check_positive(ratio, "ratio")
    if not ratio < 1:
        raise ValueError(f"`ratio` must be a number between 0 and 1, got {ratio!r}.")
    top = largest()
    if is_concrete(top) and not np.all(np.asarray(top) > 0):
        raise ValueError(
            "`betas` has no default here: Xᵀ diag(∇ℓ(0)) X is zero, so the best network is zero "
            "for every penalty. Check `y`, or pass `betas`."
        )
    exponents = np.linspace(0, 1, operator.index(num_betas))
    return jnp.multiply.outer(top, jnp.asarray(ratio**exponents, dtype))


def _total_scale(path: Path) -> np.ndarray:
    """Return ρ of each penalty, summed over outputs if the loss couples several."""
    scale = np.asarray(path.scale)
    return scale.sum(axis=-1) if path.problems.loss.couples_outputs else scale


def plot_path(path: Path, ax: Axes | None = None) -> Axes:
    """Plot value, bound and loss of a path, and its scale on a second axis."""
    ax = axes_for(ax)
    betas = np.asarray(path.betas)
    ax.plot(betas, np.asarray(path.value), color="C0", label="value of the relaxation")
    ax.plot(betas, np.asarray(path.lower_bound), "--", color="C3", label="proven lower bound")
    ax.plot(betas, jax.device_get(path).loss, color="C1", label="loss")
    ax.set_ylim(bottom=0)
    ax.set_ylabel("objective and loss")
    twin = ax.twinx()
    twin.plot(betas, _total_scale(path), ":", color="C2", label="scale ρ (right)")
    twin.set_ylim(bottom=0)
    twin.set_ylabel("scale ρ")
    twin.spines["top"].set_visible(False)
    return finished(ax, handles=[*ax.get_lines(), *twin.get_lines()])
