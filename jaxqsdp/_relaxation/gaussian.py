"""Samples of the relaxation: Gaussian vectors whose signs are the weights of neurons."""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float

from .._base.cone import square_root
from .._base.types import Scalar, namespace, over_leading
from .._network.activation import AbstractActivation
from .._network.bilinear import KRIVINE_ANGLE
from .solution import Solution

Vectors = tuple[Float[Array, "m d"], ...]


def shape_of_normal(activation: AbstractActivation, m: int, d: int) -> tuple[int, int, int]:
    """Return the shape of the independent normal numbers that `draw` takes for m neurons."""
    return activation.num_vectors, m, activation.num_lifted(d)


def draw(
    activation: AbstractActivation, solution: Solution, normal: Any
) -> tuple[Vectors, Float[Array, "m c"]]:
    """Return Gaussian vectors, whose signs are the neurons, and the α beside them.

    From normal numbers of the shape above; on the host if these are NumPy's. Bilinear neurons are
    those of Krivine's form of Grothendieck's identity, and α makes them an unbiased estimate. For
    neurons of one vector signs of (g, g_s) ~ N(0, P/ρ₊), g·sign g_s, are cut by hyperplanes, α is
    ρ₊ over their number, and N and −ρ₋ have their share; that is biased.
    """
    if isinstance(normal, np.ndarray):
        solution = jax.tree.map(np.asarray, solution)
    xp, (num_vectors, m, k) = namespace(normal), normal.shape
    forms, blocks = (each.reshape(-1, k, k) for each in (solution.quadratic_form, solution.block))
    c = len(forms)
    if num_vectors == 2:
        scale = xp.atleast_1d(solution.scale)

        def gaussians(form: Array, block: Array, scale: Scalar) -> Any:
            return _gaussians(form, block, scale, normal)

        drawn, signs = over_leading(gaussians, forms, blocks, scale), np.ones(c)
    else:
        parts = activation.layout.blocks(forms, blocks)  # (c, 2, k, k)
        scale = xp.maximum(parts[..., 0, 0], 0).reshape(-1)

        def cut(part: Array, scale: Scalar) -> Any:
            return _cut(part, scale, normal[0])

        drawn = over_leading(cut, parts.reshape(-1, k, k), scale)
        signs = np.tile([1.0, -1.0], c)
    owner, neurons = _shares(scale, m), np.arange(m)
    places = np.arange(len(signs), dtype=owner.dtype)
    owned = (owner[:, None] == places[None, :]).astype(scale.dtype)
    count = xp.maximum(xp.sum(owned, axis=0), 1)
    factor = activation.guarantee if num_vectors == 2 else 1.0
    alpha = owned * (xp.asarray(factor * signs, scale.dtype) * scale / count)[None, :]
    alpha = xp.sum(alpha.reshape(m, c, -1), axis=2)
    return tuple(vectors[owner, neurons] for vectors in drawn), alpha


def _cut(
    part: Float[Array, "k k"], scale: Scalar, normal: Float[Array, "m k"]
) -> tuple[Float[Array, "m d"]]:
    """Draw from N(0, P/ρ₊), and turn the sign of what belongs to the constant to +1."""
    xp = namespace(part, normal)
    positive = scale > 0
    identity = xp.eye(part.shape[0], dtype=part.dtype)
    root = square_root(xp.where(positive, part / xp.where(positive, scale, 1), identity))
    vectors = normal @ root
    return (xp.where(vectors[:, -1:] >= 0, vectors, -vectors)[:, :-1],)


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
