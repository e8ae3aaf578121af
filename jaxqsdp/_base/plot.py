"""What plots of results share. Matplotlib is imported where it is used: the core does without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def axes_for(ax: Axes | None) -> Axes:
    """Return the axes given, or those of a new figure."""
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        raise ImportError(
            "Plots need matplotlib, which the `demo` extra brings: pip install 'jaxqsdp[demo]'."
        ) from None
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    return ax


def finished(ax: Axes, **legend: Any) -> Axes:
    """Scale and label the axis of the penalty, and put the legend above."""
    ax.set_xscale("log")
    ax.set_xlabel("penalty β")
    # Above the axes: error bars and the second axis leave no corner free.
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, **legend)
    ax.spines["top"].set_visible(False)
    return ax
