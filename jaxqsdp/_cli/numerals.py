"""Which texts are numbers, strictly: `1_0`, `0x1F` and `١` are none; which numbers are usable."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

LARGEST, SMALLEST = 1e100, 1e-100  # far from where squares overflow or underflow
_NUMBER = re.compile(
    r"[+-]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?|inf|infinity)", re.IGNORECASE
)
_PLAIN = frozenset("0123456789+-.eE")
_MISSING = frozenset(["", "na", "n/a", "#n/a", "<na>", "nan", "-nan", "null", "none", "?"])


def is_number(text: str) -> bool:
    """Whether a text is a decimal number, an infinite one included."""
    return _NUMBER.fullmatch(text) is not None


def is_missing(text: str) -> bool:
    """Whether a text says, in a column of numbers, that there is none."""
    return text.lower() in _MISSING


def numbers(texts: Sequence[str]) -> NDArray[np.float64] | None:
    """Return the numbers, or None if one of the texts is none."""
    # `float` takes all that is a number and little else, but the rest needs other letters.
    if not (_PLAIN.issuperset("".join(texts)) or all(map(is_number, texts))):
        return None
    try:
        return np.array([float(text) for text in texts], np.float64)
    except ValueError:
        return None
