"""A quantized second layer: output weights that are integers times a scale."""

from __future__ import annotations

import dataclasses
import operator

import jax
import jax.numpy as jnp
import numpy as np
from numpy.typing import NDArray

from ._base.types import check_count, is_concrete
from ._host.blas import with_one_blas_thread
from ._network.network import QuantizedNetwork
from ._network.network_file import MOST_ALPHA_BITS, largest_integer
from ._problem.host_core import HostCore
from ._problem.problem import Problem, check_fits, check_numbers
from ._round import refit, with_best_intercept
from ._search.quantized import best_integers
from ._search.target import Target


@jax.ensure_compile_time_eval()  # within `jit`, which would stage what its body closes over
@with_one_blas_thread
def quantize_alpha(
    problem: Problem, network: QuantizedNetwork, *, bits: int = 8
) -> QuantizedNetwork:
    """Make the output weights integers of a few bits times one scale for each output.

        min ℓ(f(X), y) + β‖α‖₁  over  α_jk = s_k·z_jk,  z_jk ∈ {−q, …, q},  q = 2^(b−1) − 1

    α is fitted anew. Then, for the squared loss or a squared model of another one, integers are
    chosen one after another, the best beginnings kept, for many scales; one or two of them are
    changed as long as that helps, for another loss by that itself. Neurons whose integers are all
    zero are dropped. What it costs `certify` says: the bound is the same.

    Works on the host in float64; changes shapes, so not under `jit` or `vmap`.

    **Arguments:**

    - `problem`: the training problem.
    - `network`: any network for it.
    - `bits`: of an integer, 2 (−1, 0 and 1) to 16. Eight cost next to nothing.

    **Returns:** a `QuantizedNetwork` with `alpha_bits`, `alpha_scale` and `alpha_integers`, which
    `save` writes packed; its `total_bits` count them.

    **Raises:** `TypeError` or `ValueError` naming the argument.

    Example: `small = qs.quantize_alpha(problem, fit.network, bits=4)`, then
    `qs.certify(problem, small, fit.solution)`.
    """
    check_fits(problem, network)
    check_count(bits, "bits")
    bits = operator.index(bits)
    if not 2 <= bits <= MOST_ALPHA_BITS:
        raise ValueError(f"`bits` must be 2 to {MOST_ALPHA_BITS}, got {bits}.")
    if not is_concrete(problem, network):
        raise ValueError("`quantize_alpha` changes shapes; call it outside `jit` and `vmap`.")
    check_numbers(problem)
    network = refit(problem, network).prune()
    core, most = HostCore.of(problem), largest_integer(bits)
    unit = core.restore_alpha(np.ones(()))
    host = jax.tree.map(np.asarray, network)  # where nothing is compiled
    alpha = np.asarray(host.alpha_columns, np.float64) / unit
    columns = core.neurons(*host.vectors(np.float64))
    targets = Target.all_of(core)
    if core.loss.couples_outputs:
        integers, scale = best_integers(targets[0], columns, alpha, most)
    else:
        parts = zip(targets, alpha.T, strict=True)
        found = [best_integers(target, columns, each, most) for target, each in parts]
        integers, scale = (np.stack(part, axis=-1) for part in zip(*found, strict=True))
    network = _quantized(network, integers, unit * scale, bits)
    return with_best_intercept(problem, network) if problem.fit_intercept else network


def _quantized(
    network: QuantizedNetwork, integers: NDArray, scale: NDArray[np.float64], bits: int
) -> QuantizedNetwork:
    """Return the network with α = scale × integers, without the neurons that this leaves out."""
    kept = np.flatnonzero(np.any(integers != 0, axis=1))
    dtype, outputs = np.dtype(network.alpha.dtype), network.alpha.shape[1:]
    factor = scale.astype(dtype).reshape(outputs)
    alpha = integers[kept].astype(dtype).reshape(-1, *outputs) * factor
    found = network.subset(kept).with_alpha(jnp.asarray(alpha))
    return dataclasses.replace(found, alpha_scale=jnp.asarray(factor), alpha_bits=bits)
