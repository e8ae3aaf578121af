"""All sign vectors whose form is above a threshold, or a proof that there are none.

With a = (u + v)/2 and b = (u − v)/2, of which each entry of one is ±1 where that of the other is 0,

    uᵀGv = aᵀGa − bᵀGb,

and for neurons of one vector ±uᵀGu has a or b alone: a part z_s for each sign s, every feature in
one of the parts. Let U be undecided and D decided. With any p for which all S_s = Diag(p) − sG_UU
are positive semidefinite, g_s = sG_UD z_s and any x_s,

    value = c + 1ᵀp + Σ_s 2g_sᵀa_s − a_sᵀS_s a_s,   c = Σ_s s·z_sᵀGz_s of what is decided,
    2gᵀa − aᵀSa = gᵀx + (g − Sx)ᵀ(2a − x) − (a − x)ᵀS(a − x)

bounds what a_s, the entries of U, can still make of it: with x = S⁻¹g by 1ᵀp + Σ gᵀS⁻¹g, and, some
features I decided, by δᵀ((S⁻¹)_II)⁻¹δ less, δ = (a − x)_I. That is sphere decoding, with a choice
of p.

Nodes with the same U are worked on in blocks, depth first. For each block p is the one with the
least mean of the bounds of its nodes (`node_bounds`). Then features are decided one by one, each
the one whose choice leaves the fewest nodes, as long as they are not too many.

Source: Fincke & Pohst (1985) for sphere decoding, Knuth (1975) for the size of trees, Rendl,
Rinaldi & Wiegele, *Solving Max-Cut to optimality* (2010), for semidefinite bounds on its nodes.
"""

from __future__ import annotations

import dataclasses
import itertools
import threading
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .._exact.powers import power_of_two
from .._host.threads import num_cores, work_off
from .max_norm import least_diagonal
from .node_bounds import Images, Rounding, Vector, feasible, recentered
from .proof import Ends, Parts, Proof

_BLOCK, _LEAST_BLOCK = 16384, 512  # nodes, fewer where there are many features ...
_ENTRIES = 2**29  # of parts, in all blocks that may wait
_AT_ONCE, _ALONE = 16, 256  # features decided at once, if there are more nodes than that
_TIMES = 4  # as many nodes at most, after the first of them
_PROBED, _PROBES = 2048, 8  # nodes of the blocks that probes go through, and how many do
# Seconds of a core, as searches of 40 to 61 features took: for a node and each of its features, for
# a node each time that a feature is decided, and for a block and each pair of features.
_FOR_NODES, _FOR_STEPS, _FOR_BLOCKS = 4e-8, 2.4e-7, 4e-6
_CLEARLY, _ENOUGH = 4, 3  # times as many, or as few, as there may be; probes that show the latter
_FEW = 64  # nodes that are not worth a p of their own
_SAMPLE, _AVERAGED = 256, 2048  # nodes that the choices of a feature and of p look at
_UNIT = 2.0**-53


@dataclasses.dataclass(frozen=True)
class Above:
    """What there is above a threshold."""

    threshold: float
    values: Vector  # (m,), in descending order
    parts: Parts  # (m, sides, d)
    is_complete: bool  # else the time was up
    proof: Proof | None = None  # that there are no others, if it is complete and was asked for

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
    keep_proof: bool = False,
) -> Above:
    """Find the sign vectors of value ≥ threshold, `count` of them or fewer, the largest.

    `signs` is (1, −1) for max uᵀGv, and (1,) or (−1,) for that of ±uᵀGu. G is symmetric, at least
    as nearly as products are rounded. Of vectors that differ by the sign of a part one is found,
    and of those that differ where G has zeros alone. A value that is not found, though it exceeds
    those that are and the threshold, does so by less than 8d + 40 roundings of Σ|G|. Where G has
    entries that are no numbers nothing is known, and so it says. A proof that is kept takes memory
    for each node.
    """
    search = _Search(gram, threshold, signs, count)
    search.ends = [] if keep_proof else None
    return search.run(deadline)


def expected_seconds(
    gram: NDArray[np.float64],
    threshold: float,
    signs: tuple[int, ...],
    rng: np.random.Generator,
    most: float = np.inf,
) -> float:
    """Return about how long `forms_above` takes, from random descents through its tree.

    It takes fewer of them where that is clearly more than `most`, or clearly less.
    """
    search = _Search(gram, threshold, signs, 1, _PROBED)
    root, total, d = search.root(), 0.0, len(search.gram)
    for probe in range(1, _PROBES + 1):
        block, share = root, 1.0
        while len(block.features):
            visited = search.visited
            children = search.children(block)
            blocks = 1.0 if len(block.parts) < _PROBED / 2 else _PROBED / search.largest_block
            seconds = _FOR_NODES * d * len(block.parts) + _FOR_BLOCKS * d**2 * blocks
            seconds += _FOR_STEPS * (search.visited - visited)
            total += share * seconds / num_cores()
            if not children:
                break
            share *= len(children)
            block = children[rng.integers(len(children))]
        if total > _CLEARLY * most * probe or (
            probe >= _ENOUGH and total * _CLEARLY < most * probe
        ):
            return total / probe
    return total / _PROBES


@dataclasses.dataclass(frozen=True)
class _Block:
    """Nodes with the same undecided features."""

    parts: Parts
    decided: Vector  # (N,) c
    features: NDArray[np.int64]  # (m,) U
    diagonal: Vector  # (m,) p


@dataclasses.dataclass
class _Steps:
    """A block on the way to nodes with more features decided.

    With L the columns of S⁻¹ by its pivots and t what features were moved by, what those decided
    make of x is x + tLᵀ, which is not computed but where it is looked at.
    """

    decided: list[int]  # places among U of what was decided on the way ...
    open: NDArray[np.int64]  # ... and of what was not
    centers: list[Images]  # (N, m) x of each sign
    inverses: list[NDArray]  # (m, m) at least S⁻¹, less what was eliminated
    columns: list[NDArray]  # (m, k) L
    size: float  # at least the largest |x|
    origin: NDArray[np.int64]  # (M,) of which node in the block
    room: Vector  # (M,) bound less threshold
    moves: list[NDArray]  # (M, k) t
    blank: NDArray[np.bool_]  # (M, sides) parts of zeros
    choices: NDArray[np.int8]  # (M, sides, k) of the features decided on the way

    def at(self, s: int, some: Any, places: Any) -> Images:
        """Return entries of x of some nodes, for one sign."""
        rows = self.origin[some]
        centers = self.centers[s][rows[:, None], places]
        return centers + self.moves[s][some] @ self.columns[s][places].T

    def extended(self, rows: Any, choice: Any) -> tuple[NDArray[np.int8], NDArray[np.int8]]:
        """Return the choices of some nodes with one more, and that by itself: 2s for +1, 2s + 1."""
        made = np.zeros((len(rows), self.choices.shape[1]), np.int8)
        made[np.arange(len(rows)), choice // 2] = 1 - 2 * (choice % 2)
        return np.concatenate([self.choices[rows], made[:, :, None]], axis=2), made


def _with_choices(block: _Block, origin: Any, choices: NDArray[np.int8], places: Any) -> Parts:
    """Return the parts of nodes of a block with features decided."""
    parts = block.parts[origin]
    parts[:, :, block.features[places]] = choices
    return parts


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
        self.largest_block = min(_BLOCK, max(_ENTRIES // (6 * max(d, 1) ** 2), _LEAST_BLOCK))
        self.most = min(most, self.largest_block)
        self.mass = float(np.abs(self.gram).sum())
        self.scale = self.mass  # about 1ᵀp
        # What c may be wrong by, and the sums that bounds are.
        self.rounding = (8 * d + 40) * _UNIT * self.mass
        self.lock, self.visited = threading.Lock(), 0
        self.ends: list[Ends] | None = None  # where nothing is left, if that is to be kept
        self.values, self.parts = np.empty(0), np.empty((0, len(signs), d), np.int8)

    def run(self, deadline: float) -> Above:
        """Search until nothing is left or the time is up."""
        if not self.is_finite or np.isnan(self.threshold):
            return Above(self.given, np.empty(0), self._restored(self.parts), False)
        is_complete = work_off(self._expanded, self.root(), deadline)
        order = np.argsort(-self.values, kind="stable")[: self.count]
        values = self.values[order] * self.unit
        above = Above(self.given, values, self._restored(self.parts[order]), is_complete)
        if self.ends is None or not is_complete:
            return above
        proof = Proof(self.gram, self.unit, self.signs, above.largest, self.ends)
        return dataclasses.replace(above, proof=proof)

    def _end(
        self, parts: Parts, some: Any, features: NDArray[np.int64], diagonal: Vector | None
    ) -> None:
        """Keep where nothing is left, if that is asked for."""
        if self.ends is not None and len(parts := parts[some]):
            every = None
            if diagonal is not None:
                every = np.zeros(len(self.gram))
                every[features] = diagonal
            self.ends.append(Ends(parts, every))

    def _expanded(self, block: _Block) -> list[_Block]:
        """Return the children, or keep leaves."""
        if len(block.features):
            return self.children(block)
        with self.lock:
            self._end(block.parts, ..., block.features, block.diagonal)
            self._keep(block)
        return []

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
        if d and self.scale:
            diagonal = recentered(
                self.gram, [np.zeros((d, d))] * s, self.signs, diagonal, self.scale
            )
        return _Block(np.zeros((1, s, d), np.int8), np.zeros(1), np.arange(d), diagonal)

    def _keep(self, leaves: _Block) -> None:
        """Keep leaves, the largest if there are many."""
        enough = leaves.decided >= self.threshold
        self.values = np.append(self.values, leaves.decided[enough])
        self.parts = np.concatenate([self.parts, leaves.parts[enough]])
        if len(self.values) > 8 * self.count:
            kept = np.argpartition(-self.values, self.count - 1)[: self.count]
            self.values, self.parts = self.values[kept], self.parts[kept]

    @np.errstate(all="ignore")  # what is not known is infinite
    def children(self, block: _Block) -> list[_Block]:
        """Decide a few more features."""
        steps, diagonal, roundings = self._bounded(block)
        at_once = _AT_ONCE if len(block.parts) > _ALONE else 1
        most = float(steps.room.max(initial=0.0))
        while len(steps.room) and len(steps.decided) < at_once and len(steps.open):
            margin = sum(r.of_falls(steps.size, len(steps.decided) + 1, most) for r in roundings)
            limit = np.inf if not steps.decided else _TIMES * self.most
            if not self._decide(block, diagonal, steps, margin, limit):
                break
        return self._blocks(block, diagonal, steps) if len(steps.room) else []

    def _bounded(self, block: _Block) -> tuple[_Steps, Vector, list[Rounding]]:
        """Return the nodes that are left, p, and what rounding makes of the bounds."""
        gram, U, m, d = self.gram, block.features, len(block.features), len(self.gram)
        inner = gram[np.ix_(U, U)]
        images, diagonal = self._images(block), block.diagonal
        if len(block.parts) >= _FEW and m > 2:
            every = max(1, len(block.parts) // _AVERAGED)
            some = [image[::every] for image in images]
            moments = [image.T @ image / len(image) for image in some]
            diagonal = recentered(inner, moments, self.signs, diagonal, self.scale)
        diagonal, inverses = feasible(inner, self.signs, diagonal, self.scale)
        reach = np.abs(np.delete(gram[:, U], U, axis=0)).sum(axis=0) * (1 + d * _UNIT)  # of |g|
        centers, roundings = [], []
        for sign, inverse, image in zip(self.signs, inverses, images, strict=True):
            centers.append(image @ inverse)
            slack = np.diag(diagonal) - sign * inner
            roundings.append(Rounding.of(slack, inverse, reach, d, _AT_ONCE))
        allowance = sum(rounding.above for rounding in roundings)
        bound = block.decided + (float(diagonal.sum()) + self.rounding + allowance)
        for image, center in zip(images, centers, strict=True):
            bound += np.einsum("ni,ni->n", image, center)
        room = bound - self.threshold
        kept = ~(room < 0)
        self._end(block.parts, ~kept, U, diagonal)
        # Without any p: from features with small entries alone little is to be gained.
        mass = float(np.abs(inner).sum()) * (1 + 1e-9) + self.rounding
        if mass < self.threshold - block.decided.min():
            most = 2 * np.max(np.abs(images), axis=0).sum(axis=1)
            most = block.decided + most * (1 + 1e-9) + mass
            ends = kept & (most < self.threshold)
            self._end(block.parts, ends, U, None)
            kept &= ~ends
        origin = np.flatnonzero(kept)
        steps = _Steps(
            [],
            np.arange(m),
            centers,
            [rounding.inflated for rounding in roundings],
            [np.zeros((m, 0))] * len(centers),
            max(rounding.size for rounding in roundings),
            origin,
            room[origin],
            [np.zeros((len(origin), 0))] * len(centers),
            np.logical_not(block.parts[origin].any(axis=2)),
            np.zeros((len(origin), len(centers), 0), np.int8),
        )
        return steps, diagonal, roundings

    def _images(self, block: _Block) -> list[Images]:
        """Return g of each sign."""
        columns = self.gram[:, block.features]
        return [
            block.parts[:, s].astype(np.float64) @ (sign * columns)
            for s, sign in enumerate(self.signs)
        ]

    def _choose(self, steps: _Steps) -> int:
        """Return the place of the feature whose choices leave the fewest nodes of a sample."""
        some = slice(None, None, max(1, len(steps.room) // _SAMPLE))
        room, places = steps.room[some, None], steps.open
        sizes = [np.abs(steps.at(s, some, places)) for s in range(len(self.signs))]
        variances = [np.diag(inverse)[places] for inverse in steps.inverses]
        alone = [np.square(x) / v for x, v in zip(sizes, variances, strict=True)]
        total = sum(alone)
        count, spare = np.zeros(len(places)), np.zeros(len(places))
        for x, v, own in zip(sizes, variances, alone, strict=True):
            for end in (1 - x, 1 + x):
                left = room - (np.square(end) / v + (total - own))
                count += np.sum(left >= 0, axis=0)
                spare += np.sum(np.maximum(left, 0), axis=0)
        return int(places[np.argmin(count + spare / (1 + spare.max()))])

    def _decide(
        self, block: _Block, diagonal: Vector, steps: _Steps, margin: float, most: float
    ) -> bool:
        """Decide a feature, unless that gives more than so many nodes; return whether it did."""
        place, sides = self._choose(steps), range(len(self.signs))
        centers = [steps.at(s, slice(None), [place])[:, 0] for s in sides]
        pivots = [float(inverse[place, place]) for inverse in steps.inverses]
        # Those of all parts but one, whose entry t is not 0: (t − x)²/v is x²/v and (1 − 2tx)/v.
        base = steps.room.copy()
        for center, pivot in zip(centers, pivots, strict=True):
            base -= np.square(center) / pivot
        left = np.empty((len(base), 2 * len(pivots)))
        for s, (center, pivot) in enumerate(zip(centers, pivots, strict=True)):
            twice = center * (2 / pivot)
            np.add(base - 1 / pivot, twice, out=left[:, 2 * s])
            np.subtract(base - 1 / pivot, twice, out=left[:, 2 * s + 1])
        ends, others = left < -margin, np.ones(left.shape, bool)
        # A part may be turned as a whole: its first sign is +1.
        others[:, 1::2] = ~steps.blank
        rows, choice = np.nonzero(~ends & others)
        self.visited += len(base)
        if len(rows) > most:
            return False
        steps.decided.append(place)
        steps.open = steps.open[steps.open != place]
        if self.ends is not None:
            ended, how = np.nonzero(ends & others)
            choices, _ = steps.extended(ended, how)
            parts = _with_choices(block, steps.origin[ended], choices, steps.decided)
            self._end(parts, ..., block.features[steps.open], diagonal[steps.open])
        side, every = choice // 2, np.arange(len(rows))
        steps.choices, made = steps.extended(rows, choice)
        steps.room, steps.origin = left[rows, choice], steps.origin[rows]
        steps.blank = steps.blank[rows]
        steps.blank[every, side] = False
        largest = 0.0
        for s in sides:
            inverse, move = steps.inverses[s], made[:, s, None] - centers[s][rows, None]
            column = inverse[:, place] / pivots[s]
            steps.inverses[s] = inverse - np.outer(inverse[:, place], column)
            steps.moves[s] = np.concatenate([steps.moves[s][rows], move], axis=1)
            steps.columns[s] = np.concatenate([steps.columns[s], column[:, None]], axis=1)
            largest = max(largest, float(np.abs(column[steps.open]).max(initial=0.0)))
        steps.size += largest * (1 + steps.size)
        return True

    def _blocks(self, block: _Block, diagonal: Vector, steps: _Steps) -> list[_Block]:
        """Return the nodes that were reached as blocks."""
        places = steps.decided
        features, origin = block.features[places], steps.origin
        parents = np.unique(origin)
        place = np.searchsorted(parents, origin)
        inner = self.gram[np.ix_(features, features)]
        decided = block.decided[origin]
        for s, sign in enumerate(self.signs):
            chosen = steps.choices[:, s].astype(np.float64)
            image = block.parts[parents, s].astype(np.float64) @ self.gram[:, features]
            along = 2 * image[place] + chosen @ inner
            decided += sign * np.einsum("nk,nk->n", chosen, along)
        parts = _with_choices(block, origin, steps.choices, places)
        rest, others = np.delete(block.features, places), np.delete(diagonal, places)
        pieces = -(-len(origin) // self.most)
        cuts = np.linspace(0, len(origin), pieces + 1).astype(int)
        return [
            _Block(parts[low:high], decided[low:high], rest, others)
            for low, high in itertools.pairwise(cuts)
        ]
