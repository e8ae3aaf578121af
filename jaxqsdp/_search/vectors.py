"""The best networks of neurons of one vector that a number of neurons allows.

relaxation ─► column generation ─► pruning, a few neurons at a time ──┐
              Gaussian samples ──────────────────┼─► exchange of neurons ─► networks
the given network ──────────────────────────┘

A sign of such a neuron changes it by more than a linear term, which descents and local search on
bilinear neurons rest on; exchange fits every candidate with the true loss instead.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from .._problem.host_core import HostCore
from .._relaxation.gaussian import draw, shape_of_normal
from .._relaxation.solution import Solution
from .exchange import exchange
from .generated import generate_and_prune
from .pricing import Neurons

MOST_EXCHANGED = 32  # neurons, beyond which exchange takes long
_SAMPLES = 6  # of the relaxation, that exchange starts from


def search_vectors(
    core: HostCore,
    separate: HostCore,
    solution: Solution,
    given: Neurons,
    rng: np.random.Generator,
    max_neurons: int,
    generates: bool,
    report: Callable[[str], None],
    is_late: Callable[[], bool],
) -> list[Neurons]:
    """Return networks (m, d) of so many neurons, to be fitted.

    Outputs that the loss couples are separate in a model of it, for column generation, which is
    left out where there are too many samples and features for it.
    """
    starts = [given]
    if generates:
        report("column generation")
        starts.append(generate_and_prune(separate, solution, rng, max_neurons, report, is_late))
    if max_neurons > MOST_EXCHANGED:
        return starts
    shape = shape_of_normal(core.activation, max_neurons, core.num_features)
    for _ in range(_SAMPLES):
        drawn, _ = draw(core.activation, solution, rng.standard_normal(shape))
        starts.append(tuple(np.where(vectors >= 0, 1.0, -1.0) for vectors in drawn))
    found: list[Neurons] = []
    for count, start in enumerate(starts, 1):
        if found and is_late():
            break
        report(f"exchange of neurons, start {count} of {len(starts)}")
        found.append(exchange(core, start, rng, is_late))
    return found
