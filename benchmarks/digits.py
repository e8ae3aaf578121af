"""How few bits read digits: test accuracy of ten classes against kilobits.

    python -m benchmarks.digits --json digits.json --plot digits.png
    python -m benchmarks.digits --splits 1 --neurons 16 32
    python -m benchmarks.digits --read digits.json --plot digits.png

On the data and splits of `benchmarks.accuracy`, softmax loss, penalty and constant chosen as
`benchmarks.accuracy_by_loss` does,

- improve: `qs.improve` from a rounded network, for weights of one and two bits and ternary ones;
- STE: a straight-through estimator on the same objective, Adam, 2000 steps, seeds × two step sizes
  in one batch (twenty runs by default), the output weights of the five best refitted, and the best
  objective of these;

both with α in eight, four, three and two bits by `qs.quantize_alpha`, beside

- float32: `benchmarks.accuracy.mlp`, a two-layer ReLU network.

Bits are those of both layers, scales included. Rows are means over the splits, and of each model
the errors of the splits are kept.
"""

from __future__ import annotations

import functools
import json
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

import jaxqsdp as qs

from ._baselines import train
from ._report import arguments, environment, markdown, publish
from .accuracy import Split, choose, mlp
from .accuracy_by_loss import LOOSE, search
from .levels import ALPHABETS

NEURONS = (8, 16, 32)
SECONDS = 60.0  # for a network, compilation not counted
HIDDEN = (2, 4, 8, 32)  # neurons of float32 networks, whose weights take 32 times as much
ALPHA_BITS = (8, 4, 3, 2)
KINDS = ("1 bit", "ternary", "2 bits")
_TICKS = (2, 3, 5, 10, 20, 50)  # kilobits
_STEPS, _RATES, _REFITTED = 2000, (0.01, 0.03), 5
Row = dict[str, Any]


def cross_entropy(outputs: jax.Array, targets: jax.Array) -> jax.Array:
    """Return the softmax loss of each sample."""
    return optax.softmax_cross_entropy(outputs, targets)


def straight_through(problem: qs.Problem, m: int, runs: int) -> qs.QuantizedNetwork:
    """Return the best network of so many runs, half of them with each step size."""
    levels, outputs = problem.levels, problem.num_outputs
    rates = jnp.repeat(jnp.asarray(_RATES, jnp.float32), runs // 2)
    X, y, beta = (jnp.asarray(part, jnp.float32) for part in (problem.X, problem.y, problem.beta))
    one = functools.partial(
        train, X, y, beta,
        num_neurons=m, num_steps=_STEPS, binary=True, levels=tuple(levels.values.tolist()),
        loss=cross_entropy,
    )  # fmt: skip
    trained = jax.vmap(one)(jax.random.split(jax.random.key(1), len(rates)), rates)
    order = np.argsort(trained.objective)[:_REFITTED]
    alpha = jnp.ones((m, outputs))
    networks = [
        qs.refit(
            problem,
            qs.QuantizedNetwork.from_weights(
                trained.u[place], trained.v[place], alpha, levels=levels
            ),
        )
        for place in order
    ]
    return min(networks, key=problem.objective)


def measure(seed: int, neurons: list[int], runs: int) -> Iterator[Row]:
    """Yield the figures of one split."""
    data, key, loss = Split("digits", seed), jax.random.key(seed), qs.SoftmaxLoss()
    for m in HIDDEN:
        figures = mlp(data, seed, m)
        yield _row(seed, "float32", "float32", m, 32, figures["bits"], figures["score"])
    beta, constant = choose(data, key, y=data.labels, loss=loss, **search(data, data.labels, loss))
    scale = constant * float(qs.with_constant(data.X[0])[-1])
    X, test_X = (qs.with_constant(part, scale) for part in (data.X, data.test_X))
    plain = qs.Problem(X, data.labels, beta, loss)
    solution = qs.solve(plain, LOOSE, throw=False)
    for m in neurons:
        for name in KINDS:
            problem = qs.Problem(X, data.labels, beta, loss, levels=ALPHABETS[name])
            start = time.perf_counter()
            drawn = qs.round(problem, solution, num_neurons=m, key=key)
            options: Any = {"solution": solution, "progress": False, "time_limit": SECONDS}
            networks = {"improve": qs.improve(problem, drawn, max_neurons=m, key=key, **options)}
            if runs:
                networks["STE"] = straight_through(problem, m, runs)
            for method, network in networks.items():
                for bits in ALPHA_BITS:
                    few = qs.quantize_alpha(problem, network, bits=bits)
                    score = data.score(np.asarray(jax.vmap(few)(test_X)))
                    row = _row(seed, method, name, m, bits, few.total_bits, score)
                    yield row | {
                        "objective": float(problem.objective(few)),
                        "bound": float(solution.lower_bound),
                        "beta": beta,
                        "constant": constant,
                    }
            print(f"split {seed}, {m} neurons, {name}: {time.perf_counter() - start:.0f} s")


def _row(
    seed: int, method: str, name: str, m: int, alpha_bits: int, bits: int, score: float
) -> Row:
    return {
        "split": seed,
        "method": method,
        "weights": name,
        "neurons": m,
        "α bits": alpha_bits,
        "kilobits": bits / 1000,
        "accuracy": score,
    }


def averaged(rows: list[Row]) -> list[Row]:
    """Return one row for each model, by its bits."""
    models: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        key = tuple(row[field] for field in ("method", "weights", "neurons", "α bits"))
        models.setdefault(key, []).append(row)
    means = []
    for some in models.values():
        scores = [100 * row["accuracy"] for row in some]
        few = {field: some[0][field] for field in ("method", "weights", "neurons", "α bits")}
        few["kilobits"] = statistics.mean(row["kilobits"] for row in some)
        few |= {"accuracy, %": statistics.mean(scores), "least": min(scores)}
        if "objective" in some[0]:
            few["objective / bound"] = statistics.mean(
                row["objective"] / row["bound"] for row in some
            )
        means.append(few)
    return sorted(means, key=lambda row: row["kilobits"])


def frontier(rows: list[Row], method: str) -> list[Row]:
    """Return the models of a method that no smaller one of it is as accurate as."""
    best, kept = -1.0, []
    for row in (row for row in averaged(rows) if row["method"] == method):
        if row["accuracy, %"] > best:
            best = row["accuracy, %"]
            kept.append(row)
    return kept


def plot(rows: list[Row], path: Path) -> None:
    """Draw accuracy against kilobits: every model, and the best of each method."""
    import matplotlib.pyplot as plt

    figure, ax = plt.subplots(figsize=(6, 4))
    labels = {"improve": "improve", "STE": "straight-through", "float32": "float32 network"}
    for color, (method, label) in enumerate(labels.items()):
        every = [row for row in averaged(rows) if row["method"] == method]
        best = frontier(rows, method)
        sizes, scores = (
            [[row[field] for row in some] for some in (every, best)]
            for field in ("kilobits", "accuracy, %")
        )
        ax.plot(sizes[0], scores[0], ".", color=f"C{color}", alpha=0.4)
        ax.plot(sizes[1], scores[1], "o-", color=f"C{color}", label=label)
    ax.axhline(95, color="0.8", zorder=0)
    ax.set_xscale("log")
    ax.set_xticks(_TICKS, [str(tick) for tick in _TICKS])
    ax.minorticks_off()
    ax.set_xlabel("kilobits of the network")
    ax.set_ylabel("test accuracy, %")
    ax.set_title("digits, ten classes")
    ax.legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def main() -> None:
    parser = arguments((__doc__ or "").partition("\n")[0])
    parser.add_argument("--splits", type=int, default=3)
    parser.add_argument("--neurons", nargs="+", type=int, default=NEURONS)
    parser.add_argument("--runs", type=int, default=20, help="of straight-through training")
    parser.add_argument("--plot", type=Path, help="draw accuracy against kilobits to this file")
    parser.add_argument("--read", type=Path, help="show a JSON file, measure nothing")
    options = parser.parse_args()
    if options.read is None:
        jax.config.update("jax_enable_x64", True)
        rows: list[Row] = []
        for seed in range(options.splits):
            for row in measure(seed, list(options.neurons), options.runs):
                rows.append(row)
                if options.json is not None:  # a run cut short keeps what it has
                    content = {"environment": environment(), "rows": rows}
                    options.json.write_text(json.dumps(content, indent=1) + "\n")
        publish(averaged(rows), None)
    else:
        rows = json.loads(options.read.read_text())["rows"]
        print(markdown(averaged(rows)))
    for method in ("improve", "STE", "float32"):
        enough = [row for row in frontier(rows, method) if row["accuracy, %"] >= 95]
        if enough:
            print(f"95 % by {method}: {enough[0]['kilobits']:.1f} kilobits")
    if options.plot is not None:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
