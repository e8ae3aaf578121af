"""The picture: what is proven and what is reached, against the number of neurons."""

from __future__ import annotations

from pathlib import Path


def draw(
    path: Path,
    *,
    title: str,
    neurons: list[int],
    rounded: list[float],
    objectives: list[float],
    lower_bound: float,
) -> None:
    """Write a PNG of the lower bound and the objectives of networks, rounded and improved."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4.2), layout="constrained")
    axes.plot(neurons, rounded, "o--", color="C1", label="rounded and refitted")
    axes.plot(neurons, objectives, "o-", color="C0", label="improved")
    axes.axhline(lower_bound, color="C3", label="proven lower bound: no network is below")
    # From zero, but not if all curves would fall on one line.
    highest = max(rounded + objectives)
    bottom = max(0.0, lower_bound - 2 * (highest - lower_bound))
    axes.axhspan(bottom, lower_bound, color="C3", alpha=0.08, linewidth=0)
    axes.annotate(
        f"{objectives[-1]:.4g}",
        (neurons[-1], objectives[-1]),
        textcoords="offset points",
        xytext=(0, -14),
        ha="right",
        color="C0",
    )
    axes.annotate(
        f"{lower_bound:.4g}",
        (neurons[0], lower_bound),
        textcoords="offset points",
        xytext=(0, -14),
        color="C3",
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(neurons, [str(m) for m in neurons])
    axes.minorticks_off()
    axes.set_ylim(bottom=bottom)
    axes.set_xlabel("neurons, at most")
    axes.set_ylabel("objective  ℓ + β‖α‖₁")
    axes.set_title(title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
