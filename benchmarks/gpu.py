"""Problems per second against batch size, on whatever device JAX finds.

    python -m benchmarks.gpu --sizes 100x10 --batches 1024 8192 65536

The whole batch is one vmapped program, the data on the device. `floor` is the time that the
floating-point operations of the Newton systems alone would take at the device's peak (`--peak`,
in float32 TFLOP/s), as problems per second.
"""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxqsdp as qs

from ._report import arguments, publish, seconds


def _problems(key: jax.Array, count: int, n: int, d: int, dtype: Any) -> qs.Problem:
    """Draw planted problems on the device, as `tests.problems.planted` does on the host."""

    def one(key: jax.Array) -> qs.Problem:
        keys = jax.random.split(key, 5)
        X = jax.random.normal(keys[0], (n, d), dtype)
        u, v = (jax.random.rademacher(k, (5, d), dtype) for k in keys[1:3])
        y = ((X @ u.T) * (X @ v.T)) @ jax.random.normal(keys[3], (5,), dtype)
        y = y / jnp.std(y) + 0.1 * jax.random.normal(keys[4], (n,), dtype)
        return qs.Problem(X, y / jnp.std(y), 0.1 * d)

    return jax.jit(jax.vmap(one))(jax.random.split(key, count))


def _newton_operations(n: int, d: int) -> float:
    """Multiply-adds of assembling and factoring one Newton system."""
    size = d * (d + 1) // 2
    return 2.0 * size**3 + size**3 / 6 if size < n else 2.0 * n * n * d + n**3 / 6


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--sizes", nargs="+", default=["100x10"])
    parser.add_argument("--batches", nargs="+", type=int, default=[64, 1024, 8192, 65536])
    parser.add_argument("--dtype", default="float32", choices=["float32", "float64"])
    parser.add_argument("--peak", type=float, help="TFLOP/s of the device, for the floor")
    parser.add_argument("--admm", action="store_true", help="the splitting solver instead")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", options.dtype == "float64")
    dtype = np.dtype(options.dtype)
    solver = qs.ADMM(tol=1e-3) if options.admm else qs.InteriorPoint(tol=1e-3)
    rows = []
    for size in options.sizes:
        n, d = map(int, size.split("x"))
        solve = jax.jit(jax.vmap(lambda one: qs.solve(one, solver, throw=False)))
        for count in options.batches:
            problems = _problems(jax.random.key(0), count, n, d, dtype)
            first, warm = seconds(functools.partial(solve, problems), repeats=3)
            solution = solve(problems)
            steps = np.asarray(solution.stats.num_steps)
            operations = 2 * _newton_operations(n, d) * float(np.mean(steps))
            rows.append(
                {
                    "n": n,
                    "d": d,
                    "dtype": options.dtype,
                    "batch": count,
                    "solved": float(np.mean(solution.status == qs.Status.solved)),
                    "worst gap": float(np.max(solution.stats.gap)),
                    "steps": f"{np.median(steps):.0f}–{steps.max()}",
                    "first call s": first,
                    "ms a problem": 1e3 * warm / count,
                    "problems a second": count / warm,
                    "floor": options.peak and options.peak * 1e12 / operations,
                }
            )
    publish(rows, options.json)


if __name__ == "__main__":
    main()
