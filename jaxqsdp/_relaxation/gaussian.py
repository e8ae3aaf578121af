"""Samples of the relaxation: Krivine's form of Grothendieck's identity."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from .._base.cone import square_root
from .._base.types import Scalar, namespace, over_leading
from .._network.bilinear import BILINEAR, KRIVINE_ANGLE
from .solution import Solution


def draw(
    solution: Solution, normal: Any
) -> tuple[Float[Array, "m d"], Float[Array, "m d"], Float[Array, "m c"]]:
    """Return (g_u, g_v) ~ N(0, S), whose signs are the neurons, and the unbiased α beside them.

    From independent normal numbers (2, m, d); on the host if these are NumPy's.
    """
    if isinstance(normal, np.ndarray):
        solution = jax.tree.map(np.asarray, solution)
    xp, num_neurons = namespace(normal), normal.shape[1]
    scale = xp.atleast_1d(solution.scale)
    c, d = scale.shape[0], solution.quadratic_form.shape[-1]
    forms = solution.quadratic_form.reshape(c, d, d)
    blocks = solution.block.reshape(c, d, d)

    def gaussians(form: Array, block: Array, scale: Scalar) -> tuple[Array, Array]:
        return _gaussians(form, block, scale, normal)

    g_u, g_v = over_leading(gaussians, forms, blocks, scale)
    owner = _shares(scale, num_neurons)
    neurons = np.arange(num_neurons)
    owned = (owner[:, None] == np.arange(c, dtype=owner.dtype)[None, :]).astype(scale.dtype)
    count = xp.maximum(xp.sum(owned, axis=0), 1)
    alpha = owned * (BILINEAR.guarantee * scale / count)[None, :]
    return g_u[owner, neurons], g_v[owner, neurons], alpha


def _gaussians(
    form: Float[Array, "d d"],
    block: Float[Array, "d d"],
    scale: Scalar,
    normal: Float[Array, "2 m d"],
) -> tuple[Float[Array, "m d"], Float[Array, "m d"]]:
    """Draw (g_u, g_v) for one output, of unit variance.

    S has the invariant subspaces (x, ±x), so two d × d factors T± = sinh γV_s ± sin γZ_s do.
    """
    xp = namespace(form, normal)
    positive = scale > 0
    divisor = xp.where(positive, scale, 1)
    identity = xp.eye(form.shape[0], dtype=form.dtype)
    within = xp.sinh(KRIVINE_ANGLE * xp.where(positive, block / divisor, identity))
    across = xp.sin(KRIVINE_ANGLE * form / divisor)
    even = normal[0] @ square_root(within + across)
    odd = normal[1] @ square_root(within - across)
    return (even + odd) / 2**0.5, (even - odd) / 2**0.5


def _shares(scale: Float[Array, " c"], num_neurons: int) -> Array:
    """Return which output each neuron is drawn for, in proportion to ρ."""
    xp = namespace(scale)
    cumulative = xp.cumsum(scale)
    total = xp.where(cumulative[-1] > 0, cumulative[-1], 1)
    position = (xp.arange(num_neurons, dtype=scale.dtype) + 0.5) / num_neurons
    owner = xp.searchsorted(cumulative / total, position, side="right")
    return xp.clip(owner, 0, scale.shape[0] - 1)
