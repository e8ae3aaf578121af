"""The data for which a penalty is sought."""

from __future__ import annotations

from jaxtyping import ArrayLike

from .._base.types import namespace
from .._loss.base import AbstractLoss
from .._problem.problem import Problem, check_single


def data_of(
    X: ArrayLike | Problem,
    y: ArrayLike | None,
    loss: AbstractLoss | None,
    sample_weight: ArrayLike | None,
) -> Problem:
    """Return the data as a problem, with the penalty 1 until another is known.

    **Raises:** `TypeError` or `ValueError` naming the argument; beside a `Problem` there is nothing
    to give, as it has all of them.
    """
    if not isinstance(X, Problem):
        if y is None:
            raise TypeError("`y` is missing: pass the targets, or a `Problem` in place of `X`.")
        return Problem(X, y, 1.0, loss, sample_weight)
    for name, value in (("y", y), ("loss", loss), ("sample_weight", sample_weight)):
        if value is not None:
            raise TypeError(
                f"`{name}` is that of the `Problem` given in place of `X`: leave it out, and pass "
                "what follows by name."
            )
    check_single(X)
    return X.with_numbers(beta=namespace(X.X).ones((), X.X.dtype))


def check_one_target(problem: Problem) -> None:
    """Raise `ValueError` for targets (n, c), unless the loss makes one problem of them."""
    if problem.y.ndim != 1 and not problem.loss.couples_outputs:
        raise ValueError(
            f"`y` must have shape (n,), got {problem.y.shape}. Outputs have penalties of their "
            "own: call this once per column."
        )
