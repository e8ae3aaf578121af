"""The central path of any loss that does not couple outputs.

The dual variable is t = λ/w here, so that tiny weights do no harm, and A that of the rows √w·x:

    minimize Σ w ψ(t)  s.t.  S± = (Diag(p) ∓ A*t)/2 ⪰ 0,  1ᵀp ≤ β,  low ≤ t ≤ high

with multipliers P, N of the cones and z of the ends. Stationarity in t is

    wψ'(t) + A(Z) − z_low + z_high = 0,  z_low·(t − low) = z_high·(high − t) = μ

and its linearization that of the squared loss, H = Θ + γ² Σ (…), with Θ = wψ'' + z_low/(t − low) +
z_high/(high − t) in place of the identity: the Newton system is that of rows times Θ^(−¼).

Multipliers may be in units of their own for each sample, `end_unit`, 1 here; then the products that
are μ are those of z over its unit.
"""

from __future__ import annotations

from typing import Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from .._base.types import Scalar, epsilon, tiny
from .._loss.base import AbstractLoss
from .._problem.core import Core
from .._relaxation.feasible import scaled_gap
from .central_path import AbstractPath, Point, System
from .newton import NewtonSystem
from .samples import AbstractSamples, samples_of

_REFINEMENTS = 1  # without, hinge and absolute losses stop at gaps of 1e-7
_END_SHARE = 0.3  # of the mean loss of no network: products at the ends at the start
_LEAST_INSIDE = 0.2  # of the way to the middle of the intervals, where the start is


class WeightedSystem(eqx.Module):
    """The Newton system of samples that have a weight Θ each."""

    samples: AbstractSamples
    inner: NewtonSystem
    root: Float[Array, " n"]  # √Θ

    def solve(
        self,
        a: Float[Array, " n"],
        b: Float[Array, "*g d"],
        c: Float[Array, "*g"],
        e: Scalar | None,
        /,
    ) -> tuple[Array, Array, Array | None]:
        """Return (dt, dp, dμ)."""
        inside, outside = self.samples.split(a / self.root)
        step, diagonal, intercept = self.inner.solve(inside, b, c, e)
        return self.samples.join(step, outside) / self.root, diagonal, intercept

    def slope(self, responses: Float[Array, "k+d k"]) -> Float[Array, "n n"]:
        """Return ∂t/∂a."""
        slope = self.samples.join_map(responses.T @ responses)
        return slope / (self.root[:, None] * self.root[None])

    def respond(
        self, responses: Float[Array, "k+d k"], a: Float[Array, " n"]
    ) -> tuple[Array, Array]:
        """Return (dt, dp) of a, with b = 0 and c = 0."""
        inside, outside = self.samples.split(a / self.root)
        step, diagonal = self.inner.whole(responses @ inside)
        return self.samples.join(step, outside) / self.root, diagonal


class LossPath(AbstractPath):
    """The path of a loss and n samples, those of weight zero left out of both sums."""

    has_ends: ClassVar[bool] = True

    core: Core

    @property
    def end_unit(self) -> Float[Array, "... n"]:
        """The units of the multipliers z."""
        return jnp.ones_like(self.core.weight)[None]

    def refinements(self, dtype: Any) -> int:
        """Return one: systems are ill conditioned where Θ is of all sizes."""
        return _REFINEMENTS

    @property
    def _counted(self) -> Array:
        return self.core.weight > 0

    @property
    def _used_weight(self) -> Float[Array, " n"]:
        """1 for samples that do not count, whose rows are zero."""
        return jnp.where(self._counted, self.core.weight, 1)

    def _ends(self) -> tuple[Array, Array, Array]:
        return finite_ends(self.core.loss, self.core.y)

    def start(self) -> Point:
        """P = N = τI, p a multiple of 1, t towards the middle of the intervals, all inside."""
        middle = self.middle
        return self.start_at(self.share_within(middle) * middle)

    def start_at(self, dual: Float[Array, " n"]) -> Point:
        """Return such a start, τ as for the squared loss with ℓ(0) in place of ‖y‖²/2.

        The products of the cones are τp/2, those at ends no more than a share of the mean loss of
        no network: multipliers far beyond the slope of the loss take steps to come down. Next to
        huge β they are not left too far behind: the gap would stand still until all are alike.
        """
        d = self.core.X.shape[1]
        energy = jnp.linalg.norm(self.core.weight * jnp.sum(jnp.square(self.core.X), axis=1))
        size = self.size
        uncorrelated = size / jnp.where(energy > 0, energy, 1)
        nothing = self.core.loss(jnp.zeros_like(self.core.y), self.core.y, self.core.weight)
        most = jnp.maximum(nothing / self.core.beta, uncorrelated)
        guess = jnp.sqrt(uncorrelated) * jnp.sqrt(most)
        guess = jnp.where((guess > 0) & jnp.isfinite(guess), guess, 1)
        primal = jnp.broadcast_to(guess * jnp.eye(d, dtype=dual.dtype), (2, d, d))
        diagonal = jnp.maximum(self.core.beta / d, 2 * jnp.linalg.norm(self.rmv(dual)))
        mean = nothing / jnp.maximum(jnp.sum(self._counted, dtype=dual.dtype), 1)
        cones = guess * diagonal / 2
        share = jnp.where(mean > 0, _END_SHARE * mean, jnp.inf)
        product = jnp.clip(share, epsilon(dual.dtype) ** 0.5 * cones, cones)
        ends = jnp.where(self._ends()[0], product / self.end_slacks(dual), 0)
        diagonals = jnp.full(self.core.layout.multiplier_shape(d), diagonal)
        intercept = None if self.core.shift is None else jnp.zeros((), dual.dtype)
        return Point(primal, dual, diagonals, ends, intercept)

    @property
    def middle(self) -> Float[Array, " n"]:
        """The middle of the intervals, or 1 from the only end."""
        finite, low, high = self._ends()
        has_low, has_high = finite.astype(low.dtype)
        beside = low + high + has_low - has_high
        return jnp.where(finite[0] & finite[1], (low + high) / 2, beside)

    def share_within(self, middle: Float[Array, " n"]) -> Scalar:
        """Return how far t goes to the middle within β, if that is not too near to the ends.

        Else p is beyond β for now.
        """
        gram = jnp.linalg.norm(self.rmv(middle))
        most = self.core.beta / (2 * self.core.X.shape[1] * jnp.where(gram > 0, gram, 1))
        return jnp.where(gram > 0, jnp.clip(most, _LEAST_INSIDE, 1), 1)

    def total(self, dual: Float[Array, " n"]) -> Scalar | None:
        """Return Σ w t."""
        shift = self.core.shift
        return None if shift is None else jnp.sum(self.core.weight * shift * dual)

    def rmv(self, dual: Float[Array, " n"]) -> Float[Array, "d d"]:
        """A*(t)."""
        return self.core.map.adjoint(self.core.weight * dual)

    def system(self, point: Point, scaling_points: Float[Array, "2 d d"]) -> System:
        """Assemble and factor the Newton system; NaN where that fails."""
        theta = self._theta(point)
        root = jnp.sqrt(jnp.maximum(theta, tiny(theta.dtype) ** 0.5))
        used = self.core.weight / root
        shift = None if self.core.shift is None else used * self.core.shift
        samples = samples_of(self.core.map.times(used), shift, for_one_system=True)
        system = NewtonSystem.of(self.core.layout, samples, scaling_points)
        return WeightedSystem(samples, system, root)

    def deficit(
        self,
        point: Point,
        step: Float[Array, " n"],
        form: Float[Array, "d d"],
        intercept: Scalar | None,
        products: Float[Array, "2 n"],
    ) -> Float[Array, " n"]:
        """Return −wψ'(t) − Θ dt − A(Z) − μw + (products asked for)/slacks."""
        asked = self.end_unit * (products / self.end_slacks(point.dual))
        slope = self._used_weight * self.core.loss.conjugate_slope(point.dual, self.core.y)
        asked = asked[0] - asked[1] - slope - self._theta(point) * step
        return asked - self.core.weight * self.core.predictions(form, intercept)

    def _theta(self, point: Point) -> Float[Array, " n"]:
        """Θ."""
        curvature = self.core.loss.conjugate_curvature(point.dual, self.core.y)
        pull = self.end_unit * (point.ends / self.end_slacks(point.dual))
        return self._used_weight * curvature + jnp.sum(pull, axis=0)

    def end_slacks(self, dual: Float[Array, " n"]) -> Float[Array, "2 n"]:
        """Return (t − low, high − t), 1 where there is no end."""
        return end_slacks(self.core.loss, dual, self.core.y)

    def end_steps(self, step: Float[Array, " n"]) -> Float[Array, "2 n"]:
        """Return (dt, −dt), 0 where there is no end."""
        return jnp.where(self._ends()[0], jnp.stack([step, -step]), 0)

    @property
    def size(self) -> Scalar:
        """The size of weighted targets, by which residuals are measured."""
        return jnp.linalg.norm(self.core.weight * self.core.y)

    def misfit(self, point: Point) -> Float[Array, " n"]:
        """Return wψ'(t) + A(Z) − z_low + z_high."""
        form = self.core.layout.form(point.primal)
        slope = self.core.loss.conjugate_slope(point.dual, self.core.y)
        low, high = self.end_unit * point.ends
        predictions = self.core.predictions(form, point.intercept)
        misfit = self.core.weight * (slope + predictions) - low + high
        return jnp.where(self._counted, misfit, 0)

    def assess(self, point: Point) -> tuple[Scalar, Scalar]:
        """Return the relative gap of the feasible point and the dual point, and a residual.

        The residual is that of t = −φ'(ŷ), or of ŷ = −ψ'(t), whichever is less in each sample, as
        either is steep where the other is flat; over ‖w∘y‖.
        """
        core, size, dual = self.core, self.size, self.expand(point.dual)
        gap, predictions = scaled_gap(core, point.primal, point.intercept, dual, point.diagonal)
        other = core.weight * (point.dual + core.loss.slope(predictions, core.y))
        misfit = jnp.minimum(jnp.abs(self.misfit(point)), jnp.abs(other))
        residual = jnp.linalg.norm(misfit)
        total = self.total(point.dual)
        residual = residual if total is None else residual + jnp.abs(total)
        # Where nothing is to be fitted, there is no size to measure by, and no need.
        return gap, jnp.where(size > 0, residual / jnp.where(size > 0, size, 1), 0)

    def expand(self, dual: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return λ = w·t, with an intercept of sum zero."""
        core = self.core
        if core.shift is None:
            return core.weight * dual
        return core.loss.balanced_dual(core.weight * dual, core.y, core.weight)


def finite_ends(loss: AbstractLoss, targets: Float[Array, " n"]) -> tuple[Array, Array, Array]:
    """Return which ends the intervals have, (2, n), and the ends, 0 for none."""
    ends = jnp.stack(loss.interval(targets))
    finite = jnp.isfinite(ends)
    low, high = jnp.where(finite, ends, 0)
    return finite, low, high


def end_slacks(
    loss: AbstractLoss, dual: Float[Array, " n"], targets: Float[Array, " n"]
) -> Float[Array, "2 n"]:
    """Return (t − low, high − t), 1 where there is no end."""
    finite, low, high = finite_ends(loss, targets)
    return jnp.where(finite, jnp.stack([dual - low, high - dual]), 1)
