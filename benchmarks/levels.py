"""What do more bits a weight buy: objective against the bits of the network, for every alphabet.

    python -m benchmarks.levels --json levels.json --plot levels.png
    python -m benchmarks.levels --chosen --runs 0 --json levels_chosen.json
    python -m benchmarks.levels --data breast_cancer --neurons 4 8 --runs 4

Networks of m neurons with weights of one, two or three bits or ternary ones, α in eight bits: their
total bits, the objective of training, and accuracy (targets ±1) on the 30 % of rows held out, for

- improve: `qs.improve` from a rounded network, then `qs.quantize_alpha`; the best of two keys;
- STE: a straight-through estimator, Adam, 2000 steps, seeds × two step sizes in one batch (twenty
  runs by default, none with `--runs 0`), output weights refitted by LASSO; the best objective of
  all runs, α in eight bits of them, too.

β is 0.05·d for planted data and 0.3·d for real ones, where more neurons pay; with `--chosen` it is
that of cross-validation, of real data. The bound is one for all alphabets. `--read` draws
what a file has, and measures nothing.
"""

from __future__ import annotations

import functools
import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxqsdp as qs
from tests.problems import planted

from ._baselines import train
from ._data import load
from ._report import arguments, environment, markdown, publish

DATA = ("planted 200×20", "breast_cancer", "ionosphere", "digits 3/8")
ALPHABETS = {
    "1 bit": qs.Levels(),
    "ternary": qs.Levels.ternary(),
    "2 bits": qs.Levels(bits=2),
    "3 bits": qs.Levels(bits=3),
}
NEURONS = (4, 8, 16)
_HELD_OUT, _STEPS, _RATES, _KEYS = 0.3, 2000, (0.01, 0.03), 2
_ALPHA_BITS = 8


@functools.cache
def data(name: str, chosen: bool) -> tuple[qs.Problem, np.ndarray, np.ndarray]:
    """Return the problem of a data set, and the rows held out."""
    if name.startswith("planted"):
        found = planted(0, 286, 20)
        X, y = found.X, found.y
    else:
        X, y = load(name)
    order = np.random.default_rng(0).permutation(len(y))
    train_rows, test_rows = np.split(order, [round((1 - _HELD_OUT) * len(y))])
    test_X, X, test_y, y = X[test_rows], X[train_rows], y[test_rows], y[train_rows]
    beta = 0.05 * X.shape[1]
    if not name.startswith("planted"):
        center, spread = X.mean(axis=0), X.std(axis=0)
        spread = np.where(spread > 0, spread, np.inf)
        X, test_X = (qs.with_constant((part - center) / spread) for part in (X, test_X))
        beta = 0.3 * X.shape[1]
    if chosen:
        beta = float(qs.cross_validate(X, y, key=jax.random.key(0), constant=False).best_beta)
    return qs.Problem(X, y, beta), test_X, test_y


def improved(problem: qs.Problem, solution: qs.Solution, m: int) -> qs.QuantizedNetwork:
    """Return the best network of two searches."""
    found = []
    for seed in range(_KEYS):
        key = jax.random.key(seed)
        drawn = qs.round(problem, solution, num_neurons=m, key=key)
        options: Any = {"solution": solution, "progress": False}
        found.append(qs.improve(problem, drawn, max_neurons=m, key=key, **options))
    return min(found, key=problem.objective)


def straight_through(problem: qs.Problem, m: int, runs: int) -> qs.QuantizedNetwork:
    """Return the best network of so many runs, half of them with each step size."""
    levels = problem.levels
    rates = jnp.repeat(jnp.asarray(_RATES), runs // 2)
    one = functools.partial(
        train, problem.X, problem.y, problem.beta,
        num_neurons=m, num_steps=_STEPS, binary=True, levels=tuple(levels.values.tolist()),
    )  # fmt: skip
    u, v, _ = jax.vmap(one)(jax.random.split(jax.random.key(1), len(rates)), rates)
    networks = [
        qs.refit(problem, qs.QuantizedNetwork.from_weights(*weights, jnp.ones(m), levels=levels))
        for weights in zip(u, v, strict=True)
    ]
    return min(networks, key=problem.objective)


def measure(name: str, chosen: bool, neurons: list[int], runs: int) -> list[dict[str, Any]]:
    """Return the rows of a data set."""
    plain, test_X, test_y = data(name, chosen)
    solution, rows = qs.solve(plain), []
    for m in neurons:
        for alphabet, levels in ALPHABETS.items():
            problem = qs.Problem(plain.X, plain.y, plain.beta, levels=levels)
            networks = {"improve": improved(problem, solution, m)}
            if runs:
                networks["STE"] = straight_through(problem, m, runs)
            for method, network in networks.items():
                few = qs.quantize_alpha(problem, network, bits=_ALPHA_BITS)
                row = {
                    "data": name,
                    "β": "chosen" if chosen else "small",
                    "levels": alphabet,
                    "neurons": m,
                    "method": method,
                    "bits": few.total_bits,
                    "first layer": few.num_bits,
                    "objective": float(problem.objective(few)),
                    "before α was quantized": float(problem.objective(network)),
                    "bound": float(solution.lower_bound),
                }
                if set(np.unique(test_y)) == {-1.0, 1.0}:
                    predicted = np.sign(np.asarray(jax.vmap(few)(test_X)))
                    row["accuracy"] = float(np.mean(predicted == test_y))
                rows.append(row)
                print(
                    {key: row[key] for key in ("data", "levels", "neurons", "method")}, flush=True
                )
    return rows


def plot(rows: list[dict[str, Any]], path: Path) -> None:
    """Draw objectives against bits, a panel for each data set."""
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    names = list(dict.fromkeys(row["data"] for row in rows))
    figure, axes = plt.subplots(1, len(names), figsize=(3.6 * len(names), 3.4), squeeze=False)
    for ax, name in zip(axes[0], names, strict=True):
        for color, alphabet in enumerate(ALPHABETS):
            for method, style in (("improve", "o-"), ("STE", "x:")):
                some = [
                    row
                    for row in rows
                    if (row["data"], row["levels"], row["method"]) == (name, alphabet, method)
                ]
                label = alphabet if method == "improve" else None
                line = [row["bits"] for row in some], [row["objective"] for row in some]
                ax.loglog(*line, style, color=f"C{color}", label=label)
        ax.axhline(_bound(rows, name), color="0.7")
        ax.set_title(name)
        ax.set_xlabel("bits of the network")
        for axis in (ax.xaxis, ax.yaxis):
            axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
            axis.set_minor_formatter(NullFormatter())
    axes[0, 0].set_ylabel("objective (dotted: straight-through)")
    axes[0, 0].legend()
    figure.tight_layout()
    figure.savefig(path, dpi=150)


def _bound(rows: list[dict[str, Any]], name: str) -> float:
    return next(row["bound"] for row in rows if row["data"] == name)


def main() -> None:
    rows: list[dict[str, Any]]
    parser = arguments((__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", default=DATA, choices=DATA)
    parser.add_argument("--neurons", nargs="+", type=int, default=NEURONS)
    parser.add_argument("--runs", type=int, default=20, help="of straight-through training")
    parser.add_argument("--chosen", action="store_true", help="β by cross-validation, real data")
    parser.add_argument("--plot", type=Path, help="draw the objectives to this file")
    parser.add_argument("--read", type=Path, help="show a JSON file, measure nothing")
    options = parser.parse_args()
    if options.read is not None:
        rows = json.loads(options.read.read_text())["rows"]
        print(markdown(rows))
        if options.plot is not None:
            plot(rows, options.plot)
        return
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name in options.data:
        if not (options.chosen and name.startswith("planted")):
            rows += measure(name, options.chosen, list(options.neurons), options.runs)
            if options.json is not None:  # a run cut short keeps what it has
                content = {"environment": environment(), "rows": rows}
                options.json.write_text(json.dumps(content, indent=1) + "\n")
    publish(rows, options.json)
    if options.plot is not None:
        plot(rows, options.plot)


if __name__ == "__main__":
    main()
