"""Linear functions as programs of the host, under derivatives too.

Inside `jax.grad` alone every number can be looked at, but for the changes, of which JAX notes what
is done with them. So what is linear in a change is one operation to JAX: its value and that of its
transpose come from programs that are compiled cheaply, as everything else outside transforms. What
JAX compiles or maps after all, as in a jitted function that `jax.vjp` returned, is the function.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, Generic, TypeVar, cast

import equinox as eqx
import jax
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir

from .._base.mesh import on_any_mesh
from .._host.blas import one_blas_thread
from .._host.programs import HostProgram, context, on_host

_T = TypeVar("_T")


class LinearProgram(Generic[_T]):
    """A function of pytrees (fixed, change) that is linear in the change, of arrays or None.

    Where `fixed` is concrete it is compiled as a `HostProgram`, and so is its transpose, else as a
    part of its caller's program.
    """

    def __init__(self, function: Callable[[Any, Any], _T]):
        self._function = function
        self._traced = eqx.filter_jit(on_any_mesh(function))

    def __call__(self, fixed: Any, change: Any) -> _T:
        """Apply the function."""
        if not on_host(fixed):
            return self._traced(fixed, change)
        form, leaves, moving = self._form(fixed, change)
        results = _linear.bind(*leaves, *moving, form=form)
        return cast(_T, jax.tree.unflatten(_outline(form, tuple(map(_like, leaves)))[1], results))

    def prepare_transpose(self, fixed: Any, change: Any) -> None:
        """Start to compile the transpose for what looks like this, of `jax.ShapeDtypeStruct`."""
        form, leaves, _ = self._form(fixed, change)
        cotangents = _outline(form, tuple(leaves))[0]
        _program.prepare(dataclasses.replace(form, is_transposed=True), (*leaves, *cotangents))

    def _form(self, fixed: Any, change: Any) -> tuple[_Form, list[Any], list[Any]]:
        (leaves, structure), (moving, moving_structure) = map(jax.tree.flatten, (fixed, change))
        likes = tuple(map(_like, moving))
        form = _Form(self._function, structure, moving_structure, likes, context(), False)
        return form, leaves, moving


@dataclasses.dataclass(frozen=True)
class _Form:
    """Which function, of what structures, and whether it is its transpose that is meant."""

    function: Callable[[Any, Any], Any]
    fixed: Any
    change: Any
    likes: tuple[jax.ShapeDtypeStruct, ...]  # of the leaves of the change
    context: Any
    is_transposed: bool

    def __call__(self, *leaves: Any) -> list[Any]:
        """Apply the function, or its transpose, to the leaves of both; flatten the result."""
        count = self.fixed.num_leaves
        fixed, moving = jax.tree.unflatten(self.fixed, leaves[:count]), list(leaves[count:])

        def flat(*moving: Any) -> list[Any]:
            return jax.tree.leaves(self.function(fixed, jax.tree.unflatten(self.change, moving)))

        if self.is_transposed:
            return list(jax.linear_transpose(flat, *self.likes)(moving))
        return flat(*moving)


def _like(leaf: Any) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)


@functools.lru_cache(maxsize=64)
def _outline(form: _Form, fixed: tuple[Any, ...]) -> tuple[list[Any], Any]:
    """Return what the leaves of the result look like, and its structure."""
    arguments = jax.tree.unflatten(form.fixed, fixed), jax.tree.unflatten(form.change, form.likes)
    return jax.tree.flatten(jax.eval_shape(form.function, *arguments))


_linear: Any = Primitive("linear_program")
_linear.multiple_results = True
_program = HostProgram(lambda form, leaves: form(*leaves), level=0)


@functools.lru_cache(maxsize=64)
def _compiled(form: _Form, axes: tuple[int | None, ...] | None = None) -> Callable[..., Any]:
    """Return the function for JAX to compile, mapped over axes if there are any."""
    return jax.jit(form if axes is None else jax.vmap(form, in_axes=axes))


def _evaluate(*leaves: Any, form: _Form) -> list[Any]:
    if not on_host(leaves):  # spread over several devices
        return list(_compiled(form)(*leaves))
    with one_blas_thread():
        return list(jax.block_until_ready(_program(form, leaves)))


def _shapes(*leaves: Any, form: _Form) -> list[Any]:
    likes: Any = form.likes
    if not form.is_transposed:
        likes = _outline(form, tuple(map(_like, leaves[: form.fixed.num_leaves])))[0]
    return [jax.core.ShapedArray(like.shape, like.dtype) for like in likes]


def _transpose(cotangents: Any, *leaves: Any, form: _Form) -> list[Any]:
    count = form.fixed.num_leaves
    turned = dataclasses.replace(form, is_transposed=not form.is_transposed)
    results = _linear.bind(*leaves[:count], *map(ad.instantiate_zeros, cotangents), form=turned)
    return [None] * count + results


def _differentiate(primals: Any, tangents: Any, *, form: _Form) -> Any:
    count = form.fixed.num_leaves
    assert all(isinstance(tangent, ad.Zero) for tangent in tangents[:count])  # of what is fixed
    change = map(ad.instantiate_zeros, tangents[count:])
    return _linear.bind(*primals, form=form), _linear.bind(*primals[:count], *change, form=form)


def _map(leaves: Any, axes: Any, *, form: _Form) -> Any:
    results = _compiled(form, tuple(axes))(*leaves)
    return results, [0] * len(results)


_linear.def_impl(_evaluate)
_linear.def_abstract_eval(_shapes)
ad.primitive_jvps[_linear] = _differentiate
ad.primitive_transposes[_linear] = _transpose
batching.primitive_batchers[_linear] = _map
mlir.register_lowering(
    _linear,
    mlir.lower_fun(lambda *leaves, form: form(*leaves), multiple_results=True),
)
