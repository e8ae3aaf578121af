"""The command line: its options, its order of work, and what it writes."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax

from .._host.blas import one_blas_thread
from .._host.cache import enable_cache
from . import console
from .errors import DataError
from .losses import LOSSES, loss_for
from .numerals import LARGEST, SMALLEST

if TYPE_CHECKING:
    from .train import Trained

_NETWORK, _PICTURE = "jaxqsdp-network.npz", "jaxqsdp-certificate.png"


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
        help=(
            "table with a header row (CSV, TSV or the like), or NPZ with arrays X (n, d) and y "
            "(n,); may be packed by gzip; - for standard input"
        ),
    )
    parser.add_argument(
        "--target",
        metavar="NAME",
        help="target column of the table (default: the last) or array of the NPZ (default: y)",
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
        "--loss",
        choices=LOSSES,
        help=(
            "what training minimizes beside the penalty; hinge, squared-hinge, logistic and "
            "softmax are for classes, and the latter two give their probabilities, logistic those "
            "of each against the others (default: softmax for three classes and more, else "
            "squared)"
        ),
    )
    parser.add_argument(
        "--drop",
        metavar="NAME",
        action="append",
        default=[],
        help="leave a column out, such as a name or a number of the row; may be given repeatedly",
    )
    parser.add_argument(
        "--beta",
        type=_positive(float),
        help=(
            "penalty β on the output weights (default: by 5-fold cross-validation of the "
            "relaxation, with the size of the constant feature; for more than two classes "
            "where that would take minutes, 0.02 · n · d times the root mean square of the slopes "
            "of the loss at 0)"
        ),
    )
    parser.add_argument(
        "--constant",
        type=_constant,
        metavar="SIZE",
        help=(
            "constant feature beside the standardized ones (default: chosen with β; the rule of "
            "`with_constant` where β is given)"
        ),
    )
    parser.add_argument(
        "--neurons", type=_positive(int), default=64, help="neurons, at most (default: %(default)s)"
    )
    parser.add_argument(
        "--prove",
        type=_seconds,
        default=60.0,
        metavar="SECONDS",
        help=(
            "how long to look for the optimum over networks of any size, and a proof of it, to "
            "compare the network with; 0 not to (default: %(default)g)"
        ),
    )
    parser.add_argument(
        "--seed", type=_seed, default=0, help="of the split and the neurons (default: %(default)s)"
    )
    parser.add_argument(
        "--output",
        type=Path,
        default=Path("."),
        metavar="FOLDER",
        help="where network and picture are written, made if missing (default: where you are)",
    )
    parser.add_argument(
        "--json",
        type=Path,
        metavar="PATH",
        help="write the report as JSON, too; - for standard output, in place of the text",
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


def _constant(text: str) -> float:
    value = float(text)
    if not SMALLEST <= value <= LARGEST:
        raise argparse.ArgumentTypeError(f"must be from {SMALLEST:g} to {LARGEST:g}, got {text}")
    return value


def _seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be 0 or more, got {text}")
    return value


def _seed(text: str) -> int:
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"must be between 0 and 2^32 − 1, got {text}")
    return value


def main(arguments: list[str] | None = None) -> int:
    """Run the command; return the exit code."""
    with console.any_encoding():
        try:
            code = _main(_parser().parse_args(arguments))
        except KeyboardInterrupt:
            console.complain("interrupted")
            code = 130
        except SystemExit:  # after --help, or a wrong option
            if not console.flushed():
                return 2
            raise
        return code


def _main(options: argparse.Namespace) -> int:
    try:
        import matplotlib  # noqa: F401
        import pandas  # noqa: F401
        import sklearn  # noqa: F401
        from tqdm import tqdm  # noqa: F401
    except ImportError as error:
        return console.complain(f"{error.name} is missing; pip install 'jaxqsdp[demo]'")
    from . import prepare, report, table, train

    try:
        if options.file is None:
            _check_table_is_given(options)
            data = table.breast_cancer()
        else:
            data = table.read(options.file, options.target, options.task, options.drop)
        loss = loss_for(data, options.loss)
        split = prepare.split(data, options.seed, LOSSES[loss])
        _check_places(options)
    except DataError as error:
        return console.complain(str(error))
    jax.config.update("jax_enable_x64", True)
    enable_cache()
    with one_blas_thread():
        trained = train.train(
            split,
            loss=loss,
            beta=options.beta,
            constant=options.constant,
            most_neurons=options.neurons,
            seed=options.seed,
            prove=options.prove,
        )
        facts = report.facts(data, trained, options.neurons)
    return _write(options, facts, trained)


def _check_table_is_given(options: argparse.Namespace) -> None:
    for name in ("target", "task", "drop"):
        if getattr(options, name):
            raise DataError(f"--{name} is about a table, but none is given: name its file first")


def _check_places(options: argparse.Namespace) -> None:
    """Make the folder; what cannot be written is to fail now rather than after the work."""
    try:
        if options.output.exists() and not options.output.is_dir():
            raise DataError(f"--output: {options.output} is not a folder")
        options.output.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=options.output) as file:
            file.write(b"something")
    except OSError as error:
        raise DataError(f"--output: cannot write to {options.output}: {error.strerror}") from None
    if options.json is None or str(options.json) == "-":
        return
    try:
        new = not options.json.exists()
        with options.json.open("a"):
            pass
        if new:
            options.json.unlink()
    except OSError as error:
        raise DataError(f"--json: cannot write {options.json}: {error.strerror}") from None


def _write(options: argparse.Namespace, facts: dict[str, Any], trained: Trained) -> int:
    """Write network, picture and report, each even if another cannot be written."""
    from . import picture, report

    code = 0

    def attempt(what: str, path: Path, write: Callable[[Path], object]) -> None:
        nonlocal code
        try:
            write(path)
            facts["written"][what] = str(path)
        except OSError as error:
            code = console.complain(f"cannot write {path}: {error.strerror or error}")

    data = facts["data"]
    attempt(
        "network",
        options.output / _NETWORK,
        lambda path: trained.network.save(path, **trained.data.units),
    )
    attempt(
        "picture",
        options.output / _PICTURE,
        lambda path: picture.draw(
            path,
            title=(
                f"{data['name']}: {data['train_rows']} samples, {data['features']} features, "
                f"β = {trained.beta:.4g}"
            ),
            neurons=trained.sizes,
            rounded=trained.rounded,
            objectives=trained.objectives,
            lower_bound=facts["lower_bound"],
            gap=facts["gap_text"],
        ),
    )
    instead = options.json is not None and str(options.json) == "-"
    if options.json is not None and not instead:
        attempt("report", options.json, lambda path: path.write_text(report.as_json(facts)))
    try:
        console.write(report.as_json(facts) if instead else report.as_text(facts), sys.stdout)
    except OSError as error:
        code = console.complain(f"cannot write the report: {error.strerror or error}")
    return code
