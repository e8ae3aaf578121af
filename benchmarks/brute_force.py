"""Is a bound ever above the optimum: a thousand small problems of every loss, with all neurons.

    python -m benchmarks.brute_force
    python -m benchmarks.brute_force --losses hinge softmax --count 100

Random problems of 2 to 4 features and 14 samples, weights, penalties over three decades, both
dtypes. The optimum of training is that of the output weights of all neurons, at once.
Counted are problems where the bound of the relaxation or the combinatorial one is above that, or an
objective is below it, and how far bound and optimum are apart.
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
_ROUNDING = {np.float64: 1e-9, np.float32: 1e-5}  # of the optimum's own value


def problem(name: str, index: int, dtype: Any) -> qs.Problem:
    """Return one of the random problems of a loss."""
    d, fraction = _FEATURES[index % 3], 10.0 ** -(index % 4)
    return problem_of(name, _SAMPLES, d, fraction=fraction, seed=index, dtype=dtype)


def compare(name: str, dtype: Any, count: int) -> dict[str, Any]:
    """Solve so many problems, prove, and compare with the optimum."""
    problems = [problem(name, index, dtype) for index in range(count)]
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
    parser.add_argument("--count", type=int, default=1000, help="problems a loss and dtype")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name, dtype in itertools.product(options.losses, (np.float64, np.float32)):
        rows.append(compare(name, dtype, options.count))
        print(markdown(rows[-1:]), flush=True)
        if options.json is not None:
            text = json.dumps({"environment": environment(), "rows": rows}, indent=1)
            options.json.write_text(text + "\n")
    print(markdown(rows))


if __name__ == "__main__":
    main()
