"""The relaxation as a model for other solvers, so that anyone can check a value."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from .._host.files import write_file
from .._loss.base import AbstractLoss
from .._network.activation import AbstractActivation

if TYPE_CHECKING:
    import cvxpy

Entry = tuple[int, int, int, int, float]  # matrix, block, row, column, all from 1, and the number


@dataclasses.dataclass(frozen=True)
class _Data:
    """One output in float64, its weights absorbed: ½‖A(Z) − y‖² + βρ, A(Z)_i = root_i·x_iᵀZx_i."""

    X: NDArray[np.float64]
    root: NDArray[np.float64]
    y: NDArray[np.float64]
    beta: float

    @staticmethod
    def of(X: NDArray, y: NDArray, weight: NDArray, beta: NDArray) -> _Data:
        """Absorb the weights; samples that do not count are left out."""
        counted = weight > 0
        root = np.sqrt(weight[counted])
        return _Data(X[counted], root, root * y[counted], float(beta))


def cvxpy_model(
    X: NDArray,
    y: NDArray,
    weight: NDArray,
    beta: NDArray,
    loss: AbstractLoss,
    activation: AbstractActivation,
    fit_intercept: bool,
) -> tuple[cvxpy.Problem, dict[str, cvxpy.Variable]]:
    """See `Problem.to_cvxpy`; y is (n,), or (n, c) with c penalties for coupled outputs."""
    try:
        import cvxpy as cp
    except ImportError:
        raise ImportError("`to_cvxpy` needs CVXPY: pip install cvxpy.") from None
    counted = weight > 0
    X, y, weight = X[counted], y[counted], weight[counted]
    samples: Any = X
    map: Any = activation.lifted(samples)
    d = map.X.shape[1]
    predictions, penalty, conditions = [], 0, []
    variables: dict[str, cvxpy.Variable] = {}
    for k, price in enumerate(np.atleast_1d(beta)):
        end = f"_{k}" if y.ndim == 2 else ""
        if activation.layout.shares_diagonal:
            gram = cp.Variable((2 * d, 2 * d), PSD=True, name=f"gram{end}")
            scale = cp.Variable(name=f"scale{end}")
            form, blocks = gram[:d, d:], [(gram, scale)]
        else:
            scale = cp.Variable(2, name=f"scale{end}")
            plus, minus = (
                cp.Variable((d, d), PSD=True, name=f"{name}{end}") for name in ("plus", "minus")
            )
            form, blocks = plus - minus, [(plus, scale[0]), (minus, scale[1])]
        if map.corner is None:
            outputs = cp.sum(cp.multiply(map.X @ form, map.X), axis=1)
        else:
            some, last = map.X * (np.arange(d) < d - 1), map.X[:, -1]
            squares = cp.sum(cp.multiply(some @ form, some), axis=1)
            squares += 2 * cp.multiply(last, some @ form[:, -1])
            outputs = map.sign * squares + map.corner * form[-1, -1]
        predictions.append(outputs)
        if fit_intercept:
            intercept = cp.Variable(name=f"intercept{end}")
            predictions[-1] = predictions[-1] + intercept
            variables[intercept.name()] = intercept
        penalty += float(price) * cp.sum(scale)
        conditions += [cp.diag(block) == level for block, level in blocks]
        variables |= {each.name(): each for each in (*(block for block, _ in blocks), scale)}
    outputs = predictions[0] if y.ndim == 1 else cp.vstack(predictions).T
    total = weight @ _modelled(cp, loss, outputs, y) + penalty
    return cp.Problem(cp.Minimize(total), conditions), variables


def _modelled(cp: Any, loss: AbstractLoss, outputs: Any, y: NDArray) -> Any:
    """Return what the loss calls its model, or raise `ValueError` if it is another loss's."""
    targets: Any = y
    model, name = loss.modelled(cp, outputs, y), f"`{type(loss).__name__}.modelled`"
    if model.shape != (len(y),) or not model.is_convex():
        raise ValueError(
            f"{name} must return the loss of each sample, an expression of shape ({len(y)},) that "
            f"is convex by CVXPY's rules, got shape {model.shape}, curvature {model.curvature}."
        )
    predictions: Any
    for predictions in (np.zeros_like(y), 1 - 2 * y, 3 * y + 0.5):
        found = loss.modelled(cp, cp.Constant(predictions), y).value
        expected = np.asarray(loss.value(predictions, targets))
        if not np.allclose(found, expected, rtol=1e-4, atol=1e-4 * np.max(np.abs(expected))):
            raise ValueError(
                f"{name} is not the model of `value`: a class that overrides one must override "
                "the other."
            )
    return model


def write_sdpa(
    path: str | os.PathLike[str], X: NDArray, y: NDArray, weight: NDArray, beta: NDArray
) -> Path:
    """See `Problem.write_sdpa`."""
    sizes, costs, entries = _sdpa_model(_Data.of(X, y, weight, beta))
    lines = [
        '"Relaxation of training a quantized two-layer network; its value is the minimum.',
        f"{len(costs)}",
        f"{len(sizes)}",
        " ".join(map(str, sizes)),
        " ".join(f"{cost:.17g}" for cost in costs),
        *(f"{m} {b} {i} {j} {number:.17g}" for m, b, i, j, number in entries if number != 0),
    ]
    path, text = Path(path), "\n".join(lines) + "\n"
    write_file(path, lambda file: file.write(text.encode("ascii")))
    return path


def _sdpa_model(data: _Data) -> tuple[list[int], list[float], list[Entry]]:
    """Return block sizes, costs and entries of min cᵀx s.t. Σ x_k F_k − F_0 ⪰ 0.

    The variables are Z (i ≤ j), V (i < j), ρ and t; the blocks V + Z, V − Z and, for
    ½‖A(Z) − y‖² ≤ t, the Schur complement [[1, A(Z) − y], [·, 2t]].
    """
    d = data.X.shape[1]
    i, j = np.triu_indices(d)
    places: list[tuple[int, int]] = list(zip(i.tolist(), j.tolist(), strict=True))
    lifted = data.root[:, None] * data.X[:, i] * data.X[:, j] * np.where(i == j, 1, 2)
    rows = np.column_stack([lifted, data.y])
    if len(rows) > rows.shape[1]:  # a rotation of the samples keeps the norm
        rows = np.linalg.qr(rows)[1]
    k, size = len(rows), len(i)
    off_diagonal = ((a, b) for a, b in places if a < b)
    above = {place: size + index for index, place in enumerate(off_diagonal, start=1)}
    scale, bound = size + len(above) + 1, size + len(above) + 2

    def entries() -> Iterator[Entry]:
        for block, sign in ((1, 1.0), (2, -1.0)):
            for variable, (a, b) in enumerate(places, start=1):
                yield variable, block, a + 1, b + 1, sign
                yield above.get((a, b), scale), block, a + 1, b + 1, 1.0
        for row in range(k):
            yield 0, 3, row + 1, row + 1, -1.0
            yield 0, 3, row + 1, k + 1, float(rows[row, -1])
            for variable in range(size):
                yield variable + 1, 3, row + 1, k + 1, float(rows[row, variable])
        yield bound, 3, k + 1, k + 1, 2.0

    costs = [0.0] * bound
    costs[scale - 1], costs[bound - 1] = data.beta, 1.0
    return [d, d, k + 1], costs, sorted(entries(), key=lambda entry: entry[:4])
