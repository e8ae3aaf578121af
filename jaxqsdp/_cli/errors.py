"""What the user is told when the data cannot be used."""

from __future__ import annotations

from collections.abc import Iterable

_LONGEST, _MOST_LISTED = 40, 8


class DataError(ValueError):
    """The data cannot be used; the message is one line for the user."""


def quoted(text: str) -> str:
    """Return a name or a cell in quotes, cut if it is long."""
    return f"'{text}'" if len(text) <= _LONGEST else f"'{text[: _LONGEST - 1]}…'"


def listed(texts: Iterable[str]) -> str:
    """Join by commas what is to be listed, the first few of many."""
    texts = list(texts)
    more = [f"{len(texts) - _MOST_LISTED} more"] if len(texts) > _MOST_LISTED else []
    return ", ".join(texts[:_MOST_LISTED] + more)
