"""A loss of the solution and its gradient, by every differentiable solver and by differences."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import diffcp
import jax
import jax.numpy as jnp
import numpy as np
from scipy import sparse
from scipy.linalg import lstsq

import jaxqsdp as qs
from tests.problems import planted

from . import _peers

_FRACTION = 0.1  # β/d


@dataclasses.dataclass(frozen=True)
class Measured:
    """What is timed: functions of X, y, β and perhaps weights."""

    value: Callable[..., Any]
    value_and_gradient: Callable[..., Any]
    num_inputs: int
    as_array: Callable[[Any], Any]
    kept: Any = None  # what the functions need that they do not hold


Arguments = tuple[np.ndarray, ...]


def inputs_of(n: int, d: int, count: int | None = None) -> Arguments:
    datas = [planted(seed, n, d) for seed in range(count or 1)]
    X, y = (np.stack([getattr(data, name) for data in datas]) for name in ("X", "y"))
    found = X, y, np.full(len(datas), _FRACTION * d), np.ones_like(y)
    return found if count else tuple(one[0] for one in found)


def _cotangent(d: int) -> np.ndarray:
    C = np.random.default_rng(d).standard_normal((d, d))
    return (C + C.T) / 2


def directions(inputs: Arguments) -> list[np.ndarray]:
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


def differences(inputs: Arguments, which: int, way: np.ndarray, step: float) -> float:
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


SOLVERS: dict[str, Callable[[Arguments, float], Measured]] = {
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
