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
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Bool, Float

from .._base.cone import definite_solver
from .._base.control_flow import while_loop
from .._base.types import Scalar, epsilon, namespace, record, tiny
from .._loss.base import AbstractLoss

_MAX_STEPS = 150
_PATIENCE = 20  # steps in which the gap has to fall by a tenth
_TO_BOUNDARY = 0.99
_START_INSIDE = 0.95  # of the way to |Φᵀλ| = β at most; slacks are ...
_START_SLACK = 0.1  # ... this much of the largest |Φᵀλ| at least
_START_WITHIN = 0.05  # of an interval from its ends
_START_GAP = 0.05  # complementarity at the start, of the loss of no network
_FLOOR = 0.1  # of the complementarity that the gap asked for allows
_REFINEMENTS = 2
_RIDGE = 4  # units in the last place that the diagonal of a Newton matrix is raised by

Pair = Float[Array, "2 k"]  # of the constraints from above and from below


@record
class Fitted:
    """A primal and a dual point: `value` − `bound` is at least the distance to the optimum."""

    alpha: Float[Array, " m"]  # no exact zeros
    dual: Float[Array, " n"]  # λ, |Φᵀλ| ≤ β
    value: Scalar
    bound: Scalar


@record
class _Fit:
    """The problem, samples that do not count in harmless form."""

    features: Float[Array, "n m"]
    root: Float[Array, " n"]  # √w
    y: Float[Array, " n"]
    beta: Scalar
    loss: AbstractLoss
    counted: Bool[Array, " n"]
    low: Float[Array, " n"]
    high: Float[Array, " n"]
    bounded: Bool[Array, "2 n"]  # which ends are finite: high, low

    @staticmethod
    def of(
        features: Float[Array, "n m"],
        y: Float[Array, " n"],
        weight: Float[Array, " n"],
        beta: Scalar,
        loss: AbstractLoss,
    ) -> _Fit:
        xp, counted = namespace(features, y, weight, beta), weight > 0
        y = xp.where(counted, y, xp.ones_like(y))
        features = xp.where(counted[:, None], features, xp.zeros_like(features))
        low, high = loss.interval(y)
        bounded = xp.stack([xp.isfinite(high), xp.isfinite(low)]) & counted[None]
        root = xp.sqrt(xp.where(counted, weight, xp.zeros_like(weight)))
        return _Fit(features, root, y, beta, loss, counted, low, high, bounded)

    @property
    def weight(self) -> Float[Array, " n"]:
        """Sample weights."""
        return self.root * self.root

    def room(self, t: Float[Array, " n"]) -> Pair:
        """Return hi − t and t − lo, 1 where there is no end."""
        xp = namespace(t)
        return xp.where(self.bounded, xp.stack([self.high - t, t - self.low]), 1.0)

    def within(self, t: Float[Array, " n"], share: float) -> Float[Array, " n"]:
        """Return the point next to t at least a share of each interval from its ends."""
        xp = namespace(t)
        width = xp.where(self.bounded[0] & self.bounded[1], self.high - self.low, 1.0)
        low = xp.where(self.bounded[1], self.low + share * width, -xp.inf)
        high = xp.where(self.bounded[0], self.high - share * width, xp.inf)
        return xp.clip(t, low, high)

    def visible(self, t: Float[Array, " n"]) -> Float[Array, " n"]:
        """Return the point next to t at which ψ' is finite: rounding may have put t on an end."""
        xp, eps = namespace(t), epsilon(t.dtype)
        low = xp.where(self.bounded[1], self.low + eps * xp.abs(self.low), -xp.inf)
        high = xp.where(self.bounded[0], self.high - eps * xp.abs(self.high), xp.inf)
        return xp.where(self.counted, xp.clip(t, low, high), 0.0)

    def at_ends(self, mu: Scalar) -> Pair:
        """Return μ/w where there is an end, else 0: (hi − t)·z for w·(hi − t) to be the slack."""
        xp = namespace(mu, self.root)
        return xp.where(self.bounded, mu / xp.where(self.counted, self.weight, 1.0)[None], 0.0)

    def value(self, alpha: Float[Array, " m"]) -> Scalar:
        """Return the objective."""
        xp = namespace(alpha)
        loss = self.loss(self.features @ alpha, self.y, self.weight)
        return loss + self.beta * xp.sum(xp.abs(alpha))

    def bound(self, t: Float[Array, " n"]) -> Scalar:
        """Return −Σ w_i ψ(t_i)."""
        xp = namespace(t)
        each = self.loss.conjugate(self.visible(t), self.y)
        return -xp.sum(xp.where(self.counted, self.weight * each, 0.0))


@record
class _Point:
    """An iterate. Slacks are carried along: computed anew they would drown in rounding errors."""

    t: Float[Array, " n"]
    slack: Pair  # β ∓ Φᵀλ, but for ...
    missing: Pair  # ... this, which falls to zero
    parts: Pair  # a±
    room: Pair  # hi − t, t − lo
    push: Pair  # z_hi, z_lo


@record
class _State:
    point: _Point
    alpha: Float[Array, " m"]  # the best so far ...
    value: Scalar
    t: Float[Array, " n"]  # ... and its counterpart
    bound: Scalar
    mark: Scalar  # the gap that has to be undercut ...
    waited: Scalar  # ... for so many steps
    length: Scalar  # of the last step
    steps: Scalar


def fit_weights(
    features: Float[Array, "n m"],
    y: Float[Array, " n"],
    weight: Float[Array, " n"],
    beta: Scalar,
    loss: AbstractLoss,
    start: Float[Array, " n"],
    tol: float,
) -> Fitted:
    """Minimize Σ w φ(Φα) + β‖α‖₁ to a relative gap, from a dual point λ.

    Features, weights and, where they have units, targets should be of moderate scale. Stops at
    value − bound ≤ tol·value, or where the dtype stops.
    """
    xp = namespace(features, y, weight, beta, start)
    fit = _Fit.of(features, y, weight, beta, loss)
    most = xp.max(xp.abs(loss.dual_at(xp.zeros_like(fit.y), fit.y, fit.weight) @ fit.features))
    beta = xp.maximum(beta, epsilon(y.dtype) ** 4 * most)  # moves the optimum less than rounding
    fit = dataclasses.replace(fit, beta=beta)
    m, dtype = features.shape[1], y.dtype
    ends = xp.sum(xp.where(fit.bounded, 1.0, 0.0).astype(dtype))
    positive = fit.root > 0
    t = xp.where(positive, start / xp.where(positive, fit.weight, 1.0), 0.0)
    t = xp.where(fit.counted, fit.within(t, _START_WITHIN), 0.0)
    correlation = (fit.weight * t) @ fit.features
    given = xp.stack([beta - correlation, beta + correlation])
    least = xp.maximum((1 - _START_INSIDE) * beta, _START_SLACK * xp.max(xp.abs(correlation)))
    slack, room = xp.maximum(given, least), fit.room(t)
    nothing = fit.value(xp.zeros((m,), dtype))
    mu = xp.maximum(_START_GAP * nothing / (2 * m + ends), tiny(dtype))
    push = fit.at_ends(mu) / room
    point = _Point(t, slack, given - slack, mu / slack, room, push)
    zero = xp.zeros((), dtype)
    state = _State(
        point, xp.zeros((m,), dtype), nothing, t, zero - xp.inf, zero + xp.inf, zero, zero + 1, zero
    )

    def goes_on(state: _State) -> Any:
        gap = state.value - state.bound
        return (
            (gap > tol * state.value)
            & (state.waited < _PATIENCE)
            & (state.length > epsilon(dtype))
            & (state.steps < _MAX_STEPS)
        )

    def advance(state: _State) -> _State:
        floor = _FLOOR * tol * state.value / (2 * m + ends)
        point, length = _step(fit, state.point, ends, floor)
        alpha = point.parts[0] - point.parts[1]
        most = xp.max(xp.abs((fit.weight * point.t) @ fit.features))
        t = point.t * xp.minimum(beta / xp.where(most > 0, most, beta), 1.0)
        value, bound = fit.value(alpha), fit.bound(t)
        lower, higher = value < state.value, bound > state.bound
        value, bound = xp.where(lower, value, state.value), xp.where(higher, bound, state.bound)
        gained = value - bound < 0.9 * state.mark
        return _State(
            point,
            xp.where(lower, alpha, state.alpha),
            value,
            xp.where(higher, t, state.t),
            bound,
            xp.where(gained, value - bound, state.mark),
            xp.where(gained, 0.0, state.waited + 1),
            xp.where(xp.isfinite(length), length, 0.0),
            state.steps + 1,
        )

    end = while_loop(goes_on, advance, state, xp)
    return Fitted(end.alpha, fit.weight * end.t, end.value, end.bound)


def _step(fit: _Fit, point: _Point, ends: Scalar, floor: Scalar) -> tuple[_Point, Scalar]:
    """Take a predictor–corrector step; return its length, too, NaN if a factorization failed."""
    xp = namespace(point.t)
    count = 2 * point.slack.shape[1] + ends

    def mean(point: _Point) -> Scalar:
        of_ends = xp.sum(fit.weight[None] * point.push * point.room)
        return (xp.sum(point.parts * point.slack) + of_ends) / count

    def along(step: _Point, length: Scalar) -> _Point:
        return _Point(
            point.t + length * step.t,
            point.slack + length * step.slack,
            (1 - length) * point.missing,
            point.parts + length * step.parts,
            point.room + length * step.room,
            point.push + length * step.push,
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
    xp, eps = namespace(t), epsilon(t.dtype)
    n, m = fit.features.shape
    scaled = fit.root[:, None] * fit.features
    seen = fit.visible(t)
    theta = fit.loss.conjugate_curvature(seen, fit.y) + xp.sum(push / room, axis=0)
    theta = xp.maximum(xp.where(fit.counted, theta, 1.0), tiny(t.dtype) ** 0.5)
    gain = xp.sum(parts / slack, axis=0)  # 1/E
    missing, pulled = point.missing, parts / slack * point.missing
    lack = (pulled[0] - pulled[1]) / gain
    misfit = -fit.loss.conjugate_slope(seen, fit.y) - fit.features @ (parts[0] - parts[1])
    misfit = xp.where(fit.counted, misfit + push[1] - push[0], 0.0)
    if n <= m:
        matrix = xp.diag(theta) + (scaled * gain[None]) @ scaled.T
    else:
        matrix = xp.diag(1 / gain) + scaled.T @ (scaled / theta[:, None])
    size = 1 / xp.sqrt(xp.diagonal(matrix))
    ridge = _RIDGE * eps * xp.eye(len(size), dtype=t.dtype)
    factored = definite_solver(matrix * size[:, None] * size[None] + ridge)

    def reduced(first: Array, second: Array) -> tuple[Array, Array]:
        if n <= m:
            q = size * factored(size * (first + scaled @ (gain * second)))
            return q, gain * (q @ scaled - second)
        change = size * factored(size * ((first / theta) @ scaled - second))
        return (first - scaled @ change) / theta, change

    def solve(first: Array, second: Array) -> tuple[Array, Array]:
        q, change = reduced(first, second)
        for _ in range(_REFINEMENTS):
            more = reduced(first - theta * q - scaled @ change, second - q @ scaled + change / gain)
            q, change = q + more[0], change + more[1]
        return q, change

    def direction(asked: Pair, asked_push: Pair) -> _Point:
        pull, lean = asked / slack, asked_push / room
        first = fit.root * (misfit + lean[1] - lean[0])
        second = lack - (pull[0] - pull[1]) / gain
        q, change = solve(first, second)
        rises = q @ scaled  # Φᵀdλ
        slack_step = xp.stack([-rises, rises]) + missing
        parts_step = pull - parts * slack_step / slack
        # What rounding errors the solution has go where they do the least harm.
        error = (change - parts_step[0] + parts_step[1]) / gain
        parts_step = parts_step + parts / slack * xp.stack([error, -error])
        t_step = xp.where(fit.counted, q / xp.where(fit.counted, fit.root, 1.0), 0.0)
        room_step = xp.where(fit.bounded, xp.stack([-t_step, t_step]), 0.0)
        return _Point(
            t_step,
            slack_step,
            -missing,
            parts_step,
            room_step,
            lean - push * room_step / room,
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
