"""Local search from many networks, and again from the best ones after random flips of signs.

networks ──► local search ──► the best ──► kick: flip some signs ──► local search ──┐
▲                                                  │
└────────────────── kept if better ────────────────┘

Where there are more levels than ±1, a kick gives weights other levels at random.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array
from numpy.typing import NDArray

from .._base.trees import select
from .._base.types import highest_precision
from .._host.programs import HostProgram
from .._network.levels import Levels
from .._problem.host_core import HostCore
from .local import RANDOM_STARTS, local_search

_NEURONS_SEARCHED = 128  # networks × neurons that are searched side by side, at most, ...
_LEAST_SIDE_BY_SIDE, _MOST_SIDE_BY_SIDE = 4, 8  # ... and networks
_SIGNS_SEARCHED = 480  # networks × features that local search starts from, at most
_SWEEPS = 3  # in a round of local search, ...
_ROUNDS = 2  # ... rounds before the first kick
_SIGNS_KICKED = 200  # kicks × features, about: with many features they hardly help
_FEWER_KICKS = 6
_MOST_KICKS = 24
_MOST_KICKED = 32  # neurons; with more, column generation is as good as it gets
_NEURONS_KICKED = 4  # one in so many ...
_SIGNS_FLIPPED = 0.1  # ... gets this share of its signs flipped
_MOST_SEARCHED = 256  # neurons, beyond which there are no sweeps


@dataclasses.dataclass(frozen=True)
class Searched:
    """Networks side by side, and what they are worth."""

    u: NDArray  # (s, m, d)
    v: NDArray
    objective: NDArray  # (s,)

    @property
    def networks(self) -> list[tuple[NDArray, NDArray]]:
        """The weights of each network."""
        return list(zip(self.u, self.v, strict=True))

    def best(self, count: int) -> Searched:
        """Return the best networks."""
        order = np.argsort(self.objective, kind="stable")[:count]
        return Searched(self.u[order], self.v[order], self.objective[order])


def side_by_side(slots: int) -> int:
    """Return how many networks are searched at a time."""
    return min(max(_NEURONS_SEARCHED // slots, _LEAST_SIDE_BY_SIDE), _MOST_SIDE_BY_SIDE)


def searched_networks(slots: int, d: int) -> int:
    """Return from how many networks local search starts, whole batches of them."""
    lanes = side_by_side(slots)
    return lanes * max(min(_SIGNS_SEARCHED // d, _NEURONS_SEARCHED // slots) // lanes, 1)


def search(
    core: HostCore,
    u: NDArray,
    v: NDArray,
    rng: np.random.Generator,
    slots: int,
    levels: Levels,
    report: Callable[[str], None],
    is_late: Callable[[], bool],
) -> Searched:
    """Return the best results of local search from some networks (s, m, d).

    The core may be padded; `slots` are the neurons that the program has room for.
    """
    count, m, d = u.shape
    lanes = side_by_side(slots)
    batches = []
    for first in range(0, count, lanes):
        chosen = np.arange(first, first + lanes) % count
        batch = Searched(u[chosen], v[chosen], np.full(lanes, np.inf, u.dtype))
        for index in range(_ROUNDS):
            if index == 0 or not is_late():
                batch = _round(core, batch, 0.0, rng, slots, levels)
        batches.append(batch)
        if first + lanes < count and is_late():
            break
    parts = (np.concatenate([getattr(batch, name) for batch in batches]) for name in _FIELDS)
    found = Searched(*parts).best(lanes)
    kicks = min(max(_SIGNS_KICKED // d - _FEWER_KICKS, 0), _MOST_KICKS)
    for index in range(kicks if m <= _MOST_KICKED else 0):
        if is_late():
            break
        report(f"local search, kick {index + 1}")
        found = _round(core, found, _SIGNS_FLIPPED, rng, slots, levels)
    return found


def prepare_search(core: HostCore, slots: int, levels: Levels) -> None:
    """Start to compile what `search` runs."""
    d, lanes = core.X.shape[1], side_by_side(slots)

    def like(*shape: int, dtype: type = np.uint8) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    indices = like(lanes, slots, d)
    randomness = like(lanes, _sweeps(slots), slots, 2, RANDOM_STARTS, d)
    order = like(lanes, _sweeps(slots), slots, dtype=np.int32)
    _program.prepare(
        *(core.X, core.y, core.beta, indices, indices),
        *(indices, indices, like(lanes, dtype=core.X.dtype.type), order, randomness),
        like(dtype=np.int32),
        levels.repeated(core.X.dtype),
        core.direction,
    )


def _sweeps(slots: int) -> int:
    return _SWEEPS if slots <= _MOST_SEARCHED else 0


_FIELDS = [field.name for field in dataclasses.fields(Searched)]


def _round(
    core: HostCore,
    found: Searched,
    share: float,
    rng: np.random.Generator,
    slots: int,
    levels: Levels,
) -> Searched:
    """Change a share of the weights of some neurons, search, and keep what is better."""
    lanes, m, d = found.u.shape
    room = ((0, 0), (0, slots - m), (0, core.X.shape[1] - d))
    kicked = rng.permuted(np.tile(np.arange(m), (lanes, 1)), axis=1) < max(m // _NEURONS_KICKED, 1)
    changed = kicked[None, :, :, None] & (rng.random((2, lanes, m, d)) < share)
    given: Any = [levels.indices(weights) for weights in (found.u, found.v)]
    if levels.count == 2:
        turned = [1 - indices for indices in given]
    else:
        turned = list(rng.integers(0, levels.count, (2, lanes, m, d), np.uint8))
    turned = [np.where(*parts) for parts in zip(changed, turned, given, strict=True)]
    sweeps = _sweeps(slots)
    order = np.zeros((lanes, sweeps, slots), np.int32)
    order[:, :, :m] = rng.permuted(np.tile(np.arange(m), (lanes, sweeps, 1)), axis=2)
    starts = np.zeros((lanes, sweeps, slots, 2, RANDOM_STARTS, core.X.shape[1]), np.uint8)
    shape = lanes, sweeps, m, 2, RANDOM_STARTS, d
    starts[:, :, :m, ..., :d] = rng.integers(0, levels.count, shape, np.uint8)
    u, v, objective = _program(
        *(core.X, core.y, core.beta),
        *(np.pad(indices, room) for indices in (*given, *turned)),
        *(found.objective, order, starts, np.asarray(m, np.int32)),
        levels.repeated(core.X.dtype),
        core.direction,
    )
    values = levels.values.astype(found.u.dtype)
    u, v = (values[np.asarray(indices)[:, :m, :d]] for indices in (u, v))
    return Searched(u, v, np.asarray(objective))


@highest_precision
def _search_round(
    X: Array,
    y: Array,
    beta: Array,
    u: Array,
    v: Array,
    turned_u: Array,
    turned_v: Array,
    objective: Array,
    order: Array,
    starts: Array,
    num_neurons: Array,
    levels: Array,
    direction: Array | None,
) -> tuple[Array, Array, Array]:
    """Search from the turned networks, side by side, and keep what is better than the given.

    Weights are given and returned as indices of levels.
    """

    def one(*network: Array) -> tuple[Array, Array, Array]:
        u, v, turned_u, turned_v, objective, order, starts = network
        turned = levels[turned_u], levels[turned_v]
        other = local_search(X, y, beta, *turned, order, starts, num_neurons, levels, direction)
        found_u, found_v, found = other.u, other.v, other.objective
        found_u, found_v = (
            jnp.argmin(jnp.abs(w[..., None] - levels[None, None]), axis=2).astype(u.dtype)
            for w in (found_u, found_v)
        )
        return select(found < objective, (found_u, found_v, found), (u, v, objective))

    return jax.vmap(one)(u, v, turned_u, turned_v, objective, order, starts)


_program = HostProgram(_search_round, level=1)
