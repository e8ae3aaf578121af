"""A progress bar where there is somebody to look at it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator


@contextlib.contextmanager
def progress_bar(total: int, show: bool | None, unit: str) -> Iterator[Callable[[int], object]]:
    """Yield a function that adds to the count shown.

    `show` None means a bar if tqdm is installed and standard error is a terminal.

    **Raises:** `ImportError` if a bar is asked for and tqdm is not installed.
    """
    try:
        from tqdm import tqdm
    except ImportError:
        if show:
            raise ImportError("`progress=True` needs tqdm: pip install 'jaxqsdp[demo]'.") from None
        yield lambda count: None
        return
    with tqdm(total=total, unit=unit, disable=None if show is None else not show) as bar:
        yield bar.update
