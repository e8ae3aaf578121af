"""A table before it is known what its columns mean."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from numpy.typing import NDArray

from .errors import DataError

if TYPE_CHECKING:
    import pandas as pd

MOST_COLUMNS = 10_000


@dataclass(frozen=True)
class Raw:
    """Columns of numbers (any numeric dtype) or of texts as in the file (object), and the target.

    `place(row, column)` says where a cell is, the target without a column. `notes` are what the
    user should know about how the file was read.
    """

    name: str
    frame: pd.DataFrame
    target: NDArray
    target_name: str
    place: Callable[[int, str | None], str]
    notes: dict[str, str] = field(default_factory=dict)


def check_width(name: str, columns: int) -> None:
    """Raise if there are too many columns to bother looking at them."""
    if columns > MOST_COLUMNS:
        raise DataError(f"{name}: {columns:,} columns are too many, at most {MOST_COLUMNS:,} work")
