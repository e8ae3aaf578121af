"""The logistic loss."""

from __future__ import annotations

from typing import Any, ClassVar

from jaxtyping import Array

from .._base.control_flow import fori_loop
from .._base.types import namespace
from .._exact.elementary import entropy_above, log_one_plus_exp_above
from .base import AbstractLoss

_NEWTON_STEPS = 24  # of the proximal point: about ln(step), and some more


class LogisticLoss(AbstractLoss):
    """ℓ(ŷ, y) = Σ_i w_i log(1 + exp(−y_i ŷ_i)) for labels y_i = ±1.

    A network's output ŷ is then the logarithm of the odds that y = 1, see `predict_proba`.
    """

    takes_labels: ClassVar[bool] = True

    def value(self, predictions: Array, targets: Array) -> Array:
        """Return log(1 + exp(−yŷ))."""
        xp = namespace(predictions, targets)
        return xp.logaddexp(xp.zeros_like(predictions), -targets * predictions)

    def slope(self, predictions: Array, targets: Array) -> Array:
        """Return −y/(1 + exp(yŷ))."""
        return -targets * _sigmoid(-targets * predictions)

    def curvature(self, predictions: Array, targets: Array) -> Array:
        """Return s(1 − s), s = 1/(1 + exp(−ŷ))."""
        return _sigmoid(predictions) * _sigmoid(-predictions)

    def conjugate(self, dual: Array, targets: Array) -> Array:
        """Return q ln q + (1 − q) ln(1 − q), q = yt."""
        xp, q = namespace(dual, targets), dual * targets
        # For small q, 1 − q has lost what counts; elsewhere XLA's log1p is off by 120 units in the
        # last place.
        other = (1 - q) * xp.log1p(-xp.minimum(q, 0.25))
        return _x_log_x(q) + xp.where(q < 0.25, other, _x_log_x(1 - q))

    def conjugate_slope(self, dual: Array, targets: Array) -> Array:
        """Return y ln(q/(1 − q))."""
        xp, q = namespace(dual, targets), dual * targets
        return targets * xp.log(q / (1 - q))

    def conjugate_curvature(self, dual: Array, targets: Array) -> Array:
        """Return 1/(q(1 − q))."""
        q = dual * targets
        return 1 / (q * (1 - q))

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return 0 and y, in order."""
        xp = namespace(targets)
        return xp.minimum(targets, 0), xp.maximum(targets, 0)

    def prox(self, center: Array, targets: Array, step: Array) -> Array:
        """Return argmin_z φ(z) + (z − center)²/(2·step), by Newton's method.

        For m = yz it is the root of m − step/(1 + e^m) − y·center, which is steepest at 0: from
        there, or the end of [y·center, y·center + step] next to it, no step goes too far.
        """
        xp = namespace(center, targets)
        least = targets * center

        def improve(_: Any, margin: Array) -> Array:
            chance = _sigmoid(-margin)
            excess = margin - step * chance - least
            return margin - excess / (1 + step * chance * (1 - chance))

        start = xp.clip(xp.zeros_like(least), least, least + step)
        return targets * fori_loop(0, _NEWTON_STEPS, improve, start, xp)

    def predict_proba(self, scores: Array) -> Array:
        """Return 1/(1 + exp(−ŷ)), the probability of y = 1."""
        return _sigmoid(scores)

    # With logarithms of our own: those of XLA and NumPy promise no accuracy.

    def value_above(self, lower: Array, upper: Array, targets: Array) -> Array:
        """Return the larger of φ at both ends, rounded up."""
        xp = namespace(lower, upper, targets)
        return log_one_plus_exp_above(-xp.minimum(targets * lower, targets * upper))

    def conjugate_above(self, lower: Array, upper: Array, targets: Array) -> Array:
        """Return the larger of ψ at both ends, rounded up."""
        xp = namespace(lower, upper, targets)
        return xp.maximum(entropy_above(targets * lower), entropy_above(targets * upper))

    def modelled(self, cp: Any, predictions: Any, targets: Any) -> Any:
        """Return log(1 + exp(−yŷ))."""
        return cp.logistic(-cp.multiply(targets, predictions))


def _sigmoid(x: Array) -> Array:
    xp = namespace(x)
    small = xp.exp(-xp.abs(x))
    return xp.where(x >= 0, 1, small) / (1 + small)


def _x_log_x(x: Array) -> Array:
    xp = namespace(x)
    return xp.where(x > 0, x * xp.log(xp.where(x > 0, x, 1)), 0)
