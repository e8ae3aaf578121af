"""Networks trained without the relaxation: what anybody would try first.

Written with `jax.grad` on the objective as it stands, sharing no code with the descent of the
package, so that an error there cannot hide in both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

Signs = tuple[Array, Array]  # u, v (m, d), ±1
_PLAIN = (-1.0, 1.0)


class Trained(NamedTuple):
    """Levels of a trained network, and the objective that it had with weights of its own."""

    u: Array  # (m, d)
    v: Array
    objective: Array


def squares(outputs: Array, targets: Array) -> Array:
    """Return half the squared residuals."""
    return 0.5 * (outputs - targets) ** 2


def signs(weights: Array) -> Array:
    """Return ±1, zero counting as positive."""
    return jnp.where(weights >= 0, 1.0, -1.0).astype(weights.dtype)


def _nearest(weights: Array, levels: tuple[float, ...]) -> Array:
    """Return the nearest levels, of ±1 the signs."""
    if levels == _PLAIN:
        return signs(weights)
    values = jnp.asarray(levels, weights.dtype)
    return values[jnp.argmin(jnp.abs(weights[..., None] - values), axis=-1)]


def _through(weights: Array, levels: tuple[float, ...]) -> Array:
    """Return the levels, with the derivative of the identity; weights stay within [−1, 1]."""
    return weights + jax.lax.stop_gradient(_nearest(weights, levels) - weights)


@functools.partial(
    jax.jit, static_argnames=("num_neurons", "num_steps", "binary", "levels", "loss")
)
def train(
    X: Array,
    y: Array,
    beta: Array,
    key: Array,
    rate: Array,
    *,
    num_neurons: int,
    num_steps: int,
    binary: bool,
    levels: tuple[float, ...] = _PLAIN,
    loss: Callable[[Array, Array], Array] = squares,
) -> Trained:
    """Train a bilinear network by Adam and return the signs of its weights, or other levels.

    The objective is ½‖f(X) − y‖² + β‖α‖₁, or that of another loss, of one output or several. With
    `binary`, the network sees the levels of its weights (a straight-through estimator); without,
    the real weights, quantized only at the end. Either way weights stay within [−1, 1], so that β
    means the same. Rates fall to zero as a cosine does.
    """
    weights_key, alpha_key = jax.random.split(key)
    # One step size suits weights and α once a neuron's output has the size of y.
    unit = jnp.sqrt(jnp.mean(y**2) / jnp.mean(jnp.sum(X**2, axis=1) ** 2))
    quantize = functools.partial(_through, levels=levels) if binary else lambda weights: weights

    def objective(parameters: tuple[Array, Array, Array]) -> Array:
        latent_u, latent_v, scaled = parameters
        hidden = (X @ quantize(latent_u).T) * (X @ quantize(latent_v).T)
        misfit = jnp.sum(loss(hidden @ (unit * scaled), y))
        return misfit + jnp.sum(beta * unit * jnp.abs(scaled))

    optimizer = optax.adam(optax.cosine_decay_schedule(1.0, num_steps))
    latent = jax.random.uniform(weights_key, (2, num_neurons, X.shape[1]), X.dtype, -1, 1)
    scaled = jax.random.normal(alpha_key, (num_neurons, *y.shape[1:]), X.dtype) / num_neurons**0.5
    start = latent[0], latent[1], scaled

    def step(carry: tuple, _: None) -> tuple[tuple, None]:
        parameters, state = carry
        updates, state = optimizer.update(jax.grad(objective)(parameters), state)
        u, v, a = jax.tree.map(lambda p, change: p + rate * change, parameters, updates)
        return ((jnp.clip(u, -1, 1), jnp.clip(v, -1, 1), a), state), None

    (trained, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), None, length=num_steps)
    u, v = (_nearest(latent, levels) for latent in trained[:2])
    return Trained(u, v, objective((u, v, trained[2])))


def random_signs(key: Array, num_neurons: int, num_features: int) -> Signs:
    """Return the signs of neurons drawn at random."""
    drawn = jax.random.rademacher(key, (2, num_neurons, num_features), float)
    return drawn[0], drawn[1]
