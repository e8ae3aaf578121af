"""Training to proven global optimality: how long until no network can be better.

    python -m benchmarks.exact                      d = 8, 12, 16, 20
    python -m benchmarks.exact --features 24 26     a minute or two
    python -m benchmarks.exact --features --real --tol 1e-4 --time-limit 300
    python -m benchmarks.exact --features --hard --minutes 1 5 10 20

Planted problems of 200 samples with β = 0.05·d and 0.5·d, and breast_cancer on its first principal
components and a constant. With `--real` all features of breast_cancer and ionosphere and a
constant, X/√d, y of unit variance, β = 0.03·d, 0.3·d and 3·d. `bound alone` is the gap that the
relaxation's bound leaves at the optimum, which no network can close; `seconds` leaves out what a
first call compiled, but not the certificate, which compiles for each number of neurons, a second or
two.

With `--enumerate` all sign vectors are tried up to 26 features, as the branch and bound has to be
faster than that beyond 16:

    python -m benchmarks.exact --features 24 --tol 1e-4 --enumerate

With `--hard` what is not finished: planted 200 × 40 with β = 0.5·d, sonar and digits, 3 against 8,
with all features, prepared as the others, β = 0.3·d; one search each, and what it has proven after
so many minutes.
"""

from __future__ import annotations

import resource
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np

import jaxqsdp as qs
from jaxqsdp._bound import largest
from jaxqsdp._search import optimum
from jaxqsdp._search.columns import Round
from jaxqsdp._search.journal import Journal
from tests.problems import planted, real

from ._data import load
from ._report import arguments, publish


def _principal(d: int) -> tuple[np.ndarray, np.ndarray]:
    data = real("breast_cancer")
    features = data.X[:, :-1]
    _, _, axes = np.linalg.svd(features, full_matrices=False)
    scores = features @ axes[: d - 1].T
    return np.column_stack([scores / scores.std(axis=0), np.ones(len(scores))]), data.y


def _problems(d: int) -> list[tuple[str, qs.Problem]]:
    data = planted(0, 200, d)
    problems = [
        (f"planted, β = {fraction}·d", qs.Problem(data.X, data.y, fraction * d))
        for fraction in (0.05, 0.5)
    ]
    X, y = _principal(d)
    return [*problems, ("breast_cancer, β = 0.05·n", qs.Problem(X, y, 0.05 * len(y)))]


def _prepared(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return features that vary, standardized, and a constant, by √d, and y of unit variance."""
    spread = X.std(axis=0)
    X = ((X - X.mean(axis=0)) / np.where(spread > 0, spread, 1))[:, spread > 0]
    X = np.column_stack([X, np.ones(len(X))])
    return X / np.sqrt(X.shape[1]), (y - y.mean()) / y.std()


def _all_features() -> list[tuple[str, qs.Problem]]:
    problems = []
    for name in ("breast_cancer", "ionosphere"):
        data = _prepared(*load(name))
        d = data[0].shape[1]
        problems += [
            (f"{name}, β = {fraction}·d", qs.Problem(*data, fraction * d))
            for fraction in (0.03, 0.3, 3.0)
        ]
    return problems


def _unfinished() -> list[tuple[str, qs.Problem]]:
    data = planted(0, 200, 40)
    problems = [("planted, β = 0.5·d", qs.Problem(data.X, data.y, 0.5 * 40))]
    for name in ("sonar", "digits 3/8"):
        X, y = _prepared(*load(name))
        problems.append((f"{name}, β = 0.3·d", qs.Problem(X, y, 0.3 * X.shape[1])))
    return problems


def _in_time(name: str, problem: qs.Problem, minutes: list[float]) -> Iterator[dict[str, Any]]:
    """Yield what one search has proven after each of some times, the last of them its limit."""
    solution, found = qs.solve(problem), [(0.0, np.inf, np.inf, 0.0)]
    start = time.perf_counter()

    def write(self: Journal, index: int, last: Round) -> None:
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        found.append((time.perf_counter() - start, last.value, last.bound, memory))
        usual(self, index, last)

    usual, Journal.write = Journal.write, write  # type: ignore[method-assign]
    try:
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "search.npz"
            limits = {"tol": 1e-4, "time_limit": 60 * max(minutes), "checkpoint": file}
            result = qs.solve_exactly(problem, solution=solution, **limits)
    finally:
        Journal.write = usual  # type: ignore[method-assign]
    spent = time.perf_counter() - start
    relaxed = qs.certify(problem, result.network, solution, kind="relaxation")
    gap = float(result.certificate.gap)
    print(f"{name}: {result.certificate}, {spent:.0f} s", flush=True)
    for limit in minutes:
        seconds, value, bound, memory = [one for one in found if one[0] <= 60 * limit][-1]
        yield {
            "problem": name,
            "n": problem.num_samples,
            "d": problem.num_features,
            "minutes": limit,
            "seconds spent": min(spent, 60 * limit),
            "found after": seconds,
            "proven gap": (value - bound) / value,
            "certified at the end": gap,
            "bound alone": float(relaxed.gap),
            "neurons": result.network.num_neurons,
            "most memory, MiB": memory,
        }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--hard", action="store_true", help="what is not finished in minutes")
    parser.add_argument("--minutes", nargs="+", type=float, default=[1.0, 5.0, 10.0, 20.0])
    parser.add_argument("--features", nargs="*", type=int, default=[8, 12, 16, 20])
    parser.add_argument("--real", action="store_true", help="real data, all features")
    parser.add_argument("--enumerate", action="store_true", help="up to 26 features, to compare")
    parser.add_argument("--only", default="", metavar="TEXT", help="problems with that in a name")
    parser.add_argument("--tol", type=float, default=1e-6)
    parser.add_argument("--time-limit", type=float, help="seconds a problem")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.enumerate:
        optimum.MOST_ENUMERATED = largest.MOST_ENUMERATED = 26
    rows: list[dict[str, Any]] = []
    problems = [case for d in options.features for case in _problems(d)]
    problems += _all_features() if options.real else []
    for name, problem in problems:
        if options.only not in name:
            continue
        d = problem.num_features
        qs.solve_exactly(problem, max_rounds=1)  # compiles
        start = time.perf_counter()
        solution = qs.solve(problem)
        result = qs.solve_exactly(
            problem, solution=solution, tol=options.tol, time_limit=options.time_limit
        )
        seconds = time.perf_counter() - start
        relaxed = qs.certify(problem, result.network, solution, kind="relaxation")
        rows.append(
            {
                "problem": name,
                "n": problem.num_samples,
                "d": d,
                "optimum": float(result.certificate.objective),
                "proven gap": float(result.certificate.gap),
                "bound alone": float(relaxed.gap),
                "neurons": result.network.num_neurons,
                "rounds": len(result.history),
                "seconds": seconds,
            }
        )
        print(f"{name}, d = {d}: {result.certificate}, {seconds:.1f} s", flush=True)
    for name, problem in _unfinished() if options.hard else []:
        if options.only in name:
            rows += _in_time(name, problem, options.minutes)
    publish(rows, options.json)


if __name__ == "__main__":
    main()
