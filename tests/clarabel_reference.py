"""The relaxation by Clarabel, an interior-point solver that shares no code with the package."""

import dataclasses

import clarabel
import numpy as np
from scipy import sparse


@dataclasses.dataclass(frozen=True)
class Reference:
    """An optimum to about nine digits."""

    value: float
    bound: float  # Clarabel's other objective value
    form: np.ndarray  # Z
    scale: float  # ρ
    dual: np.ndarray  # λ
    dual_diagonal: np.ndarray  # p
    seconds: float  # of the solver alone


def _triangle(d):
    """Rows and columns of the upper triangle, column by column, as Clarabel stores it."""
    columns, rows = np.tril_indices(d)
    return rows, columns


def _matrix(vector, d):
    rows, columns = _triangle(d)
    matrix = np.zeros((d, d))
    matrix[rows, columns] = vector / np.where(rows == columns, 1, np.sqrt(2))
    return matrix + np.triu(matrix, 1).T


def reference(X, y, beta, weight=None, tol=1e-10):
    """Solve min ½ Σ λ_i²/w_i − λᵀy over λ, p with Diag(p) ± Xᵀdiag(λ)X ⪰ 0 and 1ᵀp ≤ β.

    The multipliers of the constraints are (V ± Z)/2 and ρ. Samples of zero weight are left out.
    """
    X, y, beta = np.asarray(X, float), np.asarray(y, float), float(beta)
    weight = np.ones(len(y)) if weight is None else np.asarray(weight, float)
    counted = weight > 0
    n, d = counted.sum(), X.shape[1]
    rows, columns = _triangle(d)
    size = len(rows)
    lifted = X[counted][:, rows] * X[counted][:, columns]
    lifted = sparse.csc_matrix(lifted.T * np.where(rows == columns, 1, np.sqrt(2))[:, None])
    on_diagonal = np.flatnonzero(rows == columns)
    diagonal = sparse.csc_matrix((np.ones(d), (on_diagonal, np.arange(d))), (size, d))
    constraints = sparse.bmat(
        [
            [None, sparse.csc_matrix(np.ones((1, d)))],
            [lifted, -diagonal],
            [-lifted, -diagonal],
        ],
        format="csc",
    )
    right = np.concatenate([[beta], np.zeros(2 * size)])
    quadratic = sparse.diags(np.concatenate([1 / weight[counted], np.zeros(d)]), format="csc")
    linear = np.concatenate([-y[counted], np.zeros(d)])
    cones = [clarabel.NonnegativeConeT(1), *[clarabel.PSDTriangleConeT(d)] * 2]
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tol
    for settings.max_step_fraction in (0.99, 0.9):  # long ones may stall halfway
        solver = clarabel.DefaultSolver(quadratic, linear, constraints, right, cones, settings)
        solution = solver.solve()
        if solution.status == clarabel.SolverStatus.Solved:
            break
    accepted = (clarabel.SolverStatus.Solved, clarabel.SolverStatus.AlmostSolved)
    assert solution.status in accepted, solution.status
    x, z = np.array(solution.x), np.array(solution.z)
    dual = np.zeros(len(y))
    dual[counted] = x[:n]
    plus, minus = (_matrix(part, d) for part in np.split(z[1:], 2))
    form, p = plus - minus, x[n:]
    value, bound = -solution.obj_val_dual, -solution.obj_val
    return Reference(value, bound, form, z[0], dual, p, solution.solve_time)
