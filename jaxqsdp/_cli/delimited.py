"""CSV, TSV and their like, read by pandas as texts: whether `001` is a number comes later.

Errors say where a cell is as an editor counts lines. pandas does not know, so Python's own reader
goes through the text once more, and only then.
"""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections import Counter, deque
from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

import numpy as np

from .errors import DataError, listed, quoted
from .numerals import is_missing, is_number, numbers
from .raw import Raw, check_width
from .source import Source

if TYPE_CHECKING:
    import pandas as pd

_DELIMITERS = {",": "commas", "\t": "tabs", ";": "semicolons", "|": "bars"}
DECIMAL_COMMA = re.compile(r"[+-]?[0-9]*,[0-9]+(?:[eE][+-]?[0-9]+)?")
_THOUSANDS = re.compile(r"[+-]?[1-9][0-9]{0,2},[0-9]{3}")
_BLANK_LINES = re.compile(r"(?:[^\S\n]*\n)*")


def read_delimited(source: Source, target: str | None) -> Raw:
    """Read a table with a header row; the target is the last column unless another is named.

    **Raises:** `DataError` naming line and column.
    """
    from pandas.errors import EmptyDataError, ParserError

    text = _decoded(source)
    leading = _BLANK_LINES.match(text)
    assert leading is not None
    body, above = text[leading.end() :], leading.group().count("\n")
    delimiter = _delimiter(source, body)
    records = _Records(source.name, body, delimiter, above)
    header = records.header()
    check_width(source.name, len(header))
    try:
        frame = _texts(body, delimiter)
    except (ParserError, EmptyDataError):
        raise records.fault(len(header)) from None
    if any(text == "" for text in frame.iloc[:, -1]):
        records.check_lengths(len(header))
    filled = (frame != "").any(axis=1)
    filled.iloc[0] = False  # the header
    frame = frame[filled]
    if frame.empty:
        raise DataError(f"{source.name}: need a header row and at least one row of data")
    frame, left_out = _named(source.name, frame, header)
    wanted = frame.columns[-1] if target is None else target
    if wanted not in frame.columns:
        names = listed(map(quoted, frame.columns))
        raise DataError(f"{source.name}: no column named {quoted(wanted)} (columns: {names})")
    index, positions = frame.index, {name: k for k, name in enumerate(header)}

    def place(row: int, column: str | None) -> str:
        name = wanted if column is None else column
        return f"line {records.line(int(index[row]), positions.get(name, 0))}"

    notes: dict[str, str] = {}
    if delimiter != ",":
        notes["read"] = f"separated by {_DELIMITERS[delimiter]}"
        frame, converted = _with_decimal_points(frame)
        if converted:
            notes["decimals"] = f"with a comma in {listed(map(quoted, converted))}"
    if left_out:
        notes["columns without a name"] = left_out
    features = frame.drop(columns=wanted).reset_index(drop=True)
    return Raw(source.name, features, frame[wanted].to_numpy(), wanted, place, notes)


def _texts(body: str, delimiter: str) -> pd.DataFrame:
    """Every record, the header and blank ones included, so that their numbers are known."""
    import pandas as pd

    frame = pd.read_csv(
        io.StringIO(body),
        sep=delimiter,
        header=None,
        dtype=object,
        na_filter=False,
        skip_blank_lines=False,
        low_memory=False,
        engine="c",
    )
    stripped = {k: [text.strip() for text in frame[k]] for k in frame.columns}
    return pd.DataFrame(stripped, dtype=object)


def _decoded(source: Source) -> str:
    contents = source.contents
    utf16 = contents.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    try:
        text = contents.decode("utf-16" if utf16 else "utf-8-sig")
    except UnicodeDecodeError as error:
        before = contents[: error.start].decode("utf-16" if utf16 else "utf-8-sig", "replace")
        raise DataError(
            f"{source.name}: line {before.count(chr(10)) + 1} is not text in UTF-8; save the table "
            "as CSV in UTF-8, or as NPZ"
        ) from None
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise DataError(f"{source.name}: line {line} holds a NUL, which is not text")
    return text


def _delimiter(source: Source, body: str) -> str:
    """Find what separates as many fields in the first row of data as in the header."""

    def score(delimiter: str) -> tuple[bool, bool, int]:
        reader = csv.reader(io.StringIO(body, newline=""), delimiter=delimiter)
        try:
            widths = [len(record) for record in islice(filter(None, reader), 2)]
        except csv.Error:
            return False, False, 0
        tabs = delimiter == "\t" and source.suffix in (".tsv", ".tab")
        return len(set(widths)) == 1 and widths[0] > 1, tabs, max(widths, default=0)

    return max(_DELIMITERS, key=score)  # commas, where several do as well


def _named(file: str, frame: pd.DataFrame, header: list[str]) -> tuple[pd.DataFrame, str]:
    """Name the columns, leave out nameless ones that are empty or count the rows, and say so."""
    given = list(filter(None, header))
    if any(map(is_number, given)) and all(is_number(name) or is_missing(name) for name in given):
        counted = [[str(k + first) for k in range(len(given))] for first in (0, 1)]
        if given not in counted:
            raise DataError(f"{file}: the first line holds numbers; put the names of columns there")
    twice = [name for name, count in Counter(header).items() if name and count > 1]
    if twice:
        raise DataError(f"{file}: two columns are named {quoted(twice[0])}; rename one")
    names, kept, left_out = list(header), [], []
    for k, name in enumerate(header):
        if name:
            kept.append(k)
            continue
        names[k] = f"column {k + 1}"
        if all(text == "" for text in frame[k]):
            left_out.append(f"{names[k]} (empty)")
        elif _counts_rows(frame[k].to_list()):
            left_out.append(f"{names[k]} (counts the rows)")
        elif names[k] in header:
            raise DataError(f"{file}: column {k + 1} has no name; give it one")
        else:
            kept.append(k)
    if len(kept) < 2:
        raise DataError(
            f"{file}: one column only, {quoted(names[kept[0]]) if kept else 'without a name'}; "
            "fields are separated by commas, tabs, semicolons or bars"
        )
    return frame[kept].set_axis([names[k] for k in kept], axis=1), listed(left_out)


def _with_decimal_points(frame: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Write decimals with a point in the columns that have commas, and return their names.

    Where all of a column may as well be thousands, such as 1,234, it is left as it is.
    """
    replaced = {}
    for name in frame.columns:
        texts = [text for text in frame[name] if not is_missing(text)]
        found = [text for text in texts if DECIMAL_COMMA.fullmatch(text)]
        decimals = not all(map(_THOUSANDS.fullmatch, found))
        if decimals and all("." not in t and is_number(t.replace(",", ".")) for t in texts):
            replaced[name] = frame[name].str.replace(",", ".", regex=False)
    return frame.assign(**replaced), list(replaced)


def _counts_rows(texts: list[str]) -> bool:
    values = numbers(texts)
    return values is not None and bool(np.all(np.diff(values) == 1)) and values[0] in (0, 1)


class _Records:
    """The records of a table as Python's reader sees them, with the lines where they start."""

    def __init__(self, name: str, body: str, delimiter: str, above: int):
        self.name, self.body, self.delimiter, self.above = name, body, delimiter, above

    def _records(self, more: str = "") -> Iterator[tuple[int, list[str]]]:
        reader = csv.reader(io.StringIO(self.body + more, newline=""), delimiter=self.delimiter)
        line = self.above + 1
        try:
            for record in reader:
                yield line, record
                line = self.above + reader.line_num + 1
        except csv.Error as error:
            raise DataError(f"{self.name}: line {line}: {error}") from None

    def header(self) -> list[str]:
        for _, record in self._records():
            return [name.strip() for name in record]
        raise DataError(f"{self.name} is empty; need a header row and at least one row of data")

    def line(self, number: int, column: int) -> int:
        """Return the line where a cell of a record starts."""
        start, record = next(islice(self._records(), number, None))
        return start + sum(text.count("\n") for text in record[:column])

    def check_lengths(self, width: int) -> None:
        """Raise if a record that is not blank has too few or too many fields."""
        for line, record in self._records():
            if len(record) != width and any(map(str.strip, record)):
                raise DataError(
                    f"{self.name}: line {line} has {len(record)} fields, the header has {width}"
                )

    def fault(self, width: int) -> DataError:
        """Return what is wrong with a table that pandas refuses."""
        line, last = deque(self._records("\nend"), 1).pop()
        if last != ["end"]:
            return DataError(f"{self.name}: a quote that opens in line {line} is never closed")
        self.check_lengths(width)
        return DataError(f"{self.name}: not a table of fields separated by {self.delimiter!r}")
