"""Descent on real weights whose nearest levels are the network's: a straight-through estimator.

The network sees sign(U) and sign(V), or the nearest levels where there are more; its derivative
with respect to these moves U and V, which are kept within [−1, 1]. There are two ways to compute
that derivative. With few neurons, neuron by neuron from the residuals R = Φα − y: Xᵀ(Rα_j ∘ Xv_j)
for u_j. With many, Σ_k α_jk G_k v_j, where G_k = A*(A(Z_k) − y_k), Z_k = Σ_j α_jk sym(u_j v_jᵀ),
belongs to output k and all neurons share it. G_k comes from the samples or, where that is cheaper,
from the Gram matrix of the lifted samples.

Source: Courbariaux, Bengio & David, *BinaryConnect* (2015), with Adam.
"""

from __future__ import annotations

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from .._base.control_flow import scan
from .._base.lift import LiftedMap, lifted_size, smat, svec
from .._base.types import Scalar, without
from .._loss.base import AbstractLoss

Latent = tuple[Float[Array, "m d"], Float[Array, "m d"], Float[Array, "m c"]]  # U, V, α


class Loss(eqx.Module):
    """½‖Φα − y‖², or another loss, as a function of the signs and of α, for all outputs."""

    @abc.abstractmethod
    def gradient(
        self, u: Float[Array, "m d"], v: Float[Array, "m d"], alpha: Float[Array, "m c"]
    ) -> tuple[Float[Array, "m d"], Float[Array, "m d"], Float[Array, "m c"]]:
        """Return the gradients with respect to u, v and α."""


def loss_of(
    X: Float[Array, "n d"],
    y: Float[Array, "n c"],
    num_neurons: int,
    direction: Float[Array, " n"] | None = None,
) -> Loss:
    """Choose the form whose gradient takes the fewest multiplications.

    If there is an intercept, y is less what it fits, and `direction` its unit vector.
    """
    (n, d), c = X.shape, y.shape[1]
    by_neurons = 4 * n * d * num_neurons
    by_forms = 3 * c * d * d * num_neurons
    by_samples, by_lifted = by_forms + 2 * c * n * d * d, by_forms + c * lifted_size(d) ** 2
    if by_neurons <= min(by_samples, by_lifted):
        return _ByNeurons(X, y, direction)
    if by_samples <= by_lifted:
        return _BySamples(X, y, direction)
    lifted = without(direction, LiftedMap(X).matrix())
    return _ByLifted(lifted.T @ lifted, (y.T @ lifted))


class _ByNeurons(Loss):
    X: Float[Array, "n d"]
    y: Float[Array, "n c"]
    direction: Float[Array, " n"] | None

    def gradient(self, u: Array, v: Array, alpha: Array) -> tuple[Array, Array, Array]:
        images_u, images_v = self.X @ u.T, self.X @ v.T
        phi = images_u * images_v
        residual = without(self.direction, phi @ alpha - self.y)
        weights = residual @ alpha.T
        return (
            (weights * images_v).T @ self.X,
            (weights * images_u).T @ self.X,
            phi.T @ residual,
        )


class _ByForms(Loss):
    @abc.abstractmethod
    def of_forms(self, forms: Float[Array, "c d d"]) -> Float[Array, "c d d"]:
        """Return A*(A(Z_k) − y_k)."""

    def gradient(self, u: Array, v: Array, alpha: Array) -> tuple[Array, Array, Array]:
        forms = jnp.einsum("mk,md,me->kde", alpha, u, v)
        gram = self.of_forms((forms + jnp.swapaxes(forms, 1, 2)) / 2)
        images_u, images_v = (jnp.einsum("md,kde->kme", signs, gram) for signs in (u, v))
        return (
            jnp.einsum("mk,kmd->md", alpha, images_v),
            jnp.einsum("mk,kmd->md", alpha, images_u),
            jnp.einsum("kmd,md->mk", images_u, v),
        )


class _BySamples(_ByForms):
    X: Float[Array, "n d"]
    y: Float[Array, "n c"]
    direction: Float[Array, " n"] | None

    def of_forms(self, forms: Float[Array, "c d d"]) -> Float[Array, "c d d"]:
        map = LiftedMap(self.X)

        def one(form: Array, y: Array) -> Array:
            return map.adjoint(without(self.direction, map.outputs(form) - y))

        return jax.vmap(one, in_axes=(0, 1))(forms, self.y)


class _ByLifted(_ByForms):
    gram: Float[Array, "D D"]
    targets: Float[Array, "c D"]

    def of_forms(self, forms: Float[Array, "c d d"]) -> Float[Array, "c d d"]:
        size = forms.shape[1]
        return jax.vmap(lambda form, y: smat(self.gram @ svec(form) - y, size))(forms, self.targets)


class TrueLoss(Loss):
    """ℓ(Φα), whatever it is. With an intercept α has a row more than there are neurons, for it."""

    X: Float[Array, "n d"]
    y: Float[Array, "n c"]
    weight: Float[Array, " n"]
    loss: AbstractLoss
    has_intercept: bool = eqx.field(static=True)

    def predictions(self, phi: Array, alpha: Array) -> Array:
        """Return Φα, and the intercept."""
        m = phi.shape[1]
        return phi @ alpha[:m] + (alpha[m][None] if self.has_intercept else 0)

    def gradient(self, u: Array, v: Array, alpha: Array) -> tuple[Array, Array, Array]:
        images_u, images_v = self.X @ u.T, self.X @ v.T
        phi = images_u * images_v
        slope = self.weight[:, None] * self.loss.slope(self.predictions(phi, alpha), self.y)
        weights, along = slope @ alpha[: u.shape[0]].T, phi.T @ slope
        if self.has_intercept:
            along = jnp.concatenate([along, jnp.sum(slope, axis=0)[None]])
        return (weights * images_v).T @ self.X, (weights * images_u).T @ self.X, along


def nearest(weights: Float[Array, "m d"], levels: Float[Array, " L"]) -> Int[Array, "m d"]:
    """Return the places of the nearest levels, which ascend from −1 to 1; +1 for 0 of two."""
    if len(levels) == 2:
        return (weights >= 0).astype(int)
    return jnp.argmin(jnp.abs(weights[..., None] - levels[None, None]), axis=-1)


def _quantized(weights: Float[Array, "m d"], levels: Float[Array, " L"]) -> Float[Array, "m d"]:
    """Return the nearest levels, by comparisons, which are faster than lookups."""
    if len(levels) == 2:
        return jnp.where(weights >= 0, levels[1], levels[0])
    between = ((levels[1:] + levels[:-1]) / 2)[None, None]
    above = (weights[..., None] > between).astype(weights.dtype)
    return levels[0] + jnp.sum(above * jnp.diff(levels)[None, None], axis=-1)


def descend(
    loss: Loss,
    penalty: Float[Array, "k c"],
    start: Latent,
    rate: Scalar,
    alpha_rate: Scalar,
    num_steps: int,
    levels: Float[Array, " L"],
) -> Latent:
    """Take steps of Adam, with rates that fall to zero as a cosine does.

    The penalty is that of each α, or of each output.
    """
    optimizer = optax.adam(optax.cosine_decay_schedule(1.0, num_steps))

    def step(carry: tuple[Latent, optax.OptState], _: None) -> tuple[tuple, None]:
        (latent_u, latent_v, alpha), state = carry
        u, v = _quantized(latent_u, levels), _quantized(latent_v, levels)
        along_u, along_v, along_alpha = loss.gradient(u, v, alpha)
        gradient = along_u, along_v, along_alpha + penalty * jnp.sign(alpha)
        # Optax mixes integers and floats, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            (du, dv, da), state = optimizer.update(gradient, state)
        latent_u = jnp.clip(latent_u + rate * du, -1, 1)
        latent_v = jnp.clip(latent_v + rate * dv, -1, 1)
        return ((latent_u, latent_v, alpha + alpha_rate * da), state), None

    (latent, _), _ = scan(step, (start, optimizer.init(start)), None, length=num_steps)
    return latent
