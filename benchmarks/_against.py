"""Compare this checkout with another one, process by process, in turn."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ._report import markdown


def compare(doc: str, names: list[str], run: Callable[[str, Path, str], float]) -> None:
    """Print, and write if asked to, medians of `run(name, checkout, python)` in seconds."""
    parser = argparse.ArgumentParser(description=doc)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--against", type=Path, help="another checkout")
    parser.add_argument("--python", default=sys.executable, help="its interpreter")
    parser.add_argument("--only", nargs="*", help="rows to run, by a part of their names")
    parser.add_argument("--json", type=Path, help="also write the table to this file")
    options = parser.parse_args()
    here = Path(__file__).resolve().parent.parent
    sides = [("here", here, sys.executable)]
    if options.against is not None:
        sides.append(("there", options.against.resolve(), options.python))
    rows: list[dict[str, Any]] = []
    for name in names:
        if options.only and not any(part in name for part in options.only):
            continue
        seconds: dict[str, list[float]] = {side: [] for side, *_ in sides}
        for _ in range(options.runs):
            for side, checkout, python in sides:
                seconds[side].append(run(name, checkout, python))
        row: dict[str, Any] = {"what": name}
        row |= {side: statistics.median(some) for side, some in seconds.items()}
        if "there" in row:
            row["ratio"] = row["there"] / row["here"]
        rows.append(row)
        print(row, flush=True)
    shown = [{k: f"{v:.3g}" if isinstance(v, float) else v for k, v in row.items()} for row in rows]
    print(markdown(shown))
    if options.json is not None:
        options.json.write_text(json.dumps({"runs": options.runs, "rows": rows}, indent=1) + "\n")


def printed_seconds(
    python: str, program: str, checkout: Path, folder: str, **environment: str
) -> float:
    """Run a program that uses a checkout in a folder, and return the last SECONDS it prints."""
    done = subprocess.run(
        [python, "-c", program],
        env={**os.environ, "PYTHONPATH": str(checkout), **environment},
        cwd=folder,
        capture_output=True,
        text=True,
        check=True,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("SECONDS")]
    return float(lines[-1].split()[1])
