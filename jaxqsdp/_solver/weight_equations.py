"""Newton's equations for output weights, of one output and of all where a loss couples them.

    Θq + Sa = first,   Sᵀq − a/gain = second

for q (n,) and a (m,), with Θ (n,) and gain (m,) positive, of which the larger part is eliminated;
and together, for q (n, c), A (m, c) and ν (n,),

    Θ∘q + SA − ν1ᵀ = first,   q1 = 0,   Sᵀq − A/gain = second.

That q sums to zero over the outputs, and ν, is what such a loss adds. With ν eliminated it is

    q_i = L(1/Θ_i)(first − SA)_i,   L(g) = diag g − g gᵀ/1ᵀg,

so that equal shifts of all outputs, L(g)1 = 0, cost nothing but 1/gain, next to nothing where all
outputs use a neuron. These go first and exactly: beside the differences from the output with the
least gain, which differs from neuron to neuron, it is L(1/gain_j) that is left of 1/gain_j.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from jaxtyping import Array, Float

from .._base.cone import definite_solver
from .._base.types import epsilon, namespace, over_leading, tiny

_RIDGE = 4  # units in the last place that the diagonal of a Newton matrix is raised by

Pair = tuple[Float[Array, "n ..."], Float[Array, "m ..."]]
Solver = Callable[[Float[Array, "n ..."], Float[Array, "m ..."]], Pair]


def scaled_solver(matrix: Float[Array, "k k"]) -> Callable[[Array], Array]:
    """Factor a positive definite matrix, its diagonal made 1 and raised by some rounding errors."""
    xp = namespace(matrix)
    size = 1 / xp.sqrt(xp.diagonal(matrix))
    ridge = _RIDGE * epsilon(matrix.dtype) * xp.eye(len(size), dtype=matrix.dtype)
    factored = definite_solver(matrix * size[:, None] * size[None] + ridge)
    return lambda right: size * factored(size * right)


def single_solver(
    scaled: Float[Array, "n m"], theta: Float[Array, " n"], gain: Float[Array, " m"]
) -> Solver:
    """Return the map from (first, second) to (q, a) for one output; `scaled` is S."""
    xp, (n, m) = namespace(theta), scaled.shape
    if n <= m:
        by_samples = scaled_solver(xp.diag(theta) + (scaled * gain[None]) @ scaled.T)

        def solve(first: Array, second: Array) -> Pair:
            q = by_samples(first + scaled @ (gain * second))
            return q, gain * (q @ scaled - second)

    else:
        by_neurons = scaled_solver(xp.diag(1 / gain) + scaled.T @ (scaled / theta[:, None]))

        def solve(first: Array, second: Array) -> Pair:
            change = by_neurons((first / theta) @ scaled - second)
            return (first - scaled @ change) / theta, change

    return solve


def without_border(solver: Solver) -> Callable[[Array, Array, Any], tuple[Array, Array, Any]]:
    """Return a solver that takes and gives None for what belongs to an intercept."""
    return lambda first, second, third: (*solver(first, second), None)


def bordered(
    solver: Solver, root: Float[Array, " n"], theta: Array, gain: Array
) -> Callable[[Array, Array, Any], tuple[Array, Array, Any]]:
    """Return the map to (q, a, μ) where besides √w·μ is added to the first and √wᵀq = third."""
    xp, shape, m = namespace(root, theta), theta.shape[1:], gain.shape[0]
    eye = xp.eye(shape[0], dtype=root.dtype) if shape else xp.ones((1,), root.dtype)
    nothing = xp.zeros((m, *shape), root.dtype)
    columns = [solver(root[:, None] * row[None] if shape else root, nothing) for row in eye]
    matrix = xp.stack([root @ q for q, _ in columns], axis=-1)  # () or (c, c), then the column
    if shape:  # equal shifts of all outputs change nothing
        size = xp.max(xp.abs(matrix))
        ridge = _RIDGE * epsilon(root.dtype) * size + tiny(root.dtype)
        matrix = matrix + size / shape[0] + ridge * eye

    def solve(first: Array, second: Array, third: Any) -> tuple[Array, Array, Any]:
        q, change = solver(first, second)
        excess = root @ q - third
        level = xp.linalg.solve(matrix, excess) if shape else excess / matrix[0]
        each = level if shape else level[None]
        for index, (along, turned) in enumerate(columns):
            q, change = q - each[index] * along, change - each[index] * turned
        return q, change, level

    return solve


def coupled_solver(
    scaled: Float[Array, "n m"], theta: Float[Array, "n c"], gain: Float[Array, "m c"]
) -> Solver:
    """Return the map from (first, second) to (q, A) for outputs together; `scaled` is S."""
    if len(scaled) <= scaled.shape[1]:
        return _by_samples(scaled, theta, gain)
    return _by_neurons(scaled, theta, gain)


def _by_samples(scaled: Array, theta: Array, gain: Array) -> Solver:
    """K_k q_k = h_k + ν, Σ_k q_k = 0, K_k = Θ_k + S gain_k Sᵀ: ν is solved for."""
    xp, n = namespace(scaled, theta, gain), len(scaled)
    root = 1 / xp.sqrt(theta)

    def inverse(root: Array, gain: Array) -> Array:
        narrow = root[:, None] * scaled
        matrix = xp.eye(n, dtype=scaled.dtype) + (narrow * gain[None]) @ narrow.T
        return root[:, None] * definite_solver(matrix)(xp.eye(n, dtype=scaled.dtype)) * root[None]

    inverses = over_leading(inverse, root.T, gain.T)
    of_shift = scaled_solver(xp.sum(inverses, axis=0))

    def solve(first: Array, second: Array) -> Pair:
        right = first + scaled @ (gain * second)
        alone = xp.matmul(inverses, right.T[:, :, None])[:, :, 0]
        q = alone - inverses @ of_shift(xp.sum(alone, axis=0))
        return q.T, gain * (scaled.T @ q.T - second)

    return solve


def _by_neurons(scaled: Array, theta: Array, gain: Array) -> Solver:
    xp, (m, c) = namespace(scaled, theta, gain), gain.shape
    share, stiffness = 1 / theta, 1 / gain
    total = xp.sum(share, axis=1, keepdims=True)
    part = stiffness / xp.sum(stiffness, axis=1, keepdims=True)
    # Outputs in order from the one of least gain, which is left out.
    reference = xp.argmax(stiffness, axis=1)
    output = ((reference[:, None] + xp.arange(1, c)[None]) % c).reshape(-1)
    neuron = xp.repeat(xp.arange(m), c - 1)
    place = (xp.arange(c)[None] - reference[:, None]) % c

    def projected(x: Array) -> Array:
        return share * (x - xp.sum(share * x, axis=1, keepdims=True) / total)

    others = share * (_sum_of_others(share) / total)
    each = xp.matmul(scaled.T[None], others.T[:, :, None] * scaled[None])
    outer = (share / xp.sqrt(total))[:, output] * scaled[:, neuron]
    row, column = (output[:, None], neuron[:, None]), (output[None], neuron[None])
    matrix = xp.where(row[0] == column[0], each[row[0], row[1], column[1]], -(outer.T @ outer))
    held = -stiffness[row[1], row[0]] * part[column[1], column[0]]
    own = (stiffness * _sum_of_others(part))[neuron, output]
    diagonal = xp.eye(m * (c - 1), dtype=bool)
    held = xp.where(diagonal, own[:, None], xp.where(row[1] == column[1], held, 0.0))
    factored = scaled_solver(matrix + held)

    def solve(first: Array, second: Array) -> Pair:
        shifted = xp.sum(second, axis=1, keepdims=True)
        right = scaled.T @ projected(first) - (second - part * shifted)
        found = factored(right[neuron, output]).reshape(m, c - 1)
        found = xp.concatenate([xp.zeros((m, 1), scaled.dtype), found], axis=1)
        change = xp.take_along_axis(found, place, axis=1)
        q = projected(first - scaled @ change)
        shift = xp.sum(part * change, axis=1, keepdims=True)
        shift = shift + shifted / xp.sum(stiffness, axis=1, keepdims=True)
        return q, change - shift

    return solve


def _sum_of_others(x: Float[Array, "k c"]) -> Float[Array, "k c"]:
    """Return Σ_{l≠k} x_l without cancellation, for x ≥ 0."""
    xp, c = namespace(x), x.shape[1]
    return x @ (1 - xp.eye(c, dtype=x.dtype))
