"""Other solvers on problems that CVXPY modelled: its matrices, given to Clarabel and to Moreau.

Modelling, compilation and set-up are not counted, only the time that a solver itself reports, with
all cores at work: Clarabel solves one by one in as many processes, Moreau a batch in its threads.
Moreau takes semidefinite and exponential cones on variables themselves, Clarabel on affine
functions of them, as CVXPY does for each.
"""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
from collections.abc import Sequence
from typing import Any

import cvxpy as cp
import numpy as np
from cvxpy.reductions.solvers.conic_solvers import clarabel_conif, moreau_conif
from scipy import sparse

from ._peers import compiled_moreau


@dataclasses.dataclass(frozen=True)
class Timing:
    """What a solver took for some problems."""

    milliseconds: float  # a problem, all cores
    gap: float  # the largest relative difference of the objectives of its two points


def clarabel(models: Sequence[cp.Problem], tol: float) -> Timing:
    """Solve one by one, on each core."""
    cores = os.cpu_count() or 1
    problems = [_matrices(model, cp.CLARABEL) for model in models]
    with multiprocessing.get_context("spawn").Pool(cores, _prepare, (problems, tol)) as pool:
        pool.map(_solve, range(cores), chunksize=1)
        found = np.array(pool.map(_solve, range(len(problems)), chunksize=1))
    return Timing(1e3 * found[:, 0].mean() / cores, found[:, 1].max())


def moreau(models: Sequence[cp.Problem], tol: float) -> Timing:
    """Solve as a batch, twice, of which the second counts."""
    problems = [_matrices(model, cp.MOREAU) for model in models]
    P, A = ([sparse.csr_array(problem[name]) for problem in problems] for name in "PA")
    q, b = (np.stack([problem[name] for problem in problems]) for name in "qb")
    for matrices in (P, A):
        if any(np.any(one.indices != matrices[0].indices) for one in matrices):
            raise ValueError("The problems' matrices must share one pattern.")
    cones = moreau_conif.dims_to_solver_cones(problems[0]["dims"])
    cones.dir_cones = problems[0]["cones"]
    solver = compiled_moreau(P[0], A[0], cones, len(problems), tol)
    solver.setup(*(np.stack([one.data for one in matrices]) for matrices in (P, A)))
    for _ in range(2):
        found = solver.solve(q, b)
    gaps = map(_gap, problems, np.asarray(found.x), np.asarray(found.z))
    return Timing(1e3 * solver.info.solve_time / len(problems), max(gaps))


def _matrices(model: cp.Problem, solver: str) -> dict[str, Any]:
    """Return min ½xᵀPx + qᵀx s.t. b − Ax in cones, and parts of x in others."""
    data = model.get_problem_data(solver)[0]
    A, b, q = data["A"], data["b"], data["c"]
    P = data.get("P", sparse.csc_array((q.size, q.size)))
    cones = [_direct(cone) for cone in data.get("dir_cones", ())]
    scale = np.ones(q.size)  # of x, where Moreau's triangles hold √2 times what CVXPY's do
    for cone in cones:
        if cone.kind == "psd_triangle":
            side = np.arange(cone.psd_k)
            scale[cone.indices] = np.sqrt(2)
            scale[np.asarray(cone.indices)[side * (side + 3) // 2]] = 1
    D = sparse.diags_array(1 / scale)
    return {
        "P": D @ P @ D,
        "q": q / scale,
        "A": A @ D,
        "b": b,
        "dims": data["dims"],
        "cones": cones,
    }


def _direct(cone: Any) -> Any:
    import moreau as peer

    return peer.DirectConeSpec(kind=cone.kind, indices=cone.indices, **cone.extras)


def _gap(problem: dict[str, Any], x: np.ndarray, z: np.ndarray) -> float:
    quadratic = x @ (problem["P"] @ x) / 2
    value, bound = quadratic + problem["q"] @ x, -quadratic - problem["b"] @ z
    return float(abs(value - bound) / abs(value))


_prepared: list[Any] = []


def _prepare(problems: list[dict[str, Any]], tol: float) -> None:
    _prepared[:] = [problems, tol]


def _solve(index: int) -> tuple[float, float]:
    """Return seconds and the gap of one of the prepared problems."""
    import clarabel as peer

    problems, tol = _prepared
    problem = problems[index]
    settings = peer.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = tol
    P, A = sparse.csc_array(sparse.triu(problem["P"])), sparse.csc_array(problem["A"])
    cones = clarabel_conif.dims_to_solver_cones(problem["dims"])
    found = peer.DefaultSolver(P, problem["q"], A, problem["b"], cones, settings).solve()
    return found.solve_time, _gap(problem, np.array(found.x), np.array(found.z))
