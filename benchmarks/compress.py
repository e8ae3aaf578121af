"""A half or a quarter of the bits: what `qs.compress` keeps of objective and test accuracy.

    python -m benchmarks.compress --json compress.json
    python -m benchmarks.compress --data breast_cancer --neurons 8

The network to begin with is one-bit, of 16 neurons, by `qs.improve`, and its output weights count
32 bits. β is chosen by cross-validation. `cut` is what pruning alone leaves: its largest neurons,
as many as the budget has room for with output weights of eight bits, refitted and rounded.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np

import jaxqsdp as qs

from ._report import arguments, publish
from .levels import data

DATA = ("breast_cancer", "ionosphere", "digits 3/8", "wine")
SHARES = (0.5, 0.25)
_KEY = 0


def measure(name: str, neurons: int) -> list[dict[str, Any]]:
    """Return the rows of a data set."""
    problem, test_X, test_y = data(name, True)
    key = jax.random.key(_KEY)
    solution = qs.solve(problem)
    drawn = qs.round(problem, solution, num_neurons=neurons, key=key)
    options: Any = {"key": key, "solution": solution, "progress": False}
    network = qs.improve(problem, drawn, max_neurons=neurons, **options)

    given, full = network, network.num_bits + 32 * network.alpha.size

    def row(share: float, method: str, network: qs.QuantizedNetwork) -> dict[str, Any]:
        predicted = np.sign(np.asarray(jax.vmap(network)(test_X)))
        return {
            "data": name,
            "share of bits": share,
            "method": method,
            "bits": full if network is given else network.total_bits,
            "neurons": network.num_neurons,
            "levels": repr(network.levels),
            "α bits": network.alpha_bits or 32,
            "objective": float(problem.objective(network)),
            "gap": float(qs.certify(problem, network, solution, kind="relaxation").gap),
            "accuracy": float(np.mean(predicted == test_y)),
        }

    rows = [row(1.0, "improve", network)]
    for share in SHARES:
        budget = int(share * full)
        found = qs.compress(problem, network, max_bits=budget, **options)
        rows.append(row(share, "compress", found.network))
        each = 2 * problem.num_features + 8
        size = -np.abs(np.asarray(network.alpha))
        few = network.subset(np.argsort(size)[: (budget - 64) // each])
        rows.append(row(share, "cut", qs.quantize_alpha(problem, few, bits=8)))
    for line in rows:
        line["objective, relative"] = line["objective"] / rows[0]["objective"]
    return rows


def main() -> None:
    parser = arguments((__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", default=DATA, choices=DATA)
    parser.add_argument("--neurons", type=int, default=16, help="of the network to begin with")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = [row for name in options.data for row in measure(name, options.neurons)]
    publish(rows, options.json)


if __name__ == "__main__":
    main()
