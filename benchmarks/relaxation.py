"""How close and how fast: the relaxation against Clarabel, one problem at a time.

    python -m benchmarks.relaxation            planted sizes, breast_cancer, wine, diabetes
    python -m benchmarks.relaxation --digits   digits as ±1 features (d = 64); minutes in Clarabel

Clarabel gets prebuilt matrices and its time is the solver's own. `enclosed` says whether
lower_bound ≤ Clarabel's optimum ≤ value to 1e-7 relative.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxqsdp as qs
from tests.clarabel_reference import reference
from tests.problems import SIZES, Data, planted, real

from ._report import arguments, publish, seconds


def _digits() -> Data:
    from sklearn.datasets import load_digits

    X, digit = load_digits(return_X_y=True)
    return Data(np.where(X > 8, 1.0, -1.0), np.where(digit % 2 == 0, 1.0, -1.0))


def _row(name: str, data: Data, fraction: float, dtype: Any, optimum: Any) -> dict[str, Any]:
    n, d = data.X.shape
    problem = qs.Problem(
        data.X.astype(dtype), data.y.astype(dtype), jnp.asarray(fraction * d, dtype)
    )
    first, warm = seconds(lambda: qs.solve(problem, throw=False))
    solution = qs.solve(problem, throw=False)
    value, bound = float(solution.value), float(solution.lower_bound)
    slack = 1e-7 * optimum.value
    return {
        "problem": name,
        "n": n,
        "d": d,
        "beta/d": fraction,
        "dtype": np.dtype(dtype).name,
        "gap": (value - bound) / value,
        "bound below": (optimum.value - bound) / optimum.value,
        "enclosed": bound <= optimum.value + slack and value >= optimum.value - slack,
        "steps": int(solution.stats.num_steps),
        "first call s": first,
        "warm ms": 1e3 * warm,
        "Clarabel ms": 1e3 * optimum.seconds,
        "ratio": optimum.seconds / warm,
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--digits", action="store_true", help="only digits")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    problems = (
        [("digits", _digits())]
        if options.digits
        else [
            *((f"planted {n}×{d}", planted(0, n, d)) for n, d in SIZES),
            *((name, real(name)) for name in ("breast_cancer", "wine", "diabetes")),
        ]
    )
    rows = []
    for name, data in problems:
        for fraction in (0.1,) if options.digits else (0.003, 0.05, 0.1, 1.0):
            optimum = reference(data.X, data.y, fraction * data.X.shape[1], tol=1e-9)
            for dtype in (np.float64, np.float32):
                rows.append(_row(name, data, fraction, dtype, optimum))
    publish(rows, options.json)


if __name__ == "__main__":
    main()
