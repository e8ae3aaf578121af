"""Every loss: values against Clarabel, and a batch of small problems against other solvers.

    python -m benchmarks.losses                          both tables
    python -m benchmarks.losses --losses hinge softmax --shapes 100x10 --count 64

The first table is of single problems with weights, two penalties each: relative differences of the
relaxation's value and of its bound to Clarabel's value (gap 1e-9), in both dtypes. The second is of
256 planted problems of 100 × 10 through `solve_batch`, compiled before, and of the first of them by
Clarabel, one by one, and by Moreau, as a batch: all asked for the same gap, on all cores, and of
the others their own time only. They get the relaxation with two d × d matrices, in which Clarabel
is four to eight times faster than with one of 2d × 2d, and may stop short of the gap, see theirs.
Softmax has three classes.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from typing import Any

import cvxpy as cp
import jax
import numpy as np

import jaxqsdp as qs
from tests.losses import ALL, cvxpy_model, made, problem_of, split_form

from . import _modelled
from ._report import arguments, environment, markdown, seconds

_FRACTIONS = (0.02, 0.2)  # of about the largest penalty
_OTHERS = 64  # problems of a batch that other solvers solve
_GAP = 1e-8


def values(name: str, shape: str) -> list[dict[str, Any]]:
    """Compare a value and a bound with Clarabel's, that of the data before they are rounded."""
    rows = []
    n, d = map(int, shape.split("x"))
    for fraction in _FRACTIONS:
        data = made(name, n, d, fraction=fraction)
        reference = _value(cvxpy_model(name, *data, form_of=split_form))
        for dtype in (np.float64, np.float32):
            X, y, beta, weight = (array.astype(dtype) for array in data)
            problem = qs.Problem(X, y, beta, loss=ALL[name], sample_weight=weight)
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
    """Time a batch, and other solvers on some of it."""
    problems = [problem_of(name, 100, 10, seed=seed) for seed in range(count)]
    stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *problems)
    solver = qs.InteriorPoint(tol=_GAP)
    duration = seconds(lambda: qs.solve_batch(stacked, solver), repeats=3)[1]
    stats = qs.solve_batch(stacked, solver).stats
    row = {
        "loss": name,
        "gap": _GAP,
        "problems": count,
        "steps, median": float(np.median(stats.num_steps)),
        "95th": float(np.quantile(stats.num_steps, 0.95)),
        "most": int(np.max(stats.num_steps)),
        "worst gap": float(np.max(stats.gap)),
        "ms a problem": 1e3 * duration / count,
        "others solve": min(_OTHERS, count),
    }
    datas = [made(name, 100, 10, seed=seed) for seed in range(min(_OTHERS, count))]
    models = [cvxpy_model(name, *data, form_of=split_form) for data in datas]
    for title, solve in (("Clarabel", _modelled.clarabel), ("Moreau", _modelled.moreau)):
        timing = solve(models, _GAP)
        row[f"{title}'s gap"] = timing.gap
        row[f"{title}, ms"] = timing.milliseconds
        row[f"ratio to {title}"] = timing.milliseconds / row["ms a problem"]
    return row


def _value(model: cp.Problem) -> float:
    tight = {name: 1e-9 for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas")}
    return float(model.solve(solver="CLARABEL", **tight))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--losses", nargs="+", choices=ALL, default=list(ALL))
    parser.add_argument("--shapes", nargs="*", default=["100x10", "40x25", "1500x20"])
    parser.add_argument("--count", type=int, default=256, help="problems of the batch; 0: none")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    where, rows = environment(), []
    for some in _tables(options.losses, options.shapes, options.count):
        print(markdown(some), flush=True)
        rows += some
        if options.json is not None:
            text = json.dumps({"environment": where, "rows": rows}, indent=1)
            options.json.write_text(text + "\n")
    print("\n" + ", ".join(f"{key} {value}" for key, value in where.items()))


def _tables(losses: list[str], shapes: list[str], count: int) -> Iterator[list[dict[str, Any]]]:
    for name, shape in itertools.product(losses, shapes):
        yield values(name, shape)
    for name in losses if count else ():
        yield [batch(name, count)]


if __name__ == "__main__":
    main()
