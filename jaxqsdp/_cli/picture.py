"""The picture: what is proven and what is reached, against the number of neurons."""

from __future__ import annotations

import textwrap
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .._base.text import rounded_down

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SCREEN = "backend"
_WIDTH_OF_TITLE = 66
_BELOW = 0.4  # of what is above the bound
_ROOM = 0.1  # of the height of the axes, for a number


def draw(path: Path, **what: Any) -> None:
    """Write the picture as PNG; the arguments are those of `figure`."""
    import matplotlib

    # The user's own settings, such as LaTeX for all text, are for the user's own plots. Nothing is
    # shown on a screen, and asking for its backend would load what does that.
    defaults = matplotlib.rcParamsDefault
    settings = {name: defaults[name] for name in defaults if name != _SCREEN}
    with matplotlib.rc_context(settings), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of letters that the font lacks
        figure(**what).savefig(path, format="png", dpi=150)


def figure(
    *,
    title: str,
    neurons: list[int],
    rounded: list[float],
    objectives: list[float],
    lower_bound: float,
    gap: str,
) -> Figure:
    """Plot the lower bound, the objectives of networks, rounded and improved, and the last gap."""
    from matplotlib.figure import Figure

    picture = Figure(figsize=(7, 4.2), layout="constrained")
    axes = picture.subplots()
    axes.plot(neurons, rounded, "o--", color="C1", label="rounded and refitted")
    axes.plot(neurons, objectives, "o-", color="C0", label="improved")
    axes.axhline(lower_bound, color="C3", label="proven lower bound: no network is below")
    # Room below for two numbers; not from zero, where all curves would fall on one line.
    highest = max(rounded + objectives)
    bottom = max(0.0, lower_bound - _BELOW * (highest - lower_bound))
    if bottom < lower_bound:
        axes.axhspan(bottom, lower_bound, color="C3", alpha=0.08, linewidth=0)
    # What is reached stands above its point's height, so not where no network is; what is proven
    # below its line, unless that is too close to the axis.
    axes.annotate(
        f"{objectives[-1]:.4g}",
        (neurons[-1], objectives[-1]),
        textcoords="offset points",
        xytext=(7, 2),
        va="bottom",
        color="C0",
    )
    room = lower_bound - bottom > _ROOM * (highest - bottom)
    axes.annotate(
        f"{rounded_down(lower_bound, 4)}, gap {gap}",
        (0.01, lower_bound),
        xycoords=axes.get_yaxis_transform(),
        textcoords="offset points",
        xytext=(0, -3 if room else 3),
        va="top" if room else "bottom",
        color="C3",
    )
    axes.set_xscale("log", base=2)
    axes.set_xticks(neurons, [str(m) for m in neurons])
    axes.minorticks_off()
    axes.set_xlim(neurons[0] / 1.2, neurons[-1] * 1.5)
    axes.set_ylim(bottom=bottom)
    axes.set_xlabel("neurons, at most")
    axes.set_ylabel("objective  ℓ + β‖α‖₁")
    # A `$` in the name of a file is no formula.
    axes.set_title("\n".join(textwrap.wrap(title, _WIDTH_OF_TITLE)[:2]), parse_math=False)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    return picture
