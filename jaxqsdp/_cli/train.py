"""From prepared data to networks and their certificate."""

from __future__ import annotations

import contextlib
import importlib
import threading
import time
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

import jaxqsdp as qs

from .._base.lift import lifted_size
from .._improve import prepare_improve
from .._relaxation.solution import has_status
from .._relaxation.status import status_text
from .._run.on_host import solve_once
from .._solver import default_solver
from .losses import LOSSES
from .prepare import Split
from .progress import Stages

# Of the cross-validation that chooses β and the constant; by the loss for classes, too, which is
# what the fit minimizes and chooses better than accuracy, of which there are few values.
_FOLDS, _PENALTIES, _RATIO = 5, 10, 1e-3
_CONSTANTS = 1 / 3, 1.0, 3.0  # times the rule
_MOST_WORK = 1e11  # cubes of unknowns, half a minute: beyond, fewer candidates
_STEPS = 300  # of the splitting that takes many samples of coupled outputs, to choose
_OF_RESPONSES = 10  # times what a system takes, where the interior point couples outputs
_LOOSE = qs.ADMM(tol=1e-2, tol_residual=1e-2)  # enough for that, in a fifth of the steps
_LARGE = 1e9  # multiplications of a step, times those: where it is enough for the network, too
_CHOICE, _SOLUTION = "choosing penalty and constant", "solving"
_CERTIFICATE, _OPTIMUM = "certifying", "proving the optimum (Ctrl-C ends it)"
_SECONDS = {_CHOICE: 4.0, _SOLUTION: 1.0, _CERTIFICATE: 0.1, _OPTIMUM: 4.0}  # about, for the bar
_MOST_PRODUCTS = 2**23  # of two features of a sample and an output: beyond, no optimum in a minute
_PROVEN = 1e-3  # relative gap of an optimum that is good enough to compare with
_SECONDS_OF_TRAINING = 2.0
_DRAWING = "matplotlib.backends.backend_agg"


@dataclass(frozen=True)
class Optimum:
    """Bounds of the optimum of training over networks of any size, and the neurons of the upper."""

    lower: float
    upper: float
    neurons: int


@dataclass(frozen=True)
class Trained:
    """The penalty and how it was chosen, networks of several sizes, and what is proven.

    `data` has the constant that was chosen with the penalty; `loss` is one of `LOSSES`.

    `rounded` and `objectives` go with `sizes`, before and after improvement; `network` is the
    largest. `optimum` is what is known of that of training, none if it was not looked for. `status`
    is the worst of the outputs' solves, `steps` the most; `seconds` by stage.
    """

    data: Split
    loss: str
    beta: float
    beta_choice: str
    relaxation_value: float
    status: str
    steps: int
    sizes: list[int]
    rounded: list[float]
    objectives: list[float]
    network: qs.QuantizedNetwork
    certificate: qs.Certificate
    optimum: Optimum | None
    seconds: dict[str, float]


def train(
    data: Split,
    *,
    loss: str,
    beta: float | None,
    constant: float | None,
    most_neurons: int,
    seed: int,
    prove: float,
) -> Trained:
    """Choose penalty and constant unless given, solve, train networks of three sizes, certify.

    Then look for the optimum, for `prove` seconds.
    """
    sizes = sorted({max(most_neurons // 16, 1), max(most_neurons // 4, 1), most_neurons})
    names = {size: _training(size) for size in sizes}
    stages = Stages(_SECONDS | dict.fromkeys(names.values(), _SECONDS_OF_TRAINING))
    key = jax.random.key(seed)
    n, d = data.train_X.shape
    clock = _Clock()

    threading.Thread(target=_import_drawing, daemon=True).start()
    for size in sizes:  # side by side with what follows, for which their programs are ready then
        prepare_improve(qs.Problem(data.train_X, data.train_y, 1.0, LOSSES[loss]), size)
    with stages.stage(_CHOICE):
        data, beta, choice = _choice(data, LOSSES[loss], beta, constant, key)
        clock.lap("choice")
    problem = qs.Problem(data.train_X, data.train_y, beta, LOSSES[loss])
    with stages.stage(_SOLUTION, f" the relaxation, {n} samples × {d} features"):
        solution = solve_once(problem, _solver(problem))
        clock.lap("solution")
    rounded, objectives = [], []
    for size in sizes:
        with stages.stage(names[size]):
            drawn = qs.round(problem, solution, num_neurons=size, key=key)
            network = qs.improve(
                problem, drawn, max_neurons=size, key=key, solution=solution, progress=False
            )
            rounded.append(float(problem.objective(drawn)))
            objectives.append(float(problem.objective(network)))
    clock.lap("training")
    with stages.stage(_CERTIFICATE):
        certificate = qs.certify(problem, network, solution)
        clock.lap("certification")
    optimum = None
    if prove > 0 and n * lifted_size(problem.num_lifted) * problem.num_outputs <= _MOST_PRODUCTS:
        with stages.stage(_OPTIMUM):
            optimum = _optimum(problem, network, solution, certificate, prove)
            clock.lap("optimum")
    stages.close("done")
    return Trained(
        data=data,
        loss=loss,
        beta=beta,
        beta_choice=choice,
        relaxation_value=float(solution.total_value),
        status=_status(solution),
        steps=int(np.max(np.asarray(solution.stats.num_steps))),
        sizes=sizes,
        rounded=rounded,
        objectives=objectives,
        network=network,
        certificate=certificate,
        optimum=optimum,
        seconds=clock.seconds,
    )


def _optimum(
    problem: qs.Problem,
    network: qs.QuantizedNetwork,
    solution: qs.Solution,
    certificate: qs.Certificate,
    seconds: float,
) -> Optimum | None:
    """Return the optimum as far as it is known in time."""
    try:
        best = qs.solve_exactly(
            problem, solution=solution, tol=_PROVEN, time_limit=seconds, progress=False
        )
    except KeyboardInterrupt:
        return None
    found, ours = best.certificate, float(certificate.objective)
    neurons = best.network if float(found.objective) < ours else network
    lower = max(float(found.lower_bound), float(certificate.lower_bound))
    return Optimum(lower, min(float(found.objective), ours), neurons.num_neurons)


def _solver(problem: qs.Problem) -> qs.AbstractSolver | None:
    """Return the solver of the relaxation; a loose one where a tight one would take minutes."""
    n, d = problem.X.shape
    work = _work(n, d, problem.num_outputs, problem.loss)
    return _LOOSE if _splits_outputs(n, d, problem.loss) and work > _LARGE else None


def _splits_outputs(n: int, d: int, loss: qs.AbstractLoss) -> bool:
    """Whether outputs that are one problem are solved by splitting."""
    return loss.couples_outputs and isinstance(default_solver(n, d, np.float64, loss), qs.ADMM)


def _work(n: int, d: int, outputs: int, loss: qs.AbstractLoss) -> float:
    """Return multiplications of a solve by splitting, or cubes of unknowns of a Newton step."""
    size = d * (d + 1) // 2
    if _splits_outputs(n, d, loss):
        return float(outputs * _STEPS * n * size)
    if loss.couples_outputs:  # systems of outputs, their responses, the system of all
        unknowns = n if n <= 2 * size else size
        return float(outputs * _OF_RESPONSES * unknowns**3 + n**3)
    return float(outputs * min(n, size) ** 3)


def _import_drawing() -> None:
    """Spend the half second that this takes while others work."""
    with contextlib.suppress(ImportError):  # the picture will say so
        importlib.import_module(_DRAWING)


def _status(solution: qs.Solution) -> str:
    for status in (qs.Status.invalid_data, qs.Status.max_steps, qs.Status.dtype_accuracy):
        if np.any(has_status(solution, status)):
            return status_text(status)
    return status_text(qs.Status.solved)


def _training(size: int) -> str:
    return f"training {size} neuron{'s' if size > 1 else ''}"


class _Clock:
    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name], self._last = now - self._last, now


def _choice(
    data: Split,
    loss: qs.AbstractLoss,
    beta: float | None,
    constant: float | None,
    key: jax.Array,
) -> tuple[Split, float, str]:
    """Return the data with a constant, β, and how they were chosen."""
    rule = "constant by its rule"
    if constant is not None:
        data, rule = data.with_constant(constant), "constant given"
    if beta is not None:
        return data, beta, f"β given, {rule}"
    (n, d), outputs = data.train_X.shape, data.train_y[0].size
    folds = min(_FOLDS, n)
    work = folds * _PENALTIES * _work(n, d, outputs, loss)
    constants = [factor * float(data.units["constant"]) for factor in _CONSTANTS]
    if constant is not None or len(constants) * work > _MOST_WORK:
        constants = [float(data.units["constant"])]
    if outputs > 1 and work > _MOST_WORK:
        targets: Any = data.train_y
        slopes = loss.slope(np.zeros_like(targets), targets)
        beta = 0.02 * n * d * float(np.sqrt(np.mean(slopes**2)))
        return data, beta, f"β = 0.02 · n · d · rms(slopes of the loss at 0), {rule}"
    result = qs.cross_validate(
        data.train_X[:, :-1],
        data.train_y,
        loss=loss,
        key=key,
        folds=folds,
        num_betas=_PENALTIES,
        ratio=_RATIO,
        standardize=False,
        constant=constants,
        solver=_LOOSE if _splits_outputs(n, d, loss) else None,
    )
    result = jax.device_get(result)  # its choices would compile
    beta, constant = float(result.best_beta), float(result.best_constant)
    how = f"{folds}-fold cross-validation"
    if len(constants) == 1:
        how = f"β by {how}, {rule}"
    if beta <= np.min(result.betas[result.constants == result.best_constant]):
        how += "; the smallest β tried, a smaller one may be better"
    return data.with_constant(constant), beta, how
