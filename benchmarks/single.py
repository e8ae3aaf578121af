"""One problem at a time: both solvers against every peer, and which one `solve` chooses.

    python -m benchmarks.single

Warm times are medians; the first call, compilation included, is apart. Peers get prebuilt matrices
and one core, and the loosest tolerance that reaches a relative gap of 1e-6, which our solvers are
asked for in float64. This table is why `default_solver` chooses as it does.
"""

from __future__ import annotations

import functools
import os
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import numpy as np

import jaxqsdp as qs
from jaxqsdp._solver import default_solver
from tests.problems import planted, real

from ._report import arguments, publish, seconds
from .batch import peers

_GAP = 1e-6
_SIZES = ["30x6", "100x10", "100x20", "400x20", "2000x10", "100x40", "400x40"]
_REAL = ["wine", "diabetes", "breast_cancer", "digits"]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--no-peer", action="store_true", help="leave the peers out")
    parser.add_argument("--sizes", nargs="*", default=_SIZES)
    parser.add_argument("--real", nargs="*", default=_REAL, help="data sets, without peers")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    sizes = [tuple(map(int, size.split("x"))) for size in options.sizes]
    problems = [(f"planted {n}×{d}", planted(0, n, d)) for n, d in sizes]
    problems += [(name, real(name)) for name in options.real]
    rows: list[dict[str, Any]] = []
    for name, data in problems:
        n, d = data.X.shape
        best = None
        if not options.no_peer and name.startswith("planted"):
            found = peers([data], _GAP, 1, 1, 3)
            best = min((row["ms a problem"], row["solver"]) for row in found)
        for dtype in (np.float64, np.float32):
            problem = qs.Problem(data.X.astype(dtype), data.y.astype(dtype), dtype(0.1 * d))
            tol = _GAP if dtype == np.float64 else None
            for solver in (qs.InteriorPoint(tol=tol), qs.ADMM(tol=tol)):
                solve = functools.partial(qs.solve, problem, solver, throw=False)
                first, warm = seconds(solve)
                solution = solve()
                rows.append(
                    {
                        "problem": name,
                        "n": n,
                        "d": d,
                        "dtype": np.dtype(dtype).name,
                        "solver": type(solver).__name__,
                        "default": type(default_solver(n, d, dtype)) is type(solver),
                        "gap": float(solution.stats.gap),
                        "steps": int(solution.stats.num_steps),
                        "first call s": first,
                        "warm ms": 1e3 * warm,
                        "best peer": None if best is None else best[1],
                        "its ms": None if best is None else best[0],
                        "ratio": None if best is None else best[0] / (1e3 * warm),
                    }
                )
    publish(rows, options.json)


if __name__ == "__main__":
    main()
