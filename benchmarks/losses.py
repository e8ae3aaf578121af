"""Every loss: values against Clarabel, and a batch of small problems against a loop of it.

    python -m benchmarks.losses                          both tables
    python -m benchmarks.losses --losses hinge logistic --shapes 100x10 --count 64

The first table is of single problems with weights, two penalties each: relative differences of the
relaxation's value and of its bound to Clarabel's value (gap 1e-9), in both dtypes. The second is of
256 planted problems of 100 × 10 through `solve_batch`, compiled before, at gap 1e-8, and of
Clarabel at gap 1e-8 on some of them: its own time only, without that of CVXPY's modelling.
"""

from __future__ import annotations

import json
import statistics
import time
from typing import Any

import cvxpy as cp
import jax
import numpy as np

import jaxqsdp as qs
from tests.losses import LOSSES, cvxpy_model, made, problem_of

from ._report import arguments, environment, markdown

_FRACTIONS = (0.02, 0.2)  # of about the largest penalty
_LOOP = 12  # problems that Clarabel solves of a batch
_GAP = 1e-8


def values(name: str, shape: str) -> list[dict[str, Any]]:
    """Compare a value and a bound with Clarabel's."""
    rows = []
    n, d = map(int, shape.split("x"))
    for fraction in _FRACTIONS:
        for dtype in (np.float64, np.float32):
            data = made(name, n, d, fraction=fraction, dtype=dtype)
            X, y, beta, weight = data
            problem = qs.Problem(X, y, beta, loss=LOSSES[name], sample_weight=weight)
            model = cvxpy_model(name, *(array.astype(float) for array in data))
            reference = _clarabel(model, 1e-9)[0]
            solution = qs.solve(problem, throw=False)
            rows.append(
                {
                    "loss": name,
                    "shape": shape,
                    "fraction": fraction,
                    "dtype": np.dtype(dtype).name,
                    "steps": int(solution.stats.num_steps),
                    "value": float(solution.value) / reference - 1,
                    "bound": float(solution.lower_bound) / reference - 1,
                }
            )
    return rows


def batch(name: str, count: int) -> dict[str, Any]:
    """Time a batch, and a loop of Clarabel over some of it."""
    problems = [problem_of(name, 100, 10, seed=seed) for seed in range(count)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
    solver, seconds = qs.InteriorPoint(tol=_GAP), []
    for _ in range(4):
        start = time.perf_counter()
        solutions = jax.block_until_ready(qs.solve_batch(stacked, solver))
        seconds.append(time.perf_counter() - start)
    steps = np.asarray(solutions.stats.num_steps)
    loop = []
    for seed in range(min(_LOOP, count)):
        model = cvxpy_model(name, *made(name, 100, 10, seed=seed))
        loop.append(_clarabel(model, _GAP)[1])
    ours = 1e3 * statistics.median(seconds[1:]) / count
    theirs = 1e3 * statistics.median(loop)
    return {
        "loss": name,
        "problems": count,
        "steps, median": float(np.median(steps)),
        "95th": float(np.quantile(steps, 0.95)),
        "most": int(steps.max()),
        "worst gap": float(np.max(solutions.stats.gap)),
        "ms a problem": ours,
        "Clarabel, ms": theirs,
        "ratio": theirs / ours,
    }


def _clarabel(model: cp.Problem, gap: float) -> tuple[float, float]:
    """Return a value and the seconds that the solver itself takes."""
    tight = {name: gap for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas")}
    value = model.solve(solver="CLARABEL", **tight)
    return float(value), float(model.solver_stats.solve_time)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--losses", nargs="+", choices=LOSSES, default=list(LOSSES))
    parser.add_argument("--shapes", nargs="*", default=["100x10", "40x25", "1500x20"])
    parser.add_argument("--count", type=int, default=256, help="problems of the batch; 0: none")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name in options.losses:
        for shape in options.shapes:
            some = values(name, shape)
            print(markdown(some), flush=True)
            rows += some
    if options.count:
        batches = [batch(name, options.count) for name in options.losses]
        print(markdown(batches))
        rows += batches
    where = environment()
    print("\n" + ", ".join(f"{key} {value}" for key, value in where.items()))
    if options.json is not None:
        options.json.write_text(json.dumps({"environment": where, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
