"""All sign vectors whose form is above a threshold, or a proof that there are none.

With a = (u + v)/2 and b = (u − v)/2, of which each entry of one is ±1 where that of the other is 0,

    uᵀGv = aᵀGa − bᵀGb,

and for neurons of one vector ±uᵀGu has a or b alone: a part z_s for each sign s, every feature in
one of the parts. Let U be undecided and D decided. With any p for which all S_s = Diag(p) − sG_UU
are positive semidefinite, g_s = sG_UD z_s and any x_s,

    value = c + 1ᵀp + Σ_s 2g_sᵀa_s − a_sᵀS_s a_s,   c = Σ_s s·z_sᵀGz_s of what is decided,
    2gᵀa − aᵀSa = gᵀx + (g − Sx)ᵀ(2a − x) − (a − x)ᵀS(a − x)

bounds what a_s, the entries of U, can still make of it: with x = S⁻¹g by 1ᵀp + Σ gᵀS⁻¹g, and, a
feature i decided, by (a_i − x_i)²/(S⁻¹)_ii less. That is sphere decoding, with a choice of p.

Nodes with the same U are worked on in blocks, depth first. For each block p is the one with the
least mean of the bounds of its nodes, and i the feature whose choice leaves the fewest.

Source: Fincke & Pohst (1985) for sphere decoding, Knuth (1975) for the size of trees, Rendl,
Rinaldi & Wiegele, *Solving Max-Cut to optimality* (2010), for semidefinite bounds on its nodes.
"""

from __future__ import annotations

import dataclasses
import itertools
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import lapack

from .._exact.powers import power_of_two
from .max_norm import least_diagonal

_BLOCK, _LEAST_BLOCK = 16384, 512  # nodes, fewer where there are many features ...
_ENTRIES = 2**29  # of parts, in all blocks that may wait
_PROBED, _PROBES = 2048, 8  # nodes of the blocks that probes go through, and how many do
_CLEARLY = 4  # times as many as there may be
_FEW = 64  # nodes that are not worth a p of their own
_SAMPLE = 256  # nodes that the choice of a feature looks at
_STEPS = 4  # of Newton's method for p
_BARRIER = 1e-4  # of 1ᵀp
_UNIT = 2.0**-53

Vector = NDArray[np.float64]
Parts = NDArray[np.int8]  # (N, sides, d)


@dataclasses.dataclass(frozen=True)
class Above:
    """What there is above a threshold."""

    threshold: float
    values: Vector  # (m,), in descending order
    parts: Parts  # (m, sides, d)
    is_complete: bool  # else the time was up

    @property
    def largest(self) -> float:
        """A number that no value exceeds, but for rounding; infinite where that is unknown."""
        if not self.is_complete:
            return np.inf
        return float(self.values[0]) if len(self.values) else self.threshold


def forms_above(
    gram: NDArray[np.float64],
    threshold: float,
    signs: tuple[int, ...],
    count: int,
    deadline: float = np.inf,
) -> Above:
    """Find the sign vectors of value ≥ threshold, `count` of them or fewer, the largest.

    `signs` is (1, −1) for max uᵀGv, and (1,) or (−1,) for that of ±uᵀGu. G is symmetric, at least
    as nearly as products are rounded. Of vectors that differ by the sign of a part one is found,
    and of those that differ where G has zeros alone. A value that is not found, though it exceeds
    those that are and the threshold, does so by less than 8d + 40 roundings of Σ|G|. Where G has
    entries that are no numbers nothing is known, and so it says.
    """
    return _Search(gram, threshold, signs, count).run(deadline)


def expected_nodes(
    gram: NDArray[np.float64],
    threshold: float,
    signs: tuple[int, ...],
    rng: np.random.Generator,
    most: float = np.inf,
) -> float:
    """Return about how many nodes `forms_above` visits, from random descents through its tree.

    It takes fewer of them where there are clearly more nodes than `most`.
    """
    search = _Search(gram, threshold, signs, 1, _PROBED)
    root, total = search.root(), 0.0
    for probe in range(1, _PROBES + 1):
        block, share = root, 1.0
        while len(block.features):
            total += share * len(block.parts)
            children = search.children(block)
            if not children:
                break
            share *= len(children)
            block = children[rng.integers(len(children))]
        if total > _CLEARLY * most * probe:
            return total / probe
    return total / _PROBES


@dataclasses.dataclass(frozen=True)
class _Block:
    """Nodes with the same undecided features."""

    parts: Parts
    decided: Vector  # (N,) c
    features: NDArray[np.int64]  # (m,) U
    diagonal: Vector  # (m,) p


class _Search:
    """A branch and bound."""

    def __init__(
        self,
        gram: NDArray[np.float64],
        threshold: float,
        signs: tuple[int, ...],
        count: int,
        most: int = _BLOCK,
    ):
        self.num_features, self.is_finite = len(gram), bool(np.all(np.isfinite(gram)))
        self.used = np.flatnonzero(np.abs(gram).max(axis=0, initial=0.0) > 0)
        d = len(self.used)
        self.unit = float(power_of_two(np.abs(gram).max(initial=0.0)))
        self.gram = gram[np.ix_(self.used, self.used)] / self.unit
        self.given, self.signs, self.count = threshold, signs, count
        self.threshold = threshold / self.unit
        self.most = min(most, max(_ENTRIES // (6 * max(d, 1) ** 2), _LEAST_BLOCK))
        self.mass = float(np.abs(self.gram).sum())
        self.scale = self.mass  # about 1ᵀp
        # What c may be wrong by, and the sums that bounds are.
        self.rounding = (8 * d + 40) * _UNIT * self.mass
        self.values, self.parts = np.empty(0), np.empty((0, len(signs), d), np.int8)

    def run(self, deadline: float) -> Above:
        """Search until nothing is left or the time is up."""
        if not self.is_finite:
            return Above(self.given, np.empty(0), self._restored(self.parts), False)
        stack = [self.root()]
        while stack:
            if time.monotonic() > deadline:
                break
            block = stack.pop()
            if len(block.features) == 0:
                self._keep(block)
                continue
            stack += self.children(block)
        order = np.argsort(-self.values, kind="stable")[: self.count]
        values = self.values[order] * self.unit
        return Above(self.given, values, self._restored(self.parts[order]), not stack)

    def _restored(self, parts: Parts) -> Parts:
        """Return parts with all features: the first one has those that G is zero for."""
        every = np.zeros((len(parts), len(self.signs), self.num_features), np.int8)
        every[:, 0] = 1
        every[:, :, self.used] = parts
        return every

    def root(self) -> _Block:
        """Return the block of the node with nothing decided."""
        d, s = len(self.gram), len(self.signs)
        cones: Any = np.stack([-sign * self.gram for sign in self.signs])
        diagonal = np.asarray(least_diagonal(cones)) if d else np.empty(0)
        self.scale = max(float(np.abs(diagonal).sum()), self.mass / max(d, 1))
        return _Block(np.zeros((1, s, d), np.int8), np.zeros(1), np.arange(d), diagonal)

    def _keep(self, leaves: _Block) -> None:
        """Keep leaves, the largest if there are many."""
        enough = leaves.decided >= self.threshold
        self.values = np.append(self.values, leaves.decided[enough])
        self.parts = np.concatenate([self.parts, leaves.parts[enough]])
        if len(self.values) > 8 * self.count:
            kept = np.argpartition(-self.values, self.count - 1)[: self.count]
            self.values, self.parts = self.values[kept], self.parts[kept]

    def children(self, block: _Block) -> list[_Block]:
        """Decide one more feature."""
        gram, U, m = self.gram, block.features, len(block.features)
        inner = gram[np.ix_(U, U)]
        images = [
            sign * (block.parts[:, s].astype(np.float64) @ gram[:, U])
            for s, sign in enumerate(self.signs)
        ]
        diagonal = block.diagonal
        if len(images[0]) >= _FEW and m > 2:
            moments = [image.T @ image / len(image) for image in images]
            diagonal = self._recentered(inner, moments, diagonal)
        diagonal, inverses = self._inverses(inner, diagonal)
        centers = [image @ inverse for image, inverse in zip(images, inverses, strict=True)]
        allowance, variances = self._allowances(block, inner, diagonal, inverses)
        bound = block.decided + (float(diagonal.sum()) + allowance)
        for image, center in zip(images, centers, strict=True):
            bound += np.einsum("ni,ni->n", image, center)
        room = bound - self.threshold
        # Without any p: from features with small entries alone little is to be gained.
        most = 2 * np.max(np.abs(images), axis=0).sum(axis=1) + float(np.abs(inner).sum())
        most = block.decided + most * (1 + 1e-9) + self.rounding
        kept = np.flatnonzero(~(room < 0) & ~(most < self.threshold))
        if len(kept) == 0:
            return []
        place = self._choose(centers, variances, room, kept)
        falls = [
            np.square(sign_of_a - center[kept, place]) / variance[place]
            for center, variance in zip(centers, variances, strict=True)
            for sign_of_a in (1, -1, 0)
        ]
        without = [falls[3 * s + 2] for s in range(len(self.signs))]
        total = sum(without)
        blank = [~block.parts[kept, s].any(axis=1) for s in range(len(self.signs))]
        left = np.stack(
            [
                np.where(
                    # A part may be turned as a whole: its first sign is +1.
                    blank[s] & (turned == 1),
                    -1.0,
                    room[kept] - (falls[3 * s + turned] + (total - without[s])),
                )
                for s in range(len(self.signs))
                for turned in (0, 1)
            ],
            axis=1,
        )
        nodes, choice = np.nonzero(~(left < 0))
        if len(nodes) == 0:
            return []
        nodes = kept[nodes]
        part, step = choice // 2, (1 - 2 * (choice % 2)).astype(np.int8)
        parts = block.parts[nodes]
        feature = int(U[place])
        parts[np.arange(len(nodes)), part, feature] = step
        along = np.stack([image[:, place] for image in images])[part, nodes]
        own = np.asarray(self.signs)[part] * gram[feature, feature]
        decided = block.decided[nodes] + own + 2 * step * along
        rest, others = np.delete(U, place), np.delete(diagonal, place)
        pieces = -(-len(nodes) // self.most)
        cuts = np.linspace(0, len(nodes), pieces + 1).astype(int)
        return [
            _Block(parts[low:high], decided[low:high], rest, others)
            for low, high in itertools.pairwise(cuts)
        ]

    def _choose(
        self, centers: list[Any], variances: list[Vector], room: Vector, kept: NDArray[np.int64]
    ) -> int:
        """Return the place of the feature whose choices leave the fewest nodes of a sample."""
        some = kept[:: max(1, len(kept) // _SAMPLE)]
        sizes = [np.abs(center[some]) for center in centers]
        alone = [np.square(x) / v for x, v in zip(sizes, variances, strict=True)]
        total = sum(alone)
        count, spare = np.zeros(len(variances[0])), np.zeros(len(variances[0]))
        for x, v, own in zip(sizes, variances, alone, strict=True):
            for end in (1 - x, 1 + x):
                left = room[some, None] - (np.square(end) / v + (total - own))
                count += np.sum(left >= 0, axis=0)
                spare += np.sum(np.maximum(left, 0), axis=0)
        return int(np.argmin(count + spare / (1 + spare.max())))

    def _inverses(self, inner: NDArray, diagonal: Vector) -> tuple[Vector, list[NDArray]]:
        """Return a p proven feasible, and about the inverses of S."""
        m = len(inner)
        traces = float(np.abs(diagonal).sum() + np.abs(np.diag(inner)).sum())
        shift = 4 * (m + 8) * _UNIT * (self.scale + traces)
        while True:
            inverses = []
            for sign in self.signs:
                inverse = _inverse(np.diag(diagonal) - sign * inner)
                if inverse is None:
                    break
                inverses.append(inverse)
            else:
                # S of the p returned is at least the computed factor times its transpose.
                return diagonal + shift, inverses
            diagonal, shift = diagonal + shift, 4 * shift

    def _allowances(
        self, block: _Block, inner: NDArray, diagonal: Vector, inverses: list[NDArray]
    ) -> tuple[float, list[Vector]]:
        """Return what bounds may be wrong by, and at least the diagonals of the inverses."""
        m, d = len(inner), len(self.gram)
        decided = np.delete(self.gram[:, block.features], block.features, axis=0)
        reach = np.abs(decided).sum(axis=0) * (1 + d * _UNIT)  # |g|
        allowance, variances = self.rounding, []
        for sign, inverse in zip(self.signs, inverses, strict=True):
            slack = np.diag(diagonal) - sign * inner
            sizes = np.abs(slack) @ np.abs(inverse)
            error = np.abs(np.eye(m) - slack @ inverse) + (m + 4) * _UNIT * (sizes + np.eye(m))
            far = reach @ np.abs(inverse) * (1 + 1e-9)  # |x|
            # |g − Sx|, with what rounding makes of g and of x.
            residual = error @ reach + (m + 4) * _UNIT * (np.abs(slack) @ far)
            of_image = (d + 4) * _UNIT * reach
            allowance += float((residual + of_image) @ (2 + far)) * (1 + 1e-9)
            allowance += (m + 8) * _UNIT * float(reach @ far)
            share = float(error.sum(axis=1).max())
            wide = share / (1 - share) if share < 0.5 else np.inf
            variances.append((np.diag(inverse) + np.abs(inverse).sum(axis=1) * wide) * (1 + 1e-12))
        return allowance, variances

    def _recentered(self, inner: NDArray, moments: list[NDArray], diagonal: Vector) -> Vector:
        """Return a p of nearly the least 1ᵀp + Σ_s tr(S_s⁻¹M_s), M the mean of ggᵀ; from one."""
        m = len(inner)
        weight = _BARRIER * self.scale / m

        def parts(p: Vector) -> tuple[list[NDArray], float] | None:
            inverses, value = [], float(p.sum())
            for sign, moment in zip(self.signs, moments, strict=True):
                slack = np.diag(p) - sign * inner
                factor, failed = lapack.dpotrf(slack, lower=1)
                if failed:
                    return None
                inverse, failed = lapack.dpotri(factor, lower=1)
                inverse = np.tril(inverse) + np.tril(inverse, -1).T
                inverses.append(inverse)
                value += float(np.sum(inverse * moment))
                value -= 2 * weight * float(np.log(np.diag(factor)).sum())
            return inverses, value

        found = parts(diagonal)
        if found is None:
            return diagonal
        for _ in range(_STEPS):
            inverses, value = found
            gradient, hessian = np.ones(m), np.zeros((m, m))
            for inverse, moment in zip(inverses, moments, strict=True):
                turned = inverse @ moment @ inverse
                gradient -= np.diag(turned) + weight * np.diag(inverse)
                hessian += 2 * turned * inverse + weight * np.square(inverse)
            _, step, failed = lapack.dposv(hessian, gradient, lower=1)
            if failed:
                break
            decrement, length = float(gradient @ step), 1.0
            while length > 1e-3:
                moved = parts(diagonal - length * step)
                if moved is not None and moved[1] <= value - 0.1 * length * decrement:
                    break
                length /= 2
            else:
                break
            diagonal, found = diagonal - length * step, moved
            if decrement < 0.1 * weight * m:
                break
        return diagonal


def _inverse(slack: NDArray) -> NDArray | None:
    """Return about the inverse, symmetric; None if it is not positive definite."""
    factor, failed = lapack.dpotrf(slack, lower=1)
    if failed:
        return None
    inverse, failed = lapack.dpotri(factor, lower=1)
    return None if failed else np.tril(inverse) + np.tril(inverse, -1).T
