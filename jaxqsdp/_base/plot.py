"""Plots of results. Matplotlib is imported where it is used: the core does without."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from .._solve_exactly import ExactResult
    from .._tuning.cross_validation import CrossValidation
    from .._tuning.path import Path


def _axes(ax: Axes | None) -> Axes:
    try:
        from matplotlib import pyplot as plt
    except ImportError:
        raise ImportError(
            "Plots need matplotlib, which the `demo` extra brings: pip install 'jaxqsdp[demo]'."
        ) from None
    if ax is None:
        _, ax = plt.subplots(figsize=(7, 4.2), layout="constrained")
    return ax


def _finish(ax: Axes, **legend: Any) -> Axes:
    ax.set_xscale("log")
    ax.set_xlabel("penalty β")
    # Above the axes: error bars and the second axis leave no corner free.
    ax.legend(frameon=False, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, **legend)
    ax.spines["top"].set_visible(False)
    return ax


def plot_path(path: Path, ax: Axes | None = None) -> Axes:
    """Plot value, bound and loss of a path, and its scale on a second axis."""
    ax = _axes(ax)
    betas = np.asarray(path.betas)
    ax.plot(betas, np.asarray(path.value), color="C0", label="value of the relaxation")
    ax.plot(betas, np.asarray(path.lower_bound), "--", color="C3", label="proven lower bound")
    ax.plot(betas, jax.device_get(path).loss, color="C1", label="loss")
    ax.set_ylim(bottom=0)
    ax.set_ylabel("objective and loss")
    twin = ax.twinx()
    twin.plot(betas, np.asarray(path.scale), ":", color="C2", label="scale ρ (right)")
    twin.set_ylim(bottom=0)
    twin.set_ylabel("scale ρ")
    twin.spines["top"].set_visible(False)
    return _finish(ax, handles=[*ax.get_lines(), *twin.get_lines()])


def plot_cross_validation(result: CrossValidation, ax: Axes | None = None) -> Axes:
    """Plot mean scores with their standard errors, and mark both choices of the penalty."""
    ax = _axes(ax)
    constants = np.asarray(result.constants)
    distinct = list(dict.fromkeys(constants.tolist()))
    for index, constant in enumerate(distinct):
        alike = constants == constant
        name = f"{result.predictor}: mean ± standard error"
        ax.errorbar(
            np.asarray(result.betas)[alike],
            np.asarray(result.mean)[alike],
            yerr=np.asarray(result.standard_error)[alike],
            fmt="o-",
            markersize=3,
            capsize=2,
            color=f"C{(0, 1, 4, 5, 6, 7, 8, 9)[index % 8]}",  # C2 and C3 mark the choices
            label=name if len(distinct) == 1 else f"{result.predictor}, constant {constant:.3g}",
        )
    best, simple = float(result.best_beta), float(result.beta_one_standard_error)
    ax.axvline(best, color="C2", label=f"best: {best:.3g}")
    ax.axvline(simple, color="C3", linestyle="--", label=f"one standard error: {simple:.3g}")
    ax.set_ylabel(f"{result.metric} on held-out samples")
    return _finish(ax)


def plot_history(result: ExactResult, ax: Axes | None = None) -> Axes:
    """Plot objective and bound of column generation, round by round."""
    ax = _axes(ax)
    objective, bound = np.asarray(result.history).T
    rounds = np.arange(1, len(bound) + 1)
    ax.plot(rounds, objective, "o-", markersize=3, color="C0", label="objective of the network")
    ax.plot(rounds, bound, "o-", markersize=3, color="C3", label="proven lower bound")
    ax.fill_between(rounds, bound, objective, color="C3", alpha=0.08, linewidth=0)
    ax.set_ylim(bottom=0)
    ax.set_xlabel("round")
    ax.set_ylabel("objective  ℓ + β‖α‖₁")
    ax.legend(frameon=False)
    ax.spines[["top", "right"]].set_visible(False)
    return ax
