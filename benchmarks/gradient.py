"""Gradients of a loss of the solution, against every differentiable peer and against differences.

    python -m benchmarks.gradient                    three sizes, and a batch of 256 at 100 × 10
    python -m benchmarks.gradient --sizes 30x6 --batch 0

The loss ⟨C, Z⟩ + ρ + ‖ŷ‖² of one planted problem is differentiated with respect to X, y and β, ours
with respect to sample weights too. Errors are those of the derivative along one random direction
for each, relative, against central differences (fourth order) of Clarabel's solution, polished by
Newton's method in NumPy; the first row says how far two step sizes differ. Everyone gets the
loosest tolerance that leaves no error above `--error`, or, if none does, that comes within twice
the smallest error.

What is timed, warm, in a process of its own on all cores: loss, and loss with gradient, for X that
changes in the last digits, as Moreau would otherwise skip its set-up. Moreau and diffcp get the
dual problem of `_peers.conic` (diffcp, which has no quadratic objective, with a second-order cone
for it); Moreau's A is computed from X in JAX, diffcp's is prebuilt and only the chain rule from its
derivative to X is timed. Set-up is to compile the loss with its gradient (ours, Moreau), to
build matrices (diffcp) or the layer.
"""

from __future__ import annotations

import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import diffcp
import jax
import numpy as np

from ._gradient_peers import SOLVERS, Arguments, Measured, differences, directions, inputs_of
from ._report import arguments, publish

jax.config.update("jax_enable_x64", True)

_LIMIT, _SET_UP_LIMIT = 60.0, 300.0  # seconds for a call, and for one that may compile
_NUDGE = 1 + 2.0**-45  # of X
_STEPS = (1e-3, 5e-4)  # of the differences, in sizes of what is varied
_TOLERANCES = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
_INPUTS = ("X", "y", "β", "weight")


class PeerError(Exception):
    """A solver raised or took too long; the text says which."""


# In a process of its own, which can be ended

_measured: list[Measured] = []
_FAILURES = (ImportError, RuntimeError, AttributeError, ArithmeticError, diffcp.SolverError)


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    try:
        result = jax.block_until_ready(function())
    except _FAILURES as error:
        last = (str(error).strip().splitlines() or [""])[-1]
        raise PeerError(f"{type(error).__name__}: {last}"[:100]) from None
    return time.perf_counter() - start, result


def _set_up(name: str, inputs: Arguments, tol: float) -> float:
    seconds, measured = _timed(lambda: SOLVERS[name](inputs, tol))
    _measured[:] = [measured]
    return seconds


def _call(what: str, problems: list[Arguments], nudged: bool) -> tuple[float, list[Any]]:
    """Solve problems one after another; return seconds and the results."""
    measured = _measured[0]
    function = getattr(measured, what)
    arrays = [[np.array(one) for one in inputs[: measured.num_inputs]] for inputs in problems]
    for inputs in arrays:
        inputs[0] *= _NUDGE if nudged else 1
    arrays = jax.block_until_ready(jax.tree.map(measured.as_array, arrays))
    seconds, results = _timed(lambda: [jax.block_until_ready(function(*one)) for one in arrays])
    return seconds, jax.tree.map(np.asarray, results)


class Process:
    """A process in which one solver runs; the limit holds for every call."""

    def __init__(self) -> None:
        self.pool = multiprocessing.get_context("spawn").Pool(1)

    def __enter__(self) -> Process:
        self.pool.apply(_timed, (int,))  # started, everything imported
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.terminate()
        self.pool.join()

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function there."""
        return self._within(_LIMIT, function, *args)

    def set_up(self, name: str, inputs: Arguments, tol: float) -> float:
        """Prepare a solver; return seconds."""
        return self._within(_SET_UP_LIMIT, _set_up, name, inputs, tol)

    def _within(self, limit: float, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return self.pool.apply_async(function, args).get(limit)
        except multiprocessing.TimeoutError:
            raise PeerError(f"over {limit:.0f} s in a call") from None

    def median(self, what: str, problems: list[Arguments], repeats: int) -> float:
        """Return the median seconds of warm calls."""
        self._within(_SET_UP_LIMIT, _call, what, problems[:1], True)
        return statistics.median(
            self(_call, what, problems, bool(k % 2))[0] for k in range(repeats)
        )


# Tables


def _row(n: int, d: int, solver: str, problems: int = 1) -> dict[str, Any]:
    names = "tol", "forward ms", "with gradient ms", "difference ms", "ratio"
    errors = [f"error {name}" for name in _INPUTS]
    start = {"n": n, "d": d, "solver": solver, "dtype": "float64", "problems": problems}
    return {**start, **dict.fromkeys([*names, *errors, "set-up s", "vmap from loop"]), "note": ""}


def _errors(gradient: Arguments, ways: list[np.ndarray], expected: list[float]) -> dict[str, Any]:
    found = [np.sum(one * way) for one, way in zip(gradient, ways, strict=False)]
    pairs = zip(found, expected, strict=False)
    errors = [float(abs(one - other) / abs(other)) for one, other in pairs]
    return {f"error {name}": error for name, error in zip(_INPUTS, errors, strict=False)}


def _times(process: Process, problems: list[Arguments], count: int, repeats: int) -> dict[str, Any]:
    forward, both = (
        1e3 * process.median(what, problems, repeats) / count
        for what in ("value", "value_and_gradient")
    )
    return {
        "forward ms": forward,
        "with gradient ms": both,
        "difference ms": both - forward,
    }


def _single(n: int, d: int, repeats: int, error: float) -> list[dict[str, Any]]:
    """Measure everyone on one problem."""
    inputs = inputs_of(n, d)
    ways = directions(inputs)
    expected, other = (
        [differences(inputs, k, way, step) for k, way in enumerate(ways)] for step in _STEPS
    )
    row = _row(n, d, "the differences themselves, two steps")
    own = zip(_INPUTS, expected, other, strict=True)
    row |= {f"error {name}": float(abs(one - two) / abs(one)) for name, one, two in own}
    rows = [row]
    for name in SOLVERS:
        print(f"{n} × {d}: {name}", file=sys.stderr, flush=True)
        row = _row(n, d, name)
        rows.append(row)
        try:
            with Process() as process:
                found = {}
                for tol in _TOLERANCES:
                    set_up = process.set_up(name, inputs, tol)
                    _, ((_, gradient),) = process(_call, "value_and_gradient", [inputs], False)
                    found[tol] = _errors(gradient, ways, expected)
                    if max(found[tol].values()) <= error:
                        break
                else:
                    row["note"] = "not as accurate as asked"
                    worst = {tol: max(errors.values()) for tol, errors in found.items()}
                    tol = next(tol for tol in worst if worst[tol] <= 2 * min(worst.values()))
                    set_up = process.set_up(name, inputs, tol)
                row |= {"tol": tol, "set-up s": set_up, **found[tol]}
                row |= _times(process, [inputs], 1, repeats)
        except PeerError as failure:
            row["note"] = str(failure)
    return rows


def _batch(
    n: int, d: int, count: int, repeats: int, tols: dict[str, float]
) -> list[dict[str, Any]]:
    """Measure vmapped gradients, and a loop over the same problems."""
    stacked = inputs_of(n, d, count)
    lanes = [tuple(one[k] for one in stacked) for k in range(count)]
    rows = []
    for name, tol in tols.items():
        print(f"{count} of {n} × {d}: {name}", file=sys.stderr, flush=True)
        looped = {**_row(n, d, f"{name}, loop", count), "tol": tol}
        mapped = {**_row(n, d, f"{name}, vmap", count), "tol": tol}
        rows += [mapped, looped]
        try:
            with Process() as process:
                looped["set-up s"] = process.set_up(name, lanes[0], tol)
                _, results = process(_call, "value_and_gradient", lanes, False)
                looped |= _times(process, lanes, count, repeats)
                mapped["set-up s"] = process.set_up(name, stacked, tol)
                _, ((_, gradients),) = process(_call, "value_and_gradient", [stacked], False)
                mapped |= _times(process, [stacked], count, repeats)
        except PeerError as failure:
            for row in (mapped, looped):
                row["note"] = str(failure) if row["with gradient ms"] is None else ""
            continue
        mapped["vmap from loop"] = max(
            float(np.linalg.norm(several[k] - one) / np.linalg.norm(one))
            for k, (_, gradient) in enumerate(results)
            for several, one in zip(gradients, gradient, strict=True)
        )
    return rows


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Divide by the fastest of ours."""
    times = [row["with gradient ms"] for row in rows if row["solver"].startswith("jaxqsdp")]
    best = min((one for one in times if one is not None), default=None)
    for row in rows:
        if best is not None and row["with gradient ms"] is not None:
            row["ratio"] = row["with gradient ms"] / best
    return rows


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--sizes", nargs="*", default=["30x6", "100x10", "400x20"])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--error", type=float, default=1e-4, help="asked of everyone's gradient")
    parser.add_argument("--batch", type=int, default=256, help="problems at 100 × 10; 0 for none")
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        n, d = map(int, size.split("x"))
        rows += _with_ratios(_single(n, d, options.repeats, options.error))
    if options.batch:
        tols = {name: 1e-8 for name in list(SOLVERS)[:3]}
        repeats = min(options.repeats, 3)
        rows += _with_ratios(_batch(100, 10, options.batch, repeats, tols))
    publish(rows, options.json)


if __name__ == "__main__":
    main()
