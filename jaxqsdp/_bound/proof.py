"""What a branch and bound rests on, for others to check, by other means."""

from __future__ import annotations

import dataclasses

import numpy as np
from numpy.typing import NDArray

Parts = NDArray[np.int8]  # (N, sides, d)


@dataclasses.dataclass(frozen=True)
class Ends:
    """Nodes at which a search ended: z_s of what is decided, zero elsewhere, and one p.

    At each of them, in exact arithmetic and with S_s, g_s and c as in `branching`, all S_s are
    positive definite and c + 1ᵀp + Σ g_sᵀS_s⁻¹g_s is at most the threshold; or, where p is None,
    c + 2·1ᵀ(max_s |g_s|) + Σ|G_UU|, as each feature is in one part. Where all is decided, c is the
    value.
    """

    parts: Parts
    diagonal: NDArray[np.float64] | None  # (d,) p, zero where it is not needed


@dataclasses.dataclass(frozen=True)
class Proof:
    """That no value of sign vectors is above `largest`, but for rounding.

    **Attributes:**

    - `gram`: (d, d) G, without features that it has zeros alone for, divided by `unit`, a power of
      two, as are all p.
    - `signs`: of each part.
    - `largest`: the threshold, or the largest value that is known, in the units of what was given.
    - `ends`: nodes that cover all sign vectors, of those that differ by the sign of a part one.
    """

    gram: NDArray[np.float64]
    unit: float
    signs: tuple[int, ...]
    largest: float
    ends: list[Ends]
