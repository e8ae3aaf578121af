"""Output weights that are integers times a scale: the best found for a squared loss.

    min F(s, z) = ½‖sΦz − y‖² + βs‖z‖₁   over  s ≥ 0,  z ∈ {−q, …, q}^m

For given z the best scale is s = (yᵀΦz − β‖z‖₁)₊ / ‖Φz‖². For given s, and with the signs of the
best real α, F is ½‖R(sz − α)‖² and a constant, R triangular: integers are chosen one after another
from the last row up, those that are best known first, and the beginnings that cost least are kept.
That is done for many scales at once, then for the best scales of what was found, and at last one or
two integers are changed at a time as long as that helps.

Source: Wübben et al., *Efficient algorithm for decoding layered space-time codes* (2001), for the
order; Guo & Nilsson, *K-best sphere decoding* (2006).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import linalg

_SMALLEST = 0.35  # scale tried, of that at which the largest weight is q
_SCALES = 64
_BEGINNINGS = 32  # kept, for each scale
_NEAREST = (0.0, 1.0, -1.0)  # integers tried, from the nearest one
_ROUNDS = 4  # with scales of the best integers so far
_CHANGED = 4  # of the best integers
_RIDGE = 1e-12  # of the mean square of columns
_LEAST_GAIN = 1e-12  # of the objective
_PAIRED = 256  # integers up to which pairs are changed
_CHANGES = 4  # of one or two integers, for each of them, at most

Vector = NDArray[np.float64]
Matrix = NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Fit:
    """Integers z (m,), their scale, and F − ½‖y‖²."""

    integers: Vector
    scale: float
    value: float


@dataclasses.dataclass(frozen=True)
class Quadratic:
    """F of an output, by ΦᵀΦ and Φᵀy."""

    gram: Matrix  # (m, m)
    targets: Vector  # (m,)
    beta: float

    def search(self, alpha: Vector, most: int) -> list[Fit]:
        """Return integers up to `most` in magnitude, near weights that fit best; the best first."""
        largest = float(np.abs(alpha).max(initial=0))
        best = Fit(np.zeros_like(alpha), 0.0, 0.0)
        if largest == 0:
            return [best]
        fits = [best]
        scales = np.geomspace(1, _SMALLEST, _SCALES) * largest / most
        order, upper = self._ordered()
        for _ in range(_ROUNDS):
            fits = self._best_scales(_beam(order, upper, alpha, scales, most))
            if not fits[0].value < best.value:
                break
            best = fits[0]
            for fit in fits[:_CHANGED]:
                changed = self._best_scales(self._changed(fit.integers, fit.scale, most)[None])
                best = min(best, *changed, key=lambda fit: fit.value)
            scales = np.array([fit.scale for fit in fits[:_SCALES] if fit.scale > 0])
        return [best, *fits]

    def best_scale(self, integers: Vector) -> Fit:
        """Return these integers with their best scale."""
        return self._best_scales(integers[None])[0]

    def _best_scales(self, integers: Matrix) -> list[Fit]:
        """Return rows of integers with their best scales, the best first."""
        integers = np.unique(integers, axis=0)
        linear = integers @ self.targets - self.beta * np.abs(integers).sum(axis=1)
        square = np.sum((integers @ self.gram) * integers, axis=1)
        linear, square = np.maximum(linear, 0), np.where(square > 0, square, np.inf)
        scales, values = linear / square, -0.5 * np.square(linear) / square
        order = np.argsort(values, kind="stable")
        return [Fit(integers[k], float(scales[k]), float(values[k])) for k in order]

    def _ordered(self) -> tuple[NDArray[np.intp], Matrix]:
        """Return an order of the integers and R of that, in which the last is known best."""
        m = len(self.targets)
        ridge = _RIDGE * np.trace(self.gram) / m + np.finfo(np.float64).tiny
        gram = self.gram + ridge * np.eye(m)
        inverse, left, order = linalg.inv(gram, check_finite=False), np.arange(m), []
        for _ in range(m):
            k = int(np.argmin(np.diagonal(inverse)))
            order.append(left[k])
            inverse = inverse - np.outer(inverse[k], inverse[k] / inverse[k, k])
            inverse = np.delete(np.delete(inverse, k, axis=0), k, axis=1)
            left = np.delete(left, k)
        places = np.array(order[::-1])
        upper: Any = np.linalg.qr(_root(gram)[:, places], mode="r")
        return places, upper

    def _changed(self, z: Vector, scale: float, most: int) -> Vector:
        """Change one integer, or two by one each, the best first, until that helps no more."""
        m, curvature = len(z), scale * scale * np.diagonal(self.gram)
        pull, price = scale * self.targets, scale * self.beta
        slope = scale * scale * (self.gram @ z) - pull
        least = _LEAST_GAIN * (abs(pull @ z) + price)
        for _ in range(_CHANGES * m):

            def cost(step: Vector, z: Vector = z, slope: Vector = slope) -> Vector:
                """F(z + step·e_j) − F(z) for each j."""
                rise = price * (np.abs(z + step) - np.abs(z))
                change = step * slope + 0.5 * step * step * curvature + rise
                return np.where(np.abs(z + step) <= most, change, np.inf)

            centre = z * curvature - slope
            shrunk = np.sign(centre) * np.maximum(np.abs(centre) - price, 0)
            nearest = np.rint(shrunk / np.where(curvature > 0, curvature, np.inf))
            single = np.clip(nearest, -most, most) - z
            alone = cost(single)
            j = int(np.argmin(alone))
            changes = [(j, single[j])]
            if not alone[j] < -least:
                pair = self._best_pair(cost, scale) if m <= _PAIRED else None
                if pair is None or not pair[0] < -least:
                    break
                changes = pair[1]
            z, slope = z.copy(), slope.copy()
            for place, step in changes:
                z[place] += step
                slope += scale * scale * step * self.gram[place]
        return z

    def _best_pair(
        self, cost: Callable[[Vector], Vector], scale: float
    ) -> tuple[float, list[tuple[int, float]]] | None:
        """Return the change of two integers by one each that helps most: cost, and steps."""
        found = None
        ups = {step: cost(np.full(len(self.targets), step)) for step in (1.0, -1.0)}
        for first, second in ((1.0, 1.0), (1.0, -1.0), (-1.0, -1.0)):
            both = ups[first][:, None] + ups[second][None, :]
            both = both + first * second * scale * scale * self.gram
            np.fill_diagonal(both, np.inf)
            i, j = divmod(int(np.argmin(both)), len(both))
            if found is None or both[i, j] < found[0]:
                found = float(both[i, j]), [(i, first), (j, second)]
        return found


def _root(gram: Matrix) -> Matrix:
    """Return an A with AᵀA = G, for a G that rounding may have left indefinite."""
    values, vectors = np.linalg.eigh(gram)
    least = np.finfo(np.float64).eps * values.max(initial=0)
    return np.sqrt(np.maximum(values, least))[:, None] * vectors.T


def _beam(
    order: NDArray[np.intp], upper: Matrix, alpha: Vector, scales: Vector, most: int
) -> Matrix:
    """Return rows of integers for which ‖R(sz − α)‖ is small, some for each scale."""
    m, (count,) = len(alpha), scales.shape
    wanted = alpha[order] / scales[:, None]  # (S, m)
    off = np.zeros((count, 1, m))  # z − α/s of what is chosen
    costs = np.zeros((count, 1))
    steps = np.array(_NEAREST)
    for i in reversed(range(m)):
        centre = wanted[:, i, None] - (off[:, :, i + 1 :] @ upper[i, i + 1 :]) / upper[i, i]
        choice = np.clip(np.rint(centre)[..., None] + steps, -most, most)  # (S, K, 3)
        each = np.square(upper[i, i] * (choice - centre[..., None]))
        # Two that are clipped to one integer are one.
        each[..., 1:] = np.where(choice[..., 1:] == choice[..., :1], np.inf, each[..., 1:])
        total = (costs[..., None] + each).reshape(count, -1)
        kept = np.argsort(total, axis=1, kind="stable")[:, :_BEGINNINGS]
        costs = np.take_along_axis(total, kept, axis=1)
        off = np.take_along_axis(off, kept[:, :, None] // len(steps), axis=1)
        chosen = np.take_along_axis(choice.reshape(count, -1), kept, axis=1)
        off[:, :, i] = chosen - wanted[:, i, None]
    found = np.rint(off + wanted[:, None])[np.isfinite(costs)]
    integers = np.zeros_like(found)
    integers[:, order] = found
    return integers
