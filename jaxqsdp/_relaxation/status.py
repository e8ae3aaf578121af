"""How a solve ended."""

from __future__ import annotations

from typing import Any, cast

import equinox as eqx

from .._base.enumeration import ReadableMeta


class Status(eqx.Enumeration, metaclass=ReadableMeta):
    """How a solve ended. `Status[solution.status]` is the text; it says the remedy.

    For a batch that is a line for each status that occurs, with the number of times.
    """

    solved: Any = "Solved: the certified gap and the residual are within the tolerances."
    dtype_accuracy: Any = (
        "Stopped at the accuracy that the dtype allows; the bounds hold, the gap is what `stats` "
        "says. For a smaller gap use float64 (`jax.config.update('jax_enable_x64', True)`)."
    )
    max_steps: Any = (
        "Reached the step limit; the bounds hold, but the gap is larger than asked for. Raise "
        "`max_steps`, loosen the solver's `tol`, or pass `throw=False` to use the point as it is."
    )
    interrupted: Any = (
        "Not finished: the time limit or an interrupt came first. Allow more time, or use what "
        "there is by `throw=False`, as its bounds hold; `solve_batch` with `checkpoint` goes on "
        "where it was."
    )
    invalid_data: Any = (
        "Invalid data: X, y, beta and sample_weight must be finite, beta > 0, weights ≥ 0 and not "
        "all zero, and results must be representable in the dtype. Clean or rescale the data."
    )


def status_text(status: Status) -> str:
    """Return what the status says; `Status[status]`, which type checkers do not know."""
    return cast(str, cast(Any, Status)[status])
