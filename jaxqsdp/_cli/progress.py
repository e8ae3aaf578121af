"""A bar that moves evenly through stages of known names and about known lengths."""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

_INTERVAL = 0.25  # seconds between two looks at the clock
_MOST = 0.95  # of a stage that takes longer than thought


def position(done: float, weight: float, elapsed: float, inside: float) -> float:
    """Return how far the bar is, in the units of the weights.

    `done` is the weight of the stages that are over, which took `elapsed` seconds, `weight` that of
    the stage now, begun `inside` seconds ago. A stage is taken to last as long for its weight as
    those before it, the first one a second for each unit.
    """
    pace = elapsed / done if done > 0 else 1.0
    return done + weight * min(inside / max(weight * pace, 1e-9), _MOST)


class Stages:
    """Show the stage that a program is in, on standard error if that is a terminal.

    `weights` are seconds that stages take on some machine; only their ratios matter.
    """

    def __init__(self, weights: Mapping[str, float]):
        self._weights = weights
        self._total = sum(weights.values())
        self._done = 0.0
        self._bar: Any = None
        if sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty():
            from tqdm import tqdm

            style = "{desc:<56}{percentage:3.0f}% |{bar:24}| {elapsed}"
            self._bar = tqdm(total=self._total, bar_format=style, file=sys.stderr)
        self._start = time.monotonic()

    @contextlib.contextmanager
    def stage(self, name: str, note: str = "") -> Iterator[None]:
        """Show that a stage lasts, and move the bar by its weight."""
        weight = self._weights[name]
        if self._bar is None:
            yield
            return
        self._bar.set_description(f"{name}{note}", refresh=False)
        over = threading.Event()
        clock = threading.Thread(target=self._move, args=(weight, over), daemon=True)
        clock.start()
        try:
            yield
        finally:
            over.set()
            clock.join()
        self._done += weight
        self._show(self._done)

    def _move(self, weight: float, over: threading.Event) -> None:
        began = time.monotonic()
        while not over.is_set():
            now = time.monotonic()
            self._show(position(self._done, weight, began - self._start, now - began))
            over.wait(_INTERVAL)

    def _show(self, place: float) -> None:
        self._bar.n = place
        self._bar.refresh()

    def close(self, name: str) -> None:
        """Leave the bar as it is, under this name."""
        if self._bar is not None:
            self._bar.set_description(name, refresh=False)
            self._bar.close()
