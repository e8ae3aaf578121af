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
    axes.axhspan(0, lower_bound, color="C3", alpha=0.08, linewidth=0)
    axes.annotate(
        f"{objectives[-1]:.4g}",
        (neurons[-1], objectives[-1]),
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
    axes.set_xlabel("neurons, at most")
    axes.set_ylabel("objective  ℓ + β‖α‖₁")
    axes.set_title(title)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=150)
    plt.close(figure)
