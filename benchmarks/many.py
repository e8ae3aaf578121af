"""Many problems in one call: is memory flat, and what does a kill lose?

    python -m benchmarks.many                100,000 problems of 30 samples and 6 features

First a plain call, with the resident memory sampled. Then a call with a checkpoint in another
process, killed when about half is done, and one that goes on from there.
"""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")

import jax
import numpy as np

import jaxqsdp as qs
from tests.problems import planted

from ._report import arguments, publish

_SIZE = (30, 6)


def _problems(count: int) -> qs.Problem:
    """Planted problems, each of 256 data sets with many penalties."""
    datas = [planted(seed, *_SIZE) for seed in range(min(count, 256))]
    X, y = (np.stack([getattr(data, name) for data in datas]) for name in ("X", "y"))
    which = np.arange(count) % len(datas)
    betas = np.geomspace(0.06, 6, count)
    return jax.vmap(lambda X, y, beta: qs.Problem(X, y, beta))(X[which], y[which], betas)


def _resident() -> float:
    """Return the resident memory in MiB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def _sampled(samples: list[float], stop: threading.Event) -> None:
    while not stop.wait(0.1):
        samples.append(_resident())


def _checkpointed(count: int, folder: str) -> None:
    jax.config.update("jax_enable_x64", True)
    qs.solve_batch(_problems(count), checkpoint=folder, progress=False)


def _saved(folder: Path) -> int:
    return sum(len(np.load(part)["places"]) for part in folder.glob("part-*.npz"))


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--count", type=int, default=100_000)
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    problems = _problems(options.count)
    qs.solve_batch(_problems(2000), progress=False)  # compiled, and every buffer in place
    samples, stop = [_resident()], threading.Event()
    watcher = threading.Thread(target=_sampled, args=(samples, stop))
    watcher.start()
    start = time.perf_counter()
    solution: Any = qs.solve_batch(problems, progress=False)
    seconds = time.perf_counter() - start
    stop.set()
    watcher.join()
    results = sum(leaf.nbytes for leaf in jax.tree.leaves(solution)) / 2**20
    early = samples[len(samples) // 10]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        context = multiprocessing.get_context("spawn")
        process = context.Process(target=_checkpointed, args=(options.count, name))
        process.start()
        while _saved(folder) < options.count // 2:
            time.sleep(0.2)
        process.kill()
        process.join()
        saved = _saved(folder)
        resumed: Any = qs.solve_batch(problems, checkpoint=folder, progress=False)
        solved_once = _saved(folder)
    publish(
        [
            {
                "problems": options.count,
                "solved": int(np.sum(solution.status == qs.Status.solved)),
                "worst gap": float(np.max(solution.stats.gap)),
                "seconds": seconds,
                "ms a problem": 1e3 * seconds / options.count,
                "results MiB": results,
                "MiB at 10 %": early,
                "MiB at most": max(samples),
                "saved at the kill": saved,
                "solved after": solved_once - saved,
                "equal": bool(np.allclose(resumed.value, solution.value, rtol=1e-8)),
            }
        ],
        options.json,
    )


if __name__ == "__main__":
    main()
