"""Did a change of the structure change a number: sixty problems, solved, trained on and proven.

    python -m benchmarks.unchanged --write before.npz
    python -m benchmarks.unchanged --against before.npz

`--write` in the older checkout, with this file copied there if it lacks it, `--against` in the
newer one, with the same interpreter. XLA_FLAGS=--xla_backend_optimization_level=0 in both makes
that quick. The table has, for each kind of result, how many arrays are equal to the bit, how many
to 4 units in the last place of their largest entry, and the largest difference in such units.
Rounding errors are part of what is compared, so another order of the same operations shows.
"""

from __future__ import annotations

import collections
import functools
import itertools
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxqsdp as qs

from ._report import arguments, markdown

_FEW_FEATURES = 10  # few enough to enumerate their signs in no time
_CLOSE = 4  # units in the last place
_SHAPES = (24, 5), (100, 10), (40, 14)
_SOLVERS = {"interior point": qs.InteriorPoint(), "ADMM": qs.ADMM()}


def _data(shape: tuple[int, int], seed: int, outputs: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng((*shape, seed))
    X = rng.standard_normal(shape)
    u, v = rng.choice((-1.0, 1.0), (2, 5, shape[1]))
    y = ((X @ u.T) * (X @ v.T)) @ rng.standard_normal((5, outputs))
    y = y / y.std(axis=0) + 0.1 * rng.standard_normal(y.shape)
    return X, y if outputs > 1 else y[:, 0]


def _problems() -> Iterator[tuple[str, qs.Problem]]:
    """Yield shapes × dtypes × penalties × weights × outputs: 3 · 2 · 2 · (2 + 2 + 1) = 60."""
    kinds = ((1, None), (1, "whole"), (2, None), (2, "whole"), (1, "some"))
    for shape, dtype, share in itertools.product(_SHAPES, (np.float32, np.float64), (0.05, 0.5)):
        for seed, (outputs, weights) in enumerate(kinds):
            X, y = _data(shape, seed, outputs)
            weight = None
            if weights is not None:
                low = 0 if weights == "some" else 1
                weight = np.random.default_rng(seed).integers(low, 4, len(X)).astype(dtype)
            name = f"{shape[0]}x{shape[1]} {np.dtype(dtype)} {share} {outputs} {weights}"
            beta = dtype(share * shape[1])
            yield name, qs.Problem(X.astype(dtype), y.astype(dtype), beta, sample_weight=weight)


_compiled = {
    name: jax.jit(functools.partial(qs.solve, solver=solver, throw=False))
    for name, solver in _SOLVERS.items()
}


@jax.jit
@functools.partial(jax.grad, argnums=(0, 1, 2))
def _gradient(X: jax.Array, y: jax.Array, beta: jax.Array, weight: Any) -> jax.Array:
    solution = qs.solve(qs.Problem(X, y, beta, sample_weight=weight), throw=False)
    return jnp.sum(solution.quadratic_form) + jnp.sum(solution.value)


def _results() -> Iterator[tuple[str, Any]]:
    """Yield what solving, training, proving and tuning return, by "kind | problem"."""
    groups = itertools.groupby(_problems(), lambda named: named[0].rsplit(" ", 3)[0])
    for group, named in groups:
        problems = dict(named)
        for name, problem in problems.items():
            yield from _results_of(name, problem)
        yield from _results_of_all(group, [p for p in problems.values() if p.y.ndim == 1])
        jax.clear_caches()  # a process may have so many mappings of memory only
        print(f"{group} done", file=sys.stderr, flush=True)


def _results_of(name: str, problem: qs.Problem) -> Iterator[tuple[str, Any]]:
    key = jax.random.key(0)
    for solver_name, solver in _SOLVERS.items():
        yield f"solve, {solver_name} | {name}", qs.solve(problem, solver, throw=False)
        if problem.y.ndim == 1:
            yield f"solve in jit, {solver_name} | {name}", _compiled[solver_name](problem)
    solution = qs.solve(problem, throw=False)
    drawn = qs.round(problem, solution, num_neurons=8, key=key)
    yield f"round | {name}", drawn
    network = qs.improve(problem, drawn, max_neurons=6, key=key, solution=solution, progress=False)
    yield f"improve | {name}", network
    yield f"certify | {name}", qs.certify(problem, network, solution)
    yield f"objective | {name}", problem.objective(network)
    if problem.y.ndim > 1:
        return
    numbers = problem.X, problem.y, problem.beta, problem.sample_weight
    yield f"gradient | {name}", _gradient(*numbers)
    yield f"beta_max | {name}", qs.beta_max(problem.X, problem.y, problem.sample_weight)
    if problem.num_features <= _FEW_FEATURES:
        exact = qs.solve_exactly(problem, tol=1e-6, progress=False)
        yield f"solve_exactly | {name}", (exact.network.alpha, exact.certificate)


def _results_of_all(name: str, problems: list[qs.Problem]) -> Iterator[tuple[str, Any]]:
    yield f"solve_batch | {name}", qs.solve_batch(problems, progress=False)
    X, y = problems[0].X, problems[0].y
    yield f"path | {name}", qs.path(X, y, num_betas=6).solutions
    scores = qs.cross_validate(X, y, key=jax.random.key(0), num_betas=4)
    yield f"cross_validate | {name}", (scores.betas, scores.scores)
    yield f"layer | {name}", qs.RelaxationLayer(1.0)(X, y, X[:5])


def _arrays() -> Iterator[tuple[str, np.ndarray]]:
    for name, result in _results():
        for path, leaf in jax.tree_util.tree_leaves_with_path(result):
            yield f"{name} | {jax.tree_util.keystr(path)}", np.asarray(leaf)


def _units_apart(old: np.ndarray, new: np.ndarray) -> float:
    """Return the largest difference in units in the last place of the largest entry."""
    if old.shape != new.shape or old.dtype != new.dtype:
        return np.inf
    if np.array_equal(old, new, equal_nan=old.dtype.kind == "f"):
        return 0.0
    if old.dtype.kind != "f" or not np.all(np.isfinite(old) == np.isfinite(new)):
        return np.inf
    unit = np.spacing(np.max(np.abs(old), where=np.isfinite(old), initial=0))
    with np.errstate(all="ignore"):
        return float(np.nanmax(np.abs(new - old)) / unit)


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--write", type=Path, help="write the numbers to this file")
    parser.add_argument("--against", type=Path, help="compare with the numbers of this file")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    found = dict(_arrays())
    if options.write is not None:
        np.savez_compressed(options.write, **found)
    if options.against is None:
        return
    with np.load(options.against) as file:
        before = {name: file[name] for name in file.files}
    apart: dict[str, list[float]] = collections.defaultdict(list)
    for name in before.keys() | found.keys():
        both = name in before and name in found
        units = _units_apart(before[name], found[name]) if both else np.inf
        apart[name.split(" | ")[0]].append(units)
    rows = [
        {
            "what": kind,
            "arrays": len(units),
            "equal": sum(u == 0 for u in units),
            f"within {_CLOSE} units": sum(u <= _CLOSE for u in units),
            "most units": float(max(units)),
        }
        for kind, units in sorted(apart.items())
    ]
    print(markdown(rows))


if __name__ == "__main__":
    main()
