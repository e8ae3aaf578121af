"""An independent checker of solutions: NumPy and exact integers, nothing of the package or of JAX.

Floating-point numbers are integers times powers of two, so sums and products of data are exact in
Python's integers, and fraction-free elimination proves or refutes positive definiteness.
"""

import dataclasses
import itertools
import math
from fractions import Fraction

import clarabel
import numpy as np
from scipy import sparse

GROTHENDIECK = math.pi / (2 * math.log(1 + math.sqrt(2)))  # Krivine's bound on the constant


def integers(array):
    """Return Python integers m and an exponent e with array = m·2^e exactly."""
    array = np.asarray(array, np.float64)
    mantissa, exponent = np.frexp(array)
    lowest = int(np.min(exponent, initial=0, where=array != 0))
    whole = np.ldexp(mantissa, 53).astype(np.int64).astype(object)
    shift = np.where(array != 0, exponent - lowest, 0).astype(object)
    return np.asarray(whole << shift, object), lowest - 53


def exact_gram(X, dual):
    """Return G = Xᵀ diag(λ) X as integers and an exponent."""
    x, x_exponent = integers(X)
    weights, exponent = integers(dual)
    return x.T @ (weights[:, None] * x), 2 * x_exponent + exponent


def is_positive_definite(matrix):
    """Decide it for a symmetric matrix of integers: all leading minors are positive (Bareiss)."""
    matrix, previous = matrix.copy(), 1
    while len(matrix):
        pivot = matrix[0, 0]
        if pivot <= 0:
            return False
        rest, column = matrix[1:, 1:], matrix[1:, 0]
        matrix = (rest * pivot - column[:, None] * column[None, :]) // previous
        previous = pivot
    return True


def _proven(matrix, definite):
    """Whether it is proven that a symmetric matrix of integers is (or is not) positive definite.

    All but 96 bits are dropped first, and d·I makes up for that: |M − 2^k M'| < 2^k entrywise.
    """
    drop = max(0, max(int(entry).bit_length() for entry in matrix.flat) - 96)
    margin = np.diag(np.full(len(matrix), len(matrix), object))
    if definite:
        return is_positive_definite((matrix >> drop) - margin)
    return not is_positive_definite((matrix >> drop) + margin)


def _slacks(gram, exponent, diagonal, shift):
    """Return Diag(p) + t·1 ± G for G = gram·2^exponent, as integers."""
    whole, own = integers(np.append(diagonal, shift))
    common = min(exponent, own)
    shifted = np.diag((whole[:-1] + whole[-1]) << (own - common))
    return [shifted + sign * (gram << (exponent - common)) for sign in (-1, 1)]


def shift_interval(X, dual, diagonal):
    """Return t₋ ≤ t ≤ t₊ for the smallest t ≥ 0 with Diag(p) + t·1 ± G ⪰ 0, both proven."""
    gram, exponent = exact_gram(X, dual)
    rounded = np.array([[float(Fraction(g) * Fraction(2) ** exponent) for g in r] for r in gram])
    slacks = [np.diag(diagonal) + sign * rounded for sign in (-1, 1)]
    estimate = max(-np.linalg.eigvalsh(slack)[0] for slack in slacks)
    size = max(np.abs(slack).max() for slack in slacks)
    width = 8 * len(gram) * np.finfo(float).eps * size + np.finfo(float).tiny
    above = max(estimate + width, width)
    assert all(_proven(slack, True) for slack in _slacks(gram, exponent, diagonal, above))
    below = max(estimate - width, 0.0)
    refuted = any(_proven(slack, False) for slack in _slacks(gram, exponent, diagonal, below))
    assert below == 0 or refuted
    return Fraction(below), Fraction(above)


def _sum_of_products(left, right):
    a, a_exponent = integers(left)
    b, b_exponent = integers(right)
    return Fraction(int(a @ b)) * Fraction(2) ** (a_exponent + b_exponent)


def _sum_of_squares_over(dual, weight):
    """Σ λ²/w over w > 0, exactly."""
    if np.all(weight == 1):
        return _sum_of_products(dual, dual)
    return sum(
        (Fraction(a) ** 2 / Fraction(w) for a, w in zip(dual, weight, strict=True) if w > 0),
        Fraction(0),
    )


def exact_bound(X, y, beta, dual, diagonal, weight=None):
    """Return an interval of rationals around the lower bound on p_sdp that (λ, p) prove.

    The bound is cλᵀy − ½c² Σ λ²/w with c = clip(λᵀy / Σ λ²/w, 0, β/1ᵀ(p + t)) and the smallest t,
    so its lower end is a proven bound whatever (λ, p), and nothing they prove exceeds the upper.
    """
    X, y, dual, diagonal = (np.asarray(a, np.float64) for a in (X, y, dual, diagonal))
    weight = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
    dual = np.where((weight > 0) & np.isfinite(dual), dual, 0)
    diagonal = np.where(np.isfinite(diagonal), diagonal, 0)
    linear, quadratic = _sum_of_products(dual, y), _sum_of_squares_over(dual, weight)
    if quadratic == 0 or linear <= 0:
        return Fraction(0), Fraction(0)

    def bound(shift):
        budget = sum(map(Fraction, diagonal.tolist()), Fraction(0)) + len(diagonal) * shift
        c = linear / quadratic
        if budget > 0:
            c = min(c, Fraction(float(beta)) / budget)
        return c * linear - c * c * quadratic / 2

    below, above = shift_interval(X, dual, diagonal)
    return bound(above), bound(below)


def exact_combinatorial_bound(X, y, beta, dual, weight=None):
    """Return the rational bound on p* that λ proves, by all sign vectors in exact arithmetic.

    It is cλᵀy − ½c² Σ λ²/w with c = clip(λᵀy / Σ λ²/w, 0, β/max_u ‖Gu‖₁).
    """
    X, y, dual = (np.asarray(a, np.float64) for a in (X, y, dual))
    weight = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
    dual = np.where((weight > 0) & np.isfinite(dual), dual, 0)
    linear, quadratic = _sum_of_products(dual, y), _sum_of_squares_over(dual, weight)
    if quadratic == 0 or linear <= 0:
        return Fraction(0)
    gram, exponent = exact_gram(X, dual)
    signs = itertools.product((1, -1), repeat=len(gram) - 1)
    u = np.array([(1, *rest) for rest in signs], object)
    norm = max(int(np.abs(row).sum()) for row in u @ gram) * Fraction(2) ** exponent
    c = linear / quadratic
    if norm > 0:
        c = min(c, Fraction(float(beta)) / norm)
    return c * linear - c * c * quadratic / 2


def _rationals(array):
    """Return an array of exact Fractions."""
    return np.frompyfunc(Fraction, 1, 1)(np.asarray(array, np.float64))


def _inverse_form(matrix, vector):
    """Return gᵀS⁻¹g of rationals; elimination of S proves it positive definite, or it fails."""
    bordered = np.block([[matrix, vector[:, None]], [vector[None, :], np.array([[Fraction(0)]])]])
    while len(bordered) > 1:
        pivot = bordered[0, 0]
        assert pivot > 0
        column = bordered[1:, 0]
        bordered = bordered[1:, 1:] - column[:, None] * (column / pivot)[None, :]
    return -bordered[0, 0]


def _covers(nodes, signs):
    """Whether nodes (N, sides, d), 0 where undecided, are all sign vectors, parts turned or not.

    Every feature has one sign in one of the parts.
    """
    sides, d = range(len(signs)), nodes.shape[2]
    turns = np.array(list(itertools.product((1, -1), repeat=len(signs))))
    nodes = np.concatenate([turn[:, None] * nodes for turn in turns])

    def covered(known, among):
        decided = np.any(known, axis=0)
        own = np.any(among, axis=1)  # (N, d) what each node has decided
        if np.any(np.all(own <= decided, axis=1)):
            return True
        common = np.flatnonzero(np.all(own, axis=0) & ~decided) if len(among) else []
        if len(common) == 0:
            return False
        feature = common[0]
        for side, sign in itertools.product(sides, (1, -1)):
            child = known.copy()
            child[side, feature] = sign
            if not covered(child, among[np.all(among[:, :, feature] == child[:, feature], axis=1)]):
                return False
        return True

    return covered(np.zeros((len(sides), d), np.int8), nodes)


def check_search(gram, threshold, signs, above):
    """Assert, in exact arithmetic, that no form of sign vectors of G exceeds what a search found.

    With z of the features D that a node has decided, U the others and S = Diag(p) − sG_UU,

        value ≤ Σ s·zᵀGz + 1ᵀp + Σ gᵀS⁻¹g, g = sG_UD z,

    or, without p, Σ s·zᵀGz + 2Σ max|g| + Σ|G_UU|, is at most the threshold, where U is not empty.
    Values by themselves are as good as products are rounded.
    """
    proof, used = above.proof, np.any(gram, axis=0)
    given = _rationals(gram[np.ix_(used, used)])
    assert np.array_equal(given, given.T)
    assert np.array_equal(Fraction(proof.unit) * _rationals(proof.gram), given)
    assert tuple(proof.signs) == signs
    assert above.is_complete
    assert above.threshold == threshold
    assert proof.largest == above.largest >= threshold
    assert _covers(np.concatenate([end.parts for end in proof.ends]), signs)
    exact = _rationals(proof.gram)
    d, size = len(exact), Fraction(float(np.abs(proof.gram).sum()))
    rounding = (8 * d + 40) * size / 2**53
    limit = Fraction(float(threshold)) / Fraction(proof.unit)
    largest = Fraction(proof.largest) / Fraction(proof.unit)
    for end in proof.ends:
        for parts in end.parts.astype(int).astype(object):
            rest = np.flatnonzero(~np.any(parts, axis=0))
            value = sum(s * (z @ exact @ z) for s, z in zip(signs, parts, strict=True))
            if len(rest) == 0:
                assert value <= largest + rounding
                continue
            images = [s * (exact[rest] @ z) for s, z in zip(signs, parts, strict=True)]
            inner = exact[np.ix_(rest, rest)]
            if end.diagonal is None:
                value += 2 * np.abs(images).max(axis=0).sum() + np.abs(inner).sum()
            else:
                p = _rationals(end.diagonal[rest])
                value += p.sum()
                for s, image in zip(signs, images, strict=True):
                    value += _inverse_form(np.diag(p) - s * inner, image)
            assert value <= limit


@dataclasses.dataclass(frozen=True)
class Findings:
    """What the referee computed from raw data and claimed arrays; relative where not exact."""

    value: float  # of the claimed point
    lowest_bound: Fraction  # proven by the claimed (λ, p), an interval
    highest_bound: Fraction
    diagonal_is_exact: bool  # diag(Q) = ρ, all entries
    blocks_agree: bool  # Q = [[V, Z], [Z, V]] with symmetric V and Z
    indefiniteness: float  # −λmin(Q)/ρ, or 0
    prediction_error: float  # of ŷ = xᵀZx, relative to |x|ᵀ|Z||x|
    value_error: float
    stationarity: float  # ‖λ − w(y − ŷ)‖/‖wy‖
    dual_infeasibility: float  # of (λ, p), relative to max p
    complementarity: float  # ⟨P, S_P⟩ + ⟨N, S_N⟩ + ρ(β − 1ᵀp), relative to the value


def examine(X, y, beta, claim, weight=None):
    """Recompute everything that a solution claims (its fields are read as plain arrays)."""
    X, y, beta = np.asarray(X, np.float64), np.asarray(y, np.float64), float(beta)
    weight = np.ones(len(y)) if weight is None else np.asarray(weight, np.float64)
    names = ("value", "quadratic_form", "scale", "gram", "dual", "dual_diagonal", "predictions")
    value, Z, rho, Q, dual, p, predictions = (
        np.asarray(getattr(claim, name), np.float64) for name in names
    )
    d = X.shape[1]
    V = Q[:d, :d]
    ideal = np.einsum("ni,ij,nj->n", X, Z, X)
    size = np.einsum("ni,ij,nj->n", np.abs(X), np.abs(Z), np.abs(X))
    misfit = y - predictions
    ideal_value = 0.5 * weight @ misfit**2 + beta * rho
    tiny = np.finfo(np.float64).tiny
    gram = X.T @ (dual[:, None] * X)
    slacks = [np.diag(p) - gram, np.diag(p) + gram]
    lowest = min(np.linalg.eigvalsh(slack)[0] for slack in slacks)
    products = (np.sum((V + Z) * slacks[0]) + np.sum((V - Z) * slacks[1])) / 2
    lowest_bound, highest_bound = exact_bound(X, y, beta, dual, p, weight)
    return Findings(
        value=float(ideal_value),
        lowest_bound=lowest_bound,
        highest_bound=highest_bound,
        diagonal_is_exact=bool(np.all(np.diag(Q) == rho)),
        blocks_agree=bool(
            np.array_equal(Q, np.block([[V, Z], [Z, V]]))
            and np.array_equal(Z, Z.T)
            and np.array_equal(V, V.T)
        ),
        indefiniteness=float(max(-np.linalg.eigvalsh(Q)[0], 0) / max(rho, tiny)),
        prediction_error=float(np.max(np.abs(predictions - ideal) / np.maximum(size, tiny))),
        value_error=float(abs(value - ideal_value) / max(ideal_value, tiny)),
        stationarity=float(
            np.linalg.norm(dual - weight * misfit) / max(np.linalg.norm(weight * y), tiny)
        ),
        dual_infeasibility=float(
            max(-lowest, (p.sum() - beta) / d, 0) / max(np.abs(p).max(), tiny)
        ),
        complementarity=float(abs(products + rho * (beta - p.sum())) / max(ideal_value, tiny)),
    )


def check(X, y, beta, claim, gap, weight=None):
    """Assert that a solution is what it says: feasible, its value true, its bound proven and tight.

    `gap` is the relative gap to be certified. Tolerances are those of rounding in the claim's
    dtype; the inequality between the claimed and the exact bound has none.
    """
    eps = float(np.finfo(np.asarray(claim.value).dtype).eps)
    found = examine(X, y, beta, claim, weight)
    n, d = np.shape(X)
    value, bound = float(claim.value), float(claim.lower_bound)
    assert found.diagonal_is_exact
    assert found.blocks_agree
    assert found.indefiniteness <= 8 * d * eps
    assert found.prediction_error <= 4 * d * eps
    assert found.value_error <= 4 * math.sqrt(n) * eps
    assert Fraction(bound) <= found.highest_bound, (bound, float(found.highest_bound))
    rounding = min(100 * d**1.5 * eps, gap / 2) * value
    assert float(found.lowest_bound) - bound <= rounding, (bound, float(found.lowest_bound))
    assert value - bound <= gap * value, f"gap {(value - bound) / value:.2e}"
    return found


def distinct_features(X):
    """Return the columns (Xu)∘(Xv) over all neurons, one of each class of ±(u, v) and (v, u)."""
    d = X.shape[1]
    signs = np.array([(1, *rest) for rest in itertools.product((1, -1), repeat=d - 1)])
    first, second = np.triu_indices(len(signs))
    projected = X @ signs.T
    return projected[:, first] * projected[:, second]


def brute_force(X, y, beta, weight=None):
    """Return bounds from both sides on the training problem's optimum p*, over all neurons.

    The LASSO over every distinct neuron is solved through its dual, a projection of y on
    |Fᵀλ| ≤ β, by Clarabel; both bounds are evaluated here from the point it returns.
    """
    X, y, beta = np.asarray(X, np.float64), np.asarray(y, np.float64), float(beta)
    root = np.ones(len(y)) if weight is None else np.sqrt(np.asarray(weight, np.float64))
    features, y = root[:, None] * distinct_features(X), root * y
    n, count = features.shape
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    settings.tol_gap_abs = settings.tol_gap_rel = settings.tol_feas = 1e-11
    rows = sparse.csc_matrix(np.vstack([features.T, -features.T]))
    quadratic = sparse.identity(n, format="csc")
    right, cones = np.full(2 * count, beta), [clarabel.NonnegativeConeT(2 * count)]
    solution = clarabel.DefaultSolver(quadratic, -y, rows, right, cones, settings).solve()
    multipliers = np.array(solution.z)
    alpha = multipliers[:count] - multipliers[count:]
    upper = 0.5 * np.sum((features @ alpha - y) ** 2) + beta * np.abs(alpha).sum()
    dual = np.array(solution.x)
    dual *= min(1.0, beta / np.abs(features.T @ dual).max(initial=np.finfo(float).tiny))
    return dual @ y - 0.5 * dual @ dual, upper
