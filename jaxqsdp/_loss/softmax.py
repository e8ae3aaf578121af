"""The softmax loss, which couples the outputs of a sample."""

from __future__ import annotations

import operator
from typing import Any, ClassVar

import equinox as eqx
import numpy as np
from jaxtyping import Array, Bool

from .._base.control_flow import fori_loop
from .._base.types import at_largest, check_count, epsilon, is_concrete, namespace, tiny
from .._exact.elementary import log_sum_exp_above, x_log_x_above
from .._exact.powers import power_of_two
from .base import AbstractLoss

_OUTER_STEPS, _INNER_STEPS, _POLISHING_STEPS = 8, 2, 2  # of the methods for the prox
_INTERCEPT_STEPS, _LONGEST = 40, 2.0  # of Newton's method for intercepts
_FAR, _NEVER = 64.0, 1e4  # how far below all others scores of classes are that do not occur
_REMEDY = "`np.unique(y, return_inverse=True)[1]` makes integers of labels of any kind"


def _count(value: Any) -> int | None:
    if value is None:
        return None
    check_count(value, "num_classes")
    return operator.index(value)


class SoftmaxLoss(AbstractLoss):
    """ℓ(ŷ, y) = Σ_i w_i (ln Σ_k exp ŷ_ik − ŷ_i,y_i) for classes y_i, one output ŷ_k each.

    It is the negative logarithm of the probability that a sample's own class is given, see
    `predict_proba`, and the only loss here that couples the outputs of a sample. Targets of a
    `Problem` are integers 0 … c − 1, shape (n,), or rows that are 1 at the class and 0 elsewhere,
    (n, c), which is how the problem holds them.

    With q = y − t its dual side is ψ(t) = Σ_k q_k ln q_k for q ≥ 0 with Σq = 1, thus Σt = 0.

    **Arguments:** `num_classes`: c, for integers that do not show all of them, or under a
    transform; by default one more than the largest.
    """

    num_classes: int | None = eqx.field(default=None, static=True, converter=_count)

    takes_classes: ClassVar[bool] = True
    couples_outputs: ClassVar[bool] = True

    def __repr__(self) -> str:
        return f"SoftmaxLoss({'' if self.num_classes is None else self.num_classes})"

    def encoded(self, targets: Any) -> Any:
        """Return a row of 0 and 1 for each sample, from classes or such rows.

        **Raises:** `TypeError` or `ValueError` naming `y` and the remedy.
        """
        given = np.asarray(targets) if is_concrete(targets) else targets
        if given.ndim == 1:
            given = self._classes(given) if is_concrete(given) else given
            places = namespace(given).arange(self._count_of(given))
            return (given[:, None] == places[None]).astype(np.float32)
        if given.ndim == 2:
            self._check_width(given.shape[1])
            return given.astype(np.float32) if given.dtype == bool else given
        return given  # which no problem takes

    def _classes(self, targets: np.ndarray) -> np.ndarray:
        """Return classes as integers."""
        kind = targets.dtype.kind
        if kind not in "iuf":
            held = {"b": "truth values", "U": "text", "S": "text", "T": "text"}.get(kind, "objects")
            raise TypeError(f"`y` holds {held}; SoftmaxLoss takes integers 0, 1, …: {_REMEDY}.")
        whole = targets.astype(np.int64) if np.all(np.isfinite(targets)) else None
        if whole is None or np.any(whole != targets) or np.any(whole < 0):
            raise ValueError(f"`y` must hold classes 0, 1, … for SoftmaxLoss; {_REMEDY}.")
        return whole

    def _count_of(self, classes: Any) -> int:
        """Return the number of classes that integers are of, or raise `ValueError`."""
        count = self.num_classes
        if not is_concrete(classes):
            if count is None:
                raise ValueError(
                    "`y` is traced, so that its number of classes is unknown: pass "
                    "`SoftmaxLoss(num_classes=c)`."
                )
            return count
        shown = int(classes.max(initial=0)) + 1
        if count is None and shown > max(classes.size, 2):
            raise ValueError(
                f"`y` holds classes up to {shown - 1}, more than there are samples; {_REMEDY}, or "
                "pass `SoftmaxLoss(num_classes=c)`."
            )
        if count is not None and shown > count:
            raise ValueError(f"`y` has {shown} classes or more, {self!r} fewer of them.")
        self._check_width(shown if count is None else count)
        return shown if count is None else count

    def _check_width(self, width: int) -> None:
        if self.num_classes not in (None, width):
            raise ValueError(f"`y` has {width} columns, {self!r} as many as it has classes.")
        if width < 2:
            raise ValueError("`y` has one class; SoftmaxLoss takes two or more.")

    @property
    def any_target(self) -> float:
        """A target that can stand for one of a sample that does not count, in every column."""
        return 0.0

    def check_targets(self, targets: np.ndarray) -> None:
        """Raise `ValueError` unless each row is 1 at one place and 0 elsewhere."""
        if not np.all(self.are_targets(targets)):
            raise ValueError(
                "`y` must hold classes 0, 1, …, shape (n,), or one row each that is 1 at the class "
                f"and 0 elsewhere, (n, c), for SoftmaxLoss; {_REMEDY}."
            )

    def are_targets(self, targets: Any) -> Bool[Array, " n"]:
        """Whether each row is 1 at one place and 0 elsewhere."""
        xp = namespace(targets)
        known = xp.all((targets == 0) | (targets == 1), axis=-1)
        return known & (xp.sum(targets, axis=-1) == 1)

    def value(self, predictions: Array, targets: Array) -> Array:
        """Return ln Σ_k exp(ŷ_k − ŷ_y) of each sample."""
        xp = namespace(predictions, targets)
        own = xp.sum(targets * predictions, axis=-1, keepdims=True)
        # Compilers may compute both anew, and differently: what is no zero may be below it.
        margin = xp.where(targets > 0, 0, predictions - own)
        largest = xp.max(margin, axis=-1, keepdims=True)
        # The largest term by itself: what is left may be below its rounding.
        rest = xp.sum(xp.where(at_largest(margin), 0, xp.exp(margin - largest)), axis=-1)
        return largest[..., 0] + xp.log1p(rest)

    def slope(self, predictions: Array, targets: Array) -> Array:
        """Return p − y, p_k ∝ exp ŷ_k."""
        return self.predict_proba(predictions) - targets

    def curvature(self, predictions: Array, targets: Array) -> Array:
        """Return p(1 − p), of each output by itself."""
        chance = self.predict_proba(predictions)
        return chance * (1 - chance)

    def conjugate(self, dual: Array, targets: Array) -> Array:
        """Return Σ_k q_k ln q_k of each sample, q = y − t."""
        xp, q = namespace(dual, targets), targets - dual
        return xp.sum(xp.where(q > 0, q * xp.log(xp.where(q > 0, q, 1)), 0), axis=-1)

    def conjugate_slope(self, dual: Array, targets: Array) -> Array:
        """Return −ln q, up to what is the same for all outputs."""
        xp, q = namespace(dual, targets), targets - dual
        return -xp.log(q)

    def conjugate_curvature(self, dual: Array, targets: Array) -> Array:
        """Return 1/q, of each output by itself."""
        return 1 / (targets - dual)

    def interval(self, targets: Array) -> tuple[Array, Array]:
        """Return y − 1 and y, beside which Σt = 0."""
        return targets - 1, targets + 0

    def clip_dual(self, dual: Array, targets: Array, weight: Array) -> Array:
        """Return a point next to λ with −λ_k ≥ 0 but at the class, where λ_y = −Σ λ_k ≤ w, exactly.

        λ is rounded to a few units in the last place of λ_y, so that its sums round nothing.
        """
        xp = namespace(dual, targets, weight)
        weight, eps = weight[..., None], epsilon(dual.dtype)
        own, c = targets > 0, dual.shape[-1]
        others = xp.where(own, 0, xp.clip(-dual, 0, weight))
        total = xp.sum(others, axis=-1, keepdims=True)
        fits = weight * (1 - (c + 8) * eps)
        others = others * xp.where(total > fits, fits / xp.where(total > fits, total, 1), 1)
        unit = xp.maximum(8 * eps * power_of_two(xp.minimum(total, fits)), tiny(dual.dtype))
        others = xp.floor(others / unit) * unit
        counted = (weight > 0) & xp.any(own, axis=-1, keepdims=True)
        own_dual = xp.where(own, xp.sum(others, axis=-1, keepdims=True), 0)
        return xp.where(counted, own_dual - others, 0)

    def best_intercept(self, predictions: Array, targets: Array, weight: Array) -> Array:
        """Return the μ (c,) that minimizes ℓ(ŷ + μ), of sum zero, by Newton's method.

        No step is long. A class that does not occur has no best one, and gets one far below all.
        """
        xp, c = namespace(predictions, targets, weight), targets.shape[-1]
        weight, eye = weight[:, None], xp.eye(c, dtype=predictions.dtype)
        counts = xp.sum(xp.where(weight > 0, weight * targets, 0), axis=0)
        occurs, total = counts > 0, xp.sum(weight)
        far = _FAR * (1 + xp.max(xp.abs(predictions)))
        scores = xp.where(occurs[None], predictions, -_NEVER * far)
        ridge = 8 * epsilon(predictions.dtype) * total + tiny(predictions.dtype)

        def improve(_: Any, shift: Array) -> Array:
            chance = self.predict_proba(scores + shift[None])
            heavy = xp.where(weight > 0, weight * chance, 0)
            slope = xp.sum(heavy, axis=0) - counts
            hessian = xp.sum(heavy, axis=0)[:, None] * eye - chance.T @ heavy
            # Equal shifts change nothing.
            step = xp.linalg.solve(hessian + ridge * eye + total / c, slope)
            largest = xp.max(xp.abs(step))
            return shift - step * xp.minimum(1, _LONGEST / xp.where(largest > 0, largest, 1))

        chance = xp.sum(xp.where(weight > 0, weight * self.predict_proba(scores), 0), axis=0)
        both = occurs & (chance > 0)
        start = xp.where(both, xp.log(xp.where(both, counts, 1)), 0)
        start = start - xp.where(both, xp.log(xp.where(both, chance, 1)), 0)
        shift = fori_loop(0, _INTERCEPT_STEPS, improve, start, xp)
        shift = xp.where(occurs, shift, xp.min(shift) - far)
        return shift - xp.mean(shift)

    def balanced_dual(self, dual: Array, targets: Array, weight: Array) -> Array:
        """Return λ with probabilities q ∝ those of λ times a number for each output, 1ᵀλ = 0."""
        xp = namespace(dual, targets, weight)
        unit = dual / xp.where(weight > 0, weight, 1)[:, None]
        scores = xp.log(xp.maximum(targets - unit, tiny(dual.dtype)))
        return self.balanced_slope(scores, targets, weight)[1]

    def balanced_slope(
        self, predictions: Array, targets: Array, weight: Array
    ) -> tuple[Array, Array]:
        """Return the best intercepts, and λ there, whose sums over samples are zero.

        Zero for classes that do not occur.
        """
        xp = namespace(predictions, targets, weight)
        level = self.best_intercept(predictions, targets, weight)
        counted = xp.where(weight[:, None] > 0, targets, 0)
        occurs = xp.any(counted > 0, axis=0)
        scores = predictions + level[None]
        never = _NEVER * (1 + xp.max(xp.abs(scores)))
        return level, self.dual_at(xp.where(occurs[None], scores, -never), targets, weight)

    def prox(self, center: Array, targets: Array, step: Array) -> Array:
        """Return argmin_z φ(z) + ‖z − center‖²/(2·step) of each sample, by Newton's method.

        With margins m_k = center_k − center_y the probabilities there solve, for some L,

            ln p_k + step·p_k = m_k − L,   ln(1 − P) − step·P = −L,   P = Σ p_k,   k ≠ y,

        all but the last for given L as v + exp v = x, v = ln(step·p), by steps of fourth order. The
        sum of all falls with L and is convex in it, so that Newton's steps climb to it from where
        one of them is 1, and none is more than that on the way. P by itself, as 1 − P would hide
        it.

        Source: Fritsch, Shafer & Crowley, *Solution of the transcendental equation weʷ = x* (1973),
        for the steps of fourth order.
        """
        xp = namespace(center, targets, step)
        step, own = step[..., None], targets > 0
        margin = center - xp.sum(targets * center, axis=-1, keepdims=True)
        shift = xp.log(step)

        def grown(x: Array) -> Array:
            """Return w = exp v, to rounding, from to within a third."""
            exponential, is_small = xp.exp(-xp.abs(x)), x <= -1
            w = xp.where(is_small, 1, xp.maximum(x, 0) + xp.log1p(exponential))
            v = xp.where(is_small, x, xp.log(w))  # which is never −∞
            w = xp.where(is_small, exponential, w)
            for _ in range(_INNER_STEPS):
                misfit = (x - w - v) / (1 + w)
                slope = 1 + 2 * misfit / 3
                change = misfit * (slope - misfit / (2 * (1 + w))) / (slope - misfit / (1 + w))
                w, v = w * (1 + change), v + xp.log1p(change)
            return w

        def others(level: Array) -> Array:
            return xp.where(own, 0, grown(margin - level + shift))

        def improve(_: Any, level: Array) -> Array:
            each, last = others(level), grown(step - level + shift)
            rest = xp.clip(1 - last / step, 0, 0.5)
            for _ in range(_POLISHING_STEPS):
                misfit = step * rest - xp.log1p(-rest) - level
                rest = xp.clip(rest - misfit / (step + 1 / (1 - rest)), 0, 0.5)
            missing = xp.where(2 * last > step, step * rest, step - last)
            falls = xp.sum(each / (1 + each), axis=-1, keepdims=True) + last / (1 + last)
            return level + (xp.sum(each, axis=-1, keepdims=True) - missing) / falls

        start = xp.maximum(xp.max(margin, axis=-1, keepdims=True) - step, 0)
        moved = others(fori_loop(0, _OUTER_STEPS, improve, start, xp))
        return center + targets * xp.sum(moved, axis=-1, keepdims=True) - moved

    def predict(self, scores: Array) -> Array:
        """Return the class of the largest output."""
        return namespace(scores).argmax(scores, axis=-1)

    def predict_proba(self, scores: Array) -> Array:
        """Return exp ŷ_k / Σ_l exp ŷ_l, the probability of each class."""
        xp = namespace(scores)
        grown = xp.exp(scores - xp.max(scores, axis=-1, keepdims=True))
        return grown / xp.sum(grown, axis=-1, keepdims=True)

    # With logarithms of our own: those of XLA and NumPy promise no accuracy.

    def value_above(self, lower: Array, upper: Array, targets: Array) -> Array:
        """Return φ where the class has its least output and the others their largest."""
        xp, eps = namespace(lower, upper, targets), epsilon(lower.dtype)
        own = xp.sum(targets * lower, axis=-1, keepdims=True)
        margin = upper - own
        margin = margin + 2 * eps * xp.abs(margin)
        return log_sum_exp_above(xp.where(targets > 0, 0, margin))

    def conjugate_above(self, lower: Array, upper: Array, targets: Array) -> Array:
        """Return the sum of the larger of q ln q at both ends, rounded up."""
        xp, eps = namespace(lower, upper, targets), epsilon(lower.dtype)
        both = [x_log_x_above(targets - end) for end in (lower, upper)]
        each = xp.maximum(*both)
        return xp.sum(each, axis=-1) + 2 * each.shape[-1] * eps * xp.sum(xp.abs(each), axis=-1)

    def modelled(self, cp: Any, predictions: Any, targets: Any) -> Any:
        """Return log Σ_k exp(ŷ_k) − Σ_k y_k ŷ_k."""
        return cp.log_sum_exp(predictions, axis=1) - cp.sum(
            cp.multiply(targets, predictions), axis=1
        )
