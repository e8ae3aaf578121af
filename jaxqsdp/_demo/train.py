"""From prepared data to networks and their certificate."""

from __future__ import annotations

import time
from dataclasses import dataclass

import jax
import numpy as np

import jaxqsdp as qs

from .._improve import prepare_improve
from .._solution import has_status, status_text
from .._solve_on_host import solve_once
from .prepare import Split
from .progress import Stages

_FOLDS, _PENALTIES, _RATIO = 5, 10, 1e-2  # of the cross-validation that chooses β
_CHOICE, _SOLUTION = "choosing the penalty", "solving"
_CERTIFICATE = "certifying"
_SECONDS = {_CHOICE: 4.0, _SOLUTION: 1.0, _CERTIFICATE: 0.1}  # about, for the bar
_SECONDS_OF_TRAINING = 2.0


@dataclass(frozen=True)
class Trained:
    """The penalty and how it was chosen, networks of several sizes, and what is proven.

    `rounded` and `objectives` go with `sizes`, before and after improvement; `network` is the
    largest. `status` is the worst of the outputs' solves, `steps` the most; `seconds` by stage.
    """

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
    seconds: dict[str, float]


def train(
    data: Split, *, accuracy: bool, beta: float | None, most_neurons: int, seed: int
) -> Trained:
    """Choose the penalty unless it is given, solve the relaxation, train three sizes, certify.

    The penalty is chosen by accuracy for two classes, where targets are ±1, else by mean square.
    """
    sizes = sorted({max(most_neurons // 16, 1), max(most_neurons // 4, 1), most_neurons})
    names = {size: _training(size) for size in sizes}
    stages = Stages(_SECONDS | dict.fromkeys(names.values(), _SECONDS_OF_TRAINING))
    key = jax.random.key(seed)
    n, d = data.train_X.shape
    clock = _Clock()

    for size in sizes:  # side by side with what follows, for which their programs are ready then
        prepare_improve(qs.Problem(data.train_X, data.train_y, 1.0), size)
    with stages.stage(_CHOICE):
        beta, choice = _penalty(data, accuracy, beta, key)
        clock.lap("choice")
    problem = qs.Problem(data.train_X, data.train_y, beta)
    with stages.stage(_SOLUTION, f" the relaxation, {n} samples × {d} features"):
        solution = solve_once(problem)
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
    stages.close("done")
    return Trained(
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
        seconds=clock.seconds,
    )


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


def _penalty(data: Split, accuracy: bool, given: float | None, key: jax.Array) -> tuple[float, str]:
    """Return β and how it was chosen."""
    if given is not None:
        return given, "given"
    n, d = data.train_X.shape
    if data.train_y.ndim > 1:
        rule = 0.02 * n * d * float(np.sqrt(np.mean(data.train_y**2)))
        return rule, "0.02 · n · d · rms(y)"
    folds = min(_FOLDS, n)
    result = qs.cross_validate(
        data.train_X,
        data.train_y,
        key=key,
        folds=folds,
        num_betas=_PENALTIES,
        ratio=_RATIO,
        standardize=False,
        constant=False,
        metric="accuracy" if accuracy else "mse",
    )
    return float(result.best_beta), f"{folds}-fold cross-validation"
