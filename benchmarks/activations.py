"""Polynomial neurons beside bilinear ones: what solving a batch takes.

    python -m benchmarks.activations

Planted problems of n × d, through `solve_batch`, with default options, compiled before; bilinear
ones have one feature more, so that all have matrices of the same size. Medians, in turn.
"""

from __future__ import annotations

import statistics
import time
from typing import Any

import jax
import numpy as np

import jaxqsdp as qs
from tests.problems import planted

from ._report import arguments, publish

_SHAPES = ((30, 6), (64, 8), (100, 10))
_FRACTION = 0.1  # β/d
_KINDS = {
    "0.09, 0.5, 0.47": qs.Polynomial(0.09, 0.5, 0.47),
    "1, −1, 0.3": qs.Polynomial(1.0, -1.0, 0.3),
}


def stacked(n: int, d: int, activation: Any, count: int) -> qs.Problem:
    """Return so many problems."""
    datas = [planted(seed, n, d) for seed in range(count)]
    problems = [qs.Problem(data.X, data.y, _FRACTION * d, activation=activation) for data in datas]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *problems)


def compare(n: int, d: int, count: int, repeats: int) -> dict[str, Any]:
    """Time all kinds, one after the other, again and again."""
    problems = {"bilinear": stacked(n, d + 1, None, count)}
    problems |= {name: stacked(n, d, kind, count) for name, kind in _KINDS.items()}
    solved = {name: qs.solve_batch(problem) for name, problem in problems.items()}
    times: dict[str, list[float]] = {name: [] for name in problems}
    for _ in range(repeats):
        for name, problem in problems.items():
            start = time.perf_counter()
            jax.block_until_ready(qs.solve_batch(problem))
            times[name].append(1e3 * (time.perf_counter() - start) / count)
    medians = {name: statistics.median(each) for name, each in times.items()}
    row: dict[str, Any] = {"n × d": f"{n} × {d}", "bilinear, ms": medians["bilinear"]}
    for name in _KINDS:
        row[f"{name}: ratio"] = medians[name] / medians["bilinear"]
        row[f"{name}: steps"] = float(np.median(solved[name].stats.num_steps))
    row["bilinear: steps"] = float(np.median(solved["bilinear"].stats.num_steps))
    row["worst gap"] = max(float(np.max(solution.stats.gap)) for solution in solved.values())
    return row


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--repeats", type=int, default=7)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = [compare(n, d, options.count, options.repeats) for n, d in _SHAPES]
    publish(rows, options.json)


if __name__ == "__main__":
    main()
