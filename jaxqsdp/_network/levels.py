"""The levels that first-layer weights take, and how they are stored."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from .._base.types import namespace


class Levels:
    """Weights −1 and +1: one bit each, eight to a byte, most significant first, set for +1."""

    bits: ClassVar[int] = 1  # a weight

    def holds(self, weights: np.ndarray) -> bool:
        """Whether all weights are among the levels."""
        return bool(np.all(np.abs(weights) == 1))

    def bytes_for(self, count: int) -> int:
        """Return how many bytes a row of so many weights takes."""
        return -(-count * self.bits // 8)

    def pack(self, positive: Bool[Array, "m d"]) -> UInt8[Array, "m bytes"]:
        """Store weights, given where they are +1."""
        return namespace(positive).packbits(positive, axis=-1)

    def unpack(
        self, packed: UInt8[Array, "*m bytes"], count: int, dtype: Any
    ) -> Float[Array, "*m d"]:
        """Return the weights of rows that `pack` has stored."""
        xp = namespace(packed)
        if packed.size == 0:  # no neurons; `unpackbits` refuses empty arrays
            return xp.ones((*packed.shape[:-1], count), dtype)
        return 2 * xp.unpackbits(packed, axis=-1, count=count).astype(dtype) - 1

    def has_rest(self, packed: np.ndarray, count: int) -> bool:
        """Whether bits beyond the last weight of a row are set."""
        rest = count * self.bits % 8
        return bool(rest and np.any(packed[:, -1] & (0xFF >> rest)))


ONE_BIT = Levels()
