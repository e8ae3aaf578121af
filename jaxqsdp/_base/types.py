"""Array types, the dtype policy and the precision policy: what every other module agrees on."""

import dataclasses
import decimal
import functools
import numbers
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, dataclass_transform

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PRNGKeyArray

from .fork import check_process

Scalar = Float[Array, ""]

_LARGEST_COUNT = 2**31 - 1

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


@dataclass_transform(frozen_default=True)
def record(kind: type[_T]) -> type[_T]:
    """Make a class of arrays a frozen dataclass and a pytree.

    As `eqx.Module`, without its checks: what is made by the hundred on the host takes a few
    microseconds instead of some fifty, and so does each call of its methods.
    """
    return jax.tree_util.register_dataclass(dataclasses.dataclass(frozen=True)(kind))


def is_concrete(*values: Any) -> bool:
    """Whether the numbers can be looked at, that is, no transform is tracing them."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(values))


def is_inexact(leaf: Any) -> bool:
    """Whether a leaf looks like an array of floating-point numbers."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jnp.inexact)


def namespace(*arrays: Any) -> Any:
    """Return `numpy` if all arrays are NumPy's, else `jax.numpy`.

    What proves something is written once for both: JAX traces it, and where the data can be looked
    at NumPy computes it on the host in float64, with nothing to compile.
    """
    return np if all(isinstance(array, np.ndarray | np.generic) for array in arrays) else jnp


def widened(array: np.ndarray) -> np.ndarray:
    """Return float64 in place of float32, exactly: also if the process flushes subnormals to zero.

    Libraries built for speed switch that on for the process that loads them.
    """
    if array.dtype != np.float32:
        return np.asarray(array, np.float64)
    whole = array.view(np.uint32)
    subnormal = (whole & 0x7F800000) == 0
    mantissa = (whole & 0x007FFFFF).astype(np.float64) * 2.0**-149
    small = np.where(whole >> 31 == 1, -mantissa, mantissa)
    return np.where(subnormal, small, array.astype(np.float64))


def over_leading(function: Callable[..., Any], *arguments: Any) -> Any:
    """Map over the leading axis of all arrays: `jax.vmap`, and a loop where all are NumPy's."""
    leaves, structure = jax.tree.flatten(arguments)
    if namespace(*leaves) is jnp:
        return jax.vmap(function)(*arguments)
    lanes = (jax.tree.unflatten(structure, lane) for lane in zip(*leaves, strict=True))
    results = [function(*lane) for lane in lanes]
    return jax.tree.map(lambda *leaves: np.stack(leaves), *results)


def across(each: Any, like: Any) -> Any:
    """Return what each sample has one of, (n,), for each of its outputs if there are several."""
    return each[..., None] if each.ndim < like.ndim else each


def across_outputs(each: Any, like: Any) -> Any:
    """Return what each output has one of, () or (c,), for the samples of (n,) or (n, c)."""
    return each[None] if like.ndim == 2 else each


def without(direction: Any, numbers: Any) -> Any:
    """Return numbers, (n,) or (n, k), less their part along a unit vector, if there is one."""
    if direction is None:
        return numbers
    return numbers - across(direction, numbers) * across_outputs(direction @ numbers, numbers)


def unit_vector(vector: Any) -> Any:
    """Return a vector over its norm, a zero one as it is, None for None."""
    if vector is None:
        return None
    size = (vector @ vector) ** 0.5
    return vector / namespace(vector).where(size > 0, size, 1)


def at_largest(x: Array) -> Array:
    """Return whether each number is the largest of the last axis, the first of them."""
    xp = namespace(x)
    places = xp.arange(x.shape[-1]).reshape((1,) * (x.ndim - 1) + x.shape[-1:])
    return places == xp.argmax(x, axis=-1)[..., None]


def as_float_array(value: ArrayLike, name: str) -> Array:
    """Convert to a floating-point array of at least single precision.

    Integers and booleans, Python's of any size included, become JAX's default float; float16 and
    bfloat16 become float32, what is wider than double precision float64. With 64-bit mode off
    everything becomes float32. Each number is rounded to the nearest one of that dtype, on the
    host: JAX itself would narrow integers to 32 bits first, which wraps around.

    **Raises:** `TypeError` for complex or non-numeric input, `ValueError` for numbers too large for
    the dtype, naming the argument; `RuntimeError` in a forked process, see `fork`.
    """
    check_process()
    if isinstance(value, jax.Array) or hasattr(value, "__jax_array__") or not is_concrete(value):
        array = _checked(lambda: jnp.asarray(value), value, name)
        return cast(array, _float_for(array.dtype, name), name)
    numbers_given = host_numbers(value, name)
    dtype = _float_for(numbers_given.dtype, name)
    return jnp.asarray(round_to(numbers_given, dtype, name))


def host_numbers(value: Any, name: str) -> np.ndarray:
    """Return real numbers as a NumPy array of a numeric dtype, nothing rounded but objects.

    **Raises:** `TypeError` or `ValueError` naming the argument.
    """
    if np.ma.is_masked(value):
        raise TypeError(f"`{name}` has masked values; fill or remove them.")
    array = _checked(lambda: np.asarray(value), value, name)
    if array.dtype == object:  # Python integers beyond 64 bits, `Fraction`, `Decimal`, mixtures
        array = _numbers(array, value, name)
    _float_for(array.dtype, name)
    return array


def round_to(array: np.ndarray, dtype: Any, name: str) -> np.ndarray:
    """Round to a dtype; `ValueError` naming the argument where that overflows."""
    with np.errstate(over="ignore", under="ignore"):
        rounded = array.astype(dtype)
    lost = np.argwhere(np.isinf(rounded) & ~np.isinf(array))
    if len(lost):
        _raise_too_large(name, dtype, lost[0])
    return rounded


def cast(array: Array, dtype: Any, name: str) -> Array:
    """Return the array in another floating-point dtype, rounded on the host where it can be.

    XLA takes subnormal numbers for zero, also when it widens them.
    """
    if array.dtype == dtype or not is_concrete(array) or not array.is_fully_addressable:
        return array.astype(dtype)
    return jax.device_put(round_to(np.asarray(array), dtype, name), array.sharding)


def _checked(convert: Callable[[], _T], value: Any, name: str) -> _T:
    try:
        return convert()
    except (TypeError, ValueError, OverflowError) as error:
        raise TypeError(
            f"`{name}` must be an array of real numbers, got {type(value).__name__}: {error}"
        ) from None


def _float_for(dtype: Any, name: str) -> Any:
    """Return the dtype in which JAX computes with numbers of another, or raise `TypeError`."""
    if jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"`{name}` is complex ({dtype}); pass its real part.")
    if jnp.issubdtype(dtype, jnp.floating):
        bits = jnp.finfo(dtype).bits
        dtype = np.float32 if bits < 32 else np.float64 if bits > 64 else dtype
        return jax.dtypes.canonicalize_dtype(dtype)
    whole = dtype == np.bool_ or jnp.issubdtype(dtype, jnp.integer)
    if not whole or dtype.kind == "m":  # NumPy's time differences are integers to it
        raise TypeError(f"`{name}` must be an array of real numbers, got dtype {dtype}.")
    return jnp.result_type(float)


def _numbers(array: np.ndarray, value: Any, name: str) -> np.ndarray:
    """Round Python numbers of any kind to float64, one by one."""
    result = np.empty(array.shape, np.float64)
    for index, number in np.ndenumerate(array):
        if not isinstance(number, numbers.Real | decimal.Decimal | np.bool_):
            where = f" at index {index}" if index else ""
            raise TypeError(
                f"`{name}` must be an array of real numbers, got {type(value).__name__} with "
                f"{type(number).__name__}{where}."
            )
        try:
            result[index] = float(number)
        except OverflowError:
            _raise_too_large(name, np.dtype(np.float64), index)
    return result


def _raise_too_large(name: str, dtype: Any, index: Any) -> None:
    where = f" (first at index {tuple(map(int, index))})" if len(index) else ""
    remedy = "rescale it"
    if np.dtype(dtype) == np.float32:
        remedy += ", or use float64 (`jax.config.update('jax_enable_x64', True)`)"
    raise ValueError(f"`{name}` has values too large for {np.dtype(dtype)}{where}; {remedy}.")


def epsilon(dtype: Any) -> float:
    """Return the spacing of the numbers next to 1, twice the unit roundoff."""
    return float(jnp.finfo(dtype).eps)


def tiny(dtype: Any) -> float:
    """Return the smallest positive normal number."""
    return float(jnp.finfo(dtype).tiny)


def check_count(value: Any, name: str) -> None:
    """Raise `ValueError` unless the argument is a positive integer, of 32 bits at most."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or value < 1:
        raise ValueError(f"`{name}` must be a positive integer, got {value!r}.")
    if value > _LARGEST_COUNT:
        raise ValueError(f"`{name}` must be at most {_LARGEST_COUNT}, got {value!r}.")


def as_number(value: Any, name: str) -> float:
    """Return a real number, Python's, NumPy's or a concrete array of shape (), as a float.

    **Raises:** `TypeError` for anything else.
    """
    number = value
    if isinstance(value, jax.Array | np.ndarray) and value.shape == () and is_concrete(value):
        number = value.item()
    if isinstance(number, bool | np.bool_) or not isinstance(number, numbers.Real):
        raise TypeError(f"`{name}` must be a number, got {value!r}.")
    try:
        return float(number)
    except OverflowError:  # an integer of Python's
        raise TypeError(f"`{name}` is too large a number.") from None


def check_positive(value: Any, name: str) -> float:
    """Return a positive number of any kind as a float, or raise `ValueError`; inf is one."""
    try:
        number = as_number(value, name)
    except TypeError:
        number = -1.0
    if not number > 0:
        raise ValueError(f"`{name}` must be a positive number, got {value!r}.")
    return number


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


def in_float64(tree: Any) -> Any:
    """Return a pytree with NumPy leaves, float64 in place of float32, in which it is exact."""

    def leaf_on_host(leaf: Array) -> np.ndarray:
        array = np.asarray(leaf)
        return widened(array) if np.issubdtype(array.dtype, np.floating) else array

    return jax.tree.map(leaf_on_host, tree)
