"""How good are networks of few neurons: `improve` against what one would train otherwise.

    python -m benchmarks.quality --json quality.json --plot quality.png
    python -m benchmarks.quality --data diabetes wine --neurons 8 16 --seeds 3

Objective of the training problem, certified gap to the relaxation's bound, accuracy (targets ±1) or
R² on the 30 % of rows held out, and seconds, for

- STE: straight-through estimator, Adam, 2000 steps, 10 seeds × 2 step sizes (of three, the best
  two with 16 neurons) in one batch, output weights refitted by LASSO; the best objective of the
  twenty, so no range, and the seconds of all twenty with their refits, without the tuning;
- random + LASSO: m random neurons, refitted;
- rounding, rounding + refit: `qs.round` of the relaxation, without and with refit;
- post-training: the same network with real weights, Adam, 2000 steps, then signs and refit;
- improve: `qs.improve` from rounding + refit. Its seconds count the rounding, but like those of
  rounding not the solve of the relaxation, which stands in a column of its own.

Medians over the seeds, with the smallest and largest objective; each seed is one run. Seconds leave
compilation out: the first seed's, which compiles, are not counted, nor are compilations in later
ones, as shapes inside `improve` depend on what it finds. All in float64.

Planted data come with beta = 0.05·d; for real data `qs.cross_validate` chooses it. Larger m come
later, and the JSON is written after every row: a run cut short keeps all data sets, and
`--read quality.json` shows what it measured. Several files, of some data sets each, are shown as
one. Most of the time is compilation, which
XLA_FLAGS=--xla_cpu_use_fusion_emitters=false halves on CPU, for programs some 10 % slower. Set
OMP_NUM_THREADS=1 and pin one core for steady timings.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxqsdp as qs
from tests.problems import planted

from ._baselines import Signs, Trained, random_signs, train
from ._data import KEEL, SKLEARN, load
from ._report import arguments, environment, publish

PLANTED = {"planted 200×10": (200, 10), "planted 200×20": (200, 20), "planted 100×30": (100, 30)}
NEURONS = (4, 8, 16, 32, 64, 128)
RATES = (0.003, 0.01, 0.03)
STEPS = 2000
STE_SEEDS = 10
TUNING_NEURONS, TUNING_SEEDS = 16, 3
HELD_OUT = 0.3
LARGEST = ("digits 3/8", 128)  # last, for a run cut short
METHODS = ("STE", "random + LASSO", "rounding", "rounding + refit", "post-training", "improve")


@dataclasses.dataclass(frozen=True)
class Case:
    """A data set with its penalty, its relaxation, and what was tuned on it."""

    name: str
    problem: qs.Problem
    test_X: np.ndarray
    test_y: np.ndarray
    solution: qs.Solution
    relaxation_seconds: float
    rates: tuple[float, ...]

    @property
    def metric(self) -> str:
        """What is measured on the rows held out."""
        return "accuracy" if np.all(np.abs(self.test_y) == 1) else "R²"


@dataclasses.dataclass(frozen=True)
class Run:
    """A network and the seconds it took."""

    network: qs.QuantizedNetwork
    seconds: float


class Stopwatch:
    """Measures the seconds of a call that are not compilation."""

    def __init__(self) -> None:
        self._compilations: list[tuple[float, float]] = []
        jax.monitoring.register_event_duration_secs_listener(self._listen)

    def _listen(self, event: str, duration: float, **_: Any) -> None:
        if event.startswith("/jax/core/compile/"):
            end = time.perf_counter()
            self._compilations.append((end - duration, end))

    def time(self, function: Callable[[], Any]) -> tuple[Any, float]:
        """Return the result and the seconds without compilation."""
        self._compilations.clear()
        start = time.perf_counter()
        result = jax.block_until_ready(function())
        elapsed = time.perf_counter() - start
        # One function is traced within another, so the intervals overlap.
        reached = start
        for begin, end in sorted(self._compilations):
            elapsed -= max(end - max(begin, reached), 0)
            reached = max(reached, end)
        return result, elapsed


def _split(X: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, ...]:
    order = np.random.default_rng(0).permutation(len(y))
    count = round((1 - HELD_OUT) * len(y))
    return X[order[:count]], y[order[:count]], X[order[count:]], y[order[count:]]


def _standardize(train: np.ndarray, test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    center, spread = train.mean(axis=0), train.std(axis=0)
    spread = np.where(spread > 0, spread, np.inf)
    return (train - center) / spread, (test - center) / spread


def _prepare(name: str, clock: Stopwatch) -> Case:
    if name in PLANTED:
        n, d = PLANTED[name]
        data = planted(0, round(n / (1 - HELD_OUT)), d)
        X, y, test_X, test_y = _split(data.X, data.y)
        beta = 0.05 * d
    else:
        X, y, test_X, test_y = _split(*load(name))
        if not np.all(np.abs(y) == 1):
            y, test_y = _standardize(y, test_y)
        beta = float(qs.cross_validate(X, y, key=jax.random.key(0)).best_beta)
        X, test_X = map(qs.with_constant, _standardize(X, test_X))
    problem = qs.Problem(X, y, beta)
    solution = qs.solve(problem)
    _, elapsed = clock.time(lambda: qs.solve(problem))
    rates = _tuned(problem)
    print(
        f"{name}: {problem.num_samples} × {problem.num_features}, beta {beta:.4g}, relaxation "
        f"{float(solution.value):.6g} in {elapsed:.2f} s, STE at rates {rates}",
        flush=True,
    )
    return Case(name, problem, test_X, test_y, solution, elapsed, rates)


def _trainer(problem: qs.Problem, num_neurons: int, binary: bool) -> Callable[..., Trained]:
    return functools.partial(
        train, problem.X, problem.y, problem.beta,
        num_neurons=num_neurons, num_steps=STEPS, binary=binary,
    )  # fmt: skip


def _side_by_side(
    problem: qs.Problem, num_neurons: int, rates: tuple[float, ...], seeds: int
) -> Callable[[], Trained]:
    """Return the compiled batch of straight-through runs, rates × seeds."""
    keys = jnp.tile(jax.random.split(jax.random.key(1), seeds), len(rates))
    all_rates = jnp.repeat(jnp.asarray(rates), seeds)
    batch = jax.jit(jax.vmap(_trainer(problem, num_neurons, True)))
    return functools.partial(batch.lower(keys, all_rates).compile(), keys, all_rates)


def _refitted(problem: qs.Problem, signs: Signs | Trained) -> qs.QuantizedNetwork:
    u, v = signs[:2]
    return qs.refit(problem, qs.QuantizedNetwork.from_weights(u, v, jnp.ones(len(u))))


def _objective(problem: qs.Problem, network: qs.QuantizedNetwork) -> float:
    hidden = np.asarray(problem.X @ network.u.T) * np.asarray(problem.X @ network.v.T)
    residual = hidden @ np.asarray(network.alpha) - np.asarray(problem.y)
    return 0.5 * residual @ residual + float(problem.beta) * np.abs(network.alpha).sum()


def _tuned(problem: qs.Problem) -> tuple[float, ...]:
    """Return the two step sizes with the smallest median objective."""
    u, v, _ = _side_by_side(problem, TUNING_NEURONS, RATES, TUNING_SEEDS)()
    found = [_objective(problem, _refitted(problem, one)) for one in zip(u, v, strict=True)]
    medians = np.median(np.reshape(found, (len(RATES), TUNING_SEEDS)), axis=1)
    return tuple(RATES[k] for k in np.sort(np.argsort(medians)[:2]))


def _straight_through(case: Case, m: int, clock: Stopwatch) -> list[Run]:
    batch = _side_by_side(case.problem, m, case.rates, STE_SEEDS)
    trained, training_seconds = clock.time(batch)

    def best() -> qs.QuantizedNetwork:
        networks = [_refitted(case.problem, one) for one in zip(*trained, strict=True)]
        return min(networks, key=functools.partial(_objective, case.problem))

    best()  # compiles
    network, refitting_seconds = clock.time(best)
    return [Run(network, training_seconds + refitting_seconds)]


def _one_a_seed(
    function: Callable[[jax.Array], qs.QuantizedNetwork], seeds: int, clock: Stopwatch
) -> list[Run]:
    """Run once a seed; the first run, which compiles, gets the median seconds of the others."""
    compiled = function(jax.random.key(0))
    if seeds > 1:
        others = [
            Run(*clock.time(lambda k=k: function(jax.random.key(k)))) for k in range(1, seeds)
        ]
        return [Run(compiled, statistics.median(run.seconds for run in others)), *others]
    return [Run(*clock.time(lambda: function(jax.random.key(0))))]


def _runs(case: Case, m: int, seeds: int, clock: Stopwatch) -> Iterator[tuple[str, list[Run]]]:
    problem, solution = case.problem, case.solution
    refit = functools.partial(_refitted, problem)
    refit(random_signs(jax.random.key(0), m, problem.num_features))  # compiles for all methods

    yield "STE", _straight_through(case, m, clock)
    yield (
        "random + LASSO",
        _one_a_seed(lambda key: refit(random_signs(key, m, problem.num_features)), seeds, clock),
    )

    def rounded(key: jax.Array) -> qs.QuantizedNetwork:
        return qs.round(problem, solution, num_neurons=m, key=key, refit=False)

    def both(key: jax.Array) -> qs.QuantizedNetwork:
        # The network of `refit=True`, which would compile another program.
        return qs.refit(problem, rounded(key))

    yield "rounding", _one_a_seed(rounded, seeds, clock)
    yield "rounding + refit", _one_a_seed(both, seeds, clock)

    one = _trainer(problem, m, False)
    rate = jnp.asarray(0.01)
    compiled = jax.jit(one).lower(jax.random.key(0), rate).compile()
    yield (
        "post-training",
        _one_a_seed(lambda key: refit(compiled(key, rate)), seeds, clock),
    )

    def improved(key: jax.Array) -> qs.QuantizedNetwork:
        return qs.improve(
            problem, both(key), max_neurons=m, key=key, solution=solution, progress=False
        )

    yield "improve", _one_a_seed(improved, seeds, clock)


def _padded(network: qs.QuantizedNetwork, count: int) -> qs.QuantizedNetwork:
    """Add zero neurons, so that certifying compiles once per data set."""
    more = count - network.num_neurons
    signs = (np.pad(np.asarray(w), ((0, more), (0, 0)), constant_values=1.0) for w in
             (network.u, network.v))  # fmt: skip
    return qs.QuantizedNetwork.from_weights(*signs, np.pad(np.asarray(network.alpha), (0, more)))


def _score(case: Case, network: qs.QuantizedNetwork) -> float:
    hidden = (case.test_X @ np.asarray(network.u).T) * (case.test_X @ np.asarray(network.v).T)
    predictions, y = hidden @ np.asarray(network.alpha), case.test_y
    if case.metric == "accuracy":
        return float(np.mean((predictions >= 0) == (y > 0)))
    return float(1 - np.sum((y - predictions) ** 2) / np.sum((y - y.mean()) ** 2))


def _row(case: Case, m: int, method: str, runs: list[Run], width: int) -> dict[str, Any]:
    certificates = [
        qs.certify(case.problem, _padded(run.network, width), case.solution, kind="relaxation")
        for run in runs
    ]
    objectives = [float(certificate.objective) for certificate in certificates]
    single = len(runs) == 1
    return {
        "data": case.name,
        "n": case.problem.num_samples,
        "d": case.problem.num_features,
        "beta": float(case.problem.beta),
        "m": m,
        "method": method,
        "objective": statistics.median(objectives),
        "min": None if single else min(objectives),
        "max": None if single else max(objectives),
        "bound": float(certificates[0].lower_bound),
        "gap": statistics.median(float(certificate.gap) for certificate in certificates),
        "test metric": statistics.median(_score(case, run.network) for run in runs),
        "metric": case.metric,
        "seconds": statistics.median(run.seconds for run in runs),
        "relaxation s": case.relaxation_seconds,
    }


def compare(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return improve against the best of twenty STE runs and against random + LASSO."""
    cells: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
    for row in rows:
        cells.setdefault((row["data"], row["m"]), {})[row["method"]] = row
    table = []
    for (name, m), cell in cells.items():
        if not {"STE", "improve", "random + LASSO"} <= cell.keys():
            continue
        mine, ste, drawn = (cell[method] for method in ("improve", "STE", "random + LASSO"))
        table.append(
            {
                "data": name,
                "m": m,
                "improve / STE": mine["objective"] / ste["objective"],
                "against STE": _verdict(mine["objective"], ste["objective"]),
                "improve s": mine["seconds"],
                "with relaxation s": mine["seconds"] + mine["relaxation s"],
                "STE s": ste["seconds"],
                "no slower": mine["seconds"] + mine["relaxation s"] <= ste["seconds"],
                "improve / random": mine["objective"] / drawn["objective"],
                "against random": _verdict(mine["objective"], drawn["objective"]),
            }
        )
    return table


def _verdict(mine: float, theirs: float) -> str:
    """Say who wins; a relative difference of 1e-6 is none."""
    difference = (mine - theirs) / theirs
    return "equal" if abs(difference) <= 1e-6 else "wins" if difference < 0 else "loses"


def _save(
    rows: list[dict[str, Any]], path: Path, measured_in: dict[str, str] | None = None
) -> None:
    if measured_in is None:
        measured_in = {**environment(), "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")}
    content = {"environment": measured_in, "rows": rows}
    partial = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    partial.replace(path)


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw objective against m, one panel a data set."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    names = list(dict.fromkeys(row["data"] for row in rows))
    columns = min(3, len(names))
    lines = -(-len(names) // columns)
    size = 4 * columns, 2.9 * lines + 0.7
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False, layout="constrained")
    for ax in axes.flat[len(names) :]:
        ax.set_visible(False)
    for ax, name in zip(axes.flat, names, strict=False):
        own = [row for row in rows if row["data"] == name]
        bound = own[0]["bound"]
        for index, method in enumerate(METHODS):
            points = sorted((r for r in own if r["method"] == method), key=lambda r: r["m"])
            if not points:
                continue
            m = [row["m"] for row in points]
            mine = method == "improve"
            style: dict[str, Any] = {
                "color": "C3" if mine else ("C0", "C1", "C2", "C4", "C5")[index],
                "linewidth": 2.2 if mine else 1.2,
                "zorder": 3 if mine else 2,
            }
            ax.plot(m, [row["objective"] for row in points], ".-", label=method, **style)
            if points[0]["min"] is not None:
                low, high = ([row[k] for row in points] for k in ("min", "max"))
                ax.fill_between(m, low, high, color=style["color"], alpha=0.15, linewidth=0)
        ax.axhline(bound, color="black", linestyle="--", linewidth=1, label="lower bound")
        ax.set_xscale("log", base=2)
        ax.set_yscale("log")
        ticks = sorted({row["m"] for row in own})
        ax.set_xticks(ticks, [str(m) for m in ticks])
        ax.set_title(f"{name}, n = {own[0]['n']}, d = {own[0]['d']}", fontsize=10, loc="left")
        ax.spines[["top", "right"]].set_visible(False)
    for ax in axes[:, 0]:
        ax.set_ylabel("objective")
    figure.supxlabel("neurons m", fontsize=10)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, frameon=False, loc="outside upper center", ncols=len(labels))
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150)


def main() -> None:
    known: tuple[str, ...] = (*PLANTED, *SKLEARN, *KEEL)
    parser = arguments((__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", default=known, choices=(*known, "wdbc"))
    parser.add_argument("--neurons", nargs="+", type=int, default=NEURONS)
    parser.add_argument("--seeds", type=int, default=5, help="runs of all methods but STE")
    parser.add_argument("--plot", type=Path, help="draw objective against neurons to this PNG")
    parser.add_argument("--read", type=Path, nargs="+", help="show JSON files, measure nothing")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.read is not None:
        measured = [json.loads(path.read_text()) for path in options.read]
        environments = [part["environment"] for part in measured]
        if any(other != environments[0] for other in environments):
            parser.error("the files were measured in different environments")
        rows = [row for part in measured for row in part["rows"]]
        print(f"measured with {environments[0]}; read with the versions below\n")
        report(rows, None, options.plot)
        if options.json is not None:
            _save(rows, options.json, environments[0])
        return
    clock = Stopwatch()
    cases = []
    for name in options.data:
        try:
            cases.append(_prepare(name, clock))
        except ImportError as error:
            print(f"{name} left out: {error}", flush=True)
    cells = [(case, m) for m in options.neurons for case in cases]
    cells.sort(key=lambda cell: (cell[0].name, cell[1]) == LARGEST)
    width = max(options.neurons)
    rows: list[dict[str, Any]] = []
    for case, m in cells:
        start = time.perf_counter()
        for method, runs in _runs(case, m, options.seeds, clock):
            rows.append(_row(case, m, method, runs, width))
            if options.json is not None:
                _save(rows, options.json)
        summary = ", ".join(f"{r['method']} {r['objective']:.4g}" for r in rows[-len(METHODS) :])
        print(
            f"{case.name} m={m}: {summary} ({time.perf_counter() - start:.0f} s in all)",
            flush=True,
        )
    report(rows, options.json, options.plot)


def report(rows: list[dict[str, Any]], table: Path | None, picture: Path | None) -> None:
    """Print the tables, and draw the picture if asked for."""
    publish(rows, None)
    if table is not None:
        _save(rows, table)
    verdicts = compare(rows)
    if verdicts:
        print()
        publish(verdicts, None)
    names = dict.fromkeys(row["data"] for row in verdicts)
    for rival in ("STE", "random"):
        never_worse = [
            name
            for name in names
            if all(row[f"against {rival}"] != "loses" for row in verdicts if row["data"] == name)
        ]
        print(
            f"improve is no worse than {rival} at every m on {len(never_worse)} of {len(names)} "
            f"data sets: {', '.join(never_worse)}"
        )
    both = [row for row in verdicts if row["against STE"] != "loses" and row["no slower"]]
    print(
        f"no worse than STE and, relaxation included, no slower in {len(both)} of {len(verdicts)} "
        "cells"
    )
    if picture is not None:
        plot(rows, picture)


if __name__ == "__main__":
    main()
