"""Solving test problems with few compilations, and taking batches apart."""

import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np

import jaxqsdp as qs

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


solve_stacked = jax.jit(jax.vmap(qs.solve))


def solve_all(datas, dtype):
    """Return a NumPy solution of each of some problems of one shape, with default options."""
    weighted = [
        problem_of(data, dtype) if data.weight is not None else _with_unit_weights(data, dtype)
        for data in datas
    ]
    solutions = []
    for start in range(0, len(weighted), _LANES):
        chunk = weighted[start : start + _LANES]
        filled = list(itertools.islice(itertools.cycle(chunk), _LANES))
        batch = solve_stacked(stack(filled))
        solutions += [lane(batch, index) for index in range(len(chunk))]
    return solutions


def _with_unit_weights(data, dtype):
    data = data.astype(dtype)
    return qs.Problem(data.X, data.y, dtype(data.beta), sample_weight=np.ones(len(data.y), dtype))


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
