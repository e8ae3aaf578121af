"""One problem at a time: both solvers against Clarabel, and which one `solve` chooses.

    python -m benchmarks.single

Warm times are medians; the first call, compilation included, is apart. Clarabel gets prebuilt
matrices and its time is the solver's own. This table is why `default_solver` chooses as it does.
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
from tests.clarabel_reference import reference
from tests.problems import planted, real

from ._report import arguments, publish, seconds

_SIZES = [(30, 6), (100, 10), (100, 20), (400, 20), (2000, 10), (100, 40), (400, 40)]


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--no-peer", action="store_true", help="leave Clarabel out")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    problems = [(f"planted {n}×{d}", planted(0, n, d)) for n, d in _SIZES]
    problems += [(name, real(name)) for name in ("wine", "diabetes", "breast_cancer", "digits")]
    rows: list[dict[str, Any]] = []
    for name, data in problems:
        n, d = data.X.shape
        optimum = None
        if not options.no_peer and d <= 40:
            optimum = reference(data.X, data.y, 0.1 * d, tol=1e-8)
        for dtype in (np.float64, np.float32):
            problem = qs.Problem(data.X.astype(dtype), data.y.astype(dtype), dtype(0.1 * d))
            for solver in (qs.InteriorPoint(), qs.ADMM()):
                solve = functools.partial(qs.solve, problem, solver, throw=False)
                first, warm = seconds(solve)
                solution = solve()
                peer = None if optimum is None else optimum.seconds
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
                        "Clarabel ms": None if peer is None else 1e3 * peer,
                        "ratio": None if peer is None else peer / warm,
                    }
                )
    publish(rows, options.json)


if __name__ == "__main__":
    main()
