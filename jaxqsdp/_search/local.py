"""Local search over the weights of a network, one neuron at a time.

Take a neuron out and refit the others: r is what is left of y. What a neuron φ in its place is
worth, the others being refitted again, is (|φᵀr| − β)₊² / 2φᵀMφ, M being the projection on what the
others do not reach. For fixed v, φ is linear in u, so both are forms in u of d × d entries, and
a change of one weight costs O(d). Weights go to other levels, the best first, from several starts;
then u and v change roles, and the next neuron is due.

With many neurons a refit changes signs of α, and that worth means little. So every other sweep the
others stay as they are, and M is the identity.
"""

from __future__ import annotations

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import cho_solve, solve_triangular
from jaxtyping import Array, Float, Int, UInt8

from .._base.control_flow import fori_loop, scan, while_loop
from .._base.trees import select
from .._base.types import Scalar, epsilon, tiny, without
from .._network.bilinear import BILINEAR

RANDOM_STARTS = 6  # of the changes of a neuron, besides its weights and the signs of Xᵀ(r∘Xv)
_FIRST_SWEEPS = 50  # of coordinate descent over α, ...
_SWEEPS = 3  # ... and after each change of a neuron


def local_search(
    X: Float[Array, "n d"],
    y: Float[Array, "n c"],
    beta: Float[Array, " c"],
    u: Float[Array, "m d"],
    v: Float[Array, "m d"],
    order: Int[Array, "sweeps m"],
    starts: UInt8[Array, "sweeps m 2 starts d"],
    num_neurons: Int[Array, ""],
    levels: Float[Array, " L"],
    direction: Float[Array, " n"] | None = None,
) -> Network:
    """Improve the weights of a network, and return it with fitting α and the objective.

    Weights are among the levels, which ascend from −1 to 1. Each sweep visits the first
    `num_neurons` neurons, those that are in use, in its `order`, with random weights to start from
    for either factor of the neuron, as indices of levels; the objective never rises. Weights of
    samples are absorbed into X and y, which are of moderate scale. α is nearly the best. If there
    is an intercept, y is less what it fits, and so are neurons: its unit vector is `direction`.
    """
    m = u.shape[0]
    used = (jnp.arange(m, dtype=num_neurons.dtype) < num_neurons).astype(X.dtype)

    def visit(count: Array, network: Network) -> Network:
        sweep, place = count // num_neurons, count % num_neurons
        joint = (1 - sweep % 2).astype(X.dtype)
        random = levels[starts[sweep, place]]
        place = order[sweep, place]
        changed = _replace_neuron(X, y, beta, network, place, joint, random, levels, direction)
        return select(changed.objective < network.objective, changed, network)

    u, v = u.astype(X.dtype), v.astype(X.dtype)
    alpha = jnp.zeros((m, y.shape[1]), X.dtype)
    phi = without(direction, BILINEAR.neurons(X, u, v)) * used[None, :]
    network = Network.of(u, v, phi, phi.T @ phi, y, beta, alpha, _FIRST_SWEEPS)
    if order.shape[0] == 0:
        return network
    return fori_loop(jnp.zeros_like(num_neurons), order.shape[0] * num_neurons, visit, network)


class Network(eqx.Module):
    """Neurons, what they give, and the output weights."""

    u: Float[Array, "m d"]
    v: Float[Array, "m d"]
    phi: Float[Array, "n m"]
    gram: Float[Array, "m m"]  # of φ
    alpha: Float[Array, "m c"]
    objective: Scalar

    @staticmethod
    def of(
        u: Array,
        v: Array,
        phi: Array,
        gram: Array,
        y: Array,
        beta: Array,
        alpha: Array,
        num_sweeps: int,
    ) -> Network:
        """Improve α from where it is, and evaluate."""
        alpha = coordinate_descent(gram, phi.T @ y, beta, alpha, num_sweeps)
        loss = 0.5 * jnp.sum(jnp.square(y - phi @ alpha))
        objective = loss + jnp.sum(beta * jnp.sum(jnp.abs(alpha), axis=0))
        return Network(u, v, phi, gram, alpha, objective)


def _replace_neuron(
    X: Array,
    y: Array,
    beta: Array,
    network: Network,
    j: Array,
    joint: Array,
    random: Float[Array, "2 starts d"],
    levels: Float[Array, " L"],
    direction: Float[Array, " n"] | None,
) -> Network:
    """Find a better neuron in place of the j-th.

    If `joint` is 1 the others are refitted, first with their signs; if it is 0 they stay.
    """
    u, v, phi, gram = network.u, network.v, network.phi, network.gram
    staying = network.alpha.at[j].set(0)  # (m, c)
    signs = joint * jnp.sign(staying)
    targets = phi.T @ y - beta[None, :] * signs

    def leave_out(
        signs: Array, targets: Array, staying: Array, y: Array
    ) -> tuple[Array, Array, Array]:
        """Return the factored Gram matrix of the others, their α and what is left of y."""
        used = jnp.abs(signs)
        some = gram * used[:, None] * used[None, :]
        diagonal = jnp.diagonal(some)
        ridge = 30 * epsilon(y.dtype) * diagonal + jnp.where(diagonal > 0, 0, 1)
        lower = jnp.linalg.cholesky(some + jnp.diag(ridge), symmetrize_input=False)
        fitted = cho_solve((lower, True), used * targets) + (1 - joint) * staying
        return lower, fitted, y - phi @ fitted

    lower, fitted, left = jax.vmap(leave_out, in_axes=1)(signs, targets, staying, y)
    used = jnp.abs(signs).T  # (c, m)

    def reached(features: Float[Array, "n k"]) -> Float[Array, "c m k"]:
        """Return coordinates of what the others reach of some features."""
        products = used[:, :, None] * (phi.T @ features)[None]
        return solve_triangular(lower, products, lower=True)

    def best(factors: tuple[Array, Array], random: Array) -> tuple[tuple[Array, Array], None]:
        """Choose the weights of the first factor, φ = features · u, and exchange the two."""
        start, other = factors
        features = without(direction, (X @ other)[:, None] * X)
        linear = left @ features  # (c, d)
        others = reached(features)
        quadratic = (features.T @ features)[None] - jnp.swapaxes(others, 1, 2) @ others
        greedy = jnp.where(jnp.sum(linear, axis=0) >= 0, 1, -1).astype(start.dtype)
        starts = jnp.concatenate([start[None], greedy[None], random])
        return (other, _changed(linear, quadratic, beta, starts, levels)), None

    (new_u, new_v), _ = scan(best, (u[j], v[j]), random)
    new_phi = without(direction, (X @ new_u) * (X @ new_v))
    others = reached(new_phi[:, None])[:, :, 0]  # (c, m)
    size = jnp.sum(jnp.square(new_phi)) - jnp.sum(jnp.square(others), axis=1)
    own = _shrunk(left @ new_phi, beta) / jnp.maximum(size, tiny(y.dtype) ** 0.5)
    change = solve_triangular(lower, others[:, :, None], lower=True, trans=1)[:, :, 0]
    alpha = (fitted - own[:, None] * used * change).T.at[j].set(own)
    phi = phi.at[:, j].set(new_phi)
    products = phi.T @ new_phi
    gram = gram.at[j].set(products).at[:, j].set(products)
    u, v = u.at[j].set(new_u), v.at[j].set(new_v)
    return Network.of(u, v, phi, gram, y, beta, alpha, _SWEEPS)


def _worth(linear: Float[Array, "*s c"], quadratic: Float[Array, "*s c"], beta: Array) -> Array:
    """Return Σ_k (|b_k| − β_k)₊² / q_k, summed over outputs."""
    least = tiny(linear.dtype) ** 0.5
    excess = jnp.maximum(jnp.abs(linear) - jnp.broadcast_to(beta, linear.shape), 0)
    gain = jnp.square(excess) / jnp.maximum(quadratic, least)
    return jnp.sum(gain, axis=-1)


def _changed(
    linear: Float[Array, "c d"],
    quadratic: Float[Array, "c d d"],
    beta: Float[Array, " c"],
    starts: Float[Array, "s d"],
    levels: Float[Array, " L"],
) -> Float[Array, " d"]:
    """Maximize Σ_k (|b_kᵀw| − β_k)₊² / wᵀM_k w over weights w, by the best change of one of them
    to another level until none helps.
    """
    diagonal = jnp.diagonal(quadratic, axis1=1, axis2=2)  # (c, d)
    # Below rounding errors of the full forms, M says nothing: the others reach all there is.
    floor = 1e2 * epsilon(linear.dtype) * jnp.sum(jnp.abs(quadratic), axis=(1, 2))
    others = jnp.arange(1, len(levels))[None, None]  # places from a level on, in a circle

    def body(carry: tuple[Array, Array, Array, Array]) -> tuple[Array, Array, Array, Array]:
        places, images, worth, _ = carry  # (s, d), (s, c, d), (s,)
        weights = levels[places]
        steps = levels[(places[..., None] + others) % len(levels)] - weights[..., None]  # (s, d, r)
        b = weights @ linear.T  # (s, c)
        q = jnp.sum(images * weights[:, None, :], axis=2)
        moved_b = b[:, :, None, None] + steps[:, None] * linear[None, :, :, None]
        moved_q = q[:, :, None, None] + 2 * steps[:, None] * images[..., None]
        moved_q = moved_q + jnp.square(steps)[:, None] * diagonal[None, :, :, None]
        moved_q = jnp.maximum(moved_q, floor[None, :, None, None])
        worths = _worth(jnp.moveaxis(moved_b, 1, 3), jnp.moveaxis(moved_q, 1, 3), beta)
        worths = jnp.reshape(worths, (len(starts), -1))
        best = jnp.argmax(worths, axis=1)
        feature, turn = best // others.size, best % others.size
        lanes = jnp.arange(len(places))
        better = worths[lanes, best] > worth * (1 + 1e2 * epsilon(linear.dtype))
        step = jnp.where(better, steps[lanes, feature, turn], 0)
        images = images + step[:, None, None] * jnp.swapaxes(quadratic[:, feature], 0, 1)
        turned = jnp.where(better, turn + 1, 0)
        places = places.at[lanes, feature].add(turned) % len(levels)
        return places, images, jnp.where(better, worths[lanes, best], worth), jnp.any(better)

    apart = jnp.abs(starts[..., None] - levels[None, None])
    images = jnp.einsum("kde,se->skd", quadratic, starts)
    q = jnp.maximum(jnp.sum(images * starts[:, None, :], axis=2), floor[None])
    worth = _worth(starts @ linear.T, q, beta)
    carry = jnp.argmin(apart, axis=2), images, worth, jnp.array(True)
    places, _, worth, _ = while_loop(lambda carry: carry[-1], body, carry)
    return levels[places[jnp.argmax(worth)]]


def _shrunk(x: Array, beta: Array) -> Array:
    return jnp.sign(x) * jnp.maximum(jnp.abs(x) - beta, 0)


def coordinate_descent(
    gram: Float[Array, "m m"],
    targets: Float[Array, "m c"],
    beta: Float[Array, " c"],
    alpha: Float[Array, "m c"],
    num_sweeps: int,
) -> Float[Array, "m c"]:
    """Lower ½‖Φα − y‖² + Σ_k β_k‖α_k‖₁, neuron by neuron, given ΦᵀΦ and Φᵀy."""
    size = jnp.maximum(jnp.diagonal(gram), tiny(gram.dtype) ** 0.5)

    def visit(alpha: Array, j: Array) -> tuple[Array, None]:
        correlation = targets[j] - gram[j] @ alpha + size[j] * alpha[j]
        return alpha.at[j].set(_shrunk(correlation, beta) / size[j]), None

    return scan(visit, alpha, jnp.tile(jnp.arange(len(gram)), num_sweeps))[0]
