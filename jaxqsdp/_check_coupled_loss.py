"""Try a loss that couples the outputs of a sample on what `SoftmaxLoss` promises."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

_COUNT, _CLASSES = 512, 4
_EXACT = 1e-9  # of sizes about 1, in float64 ...
_SINGLE = 1e-4  # ... and in float32
_STEP = 1e-4  # of differences
_DIFFERENCES = 1e-6  # that they are wrong by


def check_coupled_loss(loss: Any, targets: Any, seed: int) -> None:
    """Raise `AssertionError` naming what does not hold at random ŷ and t, see `check_loss`."""
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, _CLASSES, _COUNT) if targets is None else targets
    given = np.asarray(loss.encoded(rows), np.float64)
    loss.check_targets(given)
    y = np.resize(given, (_COUNT, given.shape[1]))
    shape, spread = y.shape, np.resize([0.1, 1.0, 10.0], (_COUNT, 1))
    z, other = spread * rng.standard_normal((2, *shape))
    weight, step = 10 ** rng.uniform(-1, 1, (2, _COUNT))
    weight[::16] = 0

    def require(holds: Any, message: str) -> None:
        if not np.all(holds):
            failed = np.size(holds) - np.sum(holds)
            raise AssertionError(f"{loss!r}: {message} At {failed} of {np.size(holds)} points.")

    def along(one: Any, two: Any) -> Any:
        return np.sum(one * two, axis=1)

    value, slope = (np.asarray(f(z, y)) for f in (loss.value, loss.slope))
    require(value.shape == (_COUNT,), "`value` is not one number a sample.")
    require(slope.shape == shape, "`slope` is not one number an output.")
    dual = -np.asarray(loss.slope(other, y))  # some point of the domain of ψ
    calls = {
        "value": (z, y),
        "slope": (z, y),
        "curvature": (z, y),
        "conjugate": (dual, y),
        "prox": (z, y, step),
        "clip_dual": (weight[:, None] * dual, y, weight),
    }
    for name, inputs in calls.items():
        function = getattr(loss, name)
        expected = np.asarray(function(*inputs))
        for dtype, tolerance in ((np.float64, _EXACT), (np.float32, _SINGLE)):
            arrays = [jnp.asarray(array, dtype) for array in inputs]
            found = jax.jit(function)(*arrays)
            require(found.dtype == dtype, f"`{name}` does not keep {np.dtype(dtype)}.")
            close = np.abs(np.asarray(found) - expected) <= tolerance * (1 + np.abs(expected))
            require(close, f"`{name}` in {np.dtype(dtype)} under `jax.jit` is another one.")

    # φ.
    require(value >= 0, "`value` is negative.")
    middle = np.asarray(loss.value((z + other) / 2, y))
    mean = (value + np.asarray(loss.value(other, y))) / 2
    require(middle <= mean + _EXACT * (1 + mean), "`value` is not convex.")
    unit = np.eye(shape[1])
    for k in range(shape[1]):
        at = [np.asarray(loss.value(z + sign * _STEP * unit[k], y)) for sign in (-1, 1)]
        near = np.abs((at[1] - at[0]) / (2 * _STEP) - slope[:, k]) <= _DIFFERENCES
        require(near, "`slope` is not the derivative of `value`.")
        slopes = [np.asarray(loss.slope(z + s * _STEP * unit[k], y))[:, k] for s in (-1, 1)]
        bend = np.asarray(loss.curvature(z, y))[:, k]
        near = np.abs((slopes[1] - slopes[0]) / (2 * _STEP) - bend) <= _DIFFERENCES
        require(near, "`curvature` is not the derivative of `slope`, output by output.")

    # ψ.
    low, high = (np.asarray(end) for end in loss.interval(y))
    inside = (dual >= low - _EXACT) & (dual <= high + _EXACT)
    require(inside, "`interval` is too narrow, −φ'(ŷ) is outside.")
    conjugate = np.asarray(loss.conjugate(dual, y))
    message = "`conjugate` and `value` break Fenchel and Young's φ(ŷ) + ψ(t)"
    size = _EXACT * (1 + value + np.abs(along(dual, z)))
    require(value + conjugate >= -along(dual, z) - size, f"{message} ≥ −tŷ.")
    touch = np.asarray(loss.value(other, y)) + conjugate + along(dual, other)
    size = _EXACT * (1 + np.abs(along(dual, other)))
    require(np.abs(touch) <= size, f"{message} = −tŷ at t = −φ'(ŷ).")
    clipped = np.asarray(loss.clip_dual(weight[:, None] * dual, y, weight))
    near = np.abs(clipped - weight[:, None] * dual) <= _EXACT * (1 + weight[:, None])
    require(near, "`clip_dual` moves what is in the domain.")

    # What follows from both.
    found = np.asarray(loss.prox(z, y, step))
    pull = np.asarray(loss.slope(found, y)) + (found - z) / step[:, None]
    size = _EXACT * (1 + np.abs(z) / step[:, None])
    require(np.abs(pull) <= size, "`prox` does not minimize φ(z) + ‖z − center‖²/(2·step).")
    chance = np.asarray(loss.predict_proba(z))
    require(np.abs(np.sum(chance, axis=1) - 1) <= _EXACT, "`predict_proba` does not add up to 1.")
    for name, exact, point in (("value", value, z), ("conjugate", conjugate, dual)):
        for dtype, tolerance in ((np.float64, _EXACT), (np.float32, _SINGLE)):
            place = jnp.asarray(point, dtype), jnp.asarray(y, dtype)
            # At what the dtype makes of the point.
            true = np.asarray(getattr(loss, name)(*(np.asarray(a, np.float64) for a in place)))
            above: Array = getattr(loss, f"{name}_above")(place[0], *place)
            excess = np.asarray(above, np.float64) - true
            slack = np.finfo(np.float64).eps * (1 + np.abs(true))
            require(excess >= -slack, f"`{name}_above` is below `{name}` in {np.dtype(dtype)}.")
            size = tolerance * (1 + np.abs(exact))
            require(excess <= size, f"`{name}_above` is far above `{name}` in {np.dtype(dtype)}.")
