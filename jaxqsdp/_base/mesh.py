"""Data that are spread over a mesh of devices: what JAX wants to know of it, and where it need not.

One problem is computed with as a whole, and a batch of them is what is spread. So inside a problem
nothing is said about a mesh with explicit axes; and inside `jax.shard_map`, where JAX checks along
which axes of the mesh each value varies, constants that meet the data are cast to vary as these do.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ParamSpec, TypeVar

import equinox as eqx
import jax
from jax.sharding import NamedSharding, PartitionSpec

_P = ParamSpec("_P")
_T = TypeVar("_T")

Axes = frozenset[str]


def on_any_mesh(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Trace `function` with explicit axes of the mesh of its arguments left to the compiler.

    Where axes are explicit, every operation has to say, or to infer, how its result is spread,
    which it does not for products over samples that are, and hardly under `vmap`. Results are
    replicated, but for what `vmap` maps over.
    """

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        arrays, rest = eqx.partition((args, kwargs), eqx.is_array)
        meshes = (jax.typeof(array).sharding.mesh for array in jax.tree.leaves(arrays))
        mesh = next((mesh for mesh in meshes if mesh.explicit_axes), None)
        if mesh is None:
            return function(*args, **kwargs)
        results: list[Any] = []

        def arrays_of(arrays: Any) -> Any:
            args, kwargs = eqx.combine(arrays, rest)
            arrays, others = eqx.partition(function(*args, **kwargs), eqx.is_array)
            results.append(others)
            return arrays

        replicated = NamedSharding(mesh, PartitionSpec())
        run = jax.sharding.auto_axes(arrays_of, axes=mesh.explicit_axes, out_sharding=replicated)
        return eqx.combine(run(arrays), results[0])

    return wrapped


def varying_alike(tree: _T) -> _T:
    """Cast arrays so that all vary along the axes along which any does."""
    if not in_shard_map():
        return tree
    leaves, structure = jax.tree.flatten(tree)
    axes = Axes().union(*map(axes_of, leaves))
    return jax.tree.unflatten(structure, cast(leaves, [axes] * len(leaves)))


def in_shard_map() -> bool:
    """Whether values may vary along axes of a mesh."""
    return bool(jax.sharding.get_abstract_mesh().manual_axes)


def axes_of(value: Any) -> Axes:
    """Return the axes along which a value varies."""
    kind: Any = jax.typeof(value)  # has `vma` in jax 0.9
    return kind.vma if hasattr(kind, "vma") else kind.manual_axis_type.varying


def cast(values: Iterable[Any], axes: Iterable[Axes]) -> list[Any]:
    """Let values vary along these axes as well, and do nothing to those that do."""
    pairs = [(value, tuple(new - axes_of(value))) for value, new in zip(values, axes, strict=True)]
    return [jax.lax.pcast(value, new, to="varying") if new else value for value, new in pairs]
