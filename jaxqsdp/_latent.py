"""Descent on real weights whose signs are those of the network: a straight-through estimator.

The network sees sign(U) and sign(V); its derivative with respect to the signs moves U and V, which
are kept within [−1, 1]. With Z_k = Σ_j α_jk sym(u_j v_jᵀ) and G_k = Σ_i r_ik x_i x_iᵀ, r = y − ŷ,
for output k, that derivative is −Σ_k α_jk G_k v_j for u_j. So a step takes the samples once for all
neurons, or, where that is cheaper, the Gram matrix of the lifted samples instead.

Source: Courbariaux, Bengio & David, *BinaryConnect* (2015), with Adam.
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from ._lift import LiftedMap, lifted_size, quadratic_forms, smat, svec, weighted_gram
from ._types import Scalar

Latent = tuple[Float[Array, "m d"], Float[Array, "m d"], Float[Array, "m c"]]  # U, V, α


class Descent(eqx.Module):
    """The gradient of ½‖A(Z) − y‖² with respect to Z, for one output at a time."""

    @abc.abstractmethod
    def gradient(self, form: Float[Array, "d d"], y: Array) -> Float[Array, "d d"]:
        """Return A*(A(Z) − y), given what `project` made of y."""

    @abc.abstractmethod
    def project(self, y: Float[Array, " n"]) -> Array:
        """Return what `gradient` takes of y."""


class _Samples(Descent):
    X: Float[Array, "n d"]

    def project(self, y: Float[Array, " n"]) -> Array:
        return y

    def gradient(self, form: Float[Array, "d d"], y: Array) -> Float[Array, "d d"]:
        return weighted_gram(self.X, quadratic_forms(self.X, form) - y)


class _Lifted(Descent):
    lifted: Float[Array, "n D"]
    gram: Float[Array, "D D"]

    def project(self, y: Float[Array, " n"]) -> Array:
        return y @ self.lifted

    def gradient(self, form: Float[Array, "d d"], y: Array) -> Float[Array, "d d"]:
        return smat(self.gram @ svec(form) - y, form.shape[0])


def descent_on(X: Float[Array, "n d"]) -> Descent:
    """Choose the form with fewer operations a step."""
    n, d = X.shape
    if lifted_size(d) ** 2 > 2 * n * d * d:
        return _Samples(X)
    lifted = LiftedMap(X).matrix()
    return _Lifted(lifted, lifted.T @ lifted)


def descend(
    loss: Descent,
    y: Float[Array, "n c"],
    beta: Float[Array, " c"],
    start: Latent,
    rate: Scalar,
    alpha_rate: Scalar,
    num_steps: int,
) -> Latent:
    """Take steps of Adam, with rates that fall to zero as a cosine does."""
    targets = jax.vmap(loss.project, in_axes=1)(y)
    optimizer = optax.adam(optax.cosine_decay_schedule(1.0, num_steps))

    def step(carry: tuple[Latent, optax.OptState], _: None) -> tuple[tuple, None]:
        (latent_u, latent_v, alpha), state = carry
        u, v = (jnp.where(w >= 0, 1, -1).astype(w.dtype) for w in (latent_u, latent_v))
        forms = jnp.einsum("mk,md,me->kde", alpha, u, v)
        forms = (forms + jnp.swapaxes(forms, 1, 2)) / 2
        gram = jax.vmap(loss.gradient)(forms, targets)
        u_gram, v_gram = (jnp.einsum("md,kde->kme", signs, gram) for signs in (u, v))
        gradient = (
            jnp.einsum("mk,kmd->md", alpha, v_gram),
            jnp.einsum("mk,kmd->md", alpha, u_gram),
            jnp.einsum("kmd,md->mk", u_gram, v) + beta[None, :] * jnp.sign(alpha),
        )
        # Optax mixes integers and floats, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            (du, dv, da), state = optimizer.update(gradient, state)
        latent_u = jnp.clip(latent_u + rate * du, -1, 1)
        latent_v = jnp.clip(latent_v + rate * dv, -1, 1)
        return ((latent_u, latent_v, alpha + alpha_rate * da), state), None

    (latent, _), _ = jax.lax.scan(step, (start, optimizer.init(start)), None, length=num_steps)
    return latent
