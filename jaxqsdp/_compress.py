"""Pruning and quantization together: the best network found within a budget of bits."""

from __future__ import annotations

import dataclasses
import operator
from typing import Any

import equinox as eqx
import jax
from jaxtyping import PRNGKeyArray

from ._base.text import outline, shape_of
from ._base.types import check_count, check_key, check_positive, is_concrete
from ._certify import Certificate, certify
from ._host.programs import Stopwatch
from ._host.progress import progress_bar
from ._improve import improve, largest_neurons
from ._network.levels import ONE_BIT, Levels
from ._network.network import QuantizedNetwork
from ._problem.problem import Problem, check_fits, check_numbers
from ._quantize_alpha import quantize_alpha
from ._relaxation.solution import Solution, check_solution
from ._round import round
from ._run.on_host import solve_once

_ALPHABETS = Levels(bits=1), Levels.ternary(), Levels(bits=2), Levels(bits=3)
_ALPHA_BITS = 4, 6, 8
_LEAST_SECONDS = 1e-3


class Compression(eqx.Module):
    """A network within a budget of bits, and how far it is from the best one without a budget.

    **Attributes:**

    - `network`: the best one found, with quantized α; `network.total_bits` are its bits.
    - `certificate`: its objective beside the bound on networks of any size and any levels.
    - `candidates`: a row for each alphabet and each number of bits of α that was tried: "levels",
        "alpha_bits", "neurons", "bits" and "objective", the best first.
    """

    network: QuantizedNetwork
    certificate: Certificate
    candidates: tuple[dict[str, Any], ...] = eqx.field(static=True)

    def __repr__(self) -> str:
        if not isinstance(self.network, QuantizedNetwork) or shape_of(self.network.alpha) is None:
            return outline(self)
        rows = "".join(
            f"  {row['levels']!r:>18}, α {row['alpha_bits']} bits: {row['neurons']} neurons, "
            f"{row['bits']} bits, objective {row['objective']:.6g}\n"
            for row in self.candidates
        )
        return f"Compression(\n  {self.network!r}\n  {self.certificate!r}\n{rows})"


def compress(
    problem: Problem,
    network: QuantizedNetwork,
    *,
    max_bits: int,
    key: PRNGKeyArray | None = None,
    solution: Solution | None = None,
    time_limit: float | None = None,
    progress: bool | None = None,
) -> Compression:
    """Find the best network of at most so many bits: neurons, levels and bits of α.

    For each alphabet, one bit to three and ternary, `improve` looks for the best network of as many
    neurons as the budget has room for, from the given one where its weights are of that alphabet
    and from the relaxation where not; for 4, 6 and 8 bits of α the largest neurons that fit are
    kept and `quantize_alpha` rounds α. The best objective wins. All are compared with one bound,
    which is for networks of any size and any weights in [−1, 1]. Polynomial neurons have one bit a
    weight.

    Works on the host; changes shapes, so not under `jit` or `vmap`.

    **Arguments:**

    - `problem`: the training problem; its own `levels` do not matter.
    - `network`: any network for it.
    - `max_bits`: of first layer and α together, as `network.total_bits` counts them.
    - `key`: a JAX random key; `jax.random.key(0)` if left out.
    - `solution`: a `Solution` of the problem; solved here if left out.
    - `time_limit`: seconds, compilation not counted, for all searches together; rounding α, which
        takes seconds for hundreds of neurons, comes after each.
    - `progress`: whether to show it; None means if tqdm is installed and there is a terminal.

    **Returns:** a `Compression`.

    **Raises:** `TypeError` or `ValueError` naming the argument, also where the budget is too small
    for a neuron.

    Example: `qs.compress(problem, fit.network, max_bits=fit.network.total_bits // 4)`.
    """
    check_fits(problem, network)
    check_count(max_bits, "max_bits")
    key = jax.random.key(0) if key is None else check_key(key)
    if not is_concrete(problem, network, key, solution):
        raise ValueError("`compress` changes shapes; call it outside `jit` and `vmap`.")
    check_numbers(problem)
    if time_limit is not None:
        time_limit = check_positive(time_limit, "time_limit")
    alphabets: tuple[Levels, ...] = _ALPHABETS if problem.activation.has_levels else (ONE_BIT,)
    rooms = {levels: _rooms(problem, levels, operator.index(max_bits)) for levels in alphabets}
    if not any(any(room.values()) for room in rooms.values()):
        raise ValueError(
            f"`max_bits` is {max_bits}, too few for one neuron; the smallest takes "
            f"{_bits_of(problem, alphabets[0], _ALPHA_BITS[0], 1)}."
        )
    solution = solve_once(problem) if solution is None else solution
    check_solution(problem, solution)
    watch, found = Stopwatch(), []
    alphabets = tuple(levels for levels in alphabets if any(rooms[levels].values()))
    with progress_bar(len(alphabets), progress, "alphabet") as advance:
        for place, levels in enumerate(alphabets):
            advance(0, f"{levels!r}")
            left = None
            if time_limit is not None:
                left = (time_limit - watch.seconds) / (len(alphabets) - place)
                left = max(left, _LEAST_SECONDS)
            found += _of_alphabet(problem, network, levels, rooms[levels], key, solution, left)
            advance(1, f"{levels!r}")
    found.sort(key=lambda pair: pair[0]["objective"])
    best = found[0][1]
    certificate = certify(problem, best, solution)
    return Compression(best, certificate, tuple(row for row, _ in found))


def _bits_of(problem: Problem, levels: Levels, alpha_bits: int, neurons: int) -> int:
    """Return the bits of a network of so many neurons, as `QuantizedNetwork.total_bits` does."""
    vectors, outputs = problem.activation.num_vectors, problem.num_outputs
    row = vectors * levels.bits_for(problem.num_features) + outputs * alpha_bits
    floats = outputs * (2 if problem.fit_intercept else 1)  # scales of α, and intercepts
    return neurons * row + floats * 8 * problem.X.dtype.itemsize


def _rooms(problem: Problem, levels: Levels, max_bits: int) -> dict[int, int]:
    """Return how many neurons the budget has room for, by the bits of α."""
    rooms = {}
    for bits in _ALPHA_BITS:
        scales = _bits_of(problem, levels, bits, 0)
        rooms[bits] = max(max_bits - scales, 0) // (_bits_of(problem, levels, bits, 1) - scales)
    return rooms


def _of_alphabet(
    problem: Problem,
    network: QuantizedNetwork,
    levels: Levels,
    rooms: dict[int, int],
    key: PRNGKeyArray,
    solution: Solution,
    time_limit: float | None,
) -> list[tuple[dict[str, Any], QuantizedNetwork]]:
    """Return networks of an alphabet for each number of bits of α, with their rows."""
    problem, most = dataclasses.replace(problem, levels=levels), max(rooms.values())
    if not network.is_among(levels):
        network = round(problem, solution, num_neurons=most, key=key)
    options: Any = {"key": key, "solution": solution, "time_limit": time_limit, "progress": False}
    network = improve(problem, network, max_neurons=most, **options)
    found = []
    for bits, room in rooms.items():
        if room == 0:
            continue
        few = quantize_alpha(problem, largest_neurons(problem, network, room), bits=bits)
        row = {
            "levels": levels,
            "alpha_bits": bits,
            "neurons": few.num_neurons,
            "bits": few.total_bits,
            "objective": float(problem.objective(few)),
        }
        found.append((row, few))
    return found
