"""Does any lane crawl? Steps of 256 vmapped planted problems to a certified gap of 1e-6.

    python -m benchmarks.steps

A vmapped loop runs until its slowest lane ends, so the tail matters more than the median.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np

import jaxqsdp as qs
from tests.problems import planted

from ._report import arguments, publish, seconds


def _batch(solver: qs.AbstractSolver) -> Callable[[jax.Array, jax.Array], qs.Solution]:
    def one(X: jax.Array, y: jax.Array) -> qs.Solution:
        return qs.solve(qs.Problem(X, y, 0.1 * X.shape[1]), solver, throw=False)

    return jax.jit(jax.vmap(one))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--lanes", type=int, default=256)
    parser.add_argument("--sizes", nargs="+", default=["30x6", "100x10", "100x20", "400x20"])
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    for size in options.sizes:
        n, d = map(int, size.split("x"))
        data = [planted(seed, n, d) for seed in range(options.lanes)]
        X = jnp.asarray(np.stack([one.X for one in data]))
        y = jnp.asarray(np.stack([one.y for one in data]))
        for name, solver in (
            ("interior point", qs.InteriorPoint(tol=1e-6)),
            ("ADMM", qs.ADMM()),
            ("ADMM, plain", qs.ADMM(memory=0)),
        ):
            jitted = _batch(solver)
            first, warm = seconds(functools.partial(jitted, X, y), repeats=1)
            solution = jitted(X, y)
            steps = np.asarray(solution.stats.num_steps)
            median, tail, most = np.median(steps), np.percentile(steps, 95), steps.max()
            rows.append(
                {
                    "n": n,
                    "d": d,
                    "solver": name,
                    "solved": f"{int(np.sum(solution.status == qs.Status.solved))}/{len(steps)}",
                    "worst gap": float(np.max(np.asarray(solution.stats.gap))),
                    "median": float(median),
                    "95th": float(tail),
                    "max": float(most),
                    "95th/median": float(tail / median),
                    "max/median": float(most / median),
                    "worst seeds": " ".join(map(str, np.argsort(steps)[:-4:-1])),
                    "compile s": first - warm,
                    "ms a problem": 1e3 * warm / len(steps),
                }
            )
    publish(rows, options.json)


if __name__ == "__main__":
    main()
