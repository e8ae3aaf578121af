"""Shared by the benchmarks: what was measured where, tables and JSON."""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax


def arguments(description: str) -> argparse.ArgumentParser:
    """Return a parser with the options every benchmark has."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    return parser


def environment() -> dict[str, str]:
    """Return device and versions, to go with every figure."""
    packages = ("jax", "jaxlib", "equinox", "numpy", "clarabel")
    return {
        "device": jax.devices()[0].device_kind,
        "machine": f"{platform.machine()}, {jax.local_device_count()} device",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }


def seconds(function: Callable[[], Any], repeats: int = 5) -> tuple[float, float]:
    """Return the first call's seconds, compilation included, and the median of later ones."""
    durations = []
    for _ in range(repeats + 1):
        start = time.perf_counter()
        jax.block_until_ready(function())
        durations.append(time.perf_counter() - start)
    return durations[0], statistics.median(durations[1:])


def markdown(rows: list[dict[str, Any]]) -> str:
    """Return rows as a Markdown table."""
    names = list(rows[0])
    cells = [[_text(row.get(name)) for name in names] for row in rows]
    widths = [max(len(name), *(len(line[k]) for line in cells)) for k, name in enumerate(names)]

    def line(texts: list[str]) -> str:
        padded = (text.rjust(width) for text, width in zip(texts, widths, strict=True))
        return "| " + " | ".join(padded) + " |"

    rule = "|" + "|".join("-" * (width + 1) + ":" for width in widths) + "|"
    return "\n".join([line(names), rule, *(line(texts) for texts in cells)])


def publish(rows: list[dict[str, Any]], path: Path | None) -> None:
    """Print rows as a Markdown table and write them with the environment as JSON."""
    print(markdown(rows))
    where = environment()
    print("\n" + ", ".join(f"{key} {value}" for key, value in where.items()))
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"environment": where, "rows": rows}, indent=1) + "\n")


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
