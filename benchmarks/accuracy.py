"""Is a one-bit network as accurate as what one would use instead, and how many bits is each?

    python -m benchmarks.accuracy --json accuracy.json
    python -m benchmarks.accuracy --json accuracy.json --data wine --splits 3
    python -m benchmarks.accuracy --read accuracy.json

Accuracy (targets ±1) or R² on the 30 % of rows held out, mean ± standard error over the splits, and
the bits of what has to be stored, for

- linear: logistic regression, C of nine by 5-fold cross-validation, or ridge regression, its
  penalty of 15 by leave-one-out; 32 bits a weight;
- forest: 300 trees of scikit-learn's defaults; 64 bits a node, for a feature and a threshold;
- MLP m: a float32 two-layer network of m ReLU units, weight decay of three by 3-fold
  cross-validation, L-BFGS; 32 bits a weight;
- quantized m: `qs.fit` to at most m neurons, penalty and constant of ten × three by 5-fold
  `qs.cross_validate` of the relaxation, by squared error for classes, too; one bit a weight of the
  first layer and 32 an α, of the neurons kept. The gap is the certified one.

All see the same standardized features; their means and spreads are not counted. What the JSON file
has already is not measured again, so a run cut short goes on where it was, and the file may be made
in parts.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from sklearn.base import clone
from sklearn.ensemble import RandomForestClassifier, RandomForestRegressor
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, train_test_split
from sklearn.neural_network import MLPClassifier, MLPRegressor
from sklearn.preprocessing import StandardScaler

import jaxqsdp as qs

from ._data import load
from ._report import arguments, environment, markdown

DATA = ("breast_cancer", "wine 1", "diabetes", "digits 3/8", "ionosphere", "autompg")
NEURONS = (8, 16, 64)
CONSTANTS = (1 / 3, 1.0, 3.0)  # times the rule of `qs.with_constant`
BETAS = 10
Row = dict[str, Any]


class Split:
    """A data set, split and standardized.

    Two classes are ±1, more of them a column ±1 each; `labels` are their positions.
    """

    def __init__(self, name: str, seed: int):
        X, y = load(name)
        several = y.dtype.kind == "i"
        self.classes = several or bool(np.all(np.abs(y) == 1))
        parts = train_test_split(
            X, y, test_size=0.3, random_state=seed, stratify=y if self.classes else None
        )
        self.raw, test, self.y, self.test_y = parts
        scaler = StandardScaler().fit(self.raw)
        self.X, self.test_X = scaler.transform(self.raw), scaler.transform(test)
        if not self.classes:
            center, spread = self.y.mean(), self.y.std()
            self.y, self.test_y = (self.y - center) / spread, (self.test_y - center) / spread
            return
        known, self.labels = np.unique(self.y, return_inverse=True)
        self.test_labels = np.searchsorted(known, self.test_y)
        if several:
            self.y, self.test_y = (
                np.where(y[:, None] == known, 1.0, -1.0) for y in (self.y, self.test_y)
            )

    @property
    def outputs(self) -> int:
        """How many outputs a model of the data has."""
        return self.y[0].size

    def score(self, predictions: np.ndarray) -> float:
        """Return the accuracy of signs, or of the largest of several outputs, or R²."""
        if self.classes:
            found = predictions.argmax(1) if predictions.ndim == 2 else predictions >= 0
            return float(np.mean(found == self.test_labels))
        rest = np.sum((predictions - self.test_y) ** 2)
        return float(1 - rest / np.sum((self.test_y - self.test_y.mean()) ** 2))


def linear(data: Split) -> Row:
    """Return the figures of logistic or ridge regression."""
    if data.classes:
        grid = {"C": np.logspace(-4, 4, 9)}
        figures = _best(LogisticRegression(max_iter=5000), grid, 5, data)
    else:
        figures = {"score": data.score(_fitted(RidgeCV(np.logspace(-3, 4, 15)), data))}
    return figures | {"bits": 32 * data.outputs * (data.X.shape[1] + 1)}


def _forest(data: Split, seed: int) -> Row:
    kind = RandomForestClassifier if data.classes else RandomForestRegressor
    model = kind(300, random_state=seed, n_jobs=1)
    score = data.score(_fitted(model, data))
    nodes = sum(tree.tree_.node_count for tree in model.estimators_)
    return {"score": score, "bits": 64 * nodes}


def mlp(data: Split, seed: int, m: int) -> Row:
    """Return the figures of a float32 network of m neurons."""
    kind = MLPClassifier if data.classes else MLPRegressor
    network = kind(hidden_layer_sizes=(m,), solver="lbfgs", max_iter=500, random_state=seed)
    numbers = m * (data.X.shape[1] + 1) + data.outputs * (m + 1)
    figures = _best(network, {"alpha": [1e-3, 1e-1, 1e1]}, 3, data, np.float32)
    return figures | {"bits": 32 * numbers}


def _fitted(model: Any, data: Split, dtype: Any = np.float64) -> np.ndarray:
    """Fit a model of scikit-learn, and return what it predicts for the test part."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        model.fit(data.X.astype(dtype), data.y)
    return model.predict(data.test_X.astype(dtype))


def _best(
    model: Any, grid: dict[str, Any], folds: int, data: Split, dtype: Any = np.float64
) -> Row:
    """Return score and, for classes, log-loss, each of the parameters that it chooses itself."""
    X, test_X = data.X.astype(dtype), data.test_X.astype(dtype)
    if not data.classes:
        return {"score": data.score(_fitted(GridSearchCV(model, grid, cv=folds), data, dtype))}
    metrics = "accuracy", "neg_log_loss"
    search = GridSearchCV(model, grid, cv=folds, scoring=metrics, refit=False)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        results = search.fit(X, data.labels).cv_results_
        best = [int(results[f"rank_test_{metric}"].argmin()) for metric in metrics]
        fitted = {
            k: clone(model).set_params(**results["params"][k]).fit(X, data.labels)
            for k in dict.fromkeys(best)
        }
    accurate, likely = (fitted[k] for k in best)
    return {
        "score": float(np.mean(accurate.predict(test_X) == data.test_labels)),
        "log_loss": log_loss(data.test_labels, likely.predict_proba(test_X)),
    }


def choose(
    data: Split, key: jax.Array, constants: tuple[float, ...] = CONSTANTS, **options: Any
) -> tuple[float, float]:
    """Return penalty and constant, the latter in units of the rule's, by cross-validation."""
    rule = float(qs.with_constant(data.X[0])[-1])
    options = {"y": data.y, "num_betas": BETAS} | options
    choice = qs.cross_validate(
        data.raw, key=key, constant=[factor * rule for factor in constants], **options
    )
    return float(choice.best_beta), float(choice.best_constant) / rule


def _quantized(data: Split, seed: int, neurons: list[int]) -> Iterator[tuple[str, Row]]:
    key = jax.random.key(seed)
    beta, constant = choose(data, key)
    scale = constant * float(qs.with_constant(data.X[0])[-1])
    X, test_X = (qs.with_constant(part, scale) for part in (data.X, data.test_X))
    for m in neurons:
        fit = qs.fit(X, data.y, beta=beta, num_neurons=m, key=key, progress=False)
        row = {
            "score": data.score(np.asarray(jax.vmap(fit.network)(test_X))),
            "bits": fit.network.num_bits + 32 * fit.network.num_neurons,
            "gap": float(fit.certificate.gap),
            "beta": beta,
            "constant": constant,
        }
        yield f"quantized {m}", row


def measure(
    neurons: list[int], data: Split, seed: int, known: dict[str, Row]
) -> Iterator[tuple[str, Row]]:
    """Yield model and figures of one split, but for the models that are known."""
    if "linear" not in known:
        yield "linear", linear(data)
    if "forest" not in known:
        yield "forest", _forest(data, seed)
    for m in neurons:
        if f"MLP {m}" not in known:
            yield f"MLP {m}", mlp(data, seed, m)
    missing = [m for m in neurons if f"quantized {m}" not in known]
    if missing:
        yield from _quantized(data, seed, missing)


def tables(rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Return scores and bits, a line a data set."""
    scores, bits = [], []
    for name in dict.fromkeys(row["data"] for row in rows):
        own = [row for row in rows if row["data"] == name]
        models = list(dict.fromkeys(row["model"] for row in own))
        # Splits that not all models have seen would compare unlike with unlike.
        measured = collections.Counter(row["split"] for row in own)
        own = [row for row in own if measured[row["split"]] == len(models)]
        of_model = {model: [row for row in own if row["model"] == model] for model in models}
        first = own[0]
        score_line: Row = {"data": name, "metric": first["metric"]}
        bits_line: Row = {"data": name, "n × d": f"{first['n']} × {first['d']}"}
        linear, linear_error = mean_and_error([row["score"] for row in of_model["linear"]])
        fallen = []
        for model, some in of_model.items():
            mean, error = mean_and_error([row["score"] for row in some])
            score_line[model] = f"{mean:.4f} ± {error:.4f}"
            bits_line[model] = f"{statistics.median(row['bits'] for row in some):,.0f}"
            if model.startswith("quantized"):
                gap = statistics.median(row["gap"] for row in some)
                bits_line[f"gap {model.split()[1]}"] = f"{100 * gap:.1f} %"
                if mean < linear - linear_error:
                    fallen.append(model.split()[1])
        short = f"not with {', '.join(fallen)}" if fallen else "yes"
        score_line["splits"] = len(of_model["linear"])
        score_line["within an error of linear"] = short
        scores.append(score_line)
        bits.append(bits_line)
    return scores, bits


def mean_and_error(scores: list[float]) -> tuple[float, float]:
    """Return the mean over splits, and its standard error."""
    error = statistics.stdev(scores) / len(scores) ** 0.5 if len(scores) > 1 else float("nan")
    return statistics.mean(scores), error


def report(rows: list[Row], measured_in: dict[str, str]) -> None:
    """Print both tables, and where they were measured."""
    if not rows:
        print("nothing measured")
        return
    for table in tables(rows):
        print(markdown(table) + "\n")
    print(", ".join(f"{key} {value}" for key, value in measured_in.items()))


def _save(rows: list[Row], path: Path | None) -> None:
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        content = {"environment": environment(), "rows": rows}
        partial.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        partial.replace(path)


def fill(
    path: Path | None,
    names: list[str],
    splits: int,
    measure: Callable[[Split, int, dict[str, Row]], Iterator[tuple[str, Row]]],
) -> list[Row]:
    """Return the rows of a JSON file with what `measure` adds; each is written when it is known.

    It yields models and figures of one split, but for the models that are known already, whose rows
    it gets.
    """
    rows: list[Row] = []
    if path is not None and path.exists():
        rows = json.loads(path.read_text())["rows"]
    # Split by split, so that a run cut short has all data sets; their programs are shared.
    for seed in range(splits):
        for name in names.copy():
            try:
                data = Split(name, seed)
            except ImportError as error:
                print(f"{name} left out: {error}", flush=True)
                names.remove(name)
                continue
            known = {r["model"]: r for r in rows if (r["data"], r["split"]) == (name, seed)}
            start = time.perf_counter()
            shape = {"n": len(data.y), "d": data.X.shape[1]}
            metric = "accuracy" if data.classes else "R²"
            for model, figures in measure(data, seed, known):
                common = {"data": name, "split": seed, **shape, "metric": metric, "model": model}
                rows.append({**common, **figures})
                _save(rows, path)
            print(f"{name}, split {seed}: {time.perf_counter() - start:.0f} s", flush=True)
    return rows


def read_or_measure(
    parser: argparse.ArgumentParser, report: Callable[[list[Row], dict[str, str]], None]
) -> argparse.Namespace | None:
    """Return the options; or show what a file has, if one is to be read, and return None."""
    parser.add_argument("--read", type=Path, help="show a JSON file, measure nothing")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    if options.read is None:
        return options
    content = json.loads(options.read.read_text())
    report(content["rows"], content["environment"])
    return None


def main() -> None:
    parser = arguments((__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", default=DATA, choices=(*DATA, "sonar", "wine"))
    parser.add_argument("--neurons", nargs="+", type=int, default=NEURONS)
    parser.add_argument("--splits", type=int, default=10)
    options = read_or_measure(parser, report)
    if options is None:
        return
    of_split = functools.partial(measure, list(options.neurons))
    rows = fill(options.json, list(options.data), options.splits, of_split)
    report(rows, environment())


if __name__ == "__main__":
    main()
