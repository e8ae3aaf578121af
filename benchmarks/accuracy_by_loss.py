"""Which loss makes one-bit networks predict classes best, and what do their probabilities say?

    python -m benchmarks.accuracy_by_loss --json accuracy_by_loss.json
    python -m benchmarks.accuracy_by_loss --json accuracy_by_loss.json --only hinge --data wines
    python -m benchmarks.accuracy_by_loss --read accuracy_by_loss.json

Test accuracy, and log-loss where a loss has probabilities, mean ± standard error over splits, of
networks of at most 8, 32 and 128 neurons for

- squared and hinge: two classes as ±1, more of them as a column ±1 each;
- logistic for two classes, softmax for more;

beside the linear model (logistic regression) and the float32 MLP of `benchmarks.accuracy`, which
has the data, the splits and the bits, too, each of the parameters that its own cross-validation
by accuracy or by log-loss chooses. Penalty and constant of the networks are chosen by 5-fold
cross-validation of the relaxation by the loss itself, among ten × three, solved to 1 % for softmax;
on digits by two folds among five × one, and the relaxation of softmax is solved to 1 % there, too.
One relaxation serves the networks of all sizes, and `qs.improve` looks for each for 20 s at most,
on digits from few descents. What the JSON file has already is not measured again.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator

import jax
import numpy as np
from sklearn.metrics import log_loss

import jaxqsdp as qs

from ._report import arguments, environment, markdown
from .accuracy import Row, Split, choose, fill, linear, mean_and_error, mlp, read_or_measure

DATA = ("breast_cancer", "ionosphere", "wines", "digits")
NEURONS = (8, 32, 128)
LOSSES: dict[str, qs.AbstractLoss] = {
    "squared": qs.SquaredLoss(),
    "hinge": qs.HingeLoss(),
    "logistic": qs.LogisticLoss(),
    "softmax": qs.SoftmaxLoss(),
}
_FRACTIONS = 0.1, 0.03, 0.01, 0.003, 0.001  # of the largest useful penalty
LOOSE = qs.ADMM(tol=1e-2, tol_residual=1e-2)  # scores hardly change, and steps are a tenth
SECONDS = 20.0  # for a network, compilation not counted
LITTLE = {"num_starts": 4, "num_steps": 250}  # where descents take longer than that
KINDS = ("linear", "MLP", *LOSSES)
COLUMNS = ("linear", "MLP", "squared", "hinge", "logistic/softmax")


def search(data: Split, targets: np.ndarray, loss: qs.AbstractLoss) -> Row:
    """Return the options of the search for penalty and constant, few where solves take seconds."""
    solver = LOOSE if loss.couples_outputs else None
    if not _is_large(data):
        return {"solver": solver}
    X = qs.with_constant(data.X)
    columns = [targets] if targets.ndim == 1 else targets.T
    largest = max(float(qs.beta_max(X, y, loss=loss)) for y in columns)
    betas = largest * np.array(_FRACTIONS)
    return {"betas": betas, "constants": (1.0,), "folds": 2, "solver": solver}


def _is_large(data: Split) -> bool:
    return data.outputs * len(data.y) >= 1000


def quantized(
    data: Split, seed: int, name: str, neurons: list[int], known: Row | None
) -> Iterator[tuple[str, Row]]:
    """Yield the figures of networks of several sizes for one loss.

    A known row of another size has the penalty and the constant, which are the same for all.
    """
    loss, key, start = LOSSES[name], jax.random.key(seed), time.perf_counter()
    targets = data.labels if loss.takes_classes else data.y
    if known is None:
        options = search(data, targets, loss)
        beta, constant = choose(data, key, y=targets, loss=loss, **options)
    else:
        beta, constant = known["beta"], known["constant"]
    scale = constant * float(qs.with_constant(data.X[0])[-1])
    X, test_X = (qs.with_constant(part, scale) for part in (data.X, data.test_X))
    problem = qs.Problem(X, targets, beta, loss)
    chosen = time.perf_counter()
    loose = LOOSE if loss.couples_outputs and _is_large(data) else None
    solution = qs.solve(problem, loose, throw=False)
    solved = time.perf_counter()
    effort = LITTLE if _is_large(data) else {}
    for m in neurons:
        begun = time.perf_counter()
        drawn = qs.round(problem, solution, num_neurons=m, key=key)
        network = qs.improve(
            problem,
            drawn,
            max_neurons=m,
            key=key,
            solution=solution,
            time_limit=SECONDS,
            progress=False,
            **effort,
        )
        improved = time.perf_counter()
        outputs = np.asarray(jax.vmap(network)(test_X))
        row = {
            "score": data.score(outputs),
            "bits": network.num_bits + 32 * network.alpha.size,
            "gap": float(qs.certify(problem, network, solution).gap),
            "beta": beta,
            "constant": constant,
            "seconds": {
                "choice": known["seconds"]["choice"] if known else chosen - start,
                "relaxation": solved - chosen,
                "networks": improved - begun,
            },
        }
        if loss.has_probabilities:
            chances = np.asarray(loss.predict_proba(outputs))
            row["log_loss"] = log_loss(data.test_labels, chances)
        yield f"{name} {m}", row


def measure(
    only: list[str], neurons: list[int], data: Split, seed: int, known: dict[str, Row]
) -> Iterator[tuple[str, Row]]:
    """Yield model and figures of one split, but for the models that are known."""
    if "linear" in only and "linear" not in known:
        yield "linear", linear(data)
    for m in neurons if "MLP" in only else []:
        if f"MLP {m}" not in known:
            yield f"MLP {m}", mlp(data, seed, m)
    for name in ("squared", "hinge", "logistic" if data.outputs == 1 else "softmax"):
        missing = [m for m in neurons if f"{name} {m}" not in known]
        if name in only and missing:
            chosen = next((row for model, row in known.items() if model.split()[0] == name), None)
            yield from quantized(data, seed, name, missing, chosen)


def table(rows: list[Row], field: str) -> list[Row]:
    """Return a line for each data set and size, of the splits that all its models have seen."""
    lines = []
    sizes = sorted({int(row["model"].split()[1]) for row in rows if " " in row["model"]})
    for data in dict.fromkeys(row["data"] for row in rows):
        for m in sizes:
            models = {kind: {} for kind in COLUMNS}
            for row in rows:
                kind, *size = row["model"].split()
                if row["data"] == data and field in row and size in ([], [str(m)]):
                    column = next(column for column in COLUMNS if kind in column.split("/"))
                    models[column][row["split"]] = row[field]
            models = {column: of_split for column, of_split in models.items() if of_split}
            splits = set.intersection(*map(set, models.values())) if models else ()
            line: Row = {"data": data, "neurons": m, "splits": len(splits)}
            for column in COLUMNS if splits else ():
                some = [models[column][split] for split in splits] if column in models else []
                line[column] = _shown(field, some) if some else None
            lines += [line] if splits else []
    return lines


def _shown(field: str, some: list[float]) -> str:
    if field == "bits":
        return f"{np.median(some):,.0f}"
    if field == "gap":
        return f"{100 * np.median(some):.1f} %"
    mean, error = mean_and_error(some)
    return f"{mean:.4f} ± {error:.4f}"


def report(rows: list[Row], measured_in: dict[str, str]) -> None:
    """Print the tables, and where they were measured."""
    titles = {
        "score": "test accuracy",
        "log_loss": "test log-loss",
        "bits": "bits, median",
        "gap": "certified gap, median",
    }
    for field, title in titles.items():
        if lines := table(rows, field):
            print(f"{title}\n\n{markdown(lines)}\n")
    print(", ".join(f"{key} {value}" for key, value in measured_in.items()))


def main() -> None:
    parser = arguments((__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", default=DATA, choices=DATA)
    parser.add_argument("--only", nargs="+", default=KINDS, choices=KINDS, help="models to measure")
    parser.add_argument("--neurons", nargs="+", type=int, default=NEURONS)
    parser.add_argument("--splits", type=int, default=5)
    options = read_or_measure(parser, report)
    if options is None:
        return
    of_split = functools.partial(measure, list(options.only), list(options.neurons))
    rows = fill(options.json, list(options.data), options.splits, of_split)
    report(rows, environment())


if __name__ == "__main__":
    main()
