"""The report: one set of facts, as JSON and as lines to read."""

from __future__ import annotations

import json
import math
from typing import Any

import jax
import numpy as np

from .._base.text import rounded_down, rounded_up
from .._certify import percentage
from .console import one_line
from .errors import listed, quoted
from .losses import LOSSES
from .score import baseline, labels_of, log_loss, probabilities, score
from .table import Table
from .train import Trained

_FLOAT32_BITS = 32
_BOUNDS = {
    "relaxation": "relaxation bound",
    "combinatorial": "combinatorial bound, which may exceed the relaxation's value",
}


def facts(table: Table, trained: Trained, most_neurons: int) -> dict[str, Any]:
    """Return what there is to report, as JSON takes it but for numbers that are not finite."""
    data, network, certificate = trained.data, trained.network, trained.certificate
    predict = jax.jit(jax.vmap(network))
    name, baseline_scores, baseline_log_loss = baseline(data, table.classes)
    train, test = (np.asarray(predict(X)) for X in (data.train_X, data.test_X))
    loss = LOSSES[trained.loss]
    (n, d), test_rows = data.train_X.shape, len(data.test_X)
    weights = network.num_bits
    alpha = network.alpha.size * network.alpha.dtype.itemsize * 8
    return {
        "data": {
            "name": table.name,
            "target": table.target_name,
            "task": table.task,
            "classes": {
                text: int(np.sum(table.target == k)) for k, text in enumerate(table.classes)
            },
            "train_rows": n,
            "test_rows": test_rows,
            "features": d,
            "left_out": data.left_out,
            "notes": data.notes,
        },
        "loss": trained.loss,
        "beta": trained.beta,
        "constant": float(data.units["constant"]),
        "beta_choice": trained.beta_choice,
        "relaxation_value": trained.relaxation_value,
        "lower_bound": float(certificate.lower_bound),
        "lower_bound_kind": certificate.kind,
        "objective": float(certificate.objective),
        "objective_after_rounding": trained.rounded[-1],
        "gap": float(certificate.gap),
        "gap_text": certificate.percentage,
        "optimum": _optimum(trained),
        "metric": "accuracy" if table.classes else "R2",
        "network": {
            "train": score(train, data.train_y, table.classes),
            "test": score(test, data.test_y, table.classes),
        },
        "baseline": {"name": name, **baseline_scores},
        "log_loss": {
            "network": {
                "train": log_loss(probabilities(loss, train), labels_of(data.train_y)),
                "test": log_loss(probabilities(loss, test), labels_of(data.test_y)),
            },
            "baseline": baseline_log_loss,
        }
        if loss.has_probabilities
        else None,
        "neurons": network.num_neurons,
        "most_neurons": most_neurons,
        "sizes": [
            {"most_neurons": size, "objective_after_rounding": before, "objective": after}
            for size, before, after in zip(
                trained.sizes, trained.rounded, trained.objectives, strict=True
            )
        ],
        "bits": {
            "first_layer": weights,
            "alpha": alpha,
            "alpha_dtype": str(network.alpha.dtype),
            "total": weights + alpha,
            "total_in_float32": _FLOAT32_BITS * (weights + network.alpha.size),
        },
        "seconds": trained.seconds,
        "status": trained.status,
        "steps": trained.steps,
        "written": {},
    }


def _optimum(trained: Trained) -> dict[str, Any] | None:
    """Return what is known of the optimum over networks of any size."""
    known, objective = trained.optimum, float(trained.certificate.objective)
    if known is None:
        return None
    gap = (objective - known.lower) / max(abs(objective), float(np.finfo(np.float64).tiny))
    return {
        "lower_bound": known.lower,
        "objective": known.upper,
        "neurons": known.neurons,
        "gap": gap,
        "gap_text": percentage(gap),
    }


def as_json(facts: dict[str, Any]) -> str:
    """Return the facts as JSON in ASCII, with null for numbers that JSON does not have."""
    return json.dumps(_finite(facts), indent=2, allow_nan=False) + "\n"


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_finite(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_text(facts: dict[str, Any]) -> str:
    """Return the facts as lines of a name and what there is to say."""
    data, bits, seconds = facts["data"], facts["bits"], facts["seconds"]
    metric = "accuracy" if facts["metric"] == "accuracy" else "R²"
    sizes = ", ".join(str(size["most_neurons"]) for size in facts["sizes"])
    rows = [
        (
            "data",
            f"{data['name']}, {data['task']}: {data['train_rows']} train + {data['test_rows']} "
            f"test samples, {data['features']} features",
        ),
        *_about(data),
        ("loss", facts["loss"]),
        (
            "penalty β",
            f"{facts['beta']:.5g}, constant feature {facts['constant']:.4g}  "
            f"({facts['beta_choice']})",
        ),
        ("relaxation value", f"{facts['relaxation_value']:.7g}"),
        (
            "proven lower bound",
            f"{rounded_down(facts['lower_bound'])}  ({_BOUNDS[facts['lower_bound_kind']]})",
        ),
        (
            "objective of the network",
            f"{rounded_up(facts['objective'])}  (after rounding alone "
            f"{facts['objective_after_rounding']:.7g})",
        ),
        ("certified gap", f"{facts['gap_text']}  (at most this far from optimal)"),
        *_of_optimum(facts["optimum"]),
        (f"{metric}, this network", _scores(metric, facts["network"])),
        (f"{metric}, {facts['baseline']['name']}", _scores(metric, facts["baseline"])),
        *_log_losses(facts),
        ("neurons kept", f"{facts['neurons']} of {facts['most_neurons']}"),
        (
            "bits",
            f"{bits['total']:,}: first layer {bits['first_layer']:,}, "
            f"α in {bits['alpha_dtype']} {bits['alpha']:,}  "
            f"(all in float32: {bits['total_in_float32']:,})",
        ),
        (
            "seconds",
            f"choosing β and constant {seconds['choice']:.1f}, solving {seconds['solution']:.2f}, "
            f"training {sizes} neurons {seconds['training']:.1f}, "
            f"certifying {seconds['certification']:.1f}"
            + (f", optimum {seconds['optimum']:.1f}" if "optimum" in seconds else ""),
        ),
        ("status", f"{facts['status']} ({facts['steps']} steps)"),
        ("written", ", ".join(facts["written"].values()) or "nothing"),
    ]
    width = max(len(label) for label, _ in rows)
    return "".join(f"  {label:<{width}}   {one_line(text)}\n" for label, text in rows)


def _of_optimum(optimum: dict[str, Any] | None) -> list[tuple[str, str]]:
    if optimum is None:
        return []
    lower, upper, neurons = (optimum[name] for name in ("lower_bound", "objective", "neurons"))
    return [
        (
            "optimum of any size",
            f"between {rounded_down(lower)} and {rounded_up(upper)}, which {neurons} neurons "
            "reach  (proven)",
        ),
        ("gap to the optimum", f"{optimum['gap_text']}  (at most)"),
    ]


def _about(data: dict[str, Any]) -> list[tuple[str, str]]:
    """Return what to know about the columns."""
    rows = list(data["notes"].items())
    if data["classes"]:
        counts = (f"{quoted(name)} ({count} rows)" for name, count in data["classes"].items())
        rows.append(("classes", listed(counts)))
    if data["left_out"]:
        columns = (f"{quoted(name)} ({why})" for name, why in data["left_out"].items())
        rows.append(("left out", listed(columns)))
    return rows


def _log_losses(facts: dict[str, Any]) -> list[tuple[str, str]]:
    found = facts["log_loss"]
    if found is None:
        return []
    return [
        ("log-loss, this network", _scores("log-loss", found["network"])),
        (f"log-loss, {facts['baseline']['name']}", _scores("log-loss", found["baseline"])),
    ]


def _scores(metric: str, scores: dict[str, Any]) -> str:
    def shown(value: float) -> str:
        if math.isnan(value):
            return "undefined in"
        return f"{100 * value:.4g} %" if metric == "accuracy" else f"{value:.4g}"

    return f"{shown(scores['train'])} train, {shown(scores['test'])} test"
