"""Solving test problems with few compilations, taking batches apart, and judging solutions."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
from clarabel_reference import reference
from referee import check

import jaxqsdp as qs
from jaxqsdp._solver import default_solver

GAP = {np.float64: 1e-6, np.float32: 1e-3}  # what default options must certify, relative
HARD_GAP = 1e-2  # in float32, at penalties below 0.05·d or on badly scaled data
_LANES = 16  # problems of one shape share a program with this many lanes


def problem_of(data, dtype):
    """Return the `Problem` of a `problems.Data`."""
    data = data.astype(dtype)
    return qs.Problem(data.X, data.y, dtype(data.beta), sample_weight=data.weight)


def stack(trees):
    """Return pytrees of equal shapes as one with a leading axis."""
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


def lane(batch, *index):
    """Return one lane of a batched pytree, its leaves as NumPy arrays."""
    return jax.tree.map(lambda leaf: np.asarray(leaf[index]), batch)


@jax.jit
@functools.partial(jax.vmap, in_axes=0)
def _solve_numbers(X, y, beta, weight):
    return qs.solve(qs.Problem(X, y, beta, sample_weight=weight))


def solve_all(datas, dtype):
    """Return a NumPy solution of each of some data of one shape, with default options.

    Under `vmap` no concrete value is checked, so bad numbers arrive at the solver.
    """
    solutions, datas = [], [data.astype(dtype) for data in datas]
    for start in range(0, len(datas), _LANES):
        chunk = datas[start : start + _LANES]
        filled = list(itertools.islice(itertools.cycle(chunk), _LANES))
        batch = _solve_numbers(
            np.stack([data.X for data in filled]),
            np.stack([data.y for data in filled]),
            np.array([data.beta for data in filled], dtype),
            np.stack([np.ones_like(d.y) if d.weight is None else d.weight for d in filled]),
        )
        solutions += [lane(batch, index) for index in range(len(chunk))]
    return solutions


@functools.cache
def _over_betas(max_steps):
    def solve(X, y, beta):
        return qs.solve(qs.Problem(X, y, beta), max_steps=max_steps)

    return jax.jit(jax.vmap(solve, in_axes=(None, None, 0)))


def solve_over_betas(data, betas, dtype, max_steps=None):
    """Return a NumPy solution for each penalty, from one vmapped solve with default options."""
    data = data.astype(dtype)
    batch = _over_betas(max_steps)(data.X, data.y, jnp.asarray(betas, dtype))
    return [lane(batch, index) for index in range(len(betas))]


def assert_solved(data, solution, dtype, *, hard=False, referenced=True):
    """Send a solution with default options to the referee and, if `referenced`, to Clarabel.

    `Status.solved` must mean that the certified gap is within the default tolerance. Only where
    that is `hard` in float32 may the solver stop short of it, if it says so.
    """
    data, hard = data.astype(dtype), hard and dtype == np.float32
    numbers = data.X, data.y, dtype(data.beta)
    check(*numbers, solution, HARD_GAP if hard else GAP[dtype], weight=data.weight)
    solved = solution.status == qs.Status.solved
    # In float64 the certificate's allowance for rounding may be as large as the tolerance.
    excused = hard or (dtype == np.float64 and solution.stats.gap <= 4e-9)
    assert solved or (excused and solution.status == qs.Status.dtype_accuracy)
    tol, tol_residual = default_solver(*data.X.shape, dtype).tolerances(dtype)
    stats = solution.stats
    assert solved == (stats.gap <= tol and stats.residual <= tol_residual)
    value, bound = float(solution.value), float(solution.lower_bound)
    gap = (value - bound) / max(value, float(np.finfo(dtype).tiny))
    np.testing.assert_allclose(solution.stats.gap, gap, rtol=1e-3, atol=4 * np.finfo(dtype).eps)
    if referenced:
        optimum = reference(*numbers, weight=data.weight)
        assert bound <= optimum.value * (1 + 1e-7)
        assert value >= optimum.bound * (1 - max(1e-7, 4 * np.finfo(dtype).eps))


def assert_claims_hold(problem, solution, gap):
    """Assert, under any loss, that value and bound are what the point and the dual point give.

    In float64, for an independent point of view; tolerances are those of rounding in the dtype.
    """
    problem, point = (
        jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), tree)
        for tree in (problem, solution)
    )
    eps = float(np.finfo(np.asarray(solution.value).dtype).eps)
    X, loss, weight, columns = problem.X, problem.loss, problem.weight, problem.columns
    (n, d), outputs = X.shape, columns.y.shape[1]
    predictions, dual = (a.reshape(n, outputs) for a in (point.predictions, point.dual))
    scale, diagonal = point.scale.reshape(outputs), point.dual_diagonal.reshape(outputs, d)
    forms, grams = point.quadratic_form.reshape(-1, d, d), point.gram.reshape(-1, 2 * d, 2 * d)
    limits = []
    for k in range(outputs):
        block = grams[k][:d, :d]
        np.testing.assert_array_equal(grams[k], np.block([[block, forms[k]], [forms[k], block]]))
        np.testing.assert_array_equal(np.diag(grams[k]), scale[k])
        assert np.linalg.eigvalsh(grams[k])[0] >= -8 * d * eps * scale[k]
        found = np.einsum("nd,de,ne->n", X, forms[k], X)
        size = np.einsum("nd,de,ne->n", abs(X), abs(forms[k]), abs(X))
        assert np.all(abs(predictions[:, k] - found) <= 4 * d * eps * size)
        slack, gram = np.diag(diagonal[k]), X.T @ (dual[:, k, None] * X)
        least = min(np.linalg.eigvalsh(slack + sign * gram)[0] for sign in (1, -1))
        limits.append(columns.beta[k] / (diagonal[k].sum() + d * max(-least, 0)))
    if loss.couples_outputs:
        lanes = [(predictions, dual, columns.y, min(limits), columns.beta @ scale)]
    else:
        penalties = columns.beta * scale
        lanes = list(zip(predictions.T, dual.T, columns.y.T, limits, penalties, strict=True))
    values, bounds = np.atleast_1d(point.value), np.atleast_1d(point.lower_bound)
    for (z, t, y, limit, penalty), value, bound in zip(lanes, values, bounds, strict=True):
        np.testing.assert_allclose(value, loss(z, y, weight) + penalty, rtol=4 * n**0.5 * eps)
        with np.errstate(all="ignore"):  # slopes at the ends of intervals may be infinite
            proven = loss.best_on_dual_ray(loss.clip_dual(t, y, weight), y, weight, limit)
        assert bound <= proven * (1 + 1e-12)
        assert proven - bound <= min(100 * d**1.5 * eps, gap / 2) * value
