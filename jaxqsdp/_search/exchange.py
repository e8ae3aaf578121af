"""One neuron exchanged for a better one, under any loss: the last steps of a search on a model.

Take a neuron out and fit the others: their dual point λ prices the one to come, G = A*(λ).
What pricing finds is tried, that is, fitted together with the others, and kept if it is better.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._problem.host_core import HostCore
from .pricing import Neurons, joined, price_locally, some, with_last_sign
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

    neurons: Neurons
    fits: list[Restricted]

    @property
    def value(self) -> float:
        return sum(fit.value for fit in self.fits)


def exchange(
    core: HostCore,
    neurons: Neurons,
    rng: np.random.Generator,
    is_late: Callable[[], bool],
) -> Neurons:
    """Exchange neurons (m, d) one at a time until that helps none of them."""
    targets = Target.all_of(core)

    def fitted(neurons: Neurons, old: list[Restricted], cutoff: float = np.inf) -> _Fitted:
        columns, fits = core.neurons(*neurons), []
        for target, fit in zip(targets, old, strict=True):
            fits.append(target.refitted(columns, fit, _FIT, cutoff))
            cutoff -= fits[-1].value  # no loss is negative: what is left for the others
        return _Fitted(neurons, fits)

    def replaced(network: _Fitted, place: int) -> _Fitted:
        """Return the network with the best neuron found in this place, or the network itself."""
        staying = tuple(np.delete(vectors, place, axis=0) for vectors in network.neurons)
        without = [fit.at(lambda alpha: np.delete(alpha, place, axis=0)) for fit in network.fits]
        others = fitted(staying, without)
        again = [fit.at(lambda alpha: np.insert(alpha, place, 0, axis=0)) for fit in others.fits]
        best = network
        for target, fit in zip(targets, others.fits, strict=True):
            random = rng.choice((-1.0, 1.0), (_STARTS, core.X.shape[1]))
            for new in _candidates(core, target, fit.dual, network.neurons, random):
                changed = tuple(vectors.copy() for vectors in network.neurons)
                for vectors, vector in zip(changed, new, strict=True):
                    vectors[place] = vector
                enough = best.value * (1 - _FIT)
                candidate = fitted(changed, again, enough)
                if candidate.value < enough:
                    best = candidate
        return best

    neurons = tuple(vectors.astype(np.float64) for vectors in neurons)
    columns = core.neurons(*neurons)
    network = _Fitted(
        neurons, [target.restricted(columns, target.dual_of_nothing, _FIT) for target in targets]
    )
    for _ in range(_MOST_SWEEPS):
        before = network.value
        for place in range(len(neurons[0])):
            if is_late():
                break
            network = replaced(network, place)
        if not network.value < before:
            break
    return network.neurons


def _candidates(
    core: HostCore,
    target: Target,
    dual: Points,
    network: Neurons,
    starts: Signs,
) -> list[Neurons]:
    """Return the best by (|φᵀλ| − β)₊/‖φ‖ of what pricing finds, the network has, or is close."""
    chosen: dict[float, Neurons] = {}  # equal neurons have equal worth
    for one, beta in zip(np.atleast_2d(dual.T), np.atleast_1d(target.beta), strict=True):
        gram: Any = core.map.adjoint(one)
        neurons = _priced(gram, network, starts)
        if dual.ndim == 2:  # for each output all of them would take long
            first, last = (with_last_sign(neurons[i], len(gram)) for i in (0, -1))
            values = np.abs(np.sum((first @ gram) * last, axis=1))
            neurons = some(neurons, np.argsort(-values, kind="stable")[:_COMPARED])
        columns = core.neurons(*neurons)
        size = np.maximum(target.sizes(columns), np.finfo(np.float64).tiny)
        worth = np.maximum(np.abs(one @ columns) - beta, 0) / size
        found = len(chosen)
        for index in np.argsort(-worth, kind="stable"):
            if worth[index] > 0 and len(chosen) < found + _TRIED:
                chosen.setdefault(round(float(worth[index]), 12), some(neurons, index))
    return [chosen[worth] for worth in sorted(chosen, reverse=True)[:_TRIED]]


def _priced(gram: NDArray[np.float64], network: Neurons, starts: Signs) -> Neurons:
    """Return the neurons of the network, those that pricing finds, and all that are a sign away."""
    signs = [with_last_sign(vectors, len(gram)) for vectors in network]
    _, found = price_locally(gram, np.concatenate([*signs, starts]), len(network))
    neurons = joined(network, found)
    flips = 1 - 2 * np.eye(neurons[0].shape[1])
    near = [neurons]
    for place in range(len(neurons)):
        flipped = [np.repeat(vectors, len(flips), axis=0) for vectors in neurons]
        flipped[place] = (neurons[place][:, None] * flips).reshape(-1, len(flips))
        near.append(tuple(flipped))
    return joined(*near)
