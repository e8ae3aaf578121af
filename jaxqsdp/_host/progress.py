"""A progress bar where there is somebody to look at it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(total: int | None, show: bool | None, unit: str) -> Iterator[Callable[..., None]]:
    """Yield a function that adds to the count shown, and may change the note beside it.

    `total` None means that nobody knows. `show` None means a bar if tqdm is installed and standard
    error is a terminal.

    **Raises:** `ImportError` if a bar is asked for and tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        if show:
            raise ImportError("`progress=True` needs tqdm: pip install 'jaxqsdp[demo]'.") from None
        yield lambda count, note="": None
        return
    with tqdm(total=total, unit=unit, disable=None if show is None else not show) as bar:

        def advance(count: int, note: str = "") -> None:
            bar.set_postfix_str(note, refresh=count == 0)
            bar.update(count)

        yield advance
