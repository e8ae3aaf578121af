"""What calls take once their programs are compiled, in the environment a user has.

    python -m benchmarks.warm
    python -m benchmarks.warm --against /path/to/other/checkout --python /its/venv/bin/python

Each row is a process of its own, which makes four calls and prints the median seconds of nine more,
three where a call takes a second; printed are medians of `--runs` such processes. With `--against`
another checkout runs the same, in turn, and the ratio of the medians is printed. `--only` chooses
rows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ._against import compare, printed_seconds

_HEAD = """
import time
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import jaxqsdp as qs
key = jax.random.key(0)
def data(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, X[:, 0] * X[:, 1] + 0.1 * rng.standard_normal(n)
def trained(X, y, beta, m):
    problem = qs.Problem(X, y, beta)
    solution = qs.solve(problem)
    return problem, solution, qs.round(problem, solution, num_neurons=m, key=key)
def breast_cancer():
    from sklearn.datasets import load_breast_cancer
    X, y = load_breast_cancer(return_X_y=True)
    X = (X - X.mean(0)) / X.std(0)
    return np.column_stack([X, np.ones(len(X))])[:398], np.where(y > 0, 1.0, -1.0)[:398]
"""
_TAIL = """
def seconds():
    start = time.perf_counter()
    jax.block_until_ready(call())
    return time.perf_counter() - start
*_, last = (seconds() for _ in range(4))
print("SECONDS", np.median([seconds() for _ in range(3 if last > 1 else 9)]))
"""
_SOLVE = "problem = qs.Problem(*data({n}, {d}), 0.1 * {d})\ncall = lambda: qs.solve(problem)\n"
_BATCH = (
    "problems = [qs.Problem(*data({n}, {d}, seed), 0.1 * {d}) for seed in range(256)]\n"
    "call = lambda: qs.solve_batch(problems, progress=False)\n"
)
_IMPROVE = (
    "call = lambda: qs.improve(problem, network, max_neurons={m}, key=key, solution=solution, "
    "progress=False)\n"
)
_SMALL = "problem, solution, network = trained(*data(200, 12), 1.2, 16)\n"
_REAL = "problem, solution, network = trained(*breast_cancer(), 100.0, 64)\n"
_CERTIFY = "call = lambda: qs.certify(problem, network, solution)\n"
_PROGRAMS = {
    **{f"solve {n} x {d}": _SOLVE.format(n=n, d=d) for n, d in ((30, 6), (100, 10), (100, 20))},
    **{f"solve {n} x {d}": _SOLVE.format(n=n, d=d) for n, d in ((400, 20), (2000, 10), (400, 40))},
    **{f"256 of {n} x {d}": _BATCH.format(n=n, d=d) for n, d in ((30, 6), (100, 10), (400, 20))},
    "improve 200 x 12, 16 neurons": _SMALL + _IMPROVE.format(m=16),
    "improve breast_cancer, 64 neurons": _REAL + _IMPROVE.format(m=64),
    "certify 200 x 12": _SMALL + _CERTIFY,
    "certify breast_cancer": _REAL + _CERTIFY,
    "round 200 x 12": _SMALL
    + "call = lambda: qs.round(problem, solution, num_neurons=16, key=key)\n",
    "cross_validate 200 x 12": "call = lambda: qs.cross_validate(*data(200, 12), key=key)\n",
    "gradient of a solve": (
        "X, y = data(200, 12)\n"
        "loss = lambda y: qs.solve(qs.Problem(X, y, 10.0)).predictions[0]\n"
        "call = lambda: jax.grad(loss)(y)\n"
    ),
}


def main() -> None:
    compare(__doc__ or "", list(_PROGRAMS), _run)


def _run(name: str, checkout: Path, python: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return printed_seconds(python, _HEAD + _PROGRAMS[name] + _TAIL, checkout, folder)


if __name__ == "__main__":
    main()
