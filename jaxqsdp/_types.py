"""Array types, the dtype policy and the precision policy: what every other module agrees on."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

Scalar = Float[Array, ""]

_P = ParamSpec("_P")
_T = TypeVar("_T")


def highest_precision(function: Callable[_P, _T]) -> Callable[_P, _T]:
    """Trace `function` with full-precision matrix products.

    The default float32 product is TF32 on NVIDIA and bfloat16 on TPU, which loses the positive
    semidefiniteness that the projections and the bound rest on.
    """

    @functools.wraps(function)
    def wrapped(*args: _P.args, **kwargs: _P.kwargs) -> _T:
        with jax.default_matmul_precision("highest"):
            return function(*args, **kwargs)

    return wrapped


def is_concrete(*values: Any) -> bool:
    """Whether the numbers can be looked at, that is, no transform is tracing them."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def as_float_array(value: ArrayLike, name: str) -> Array:
    """Convert to a floating-point array of at least single precision.

    Integers and booleans become JAX's default float; float16 and bfloat16 become float32.

    **Raises:** `TypeError` for complex or non-numeric input, naming the argument.
    """
    try:
        array = jnp.asarray(value)
    except (TypeError, ValueError) as error:
        raise TypeError(
            f"`{name}` must be an array of real numbers, got {type(value).__name__}: {error}"
        ) from None
    if jnp.issubdtype(array.dtype, jnp.complexfloating):
        raise TypeError(f"`{name}` is complex ({array.dtype}); pass its real part.")
    if not jnp.issubdtype(array.dtype, jnp.floating):
        if array.dtype != jnp.bool_ and not jnp.issubdtype(array.dtype, jnp.integer):
            raise TypeError(f"`{name}` must hold real numbers, got dtype {array.dtype}.")
        return array.astype(jnp.result_type(float))
    return array.astype(jnp.float32) if jnp.finfo(array.dtype).bits < 32 else array


def epsilon(dtype: Any) -> float:
    """Return the spacing of the numbers next to 1, twice the unit roundoff."""
    return float(jnp.finfo(dtype).eps)


def tiny(dtype: Any) -> float:
    """Return the smallest positive normal number."""
    return float(jnp.finfo(dtype).tiny)


def check_count(value: Any, name: str) -> None:
    """Raise `ValueError` unless the argument is a positive integer."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")


def check_key(key: PRNGKeyArray) -> PRNGKeyArray:
    """Return the argument `key`, or raise `TypeError` unless it is one random key."""
    dtype, shape = getattr(key, "dtype", None), getattr(key, "shape", None)
    if dtype is not None:
        if jnp.issubdtype(dtype, jax.dtypes.prng_key) and shape == ():
            return key
        if dtype == jnp.uint32 and shape == jax.eval_shape(jax.random.PRNGKey, 0).shape:
            return key
    raise TypeError(
        "`key` must be one JAX random key, such as `jax.random.key(0)`, got "
        f"{type(key).__name__}" + (f" of shape {shape}." if shape is not None else ".")
    )
