"""The picture: what is proven and what is reached, against the number of neurons."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def draw(
    path: Path,
    *,
    title: str,
    neurons: list[int],
    objectives: NDArray[np.float64],  # (sizes, seeds)
    lower_bound: float,
) -> None:
    """Write a PNG of the lower bound and the objective of the rounded networks."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    median = np.median(objectives, axis=1)
    axes.fill_between(
        neurons, objectives.min(1), objectives.max(1), alpha=0.25, color="C0", linewidth=0
    )
    axes.plot(neurons, median, "o-", color="C0", label="network, refitted (median and range)")
    axes.axhline(lower_bound, color="C3", label="proven lower bound: no network is below")
    axes.axhspan(0, lower_bound, color="C3", alpha=0.08, linewidth=0)
    axes.annotate(
        f"{median[-1]:.4g}",
        (neurons[-1], median[-1]),
        textcoords="offset points",
        xytext=(0, 8),
        ha="right",
    )
    axes.annotate(
        f"{lower_bound:.4g}", (neurons[0], lower_bound), textcoords="offset points", xytext=(0, -12)
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(neurons, [str(m) for m in neurons])
    axes.minorticks_off()
    axes.set_ylim(bottom=0)
    axes.set_xlabel("neurons drawn")
    axes.set_ylabel("objective  ℓ + β‖α‖₁")
    axes.set_title(title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
