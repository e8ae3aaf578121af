"""Other solvers on the same problems, from prebuilt matrices, judged by the same certificate.

All take the dual of the relaxation in the form min ½xᵀPx + qᵀx s.t. b − Ax in a product of cones,
with x = (λ, p) and the two semidefinite cones Diag(p) ± Xᵀdiag(λ)X; their multipliers are P and N.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import sparse

from tests.problems import planted


@dataclasses.dataclass(frozen=True)
class Conic:
    """One problem's matrices, for cones whose triangles run along columns up or down."""

    P: Any
    q: np.ndarray
    A: Any
    b: np.ndarray
    n: int
    d: int
    rows: np.ndarray
    columns: np.ndarray


def conic(X: np.ndarray, y: np.ndarray, beta: float, *, lower: bool) -> Conic:
    """Build the matrices. `lower`: lower triangles by columns (SCS), else upper ones (Clarabel)."""
    n, d = X.shape
    columns, rows = np.triu_indices(d) if lower else np.tril_indices(d)
    size, weight = len(rows), np.where(rows == columns, 1, np.sqrt(2))
    lifted = sparse.csc_matrix((X[:, rows] * X[:, columns]).T * weight[:, None])
    on_diagonal = np.flatnonzero(rows == columns)
    diagonal = sparse.csc_matrix((np.ones(d), (on_diagonal, np.arange(d))), (size, d))
    blocks = [[None, sparse.csc_matrix(np.ones((1, d)))], [lifted, -diagonal], [-lifted, -diagonal]]
    quadratic = sparse.diags(np.concatenate([np.ones(n), np.zeros(d)]), format="csc")
    right = np.concatenate([[beta], np.zeros(2 * size)])
    linear = np.concatenate([-y, np.zeros(d)])
    A = sparse.csc_matrix(sparse.bmat(blocks, format="csc"))
    return Conic(quadratic, linear, A, right, n, d, rows, columns)


def points(problem: Conic, x: np.ndarray, z: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return λ, p, P and N (twice the multipliers, which belong to Diag(p) ± G, not half of it)."""
    plus, minus = (_matrix(problem, part) for part in np.split(z[1:], 2))
    return x[: problem.n], x[problem.n :], 2 * plus, 2 * minus


def _matrix(problem: Conic, vector: np.ndarray) -> np.ndarray:
    weight = np.where(problem.rows == problem.columns, 1, np.sqrt(2))
    matrix = np.zeros((problem.d, problem.d))
    matrix[problem.rows, problem.columns] = vector / weight
    return matrix + matrix.T - np.diag(np.diag(matrix))


def clarabel(problem: Conic, tol: float) -> tuple[np.ndarray, np.ndarray]:
    """Solve by Clarabel."""
    import clarabel as peer

    settings = peer.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tol
    cones = [peer.NonnegativeConeT(1), *[peer.PSDTriangleConeT(problem.d)] * 2]
    solver = peer.DefaultSolver(problem.P, problem.q, problem.A, problem.b, cones, settings)
    solution = solver.solve()
    return np.array(solution.x), np.array(solution.z)


def scs(problem: Conic, tol: float) -> tuple[np.ndarray, np.ndarray]:
    """Solve by SCS."""
    import scs as peer

    data = {"P": problem.P, "A": problem.A, "b": problem.b, "c": problem.q}
    cone = {"l": 1, "s": [problem.d, problem.d]}
    solver = peer.SCS(data, cone, eps_abs=tol, eps_rel=tol, verbose=False, max_iters=100_000)
    solution = solver.solve()
    return solution["x"], solution["y"]


def cvxpy(X: np.ndarray, y: np.ndarray, beta: float, tol: float) -> tuple[np.ndarray, ...]:
    """Solve as a user of CVXPY would write it, modelling time included."""
    import cvxpy as peer

    d = X.shape[1]
    Q, rho = peer.Variable((2 * d, 2 * d), PSD=True), peer.Variable()
    predictions = peer.sum(peer.multiply(X @ Q[:d, d:], X), axis=1)
    residual = y - predictions
    objective = peer.Minimize(0.5 * peer.sum_squares(residual) + beta * rho)
    constraint = peer.diag(Q) == rho
    program = peer.Problem(objective, [constraint])
    options = {"tol_gap_abs": tol, "tol_gap_rel": tol, "tol_feas": tol}
    program.solve(solver=peer.CLARABEL, **options)
    form = (Q.value[:d, d:] + Q.value[d:, :d]) / 2
    block = (Q.value[:d, :d] + Q.value[d:, d:]) / 2
    multiplier = np.asarray(constraint.dual_value)
    p = np.abs(multiplier[:d] + multiplier[d:])
    return residual.value, p, block + form, block - form


def moreau_batch(problems: Sequence[Conic], tol: float) -> tuple[Callable[[], Any], Any]:
    """Return a function that solves the batch by Moreau, set-up excluded, and what reads it."""
    import moreau

    first = problems[0]
    P, A = sparse.csr_matrix(first.P), sparse.csr_matrix(first.A)
    cones = moreau.Cones(num_nonneg_cones=1, psd_dims=[first.d, first.d])
    solver = compiled_moreau(P, A, cones, len(problems), tol)
    A_values = np.stack([sparse.csr_matrix(one.A).data for one in problems])
    P_values = np.stack([P.data] * len(problems))
    qs, bs = (np.stack([getattr(one, name) for one in problems]) for name in "qb")

    def solve() -> Any:
        solver.setup(P_values, A_values)
        return solver.solve(qs, bs)

    return solve, lambda solution: list(zip(solution.x, solution.z, strict=True))


def compiled_moreau(P: Any, A: Any, cones: Any, count: int, tol: float) -> Any:
    """Return Moreau's solver of batches of problems whose matrices, by rows, share a pattern."""
    import moreau

    ipm = moreau.IPMSettings(tol_gap_abs=tol, tol_gap_rel=tol, tol_feas=tol)
    return moreau.CompiledSolver(
        n=A.shape[1],
        m=A.shape[0],
        P_row_offsets=P.indptr,
        P_col_indices=P.indices,
        A_row_offsets=A.indptr,
        A_col_indices=A.indices,
        cones=cones,
        settings=moreau.Settings(batch_size=count, ipm_settings=ipm, device="cpu"),
    )


_prepared: list[Conic] = []


def _prepare(n: int, d: int, fraction: float, count: int, lower: bool) -> None:
    datas = [planted(seed, n, d) for seed in range(count)]
    _prepared[:] = [conic(data.X, data.y, fraction * d, lower=lower) for data in datas]


def _solve_range(peer: str, tol: float, indices: range) -> list[tuple[np.ndarray, np.ndarray]]:
    return [globals()[peer](_prepared[index], tol) for index in indices]


def on_both_cores(
    peer: str, shape: tuple[int, int], fraction: float, count: int, tol: float, cores: int
) -> tuple[float, list[tuple[np.ndarray, np.ndarray]]]:
    """Solve in a pool of processes with prebuilt matrices; return seconds and the solutions."""
    context = multiprocessing.get_context("spawn")
    arguments = (*shape, fraction, count, peer == "scs")
    parts = [range(start, count, cores) for start in range(cores)]
    with context.Pool(cores, _prepare, arguments) as pool:
        pool.starmap(_solve_range, [(peer, tol, part[:1]) for part in parts])
        start = time.perf_counter()
        solved = pool.starmap(_solve_range, [(peer, tol, part) for part in parts])
        seconds = time.perf_counter() - start
    found = {
        i: one
        for part, some in zip(parts, solved, strict=True)
        for i, one in zip(part, some, strict=True)
    }
    return seconds, [found[index] for index in range(count)]
