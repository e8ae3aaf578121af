"""Which constant to append: the rule of `qs.with_constant` against others.

    python -m benchmarks.constant --json constant.json

Test accuracy (targets ±1) or R² of the relaxation on the 30 % of rows held out, mean over six
splits, with the best penalty of ten from β_max down to β_max/1000, for constants of absolute size
and for multiples of √d. The best penalty is that of the test scores: constants are compared, and
cross-validation would add its own noise. Data sets are those of `benchmarks.quality`, and autompg;
planted ones are sums of products, without linear terms.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import jaxqsdp as qs
from tests.problems import planted

from ._data import KEEL, MLXTEND, SKLEARN, load
from ._report import arguments, publish
from .quality import PLANTED

ABSOLUTE = (1.0, 8.0, 20.0)
MULTIPLES = (0.5, 1.0, 1.5, 2.0, 3.0, 5.0, 10.0)
SPLITS, BETAS, HELD_OUT, NOISE = 6, 10, 0.3, 0.3


@jax.jit
def _predictions(X: jax.Array, y: jax.Array, test_X: jax.Array, constant: jax.Array) -> jax.Array:
    path = qs.path(qs.with_constant(X, constant), y, num_betas=BETAS)
    rows = qs.with_constant(test_X, constant)
    return jnp.einsum("ni,kij,nj->kn", rows, path.quadratic_form, rows)


def measure(name: str) -> dict[str, Any]:
    """Return one row of the table."""
    if name in PLANTED:
        n, d = PLANTED[name]
        data = planted(0, round(n / (1 - HELD_OUT)), d, noise=NOISE)
        X, y = np.asarray(data.X), np.asarray(data.y)
    else:
        X, y = load(name)
    classes = bool(np.all(np.abs(y) == 1))
    n, d = X.shape
    scales = {f"{scale:g}": scale for scale in ABSOLUTE}
    scales |= {f"{multiple:g}·√d": multiple * d**0.5 for multiple in MULTIPLES}
    scores = np.empty((SPLITS, len(scales), BETAS))
    for seed in range(SPLITS):
        order = np.random.default_rng(seed).permutation(n)
        train, test = np.split(order, [round((1 - HELD_OUT) * n)])
        center, spread = X[train].mean(axis=0), X[train].std(axis=0)
        features = (X - center) / np.where(spread > 0, spread, np.inf)
        targets = y if classes else (y - y[train].mean()) / y[train].std()
        for index, scale in enumerate(scales.values()):
            predictions = _predictions(features[train], targets[train], features[test], scale)
            truth = targets[test][None]
            if classes:
                scores[seed, index] = np.mean((predictions >= 0) == (truth > 0), axis=1)
            else:
                rest = np.sum((predictions - truth) ** 2, axis=1)
                scores[seed, index] = 1 - rest / np.sum((truth - truth.mean()) ** 2)
    best = scores.mean(axis=0).max(axis=1)
    row = {"data": name, "n": n, "d": d, "metric": "accuracy" if classes else "R²"}
    return row | {name: f"{score:.4f}" for name, score in zip(scales, best, strict=True)}


def main() -> None:
    known = (*SKLEARN, *KEEL, *MLXTEND, *PLANTED)
    parser = arguments((__doc__ or "").partition("\n")[0])
    parser.add_argument("--data", nargs="+", default=known, choices=(*known, "wine 1"))
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    for name in options.data:
        try:
            rows.append(measure(name))
        except ImportError as error:
            print(f"{name} left out: {error}", flush=True)
            continue
        print(rows[-1], flush=True)
    publish(rows, options.json)


if __name__ == "__main__":
    main()
