"""A lower bound on the training problem itself, beyond the relaxation, for few features."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ._pricing import enumerate_signs

_UNIT = 2.0**-53  # a rounding error, relative
_LEAST = 2.0**-1000  # bounds, with room, what underflow takes from a product of moderate numbers


def combinatorial_bound(
    X: NDArray, y: NDArray, weight: NDArray, beta: float, dual: NDArray
) -> float:
    """Bound the optimum of training, one output, from below, starting from any λ.

    The dual of the training problem, that is, of the LASSO over all neurons, is

        max λᵀy − ½ Σ_i λ_i²/w_i   s.t.  max_{u,v} |uᵀGv| ≤ β,  G = Σ_i λ_i x_i x_iᵀ,

    with λ_i = 0 where w_i = 0. The maximum is taken over all sign vectors u, with v = sign(Gu);
    c·λ with c = clip(λᵀy / Σλ²/w, 0, β/max) is feasible and the best on its ray. Computed on the
    host in float64, in which float32 data are exact; sums carry their a-priori error bounds, which
    hold for any order of summation, and every step is rounded to the safe side. A bound below zero
    becomes 0, which loss and penalty never fall below.

    Takes time of the order of 2^d.
    """
    X, y, weight, dual = (np.asarray(a, np.float64) for a in (X, y, weight, dual))
    # Exact changes of units; what they flush to zero is below any of the allowances.
    weight, weight_unit = _moderate(weight)
    usable = weight > 2.0**-200  # any λ will do, one without the others too
    X, y, weight, dual = X[usable], y[usable], weight[usable], dual[usable]
    dual = np.where(np.isfinite(dual), dual, 0)
    if not (np.any(dual != 0) and np.all(np.isfinite(X)) and np.all(np.isfinite(y))):
        return 0.0
    (X, feature_unit), (y, target_unit), (dual, _) = (_moderate(a) for a in (X, y, dual))
    n, d = X.shape
    penalty = float(np.ldexp(float(beta), -2 * feature_unit - target_unit - weight_unit))
    if not 2.0**-900 < penalty < 2.0**900:
        return 0.0

    def rounding(operations: int) -> float:
        return 1.01 * operations * _UNIT

    # |fl(uᵀGv) − uᵀGv| ≤ γ Σ_i |λ_i| ‖x_i‖₁² for all signs.
    gram = X.T @ (dual[:, None] * X)
    mass = float(np.abs(dual) @ np.square(np.abs(X).sum(axis=1)))
    norms, _ = enumerate_signs(gram, 1)
    norm = float(norms[0]) + 2 * rounding(2 * n + 4 * d + 16) * mass + _LEAST

    linear = float(dual @ y) - 2 * rounding(n + 2) * float(np.abs(dual) @ np.abs(y)) - _LEAST
    quadratic = float(np.sum(np.square(dual) / weight)) * (1 + 2 * rounding(n + 4)) + _LEAST
    c = min(max(linear / quadratic, 0.0), penalty / norm * (1 - 4 * _UNIT))
    gain, loss = c * linear, 0.5 * c * c * quadratic
    bound = (gain - loss) - 8 * _UNIT * (abs(gain) + loss) - _LEAST
    if not 0 < bound < np.inf:
        return 0.0
    restored = float(np.ldexp(bound, 2 * target_unit + weight_unit))
    return restored if 2.0**-1000 < restored < np.inf else 0.0


def _moderate(array: NDArray[np.float64]) -> tuple[NDArray[np.float64], int]:
    """Return the array divided by 2^k, below 1 in magnitude, and k."""
    exponent = int(np.frexp(np.abs(array).max(initial=0))[1])
    return np.ldexp(array, -exponent), exponent
