"""Is a bound ever above the optimum: a thousand small problems of every loss, with all neurons.

    python -m benchmarks.brute_force
    python -m benchmarks.brute_force --activations polynomial --count 500
    python -m benchmarks.brute_force --losses hinge softmax --count 100

Random problems of 2 to 4 features and 14 samples, weights, penalties over three decades, both
dtypes; of polynomials four in turn. The optimum of training is that of the output weights of all
neurons, at once. Counted are problems where the bound of the relaxation or the combinatorial one is
above that, or an objective is below it, and how far bound and optimum are apart.
"""

from __future__ import annotations

import itertools
import json
from typing import Any

import jax
import numpy as np

import jaxqsdp as qs
from tests.losses import ALL, problem_of
from tests.networks import best_of_all

from ._report import arguments, environment, markdown

_SAMPLES, _FEATURES = 14, (2, 3, 4)
_NEURONS = 4
_ACTIVATIONS = {
    "bilinear": [qs.Bilinear()],
    "polynomial": [
        qs.Polynomial(0.09, 0.5, 0.47),
        qs.Polynomial(1.0),
        qs.Polynomial(1.0, -1.0, 0.3),
        qs.Polynomial(-0.5, 0.6, -1.0),
    ],
}
_ROUNDING = {np.float64: 1e-9, np.float32: 1e-5}  # of the optimum's own value


def problem(kind: str, name: str, index: int, dtype: Any) -> qs.Problem:
    """Return one of the random problems of neurons and a loss."""
    d, fraction, kinds = _FEATURES[index % 3], 10.0 ** -(index % 4), _ACTIVATIONS[kind]
    activation = kinds[index // 12 % len(kinds)]
    options = {"fraction": fraction, "seed": index, "dtype": dtype, "activation": activation}
    return problem_of(name, _SAMPLES, d, **options)


def compare(kind: str, name: str, dtype: Any, count: int) -> dict[str, Any]:
    """Solve so many problems, prove, and compare with the optimum."""
    problems = [problem(kind, name, index, dtype) for index in range(count)]
    solutions = qs.solve_batch(problems)
    above = below = 0
    weakness = []
    for index, (one, solution) in enumerate(zip(problems, solutions, strict=True)):
        optimum, _ = best_of_all(one)
        network = qs.round(one, solution, num_neurons=_NEURONS, key=jax.random.key(index))
        proofs = [qs.certify(one, network, solution, kind=kind) for kind in ("relaxation", "best")]
        bound = max(float(proof.lower_bound) for proof in proofs)
        above += bound > optimum
        room = optimum * (1 - _ROUNDING[dtype])
        below += min(float(one.objective(network)), float(proofs[0].objective)) < room
        weakness.append(1 - bound / optimum if optimum > 0 else 0.0)
    return {
        "neurons": kind,
        "loss": name,
        "dtype": np.dtype(dtype).name,
        "problems": count,
        "bound above the optimum": int(above),
        "objective below it": int(below),
        "bound's distance, median": float(np.median(weakness)),
        "largest": float(np.max(weakness)),
    }


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--losses", nargs="+", choices=ALL, default=list(ALL))
    kinds = list(_ACTIVATIONS)
    parser.add_argument("--activations", nargs="+", choices=kinds, default=kinds)
    parser.add_argument("--count", type=int, default=1000, help="problems a loss and dtype")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    cases = itertools.product(options.activations, options.losses, (np.float64, np.float32))
    for kind, name, dtype in cases:
        rows.append(compare(kind, name, dtype, options.count))
        print(markdown(rows[-1:]), flush=True)
        if options.json is not None:
            text = json.dumps({"environment": environment(), "rows": rows}, indent=1)
            options.json.write_text(text + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
