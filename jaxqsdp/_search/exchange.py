"""One neuron exchanged for a better one, under any loss: the last steps of a search on a model.

Take a neuron out and fit the others: their dual point λ prices the one to come, G = Xᵀ diag(λ) X.
What pricing finds is tried, that is, fitted together with the others, and kept if it is better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from .._problem.host_core import HostCore
from .pricing import partners, search_signs
from .restricted import Restricted
from .target import Points, Target

_STARTS = 16  # of pricing, at random
_TRIED = 6  # of what it finds, for each target ...
_COMPARED = 100  # ... from so many of largest |φᵀλ|, for each of outputs together
_FIT = 1e-5  # relative gap of a fit, which a better network has to gain
_MOST_SWEEPS = 6

Signs = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class _Fitted:
    """Neurons (m, d), and a fit for each target."""

    u: Signs
    v: Signs
    fits: list[Restricted]

    @property
    def value(self) -> float:
        return sum(fit.value for fit in self.fits)


def exchange(
    core: HostCore,
    u: NDArray,
    v: NDArray,
    rng: np.random.Generator,
    is_late: Callable[[], bool],
) -> tuple[Signs, Signs]:
    """Exchange neurons (m, d) one at a time until that helps none of them."""
    targets = Target.all_of(core)

    def fitted(u: Signs, v: Signs, old: list[Restricted], cutoff: float = np.inf) -> _Fitted:
        columns, fits = core.activation.neurons(core.X, u, v), []
        for target, fit in zip(targets, old, strict=True):
            fits.append(target.refitted(columns, fit, _FIT, cutoff))
            cutoff -= fits[-1].value  # no loss is negative: what is left for the others
        return _Fitted(u, v, fits)

    def replaced(network: _Fitted, place: int) -> _Fitted:
        """Return the network with the best neuron found in this place, or the network itself."""
        other_u, other_v = (np.delete(a, place, axis=0) for a in (network.u, network.v))
        without = [fit.at(lambda alpha: np.delete(alpha, place, axis=0)) for fit in network.fits]
        others = fitted(other_u, other_v, without)
        again = [fit.at(lambda alpha: np.insert(alpha, place, 0, axis=0)) for fit in others.fits]
        best = network
        for target, fit in zip(targets, others.fits, strict=True):
            random = rng.choice((-1.0, 1.0), (_STARTS, u.shape[1]))
            signs = network.u, network.v
            for new in _candidates(core, target, fit.dual, signs, random):
                new_u, new_v = network.u.copy(), network.v.copy()
                new_u[place], new_v[place] = new
                enough = best.value * (1 - _FIT)
                candidate = fitted(new_u, new_v, again, enough)
                if candidate.value < enough:
                    best = candidate
        return best

    u, v = u.astype(np.float64), v.astype(np.float64)
    columns = core.activation.neurons(core.X, u, v)
    network = _Fitted(
        u, v, [target.restricted(columns, target.dual_of_nothing, _FIT) for target in targets]
    )
    for _ in range(_MOST_SWEEPS):
        before = network.value
        for place in range(len(u)):
            if is_late():
                break
            network = replaced(network, place)
        if not network.value < before:
            break
    return network.u, network.v


def _candidates(
    core: HostCore,
    target: Target,
    dual: Points,
    network: tuple[Signs, Signs],
    starts: Signs,
) -> list[tuple[Signs, Signs]]:
    """Return the best by (|φᵀλ| − β)₊/‖φ‖ of what pricing finds, the network has, or is close."""
    chosen: dict[float, tuple[Signs, Signs]] = {}  # equal neurons have equal worth
    for one, beta in zip(np.atleast_2d(dual.T), np.atleast_1d(target.beta), strict=True):
        gram = core.X.T @ (one[:, None] * core.X)
        u, v = _priced(gram, network, starts)
        if dual.ndim == 2:  # for each output all of them would take long
            first = np.argsort(-np.abs(np.sum((u @ gram) * v, axis=1)), kind="stable")[:_COMPARED]
            u, v = u[first], v[first]
        columns = core.activation.neurons(core.X, u, v)
        size = np.maximum(target.sizes(columns), np.finfo(np.float64).tiny)
        worth = np.maximum(np.abs(one @ columns) - beta, 0) / size
        found = len(chosen)
        for index in np.argsort(-worth, kind="stable"):
            if worth[index] > 0 and len(chosen) < found + _TRIED:
                chosen.setdefault(round(float(worth[index]), 12), (u[index], v[index]))
    return [chosen[worth] for worth in sorted(chosen, reverse=True)[:_TRIED]]


def _priced(
    gram: NDArray[np.float64], network: tuple[Signs, Signs], starts: Signs
) -> tuple[Signs, Signs]:
    """Return the neurons of the network, those that pricing finds, and all that are a sign away."""
    found = search_signs(gram, np.concatenate([*network, starts]))[1]
    u, v = (
        np.concatenate(pair) for pair in zip(network, (found, partners(gram, found)), strict=True)
    )
    flips = 1 - 2 * np.eye(u.shape[1])
    flipped_u, flipped_v = ((signs[:, None] * flips).reshape(-1, len(flips)) for signs in (u, v))
    return (
        np.concatenate([u, flipped_u, np.repeat(u, len(flips), axis=0)]),
        np.concatenate([v, np.repeat(v, len(flips), axis=0), flipped_v]),
    )
