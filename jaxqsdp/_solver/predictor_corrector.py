"""The best output weights for fixed neurons under any loss, and the dual point beside them.

    min_α Σ_i w_i φ((Φα)_i) + β‖α‖₁  =  max_t −Σ_i w_i ψ(t_i)  s.t.  |Φᵀ(w∘t)| ≤ β,  lo ≤ t ≤ hi

by a primal–dual interior-point method, written once for NumPy and JAX. Its unknowns are t = λ/w, so
that samples of tiny weight do no harm, the multipliers a± ≥ 0 of the first constraints, the two
parts of α = a₊ − a₋, and z ≥ 0 of the finite ends of the intervals. At the optimum

    −ψ'(t) − Φα + z_lo − z_hi = 0,   a± ∘ (β ∓ Φᵀλ) = 0,   z_lo ∘ (t − lo) = z_hi ∘ (hi − t) = 0.

The dual point is feasible from the start, so that objective and dual value enclose the optimum in
every step. Newton's steps solve, with F = √w∘Φ, for q = √w∘dt and dα

    [ Θ    F ] [ q ]
    [ Fᵀ  −E ] [ dα]  = …,   Θ = ψ'' + z_lo/(t − lo) + z_hi/(hi − t),   1/E = a₊/s₊ + a₋/s₋,

of which the larger part is eliminated: Θ and E are diagonal. Where ψ'' = 0, Θ nearly vanishes at
the samples that sit on a kink; a refinement of the solution makes up for what that costs.

If the loss couples outputs, α is (m, c) and t (n, c), and t sums to zero over the outputs, which
adds to Newton's equations what `weight_equations` says. With an intercept Σ_i w_i t_i = 0, of each
output, and μ is the multiplier; a bound counts once that holds.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Bool, Float

from .._base.control_flow import while_loop
from .._base.types import Scalar, across, across_outputs, epsilon, namespace, record, tiny
from .._loss.base import AbstractLoss
from .weight_equations import (
    bordered,
    coupled_solver,
    single_solver,
    without_border,
)

_BALANCED = 1e3  # units in the last place of Σ w|t| that Σ w t may be where it counts as zero
_MAX_STEPS = 150
_PATIENCE = 20  # steps in which the gap has to fall by a tenth
_TO_BOUNDARY = 0.99
_START_INSIDE = 0.95  # of the way to |Φᵀλ| = β at most; slacks are ...
_START_SLACK = 0.1  # ... this much of the largest |Φᵀλ| at least
_START_WITHIN = 0.05  # of an interval from its ends
_START_GAP = 0.05  # complementarity at the start, of the loss of no network
_FLOOR = 0.1  # of the complementarity that the gap asked for allows
_REFINEMENTS = 2

Pair = Float[Array, "2 k ..."]  # of the constraints from above and from below


@record
class Fitted:
    """A primal and a dual point: `value` − `bound` is at least the distance to the optimum."""

    alpha: Float[Array, "m ..."]  # no exact zeros
    dual: Float[Array, "n ..."]  # λ, |Φᵀλ| ≤ β
    value: Scalar
    bound: Scalar
    intercept: Any = None  # μ, () or (c,)


@record
class _Fit:
    """The problem, samples that do not count in harmless form."""

    features: Float[Array, "n m"]
    root: Float[Array, " n"]  # √w
    y: Float[Array, "n ..."]
    beta: Float[Array, "*k"]  # one, or (m, c)
    loss: AbstractLoss
    counted: Bool[Array, " n"]
    low: Float[Array, "n ..."]
    high: Float[Array, "n ..."]
    bounded: Bool[Array, "2 n ..."]  # which ends are finite: high, low
    has_intercept: bool = dataclasses.field(default=False, metadata={"static": True})

    @staticmethod
    def of(
        features: Float[Array, "n m"],
        y: Float[Array, "n ..."],
        weight: Float[Array, " n"],
        beta: Float[Array, "*k"],
        loss: AbstractLoss,
        has_intercept: bool,
    ) -> _Fit:
        xp, counted = namespace(features, y, weight, beta), weight > 0
        y = xp.where(across(counted, y), y, xp.ones_like(y))
        features = xp.where(counted[:, None], features, xp.zeros_like(features))
        low, high = loss.interval(y)
        bounded = xp.stack([xp.isfinite(high), xp.isfinite(low)]) & across(counted, y)[None]
        root = xp.sqrt(xp.where(counted, weight, xp.zeros_like(weight)))
        ends = low, high, bounded
        return _Fit(features, root, y, beta, loss, counted, *ends, has_intercept)

    @property
    def weight(self) -> Float[Array, " n"]:
        """Sample weights."""
        return self.root * self.root

    def room(self, t: Float[Array, "n ..."]) -> Pair:
        """Return hi − t and t − lo, 1 where there is no end."""
        xp = namespace(t)
        return xp.where(self.bounded, xp.stack([self.high - t, t - self.low]), 1.0)

    def images(self, alpha: Float[Array, "m ..."]) -> Float[Array, "n ..."]:
        """Return Φα."""
        return self.features @ alpha

    def correlations(self, t: Float[Array, "n ..."]) -> Float[Array, "m ..."]:
        """Return Φᵀλ."""
        return ((across(self.weight, t) * t).T @ self.features).T

    def factor(self, t: Float[Array, "n ..."]) -> Scalar:
        """Return the largest c ≤ 1 for which c·|Φᵀλ| ≤ β."""
        xp, size = namespace(t), namespace(t).abs(self.correlations(t))
        return xp.minimum(xp.min(self.beta / xp.where(size > 0, size, self.beta)), 1.0)

    def within(self, t: Float[Array, "n ..."], share: float) -> Float[Array, "n ..."]:
        """Return a point next to t at least a share of each interval from its ends."""
        xp = namespace(t)
        if self.loss.couples_outputs:
            center = -self.loss.slope(xp.zeros_like(t), self.y)
            inside = self.loss.clip_dual(t, self.y, xp.ones_like(self.root))
            return inside + share * (center - inside)
        width = xp.where(self.bounded[0] & self.bounded[1], self.high - self.low, 1.0)
        low = xp.where(self.bounded[1], self.low + share * width, -xp.inf)
        high = xp.where(self.bounded[0], self.high - share * width, xp.inf)
        return xp.clip(t, low, high)

    def balanced(self, t: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Return t with what rounding has left of its sum over coupled outputs taken away.

        From its largest entry, that of the sample's class.
        """
        if not self.loss.couples_outputs:
            return t
        xp = namespace(t)
        others = xp.sum(xp.where(self.y > 0, 0.0, t), axis=1, keepdims=True)
        return xp.where(self.y > 0, -others, t)

    def visible(self, t: Float[Array, "n ..."]) -> Float[Array, "n ..."]:
        """Return the point next to t at which ψ' is finite: rounding may have put t on an end."""
        xp, eps = namespace(t), epsilon(t.dtype)
        low = xp.where(self.bounded[1], self.low + eps * xp.abs(self.low), -xp.inf)
        high = xp.where(self.bounded[0], self.high - eps * xp.abs(self.high), xp.inf)
        return xp.where(across(self.counted, t), xp.clip(t, low, high), 0.0)

    def at_ends(self, mu: Scalar) -> Pair:
        """Return μ/w where there is an end, else 0: (hi − t)·z for w·(hi − t) to be the slack."""
        xp = namespace(mu, self.root)
        weight = across(xp.where(self.counted, self.weight, 1.0), self.y)
        return xp.where(self.bounded, mu / weight[None], 0.0)

    def totals(self, t: Float[Array, "n ..."]) -> Any:
        """Return Σ_i w_i t_i, of each output; None without an intercept."""
        return self.weight @ t if self.has_intercept else None

    def value(self, alpha: Float[Array, "m ..."], intercept: Any) -> Scalar:
        """Return the objective."""
        xp, images = namespace(alpha), self.images(alpha)
        images = images if intercept is None else images + across_outputs(intercept, images)
        loss, size = self.loss(images, self.y, self.weight), xp.abs(alpha)
        if self.loss.couples_outputs:
            return loss + xp.sum(self.beta * size)
        return loss + self.beta * xp.sum(size)

    def bound(self, t: Float[Array, "n ..."]) -> Scalar:
        """Return −Σ w_i ψ(t_i)."""
        xp = namespace(t)
        each = self.loss.conjugate(self.visible(t), self.y)
        bound = -xp.sum(xp.where(self.counted, self.weight * each, 0.0))
        if not self.has_intercept:
            return bound
        balanced = xp.abs(self.totals(t)) <= _BALANCED * epsilon(t.dtype) * (
            self.weight @ xp.abs(t)
        )
        return xp.where(xp.all(balanced), bound, -xp.inf)


@record
class _Point:
    """An iterate. Slacks are carried along: computed anew they would drown in rounding errors."""

    t: Float[Array, "n ..."]
    slack: Pair  # β ∓ Φᵀλ, but for ...
    missing: Pair  # ... this, which falls to zero
    parts: Pair  # a±
    room: Pair  # hi − t, t − lo
    push: Pair  # z_hi, z_lo
    intercept: Any = None  # μ


@record
class _State:
    point: _Point
    alpha: Float[Array, "m ..."]  # the best so far ...
    intercept: Any
    value: Scalar
    t: Float[Array, "n ..."]  # ... and its counterpart
    bound: Scalar
    mark: Scalar  # the gap that has to be undercut ...
    waited: Scalar  # ... for so many steps
    length: Scalar  # of the last step
    steps: Scalar


def fit_weights(
    features: Float[Array, "n m"],
    y: Float[Array, "n ..."],
    weight: Float[Array, " n"],
    beta: Float[Array, "*k"],
    loss: AbstractLoss,
    start: Float[Array, "n ..."],
    tol: float,
    cutoff: float = math.inf,
    has_intercept: bool = False,
    deadline: float = math.inf,
) -> Fitted:
    """Minimize Σ w φ(Φα) + β‖α‖₁ to a relative gap, from a dual point λ.

    Features, weights and, where they have units, targets should be of moderate scale. Stops at
    value − bound ≤ tol·value, at a bound above the cutoff, or where the dtype stops; in NumPy at a
    deadline, too, of `time.monotonic`.
    """
    xp = namespace(features, y, weight, beta, start)
    fit = _Fit.of(features, y, weight, beta, loss, has_intercept)
    most = loss.dual_at(xp.zeros_like(fit.y), fit.y, fit.weight)
    most = xp.max(xp.abs(most.T @ fit.features))
    beta = xp.maximum(beta, epsilon(y.dtype) ** 4 * most)  # moves the optimum less than rounding
    dtype, zeros = y.dtype, xp.zeros((features.shape[1], *y.shape[1:]), y.dtype)
    if loss.couples_outputs:
        beta = xp.broadcast_to(beta, zeros.shape)
    fit = dataclasses.replace(fit, beta=beta)
    ends = xp.sum(xp.where(fit.bounded, 1.0, 0.0).astype(dtype))
    positive = fit.root > 0
    divisor = across(xp.where(positive, fit.weight, 1.0), start)
    t = xp.where(across(positive, start), start / divisor, 0.0)
    t = xp.where(across(fit.counted, t), fit.within(t, _START_WITHIN), 0.0)
    correlation = fit.correlations(t)
    given = xp.stack([beta - correlation, beta + correlation])
    least = xp.maximum((1 - _START_INSIDE) * beta, _START_SLACK * xp.max(xp.abs(correlation)))
    slack, room = xp.maximum(given, xp.broadcast_to(least, given.shape)), fit.room(t)
    level = xp.zeros(y.shape[1:], dtype) if has_intercept else None
    nothing = fit.value(zeros, level)
    mu = xp.maximum(_START_GAP * nothing / (slack.size + ends), tiny(dtype))
    push = fit.at_ends(mu) / room
    point = _Point(t, slack, given - slack, mu / slack, room, push, level)
    zero = xp.zeros((), dtype)
    state = _State(
        point, zeros, level, nothing, t, zero - xp.inf, zero + xp.inf, zero, zero + 1, zero
    )

    def goes_on(state: _State) -> Any:
        gap = state.value - state.bound
        return (
            (gap > tol * state.value)
            & (state.bound <= cutoff)
            & (state.waited < _PATIENCE)
            & (state.length > epsilon(dtype))
            & (state.steps < _MAX_STEPS)
            & (deadline == math.inf or time.monotonic() < deadline)
        )

    def advance(state: _State) -> _State:
        floor = _FLOOR * tol * state.value / (state.point.slack.size + ends)
        point, length = _step(fit, state.point, ends, floor)
        alpha = point.parts[0] - point.parts[1]
        t = fit.balanced(point.t)
        t = t * fit.factor(t)
        value, bound = fit.value(alpha, point.intercept), fit.bound(t)
        lower, higher = value < state.value, bound > state.bound
        value, bound = xp.where(lower, value, state.value), xp.where(higher, bound, state.bound)
        gained = value - bound < 0.9 * state.mark
        level = point.intercept
        return _State(
            point,
            xp.where(lower, alpha, state.alpha),
            level if level is None else xp.where(lower, level, state.intercept),
            value,
            xp.where(higher, t, state.t),
            bound,
            xp.where(gained, value - bound, state.mark),
            xp.where(gained, 0.0, state.waited + 1),
            xp.where(xp.isfinite(length), length, 0.0),
            state.steps + 1,
        )

    end = while_loop(goes_on, advance, state, xp)
    dual = across(fit.weight, end.t) * end.t
    return Fitted(end.alpha, dual, end.value, end.bound, end.intercept)


def _step(fit: _Fit, point: _Point, ends: Scalar, floor: Scalar) -> tuple[_Point, Scalar]:
    """Take a predictor–corrector step; return its length, too, NaN if a factorization failed."""
    xp = namespace(point.t)
    count, weight = point.slack.size + ends, across(fit.weight, point.t)

    def mean(point: _Point) -> Scalar:
        of_ends = xp.sum(weight[None] * point.push * point.room)
        return (xp.sum(point.parts * point.slack) + of_ends) / count

    def along(step: _Point, length: Scalar) -> _Point:
        return _Point(
            point.t + length * step.t,
            point.slack + length * step.slack,
            (1 - length) * point.missing,
            point.parts + length * step.parts,
            point.room + length * step.room,
            point.push + length * step.push,
            None if point.intercept is None else point.intercept + length * step.intercept,
        )

    direction = _newton(fit, point)
    mu = mean(point)
    step = direction(-point.parts * point.slack, -point.push * point.room)
    after = mean(along(step, xp.minimum(_longest(point, step), 1.0)))
    target = xp.maximum(mu * (after / mu) ** 3, floor)
    step = direction(
        target - point.parts * point.slack - step.parts * step.slack,
        fit.at_ends(target) - point.push * point.room - step.push * step.room,
    )
    length = xp.minimum(_TO_BOUNDARY * _longest(point, step), 1.0)
    return along(step, length), length


def _newton(fit: _Fit, point: _Point) -> Callable[[Pair, Pair], _Point]:
    """Return the map from changes asked of the products to a step."""
    t, slack, parts, room, push = point.t, point.slack, point.parts, point.room, point.push
    xp, counted, root = namespace(t), across(fit.counted, t), across(fit.root, t)
    scaled = fit.root[:, None] * fit.features
    seen = fit.visible(t)
    theta = fit.loss.conjugate_curvature(seen, fit.y) + xp.sum(push / room, axis=0)
    theta = xp.maximum(xp.where(counted, theta, 1.0), tiny(t.dtype) ** 0.5)
    gain = xp.sum(parts / slack, axis=0)  # 1/E
    missing, pulled = point.missing, parts / slack * point.missing
    lack = (pulled[0] - pulled[1]) / gain
    misfit = -fit.loss.conjugate_slope(seen, fit.y) - fit.images(parts[0] - parts[1])
    if point.intercept is not None:
        misfit = misfit - across_outputs(point.intercept, misfit)
    misfit = xp.where(counted, misfit + push[1] - push[0], 0.0)
    coupled = fit.loss.couples_outputs
    alone = (coupled_solver if coupled else single_solver)(scaled, theta, gain)
    reduced = bordered(alone, fit.root, theta, gain) if fit.has_intercept else without_border(alone)

    def solve(first: Array, second: Array) -> tuple[Array, Array, Any]:
        total = fit.totals(t)
        third = total if total is None else -total
        q, change, level = reduced(first, second, third)
        for _ in range(_REFINEMENTS):
            left = first - theta * q - scaled @ change
            if level is not None:
                left = left - root * across_outputs(level, left)
                third = -total - fit.root @ q
            more = reduced(left, second - (q.T @ scaled).T + change / gain, third)
            q, change = q + more[0], change + more[1]
            level = None if level is None else level + more[2]
        return q, change, level

    def direction(asked: Pair, asked_push: Pair) -> _Point:
        pull, lean = asked / slack, asked_push / room
        first = root * (misfit + lean[1] - lean[0])
        second = lack - (pull[0] - pull[1]) / gain
        q, change, level = solve(first, second)
        rises = (q.T @ scaled).T  # Φᵀdλ
        slack_step = xp.stack([-rises, rises]) + missing
        parts_step = pull - parts * slack_step / slack
        # What rounding errors the solution has go where they do the least harm.
        error = (change - parts_step[0] + parts_step[1]) / gain
        parts_step = parts_step + parts / slack * xp.stack([error, -error])
        t_step = xp.where(counted, q / xp.where(counted, root, 1.0), 0.0)
        room_step = xp.where(fit.bounded, xp.stack([-t_step, t_step]), 0.0)
        return _Point(
            fit.balanced(t_step),
            slack_step,
            -missing,
            parts_step,
            room_step,
            lean - push * room_step / room,
            level,
        )

    return direction


def _longest(point: _Point, step: _Point) -> Scalar:
    """Return the step length at which an entry that has to be positive reaches zero."""
    xp = namespace(point.t)

    def one(x: Array, change: Array) -> Scalar:
        falling = change < 0
        return xp.min(xp.where(falling, -x / xp.where(falling, change, 1.0), xp.inf))

    pairs = (
        (point.slack, step.slack),
        (point.parts, step.parts),
        (point.room, step.room),
        (point.push, step.push),
    )
    lengths = [one(*pair) for pair in pairs]
    return xp.min(xp.stack(lengths))
