"""Milliseconds a problem in batches, against every peer at the same achieved relative gap.

    python -m benchmarks.batch                       256 problems of each of four sizes
    python -m benchmarks.batch --sizes 100x10 --count 64

Every solution's gap is computed by the package's own certificate from the point that the solver
returned, its tolerance set so that the worst gap of the batch is below the one asked for. Peers get
prebuilt matrices and both cores; those that are slow solve fewer problems of the batch.
"""

from __future__ import annotations

import functools
import os
import statistics
import time
from collections.abc import Callable
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # one problem does not fill two threads

import jax
import jax.numpy as jnp
import numpy as np
from scipy.linalg import lapack

import jaxqsdp as qs
from jaxqsdp._bound.relaxation import scaled_dual_bound
from jaxqsdp._problem.core import Core
from jaxqsdp._relaxation.feasible import feasible_point
from tests.problems import Data, planted

from . import _peers
from ._report import arguments, publish

_FRACTION = 0.1  # β/d


@jax.jit
def _gap(X: Any, y: Any, beta: Any, dual: Any, p: Any, plus: Any, minus: Any) -> Any:
    """Relative gap of the feasible point and the bound that a solver's point gives."""
    core = Core(X, jnp.ones_like(y), y, beta, qs.SquaredLoss())
    blocks = jnp.stack([_positive(matrix) for matrix in (plus, minus)])
    value = feasible_point(core, core.map.outputs, blocks).value
    return (value - scaled_dual_bound(X, y, core.weight, beta, dual, p)) / value


def _positive(matrix: Any) -> Any:
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.maximum(values, 0)) @ vectors.T


def _worst_gap(datas: list[Data], points: list[tuple[np.ndarray, ...]]) -> float:
    d = datas[0].X.shape[1]
    gaps = [
        float(_gap(data.X, data.y, _FRACTION * d, *point))
        for data, point in zip(datas, points, strict=False)
    ]
    return max(gaps)


def _median_seconds(function: Callable[[], Any], repeats: int) -> tuple[float, float, Any]:
    start = time.perf_counter()
    result = function()
    first = time.perf_counter() - start
    seconds = []
    for _ in range(repeats):
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        seconds.append(time.perf_counter() - start)
    return first, statistics.median(seconds), result


def _row(solver: str, count: int, gap: float, seconds: float) -> dict[str, Any]:
    return {
        "solver": solver,
        "dtype": "float64",
        "problems": count,
        "worst gap": gap,
        "ms a problem": 1e3 * seconds / count,
        "first call s": None,
        "mean steps": None,
    }


def _ours(datas: list[Data], target: float, repeats: int) -> list[dict[str, Any]]:
    rows = []
    d = datas[0].X.shape[1]
    dtypes = (np.float64,) if target < 1e-4 else (np.float64, np.float32)
    for dtype in dtypes:
        X = np.stack([data.X for data in datas]).astype(dtype)
        y = np.stack([data.y for data in datas]).astype(dtype)
        problems = jax.vmap(lambda X, y: qs.Problem(X, y, _FRACTION * d))(X, y)
        for name, solver in (
            ("interior point", qs.InteriorPoint(tol=target)),
            ("ADMM", qs.ADMM(tol=target)),
        ):
            run = functools.partial(qs.solve_batch, problems, solver, progress=False)
            first, seconds, solution = _median_seconds(run, repeats)
            row = _row(f"jaxqsdp {name}", len(datas), float(np.max(solution.stats.gap)), seconds)
            steps = float(np.mean(solution.stats.num_steps))
            name_of_dtype = np.dtype(dtype).name
            rows.append({**row, "dtype": name_of_dtype, "first call s": first, "mean steps": steps})
    return rows


def peers(
    datas: list[Data], target: float, budget: float, cores: int, repeats: int
) -> list[dict[str, Any]]:
    """Measure every peer on planted problems; see the module."""
    n, d = datas[0].X.shape
    beta = _FRACTION * d

    def upper(count: int) -> list[_peers.Conic]:
        return [_peers.conic(data.X, data.y, beta, lower=False) for data in datas[:count]]

    rows = []
    tolerances = [target * 10.0**-k for k in range(5)]
    for peer in ("clarabel", "scs"):
        one = _peers.conic(datas[0].X, datas[0].y, beta, lower=peer == "scs")
        for tol in tolerances:
            start = time.perf_counter()
            getattr(_peers, peer)(one, tol)
            count = int(np.clip(budget * cores / (time.perf_counter() - start), cores, len(datas)))
            seconds, found = _peers.on_both_cores(peer, (n, d), _FRACTION, count, tol, cores)
            points = [_peers.points(one, x, z) for x, z in found]
            gap = _worst_gap(datas, points)
            if gap <= target:
                break
        again = functools.partial(_peers.on_both_cores, peer, (n, d), _FRACTION, count, tol, cores)
        median = statistics.median([seconds] + [again()[0] for _ in range(repeats - 1)])
        rows.append(_row(f"{peer} (tol {tol:.0e})", count, gap, median))
    for tol in tolerances:
        few = upper(min(8, len(datas)))
        solve, read = _peers.moreau_batch(few, tol)
        solve()
        start = time.perf_counter()
        solve()
        each = (time.perf_counter() - start) / len(few)
        count = int(np.clip(budget / each, 1, len(datas)))
        solve, read = _peers.moreau_batch(upper(count), tol)
        _, seconds, solution = _median_seconds(solve, repeats)
        gap = _worst_gap(datas, [_peers.points(few[0], x, z) for x, z in read(solution)])
        if gap <= target:
            break
    rows.append(_row(f"Moreau batch (tol {tol:.0e})", count, gap, seconds))
    return rows


def _as_written(datas: list[Data]) -> dict[str, Any]:
    """Measure CVXPY as a user would write it."""
    start = time.perf_counter()
    points = [_peers.cvxpy(data.X, data.y, _FRACTION * data.X.shape[1], 1e-8) for data in datas]
    seconds = time.perf_counter() - start
    return _row("CVXPY, Clarabel", len(datas), _worst_gap(datas, points), seconds)


def _floor(n: int, d: int, steps: float) -> dict[str, Any]:
    """Seconds that the factorizations and products of so many Newton steps take in LAPACK and BLAS.

    Two Cholesky factors and two eigenvalue decompositions of d × d matrices for the scaling, the
    products that make H, its Cholesky factor and the triangular solves. On one core.
    """
    rng = np.random.default_rng(0)
    size = d * (d + 1) // 2
    k = min(n, size + 1)
    small = rng.standard_normal((d, d))
    small = small @ small.T + d * np.eye(d)
    X, wide = rng.standard_normal((n, d)), rng.standard_normal((k, size))
    kronecker = rng.standard_normal((size, size))
    large = np.eye(k)

    def step() -> None:
        for _ in range(2):
            lapack.dpotrf(small)
            lapack.dsyevd(small)
        if size < n:
            wide @ (kronecker @ wide.T)
        else:
            for _ in range(2):
                X @ small @ X.T
        factor = lapack.dpotrf(large)[0]
        lapack.dtrtrs(factor, large[:, : d + 2])
        lapack.dpotrf(small)

    step()
    start = time.perf_counter()
    for _ in range(20):
        step()
    seconds = (time.perf_counter() - start) / 20 * steps
    return _row("floor: the steps' LAPACK and BLAS, one core", 1, 0.0, seconds)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--sizes", nargs="+", default=["30x6", "100x10", "100x20", "400x20"])
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--gap", type=float, default=1e-6, help="relative gap asked of everyone")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--budget", type=float, default=10, help="seconds for each peer and size")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    cores = os.cpu_count() or 1
    rows = []
    for size in options.sizes:
        n, d = map(int, size.split("x"))
        datas = [planted(seed, n, d) for seed in range(options.count)]
        some = _ours(datas, options.gap, options.repeats)
        best = min(row["ms a problem"] for row in some)
        some.append(_floor(n, d, some[0]["mean steps"]))
        some += peers(datas, options.gap, options.budget, cores, options.repeats)
        some.append(_as_written(datas[:2]))
        rows += [{"n": n, "d": d, **row, "ratio": row["ms a problem"] / best} for row in some]
    publish(rows, options.json)


if __name__ == "__main__":
    main()
