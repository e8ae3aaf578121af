"""Text on the terminal: in any encoding, on one line where one is promised, even if nobody reads.

Python writes what is left in a buffer when it exits, and complains on several lines if the pipe is
closed by then or the disk is full. So everything is flushed here, and a stream that failed is
pointed elsewhere.
"""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import TextIO

_SPELLED_OUT = {
    **{"α": "alpha", "β": "beta", "ℓ": "l", "‖": "||", "₁": "1", "²": "^2"},
    **{"·": "*", "×": "x", "−": "-", "±": "+-", "≤": "<=", "…": "..."},
}


def _spell_out(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    return "".join(_SPELLED_OUT.get(letter, "?") for letter in part), error.end


codecs.register_error("jaxqsdp.spelled_out", _spell_out)


@contextlib.contextmanager
def any_encoding() -> Iterator[None]:
    """Let the standard streams spell out what their encoding lacks, such as β in cp1252."""
    streams = [
        stream
        for stream in (sys.stdout, sys.stderr)
        if isinstance(stream, io.TextIOWrapper) and not stream.closed
    ]
    before = [stream.errors for stream in streams]
    for stream in streams:
        stream.reconfigure(errors="jaxqsdp.spelled_out")
    try:
        yield
    finally:
        for stream, errors in zip(streams, before, strict=True):
            with contextlib.suppress(OSError, ValueError):  # it flushes, and may be closed by now
                stream.reconfigure(errors=errors)


def one_line(text: str) -> str:
    """Escape line breaks, control characters and the like."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def write(text: str, stream: TextIO | None) -> None:
    """Write and flush.

    **Raises:** `OSError` if that fails; the interpreter can exit in silence after it.
    """
    if stream is None or stream.closed:
        raise OSError("the stream is closed")
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        _discard(stream)
        raise


def flushed() -> bool:
    """Flush standard output; return whether that went well, else complain."""
    try:
        write("", sys.stdout)
    except OSError as error:
        complain(f"cannot write to standard output: {error.strerror or error}")
        return False
    return True


def _discard(stream: TextIO) -> None:
    """Send what is left in the buffer nowhere."""
    with contextlib.suppress(OSError):  # not a file
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, stream.fileno())
        os.close(null)


def complain(message: str) -> int:
    """Write one line to standard error, if somebody listens; return the exit code for that."""
    with contextlib.suppress(OSError):
        write(f"jaxqsdp: {one_line(message)}\n", sys.stderr)
    return 2
