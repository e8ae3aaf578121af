"""Gradients of a loss of the solution, against every differentiable peer and against differences.

    python -m benchmarks.gradient                    three sizes, and a batch of 256 at 100 × 10
    python -m benchmarks.gradient --sizes 30x6 --batch 0

The loss ⟨C, Z⟩ + ρ + ‖ŷ‖² of one planted problem is differentiated with respect to X, y and β, ours
with respect to sample weights too. Errors are those of the derivative along one random direction
for each, relative, against central differences (fourth order) of Clarabel's solution, polished by
Newton's method in NumPy; the first row says how far two step sizes differ. Everyone gets the
loosest tolerance that leaves no error above `--error`, or, if none does, that comes within twice
the smallest error.

What is timed, warm, in a process of its own on all cores: loss, and loss with gradient, for X that
changes in the last digits, as Moreau would otherwise skip its set-up. Moreau and diffcp get the
dual problem of `_peers.conic` (diffcp, which has no quadratic objective, with a second-order cone
for it); Moreau's A is computed from X in JAX, diffcp's is prebuilt and only the chain rule from its
derivative to X is timed. Set-up is to compile the loss with its gradient (ours, Moreau), to
build matrices (diffcp) or the layer.
"""

from __future__ import annotations

import dataclasses
import functools
import multiprocessing
import os
import statistics
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import diffcp
import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.linalg import lstsq

import jaxqsdp as qs
from tests.problems import planted

from . import _peers
from ._report import arguments, publish

jax.config.update("jax_enable_x64", True)

_FRACTION = 0.1  # β/d
_LIMIT, _SET_UP_LIMIT = 60.0, 300.0  # seconds for a call, and for one that may compile
_NUDGE = 1 + 2.0**-45  # of X
_STEPS = (1e-3, 5e-4)  # of the differences, in sizes of what is varied
_TOLERANCES = (1e-5, 1e-6, 1e-7, 1e-8, 1e-9)
_INPUTS = ("X", "y", "β", "weight")


class PeerError(Exception):
    """A solver raised or took too long; the text says which."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is timed: functions of X, y, β and perhaps weights."""

    value: Callable[..., Any]
    value_and_gradient: Callable[..., Any]
    num_inputs: int
    as_array: Callable[[Any], Any]
    kept: Any = None  # what the functions need that they do not hold


Arguments = tuple[np.ndarray, ...]


def _arguments(n: int, d: int, count: int | None = None) -> Arguments:
    datas = [planted(seed, n, d) for seed in range(count or 1)]
    X, y = (np.stack([getattr(data, name) for data in datas]) for name in ("X", "y"))
    found = X, y, np.full(len(datas), _FRACTION * d), np.ones_like(y)
    return found if count else tuple(one[0] for one in found)


def _cotangent(d: int) -> np.ndarray:
    C = np.random.default_rng(d).standard_normal((d, d))
    return (C + C.T) / 2


def _directions(inputs: Arguments) -> list[np.ndarray]:
    """Return random directions as long as the inputs."""
    rng = np.random.default_rng(1)
    random = [np.asarray(rng.standard_normal(one.shape)) for one in inputs]
    return [
        np.linalg.norm(one) / np.linalg.norm(way) * way
        for one, way in zip(inputs, random, strict=True)
    ]


# The reference


def _reference_loss(X: np.ndarray, y: np.ndarray, beta: float, weight: np.ndarray) -> float:
    """Return the loss at Clarabel's solution after Newton steps on the optimality conditions."""
    d = X.shape[1]
    problem = _peers.conic(X, y, beta, lower=False)
    quadratic = sparse.diags(np.concatenate([1 / weight, np.zeros(d)]), format="csc")
    problem = dataclasses.replace(problem, P=quadratic)
    x, z = _peers.clarabel(problem, 1e-10)
    _, p, plus, minus = _peers.points(problem, x, z)
    scale = z[0]
    rows, columns = problem.rows, problem.columns
    size, root = len(rows), np.where(rows == columns, 1, np.sqrt(2))
    A = X[:, rows] * X[:, columns] * root  # ŷ = A svec(Z)
    on_diagonal = np.zeros((d, size))
    on_diagonal[rows[rows == columns], np.flatnonzero(rows == columns)] = 1
    basis = np.zeros((size, d, d))
    basis[np.arange(size), rows, columns] = basis[np.arange(size), columns, rows] = 1 / root

    def product(M: np.ndarray) -> np.ndarray:
        """Return the matrix of svec(Y) ↦ svec(sym(MY))."""
        products = M @ basis
        products = (products + products.transpose(0, 2, 1)) / 2
        return (products[:, rows, columns] * root).T

    weighted = A.T @ (weight[:, None] * A) / 2  # −dG by svec(dP), as λ = w (y − A svec(P − N)/2)
    p_columns = on_diagonal.T
    for _ in range(3):
        form = (plus - minus) / 2
        dual = weight * (y - np.sum((X @ form) * X, axis=1))
        G = X.T @ (dual[:, None] * X)
        slacks = (np.diag(p) - G) / 2, (np.diag(p) + G) / 2
        K = [product(M) for M in (plus, minus)]
        zero, ones = np.zeros((size, 1)), np.ones((d, 1))
        # By dP, dN, dp, dρ: 0 = sym(P S), sym(N S), diag(P + N)/2 − ρ, 1ᵀp − β.
        jacobian = np.block(
            [
                [
                    product(slacks[0]) + K[0] @ weighted / 2,
                    -K[0] @ weighted / 2,
                    K[0] @ p_columns / 2,
                    zero,
                ],
                [
                    -K[1] @ weighted / 2,
                    product(slacks[1]) + K[1] @ weighted / 2,
                    K[1] @ p_columns / 2,
                    zero,
                ],
                [on_diagonal / 2, on_diagonal / 2, np.zeros((d, d)), -ones],
                [np.zeros((1, 2 * size)), ones.T, np.zeros((1, 1))],
            ]
        )
        symmetric = [M @ S + S @ M for M, S in zip((plus, minus), slacks, strict=True)]
        residual = np.concatenate(
            [
                *[(M / 2)[rows, columns] * root for M in symmetric],
                np.diag(plus + minus) / 2 - scale,
                [p.sum() - beta],
            ]
        )
        # V and p need not be unique, and then this matrix is singular.
        step = lstsq(jacobian, -residual, cond=1e-9, lapack_driver="gelsy")[0]
        plus = plus + np.tensordot(step[:size], basis, 1)
        minus = minus + np.tensordot(step[size : 2 * size], basis, 1)
        p, scale = p + step[2 * size : -1], scale + step[-1]
    form = (plus - minus) / 2
    predictions = np.sum((X @ form) * X, axis=1)
    return np.sum(_cotangent(d) * form) + scale + predictions @ predictions


def _differences(inputs: Arguments, which: int, way: np.ndarray, step: float) -> float:
    """Return the derivative along a direction of one input."""

    def along(t: float) -> float:
        moved = (one + t * way if k == which else one for k, one in enumerate(inputs))
        return _reference_loss(*moved)

    near, far = (along(k * step) - along(-k * step) for k in (1, 2))
    return (8 * near - far) / (12 * step)


# Solvers


def _compiled(loss: Callable[..., Any], inputs: Arguments, kept: Any = None) -> Measured:
    """Compile a loss with its gradient in JAX, vmapped if there are several problems."""
    both = jax.value_and_grad(loss, argnums=tuple(range(len(inputs))))
    if inputs[0].ndim == 3:
        loss, both = jax.vmap(loss), jax.vmap(both)
    compiled = jax.jit(both).lower(*inputs).compile()
    return Measured(jax.jit(loss), compiled, len(inputs), jnp.asarray, kept)


def _ours(solver: qs.AbstractSolver, inputs: Arguments) -> Measured:
    cotangent = _cotangent(inputs[0].shape[-1])

    def loss(X: Any, y: Any, beta: Any, weight: Any) -> Any:
        solution = qs.solve(qs.Problem(X, y, beta, sample_weight=weight), solver)
        fit = jnp.sum(jnp.square(solution.predictions))
        return jnp.sum(cotangent * solution.quadratic_form) + solution.scale + fit

    return _compiled(loss, inputs)


def _interior_point(inputs: Arguments, tol: float) -> Measured:
    return _ours(qs.InteriorPoint(tol=tol), inputs)


def _admm(inputs: Arguments, tol: float) -> Measured:
    return _ours(qs.ADMM(tol=tol), inputs)


def _moreau(inputs: Arguments, tol: float) -> Measured:
    """Moreau's own JAX solver, whose derivatives are exact ones (`smoothed` takes no PSD cone)."""
    import moreau
    from moreau.jax import Solver

    inputs = inputs[:3]
    n, d = inputs[0].shape[-2:]
    first = inputs if inputs[0].ndim == 2 else [one[0] for one in inputs]
    problem = _peers.conic(*first, lower=False)
    P, A = sparse.csr_matrix(problem.P), sparse.csr_matrix(problem.A)
    P.eliminate_zeros()
    ipm = moreau.IPMSettings(tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=tol)
    solver = Solver(
        n=n + d,
        m=len(problem.b),
        P_row_offsets=P.indptr,
        P_col_indices=P.indices,
        A_row_offsets=A.indptr,
        A_col_indices=A.indices,
        cones=moreau.Cones(num_nonneg_cones=1, psd_dims=[d, d]),
        settings=moreau.Settings(device="cpu", ipm_settings=ipm),
    )
    rows, columns = problem.rows, problem.columns
    size, root = len(rows), np.where(rows == columns, 1, np.sqrt(2))
    entries = A.tocoo()
    cone, pair = np.divmod(entries.row - 1, size)
    from_X = (entries.row > 0) & (entries.col < n)
    sample = np.where(from_X, entries.col, 0)
    sign = np.where(cone == 0, 1, -1) * root[pair]
    coefficients = _cotangent(d)[rows, columns] * root

    def loss(X: Any, y: Any, beta: Any) -> Any:
        lifted = sign * X[sample, rows[pair]] * X[sample, columns[pair]]
        q = jnp.concatenate([-y, jnp.zeros(d)])
        b = jnp.concatenate([beta[None], jnp.zeros(2 * size)])
        solution = solver.solve(P.data, jnp.where(from_X, lifted, entries.data), q, b)
        form = solution.z[1 : 1 + size] - solution.z[1 + size :]
        fit = jnp.sum(jnp.square(y - solution.x[:n]))
        return coefficients @ form + solution.z[0] + fit

    return _compiled(loss, inputs, solver)


def _diffcp(mode: str, inputs: Arguments, tol: float) -> Measured:
    """SCS: with Clarabel, version 1.1.9 returned wrong solutions of these problems."""
    X, y, beta = inputs[:3]
    n, d = X.shape
    problem = _peers.conic(X, y, float(beta), lower=True)
    rows, columns = problem.rows, problem.columns
    size, root = len(rows), np.where(rows == columns, 1, np.sqrt(2))
    # ½‖λ‖² ≤ t as ‖(t − 1, √2 λ)‖ ≤ t + 1.
    epigraph = [
        [None, None, -np.ones((2, 1))],
        [-np.sqrt(2) * sparse.eye(n), np.zeros((n, d)), None],
    ]
    first, rest = (
        sparse.hstack([part, np.zeros((part.shape[0], 1))])
        for part in (problem.A[:1], problem.A[1:])
    )
    A = sparse.csc_matrix(sparse.vstack([first, sparse.bmat(epigraph), rest]))
    b = np.concatenate([[beta, 1, -1], np.zeros(n + 2 * size)])
    c = np.concatenate([-y, np.zeros(d), [1]])
    cones = {"l": 1, "q": [n + 2], "s": [d, d]}
    coefficients = _cotangent(d)[rows, columns] * root
    by_dual = np.concatenate([[1], np.zeros(n + 2), coefficients, -coefficients])

    def loss(y: np.ndarray, x: np.ndarray, z: np.ndarray) -> float:
        return by_dual @ z + np.sum(np.square(y - x[:n]))

    def value(X: np.ndarray, y: np.ndarray, beta: float) -> float:
        x, z, _ = diffcp.solve_only(A.copy(), b, c, cones, solve_method="SCS", eps=tol)
        return loss(y, x, z)

    def value_and_gradient(X: np.ndarray, y: np.ndarray, beta: float) -> Any:
        x, z, s, _, adjoint = diffcp.solve_and_derivative(
            A.copy(), b, c, cones, mode=mode, solve_method="SCS", eps=tol
        )
        predictions = y - x[:n]
        by_x = np.concatenate([-2 * predictions, np.zeros(d + 1)])
        dA, db, dc = adjoint(by_x, by_dual, np.zeros_like(s))
        lifted = dA[n + 3 :, :n].toarray()
        moved = np.zeros((n, d, d))
        moved[:, rows, columns] = ((lifted[:size] - lifted[size:]) * root[:, None]).T
        dX = np.einsum("nij,nj->ni", moved, X) + np.einsum("nji,nj->ni", moved, X)
        return loss(y, x, z), (dX, 2 * predictions - dc[:n], db[0])

    return Measured(value, value_and_gradient, 3, np.asarray)


def _layer(blocks: bool, mode: str, inputs: Arguments, tol: float) -> Measured:
    """CVXPY's layer for JAX, products of features as a parameter; SCS, and it cannot be jitted."""
    import cvxpy as cp
    from cvxpylayers.jax import CvxpyLayer

    n, d = inputs[0].shape
    products, targets = cp.Parameter((n, d * d)), cp.Parameter(n)
    penalty, rho = cp.Parameter(nonneg=True), cp.Variable()
    if blocks:
        variables = [cp.Variable((d, d), PSD=True) for _ in range(2)]
        form, block = (variables[0] - variables[1]) / 2, (variables[0] + variables[1]) / 2
    else:
        variables = [cp.Variable((2 * d, 2 * d), PSD=True)]
        form, block = variables[0][:d, d:], variables[0]
    residual = targets - products @ cp.vec(form, order="F")
    objective = cp.Minimize(0.5 * cp.sum_squares(residual) + penalty * rho)
    program = cp.Problem(objective, [cp.diag(block) == rho])
    layer = CvxpyLayer(program, [products, targets, penalty], [*variables, rho])
    cotangent = _cotangent(d)

    def loss(options: dict[str, Any], X: Any, y: Any, beta: Any) -> Any:
        lifted = (X[:, :, None] * X[:, None, :]).reshape(n, d * d)
        *found, scale = layer(lifted, y, beta, solver_args=options)
        Z = (found[0] - found[1]) / 2 if blocks else found[0][:d, d:]
        return jnp.sum(cotangent * Z) + scale + jnp.sum(jnp.square(jnp.sum((X @ Z) * X, axis=1)))

    value = functools.partial(loss, {"eps": tol})
    differentiated = functools.partial(loss, {"eps": tol, "mode": mode})
    return Measured(value, jax.value_and_grad(differentiated, (0, 1, 2)), 3, jnp.asarray)


_SOLVERS: dict[str, Callable[[Arguments, float], Measured]] = {
    "jaxqsdp InteriorPoint": _interior_point,
    "jaxqsdp ADMM": _admm,
    f"Moreau {version('moreau')}": _moreau,
    f"diffcp {version('diffcp')}, SCS, dense": functools.partial(_diffcp, "dense"),
    f"diffcp {version('diffcp')}, SCS, lsqr": functools.partial(_diffcp, "lsqr"),
    f"cvxpylayers {version('cvxpylayers')} as written (SCS, lsqr)": functools.partial(
        _layer, False, "lsqr"
    ),
    f"cvxpylayers {version('cvxpylayers')}, two blocks, dense": functools.partial(
        _layer, True, "dense"
    ),
}


# In a process of its own, which can be ended

_measured: list[Measured] = []
_FAILURES = (ImportError, RuntimeError, AttributeError, ArithmeticError, diffcp.SolverError)


def _timed(function: Callable[[], Any]) -> tuple[float, Any]:
    start = time.perf_counter()
    try:
        result = jax.block_until_ready(function())
    except _FAILURES as error:
        last = (str(error).strip().splitlines() or [""])[-1]
        raise PeerError(f"{type(error).__name__}: {last}"[:100]) from None
    return time.perf_counter() - start, result


def _set_up(name: str, inputs: Arguments, tol: float) -> float:
    seconds, measured = _timed(lambda: _SOLVERS[name](inputs, tol))
    _measured[:] = [measured]
    return seconds


def _call(what: str, problems: list[Arguments], nudged: bool) -> tuple[float, list[Any]]:
    """Solve problems one after another; return seconds and the results."""
    measured = _measured[0]
    function = getattr(measured, what)
    arrays = [[np.array(one) for one in inputs[: measured.num_inputs]] for inputs in problems]
    for inputs in arrays:
        inputs[0] *= _NUDGE if nudged else 1
    arrays = jax.block_until_ready(jax.tree.map(measured.as_array, arrays))
    seconds, results = _timed(lambda: [jax.block_until_ready(function(*one)) for one in arrays])
    return seconds, jax.tree.map(np.asarray, results)


class Process:
    """A process in which one solver runs; the limit holds for every call."""

    def __init__(self) -> None:
        self.pool = multiprocessing.get_context("spawn").Pool(1)

    def __enter__(self) -> Process:
        self.pool.apply(_timed, (int,))  # started, everything imported
        return self

    def __exit__(self, *_: object) -> None:
        self.pool.terminate()
        self.pool.join()

    def __call__(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call a function there."""
        return self._within(_LIMIT, function, *args)

    def set_up(self, name: str, inputs: Arguments, tol: float) -> float:
        """Prepare a solver; return seconds."""
        return self._within(_SET_UP_LIMIT, _set_up, name, inputs, tol)

    def _within(self, limit: float, function: Callable[..., Any], *args: Any) -> Any:
        try:
            return self.pool.apply_async(function, args).get(limit)
        except multiprocessing.TimeoutError:
            raise PeerError(f"over {limit:.0f} s in a call") from None

    def median(self, what: str, problems: list[Arguments], repeats: int) -> float:
        """Return the median seconds of warm calls."""
        self._within(_SET_UP_LIMIT, _call, what, problems[:1], True)
        return statistics.median(
            self(_call, what, problems, bool(k % 2))[0] for k in range(repeats)
        )


# Tables


def _row(n: int, d: int, solver: str, problems: int = 1) -> dict[str, Any]:
    names = "tol", "forward ms", "with gradient ms", "difference ms", "ratio"
    errors = [f"error {name}" for name in _INPUTS]
    start = {"n": n, "d": d, "solver": solver, "dtype": "float64", "problems": problems}
    return {**start, **dict.fromkeys([*names, *errors, "set-up s", "vmap from loop"]), "note": ""}


def _errors(gradient: Arguments, ways: list[np.ndarray], expected: list[float]) -> dict[str, Any]:
    found = [np.sum(one * way) for one, way in zip(gradient, ways, strict=False)]
    pairs = zip(found, expected, strict=False)
    errors = [float(abs(one - other) / abs(other)) for one, other in pairs]
    return {f"error {name}": error for name, error in zip(_INPUTS, errors, strict=False)}


def _times(process: Process, problems: list[Arguments], count: int, repeats: int) -> dict[str, Any]:
    forward, both = (
        1e3 * process.median(what, problems, repeats) / count
        for what in ("value", "value_and_gradient")
    )
    return {
        "forward ms": forward,
        "with gradient ms": both,
        "difference ms": both - forward,
    }


def _single(n: int, d: int, repeats: int, error: float) -> list[dict[str, Any]]:
    """Measure everyone on one problem."""
    inputs = _arguments(n, d)
    ways = _directions(inputs)
    expected, other = (
        [_differences(inputs, k, way, step) for k, way in enumerate(ways)] for step in _STEPS
    )
    row = _row(n, d, "the differences themselves, two steps")
    own = zip(_INPUTS, expected, other, strict=True)
    row |= {f"error {name}": float(abs(one - two) / abs(one)) for name, one, two in own}
    rows = [row]
    for name in _SOLVERS:
        print(f"{n} × {d}: {name}", file=sys.stderr, flush=True)
        row = _row(n, d, name)
        rows.append(row)
        try:
            with Process() as process:
                found = {}
                for tol in _TOLERANCES:
                    set_up = process.set_up(name, inputs, tol)
                    _, ((_, gradient),) = process(_call, "value_and_gradient", [inputs], False)
                    found[tol] = _errors(gradient, ways, expected)
                    if max(found[tol].values()) <= error:
                        break
                else:
                    row["note"] = "not as accurate as asked"
                    worst = {tol: max(errors.values()) for tol, errors in found.items()}
                    tol = next(tol for tol in worst if worst[tol] <= 2 * min(worst.values()))
                    set_up = process.set_up(name, inputs, tol)
                row |= {"tol": tol, "set-up s": set_up, **found[tol]}
                row |= _times(process, [inputs], 1, repeats)
        except PeerError as failure:
            row["note"] = str(failure)
    return rows


def _batch(
    n: int, d: int, count: int, repeats: int, tols: dict[str, float]
) -> list[dict[str, Any]]:
    """Measure vmapped gradients, and a loop over the same problems."""
    stacked = _arguments(n, d, count)
    lanes = [tuple(one[k] for one in stacked) for k in range(count)]
    rows = []
    for name, tol in tols.items():
        print(f"{count} of {n} × {d}: {name}", file=sys.stderr, flush=True)
        looped = {**_row(n, d, f"{name}, loop", count), "tol": tol}
        mapped = {**_row(n, d, f"{name}, vmap", count), "tol": tol}
        rows += [mapped, looped]
        try:
            with Process() as process:
                looped["set-up s"] = process.set_up(name, lanes[0], tol)
                _, results = process(_call, "value_and_gradient", lanes, False)
                looped |= _times(process, lanes, count, repeats)
                mapped["set-up s"] = process.set_up(name, stacked, tol)
                _, ((_, gradients),) = process(_call, "value_and_gradient", [stacked], False)
                mapped |= _times(process, [stacked], count, repeats)
        except PeerError as failure:
            for row in (mapped, looped):
                row["note"] = str(failure) if row["with gradient ms"] is None else ""
            continue
        mapped["vmap from loop"] = max(
            float(np.linalg.norm(several[k] - one) / np.linalg.norm(one))
            for k, (_, gradient) in enumerate(results)
            for several, one in zip(gradients, gradient, strict=True)
        )
    return rows


def _with_ratios(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Divide by the fastest of ours."""
    times = [row["with gradient ms"] for row in rows if row["solver"].startswith("jaxqsdp")]
    best = min((one for one in times if one is not None), default=None)
    for row in rows:
        if best is not None and row["with gradient ms"] is not None:
            row["ratio"] = row["with gradient ms"] / best
    return rows


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--sizes", nargs="*", default=["30x6", "100x10", "400x20"])
    parser.add_argument("--repeats", type=int, default=11)
    parser.add_argument("--error", type=float, default=1e-4, help="asked of everyone's gradient")
    parser.add_argument("--batch", type=int, default=256, help="problems at 100 × 10; 0 for none")
    options = parser.parse_args()
    rows = []
    for size in options.sizes:
        n, d = map(int, size.split("x"))
        rows += _with_ratios(_single(n, d, options.repeats, options.error))
    if options.batch:
        tols = {name: 1e-8 for name in list(_SOLVERS)[:3]}
        repeats = min(options.repeats, 3)
        rows += _with_ratios(_batch(100, 10, options.batch, repeats, tols))
    publish(rows, options.json)


if __name__ == "__main__":
    main()
