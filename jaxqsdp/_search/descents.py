"""Descents on latent weights side by side, from samples of the relaxation and from random ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from numpy.typing import NDArray

from .._base.types import across, highest_precision, tiny, without
from .._host.programs import HostProgram
from .._loss.base import AbstractLoss
from .._network.bilinear import BILINEAR
from .._network.levels import Levels
from .._problem.host_core import HostCore
from .._relaxation.gaussian import draw
from .._relaxation.solution import Solution
from .latent import Loss, TrueLoss, descend, loss_of, nearest
from .local import coordinate_descent

_RATES = (0.01, 0.03)
_ALPHA_RATE = 5.0  # of the natural size of α, relative to the rate of the signs
_COORDINATE_SWEEPS = 50

Weights = NDArray  # (s, m, d)


def descend_from_many(
    core: HostCore,
    solution: Solution,
    rng: np.random.Generator,
    max_neurons: int,
    num_starts: int,
    num_steps: int,
    slots: int,
    levels: Levels,
) -> tuple[Weights, Weights]:
    """Return the weights of all descents, the best first: half start from the relaxation.

    The core may be padded; `slots` are the neurons that the program has room for. They descend in
    float32, whatever the dtype: only levels are taken from them. The best are so with α as it is
    fitted to the squared loss, or as descent leaves it.
    """
    d, dtype = solution.quadratic_form.shape[-1], np.float32
    shape = (num_starts, max_neurons, d)
    latent = rng.uniform(-1, 1, (2, *shape)).astype(dtype)
    for index in range(0, num_starts, 2):
        drawn, _ = draw(core.activation, solution, rng.standard_normal((2, max_neurons, d)))
        latent[:, index] = np.clip(drawn, -1, 1)
    rates = np.asarray(_RATES, dtype)[np.arange(num_starts) // 2 % len(_RATES)]
    room = ((0, 0), (0, slots - max_neurons), (0, core.X.shape[1] - d))
    u, v, objective = _program(
        *(core.X, core.y, core.beta),
        *(np.pad(some, room) for some in latent),
        rates,
        np.arange(slots) < max_neurons,
        num_steps,
        levels.repeated(core.X.dtype),
        core.direction,
        *_others(core),
    )
    order = np.argsort(np.asarray(objective), kind="stable")
    values = levels.repeated(core.X.dtype)
    u, v = (values[np.asarray(places)[order, :max_neurons, :d]] for places in (u, v))
    return u, v


def prepare_descents(
    core: HostCore, num_starts: int, num_steps: int, slots: int, levels: Levels
) -> None:
    """Start to compile what `descend_from_many` runs."""
    latent = jax.ShapeDtypeStruct((num_starts, slots, core.X.shape[1]), np.float32)
    rates = jax.ShapeDtypeStruct((num_starts,), np.float32)
    alive = jax.ShapeDtypeStruct((slots,), np.bool_)
    data = core.X, core.y, core.beta, latent, latent, rates, alive, num_steps
    _program.prepare(*data, levels.repeated(core.X.dtype), core.direction, *_others(core))


def _others(core: HostCore) -> tuple[NDArray, AbstractLoss, bool] | tuple[None, None, bool]:
    """Return the weights, the loss and whether there is an intercept, if it is not squared."""
    if core.loss.is_quadratic:
        return None, None, False
    return core.weight, core.loss, core.has_free_intercept


@highest_precision
def _descend(
    X: Float[Array, "n d"],
    y: Float[Array, "n c"],
    beta: Float[Array, " c"],
    latent_u: Float[Array, "s m d"],
    latent_v: Float[Array, "s m d"],
    rates: Float[Array, " s"],
    alive: Array,
    num_steps: int,
    levels: Float[Array, " L"],
    direction: Float[Array, " n"] | None,
    weight: Float[Array, " n"] | None,
    other: AbstractLoss | None,
    has_intercept: bool,
) -> tuple[Array, Array, Float[Array, " s"]]:
    """Return the places of the levels after the descents, and nearly the best objective."""
    dtype, m = latent_u.dtype, len(alive)
    single_X, single_y, single_beta = (array.astype(dtype) for array in (X, y, beta))
    along = None if direction is None else direction.astype(dtype)
    loss: Loss
    if other is None or weight is None:
        loss = loss_of(single_X, single_y, m, along)
    else:
        single_loss = jax.tree.map(lambda leaf: leaf.astype(dtype), other)
        single_weight = weight.astype(dtype)
        loss = TrueLoss(single_X, single_y, single_weight, single_loss, has_intercept)
    # Zero samples are padding.
    squares = jnp.sum(jnp.square(jnp.sum(jnp.square(single_X), axis=1)))
    energy = jnp.sqrt(squares)
    size = jnp.sqrt(jnp.sum(jnp.square(single_y)) / single_y.shape[1])
    unit = size / jnp.maximum(energy, tiny(dtype) ** 0.5)

    def one(latent_u: Array, latent_v: Array, rate: Array) -> tuple[Array, Array, Array]:
        sizes, penalty = unit * alive.astype(dtype), jnp.tile(single_beta[None], (m, 1))
        if has_intercept:
            sizes = jnp.append(sizes, size / len(y) ** 0.5)
            penalty = jnp.pad(penalty, ((0, 1), (0, 0)))
        start = latent_u, latent_v, jnp.zeros((len(sizes), y.shape[1]), dtype)
        alpha_rate = _ALPHA_RATE * rate * sizes[:, None]
        single_levels = levels.astype(dtype)
        latent = descend(loss, penalty, start, rate, alpha_rate, num_steps, single_levels)
        places = [nearest(some, single_levels) for some in latent[:2]]
        phi = without(direction, BILINEAR.neurons(X, *(levels[place] for place in places)))
        phi = phi * alive[None, :].astype(X.dtype)
        alpha = latent[2].astype(X.dtype)
        if other is not None and weight is not None:
            exact = TrueLoss(X, y, weight, other, has_intercept)
            each = other.value(exact.predictions(phi, alpha), y)
            misfit = jnp.sum(across(weight, each) * each)
            objective = misfit + jnp.sum(beta * jnp.sum(jnp.abs(alpha[:m]), axis=0))
            return places[0].astype(jnp.uint8), places[1].astype(jnp.uint8), objective
        gram, targets = phi.T @ phi, phi.T @ y
        alpha = coordinate_descent(gram, targets, beta, alpha, _COORDINATE_SWEEPS)
        misfit = 0.5 * jnp.sum(jnp.square(phi @ alpha - y))
        objective = misfit + jnp.sum(beta * jnp.sum(jnp.abs(alpha), axis=0))
        return places[0].astype(jnp.uint8), places[1].astype(jnp.uint8), objective

    return jax.vmap(one)(latent_u, latent_v, rates)


_program = HostProgram(_descend, level=1)
