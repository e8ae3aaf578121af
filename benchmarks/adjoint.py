"""Why the system of the derivatives is factored: direct against matrix-free solves of it.

    python -m benchmarks.adjoint
    python -m benchmarks.adjoint --sizes 100x10 --products 1000

The linearized conditions next to the solution of a planted problem, for a random change of y and
in float64, are solved by the factorization that the package uses, refined, and by the Krylov
methods of Lineax, which take products only, asked for 1e-8 within so many products. The error is
that of dZ, relative to the direct one. Seconds are medians of warm calls; those of the direct solve
contain assembly and factorization.
"""

from __future__ import annotations

import dataclasses
import functools
from typing import Any

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree

import jaxqsdp as qs
from jaxqsdp._adjoint.central import Central, Data, Linearization
from jaxqsdp._adjoint.implicit import Scaling, data_of, linearization
from tests.problems import planted

from ._report import arguments, publish, seconds

_FRACTION = 0.1  # β/d
_SMOOTHING = 1e-7
_TOL = 1e-8


_RESTART = 50  # of GMRES, in products


def _system(n: int, d: int) -> tuple[Linearization, Data, jax.Array]:
    """Return the conditions at the central point next to a solution, a change of y, and μ."""
    planted_data = planted(0, n, d)
    problem = qs.Problem(planted_data.X, planted_data.y, _FRACTION * d)
    given = data_of(problem)
    scaling, data = Scaling.of(given, jnp.asarray(True))
    linear = linearization(_SMOOTHING, data, qs.solve(problem), scaling)
    products = linear.central.primal @ linear.slack
    mu = jnp.mean(jnp.diagonal(products, axis1=1, axis2=2))
    zeros = jax.tree.map(jnp.zeros_like, data)
    change = jnp.asarray(np.random.default_rng(1).standard_normal(n))
    return linear, dataclasses.replace(zeros, y=change), mu


def _methods(products: int) -> dict[str, tuple[Any, int]]:
    """Return each Krylov method and how many products a step of it takes."""
    tols = {"rtol": _TOL, "atol": _TOL}
    restarts = max(products // _RESTART, 1)
    return {
        f"GMRES({_RESTART})": (
            lx.GMRES(**tols, max_steps=restarts, restart=_RESTART, stagnation_iters=restarts),
            _RESTART,
        ),
        "BiCGStab": (lx.BiCGStab(**tols, max_steps=products // 2), 2),
        "LSMR": (lx.LSMR(**tols, max_steps=products // 2, conlim=1e16), 2),
    }


def _rows(n: int, d: int, products: int) -> list[dict[str, Any]]:
    """Solve one system in every way."""
    linear, change, mu = _system(n, d)
    asked = ravel_pytree(linear._asked(change))[0]
    as_step = ravel_pytree(linear.central)[1]

    @jax.jit
    def direct(central: Central, data: Data, mu: jax.Array) -> Central:
        return Linearization.of(central, data, mu).derivative(change)

    def row(method: str, warm: float, step: Central, count: int | None) -> dict[str, Any]:
        left = asked - ravel_pytree(linear._conditions(step))[0]
        return {
            "n": n,
            "d": d,
            "unknowns": asked.size,
            "method": method,
            "products": count,
            "seconds": warm,
            "residual": float(jnp.linalg.norm(left) / jnp.linalg.norm(asked)),
            "error": float(jnp.linalg.norm(step.form - exact.form) / jnp.linalg.norm(exact.form)),
        }

    arguments = linear.central, linear.data, mu
    exact = direct(*arguments)
    _, warm = seconds(lambda: direct(*arguments))
    rows = [row("factorization", warm, exact, None)]
    operator = lx.FunctionLinearOperator(
        lambda vector: ravel_pytree(linear._conditions(as_step(vector)))[0],
        jax.eval_shape(lambda: asked),
    )
    for name, (method, each) in _methods(products).items():

        @jax.jit
        def solve(vector: jax.Array, method: Any = method) -> tuple[jax.Array, jax.Array]:
            found = lx.linear_solve(operator, vector, method, throw=False)
            return found.value, found.stats["num_steps"]

        value, steps = solve(asked)
        _, warm = seconds(functools.partial(solve, asked), repeats=1)
        rows.append(row(name, warm, as_step(value), each * int(steps)))
    return rows


def main() -> None:
    parser = arguments(__doc__ or "")
    parser.add_argument("--sizes", nargs="*", default=["100x10", "400x20", "400x40", "1500x60"])
    parser.add_argument("--products", type=int, default=10_000, help="at most")
    options = parser.parse_args()
    jax.config.update("jax_enable_x64", True)
    rows = []
    for size in options.sizes:
        n, d = map(int, size.split("x"))
        rows += _rows(n, d, options.products)
    publish(rows, options.json)


if __name__ == "__main__":
    main()
