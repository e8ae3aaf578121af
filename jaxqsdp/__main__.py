"""`python -m jaxqsdp`: train a quantized network on real data, with a certificate."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import jaxqsdp as qs

from ._demo import data as demo_data
from ._solution import status_text

_FOLDS, _PENALTIES, _RATIO = 5, 10, 1e-2  # of the cross-validation that chooses β


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m jaxqsdp",
        description=(
            "Train a two-layer network with one-bit first-layer weights by semidefinite "
            "programming, and prove how far it can be from the global optimum. Without a file, "
            "scikit-learn's breast-cancer data are used. 30 % of the rows are held out for testing."
        ),
    )
    parser.add_argument(
        "file",
        nargs="?",
        type=Path,
        help="CSV with a header row, or NPZ with arrays X (n, d) and y (n,); classes or numbers",
    )
    parser.add_argument(
        "--target",
        metavar="NAME",
        help="target column of the CSV (default: the last) or array of the NPZ (default: y)",
    )
    parser.add_argument(
        "--task",
        choices=("classes", "numbers"),
        help=(
            "what the target holds (default: classes if it holds words, or whole numbers of at "
            "most 20 values)"
        ),
    )
    parser.add_argument(
        "--beta",
        type=_positive(float),
        help=(
            "penalty β on the output weights (default: by 5-fold cross-validation of the "
            "relaxation; 0.02 · n · d · rms(y) for more than two classes)"
        ),
    )
    parser.add_argument(
        "--neurons", type=_positive(int), default=64, help="neurons, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, help="of the split and the neurons (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("."),
        metavar="FOLDER",
        help="where network and picture are written (default: the working directory)",
    )
    return parser


def _positive(kind: Callable[[str], float]) -> Callable[[str], float]:
    def convert(text: str) -> float:
        value = kind(text)
        if not 0 < value < float("inf"):
            raise argparse.ArgumentTypeError(f"must be positive, got {text}")
        return value

    convert.__name__ = kind.__name__
    return convert


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be between 0 and 2^32 − 1, got {text}")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    options = _parser().parse_args(arguments)
    try:
        return _main(options)
    except KeyboardInterrupt:
        print("jaxqsdp: interrupted", file=sys.stderr)
        return 130


def _main(options: argparse.Namespace) -> int:
    try:
        import matplotlib  # noqa: F401
        import sklearn  # noqa: F401
        from threadpoolctl import threadpool_limits
        from tqdm import tqdm
    except ImportError as error:
        return _complain(f"{error.name} is missing; pip install 'jaxqsdp[demo]'")
    try:
        if options.file is None:
            table = demo_data.breast_cancer()
        else:
            table = demo_data.read(options.file, options.target, options.task)
        data = demo_data.split(table, options.seed)
        if options.output.exists() and not options.output.is_dir():
            raise demo_data.DataError(f"--output: {options.output} is not a folder")
        options.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.output):
            pass  # fails now rather than after the work if the folder cannot be written to
    except (demo_data.DataError, OSError) as error:
        return _complain(str(error))
    jax.config.update("jax_enable_x64", True)
    bar = tqdm(total=5, bar_format="{desc:<56}{percentage:3.0f}% |{bar:24}| {elapsed}")
    # Threads of BLAS spin while they wait, which on a busy machine is slower than none.
    with threadpool_limits(1, user_api="blas"), bar as progress:
        report = _run(table, data, options, progress)
    print(report)
    return 0


def _complain(message: str) -> int:
    print(f"jaxqsdp: {message}", file=sys.stderr)
    return 2


def _run(
    table: demo_data.Table, data: demo_data.Split, options: argparse.Namespace, progress: Any
) -> str:
    n, d = data.train_X.shape
    key = jax.random.key(options.seed)
    progress.set_description("choosing the penalty")
    beta, chosen, choice_seconds = _penalty(table, data, options.beta, key)
    problem = qs.Problem(data.train_X, data.train_y, beta)
    progress.update()

    progress.set_description("compiling the solver")
    solve, solve_compile = _compiled(lambda p: qs.solve(p, throw=False), problem)
    progress.update()
    progress.set_description(f"solving the relaxation, {n} samples × {d} features")
    solution, solve_seconds = _timed(solve, problem)
    progress.update()

    most = options.neurons
    sizes = sorted({max(most // 16, 1), max(most // 4, 1), most})
    networks, objectives, rounded, seconds = [], [], [], []
    for size in sizes:
        progress.set_description(f"training {size} neurons")
        start = time.perf_counter()
        drawn = qs.round(problem, solution, num_neurons=size, key=key)
        network = qs.improve(
            problem, drawn, max_neurons=size, key=key, solution=solution, progress=False
        )
        seconds.append(time.perf_counter() - start)
        networks.append(network)
        rounded.append(float(problem.objective(drawn)))
        objectives.append(float(problem.objective(network)))
    progress.update()
    progress.set_description("certifying")
    network = networks[-1]
    certificate = qs.certify(problem, network, solution)
    network_path = network.save(options.output / "jaxqsdp-network.npz", **data.units)
    picture_path = options.output / "jaxqsdp-certificate.png"
    from ._demo.picture import draw as draw_picture

    draw_picture(
        picture_path,
        title=f"{table.name}: {n} samples, {d} features, β = {beta:.4g}",
        neurons=sizes,
        rounded=rounded,
        objectives=objectives,
        lower_bound=float(certificate.lower_bound),
    )
    progress.update()
    progress.set_description("done")

    name, baseline_train, baseline_test = demo_data.baseline(data, table.classes)
    predict = jax.jit(jax.vmap(network))
    train = demo_data.score(np.asarray(predict(data.train_X)), data.train_y, table.classes)
    test = demo_data.score(np.asarray(predict(data.test_X)), data.test_y, table.classes)
    metric, scale, unit = ("accuracy", 100, " %") if table.classes else ("R²", 1, "")

    def scores(train: float, test: float) -> str:
        return f"{scale * train:.4g}{unit} train, {scale * test:.4g}{unit} test"

    bits = network.num_bits
    rows = [
        (
            "data",
            f"{table.name}, {table.task}: {n} train + {len(data.test_X)} test samples, "
            f"{d} features",
        ),
        ("penalty β", f"{beta:.5g}  ({chosen})"),
        ("relaxation value", f"{float(solution.total_value):.7g}"),
        (
            "proven lower bound",
            f"{float(certificate.lower_bound):.7g}  ({certificate.kind} bound)",
        ),
        (
            "objective of the network",
            f"{float(certificate.objective):.7g}  (after rounding alone {rounded[-1]:.7g})",
        ),
        ("certified gap", f"{certificate.percentage}  (at most this far from optimal)"),
        (f"{metric}, this network", scores(train, test)),
        (f"{metric}, {name}", scores(baseline_train, baseline_test)),
        ("neurons kept", f"{network.num_neurons} of {most}"),
        ("first layer", f"{bits:,} bits  (float32: {32 * bits:,} bits)"),
        (
            "seconds",
            f"choosing β {choice_seconds:.1f}, compiling {solve_compile:.1f}, solving "
            f"{solve_seconds:.2f}, training {', '.join(map(str, sizes))} neurons "
            f"{sum(seconds):.1f}",
        ),
        ("status", _status(solution)),
        ("written", f"{network_path}, {picture_path}"),
    ]
    width = max(len(label) for label, _ in rows)
    return "\n".join(f"  {label:<{width}}   {text}" for label, text in rows)


def _penalty(
    table: demo_data.Table, data: demo_data.Split, given: float | None, key: jax.Array
) -> tuple[float, str, float]:
    """Return β, how it was chosen, and the seconds that took."""
    if given is not None:
        return given, "given", 0.0
    n, d = data.train_X.shape
    if data.train_y.ndim > 1:
        rule = 0.02 * n * d * float(np.sqrt(np.mean(data.train_y**2)))
        return rule, "0.02 · n · d · rms(y)", 0.0
    start = time.perf_counter()
    result = qs.cross_validate(
        data.train_X,
        data.train_y,
        key=key,
        folds=min(_FOLDS, n),
        num_betas=_PENALTIES,
        ratio=_RATIO,
        standardize=False,
        constant=False,
        metric="accuracy" if table.classes else "mse",
    )
    return (
        float(result.best_beta),
        f"{_FOLDS}-fold cross-validation",
        time.perf_counter() - start,
    )


def _status(solution: qs.Solution) -> str:
    steps = int(np.max(np.asarray(solution.stats.num_steps)))
    for status in (qs.Status.invalid_data, qs.Status.max_steps, qs.Status.dtype_accuracy):
        if bool(jnp.any(solution.status == status)):
            return f"{status_text(status)} ({steps} steps)"
    return f"{status_text(qs.Status.solved)} ({steps} steps)"


def _compiled(function: Callable[..., Any], *arguments: Any) -> tuple[Callable[..., Any], float]:
    start = time.perf_counter()
    jitted: Any = eqx.filter_jit(function)
    compiled = jitted.lower(*arguments).compile()
    return compiled, time.perf_counter() - start


def _timed(function: Callable[..., Any], *arguments: Any) -> tuple[Any, float]:
    start = time.perf_counter()
    result = jax.block_until_ready(function(*arguments))
    return result, time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
