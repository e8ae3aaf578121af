"""What a user waits for at first touch: whole processes with an empty cache, compilation included.

    python -m benchmarks.cold
    python -m benchmarks.cold --against /path/to/other/checkout --python /its/venv/bin/python

Each row is a process of its own; the seconds are medians of `--runs`, printed by the process itself
from its first line on, imports included; a second call counts from the end of the first. With
`--against` another checkout runs the same, in turn, and the ratio of the medians is printed.
`--only` chooses rows.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from ._against import compare, printed_seconds

_HEAD = """
import time
start = time.perf_counter()
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
import jaxqsdp as qs
def data(n, d, seed=0):
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    return X, X[:, 0] * X[:, 1] + 0.1 * rng.standard_normal(n)
def done():
    global start
    print("SECONDS", time.perf_counter() - start, flush=True)
    start = time.perf_counter()
key = jax.random.key(0)
"""
_FIT = "qs.fit(*data({n}, {d}), beta=10.0, num_neurons={m}, key=key, progress=False); done()\n"
_PROGRAMS = {
    "fit 200 x 12, 16 neurons": _FIT.format(n=200, d=12, m=16),
    "... then fit 190 x 11, 14 neurons": _FIT.format(n=200, d=12, m=16)
    + _FIT.format(n=190, d=11, m=14),
    "certify": (
        "problem = qs.Problem(*data(200, 12), 10.0)\n"
        "signs = np.where(data(16, 12)[0] > 0, 1.0, -1.0)\n"
        "network = qs.QuantizedNetwork.from_weights(signs, signs, np.ones(16))\n"
        "qs.certify(problem, network).gap.block_until_ready(); done()\n"
    ),
    "solve_exactly": "print(qs.solve_exactly(qs.Problem(*data(200, 12), 10.0))); done()\n",
    "cross_validate": "print(qs.cross_validate(*data(200, 12), key=key)); done()\n",
    "gradient of a solve": (
        "X, y = data(200, 12)\n"
        "loss = lambda y: qs.solve(qs.Problem(X, y, 10.0)).predictions[0]\n"
        "jax.grad(loss)(y).block_until_ready(); done()\n"
    ),
    "six fits over folds of 88 and 89 rows": (
        "X, y = data(133, 8)\n"
        "for fold in range(3):\n"
        "    for beta in (3.0, 30.0):\n"
        "        kept = np.arange(len(y)) % 3 != fold\n"
        "        qs.fit(X[kept], y[kept], beta=beta, num_neurons=8, key=key, progress=False)\n"
        "done()\n"
    ),
}
_JOB, _JOB_AGAIN = "main job", "main job, second process"


_TIMED = (
    "import sys, time, subprocess\nstart = time.perf_counter()\n"
    "subprocess.run([sys.executable, '-m', 'jaxqsdp'], check=True, stdout=-3, stderr=-3)\n"
    "print('SECONDS', time.perf_counter() - start)\n"
)


def main() -> None:
    compare(__doc__ or "", [*_PROGRAMS, _JOB, _JOB_AGAIN], _run)


def _run(name: str, checkout: Path, python: str) -> float:
    program = _HEAD + _PROGRAMS[name] if name in _PROGRAMS else _TIMED
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(2 if name == _JOB_AGAIN else 1):
            seconds = printed_seconds(python, program, checkout, folder, XDG_CACHE_HOME=folder)
    return seconds


if __name__ == "__main__":
    main()
