"""The penalty at which the network vanishes: against Clarabel, units, weights, batches."""

import clarabel
import jax
import numpy as np
import pytest
from problems import SMALL, degenerate, planted
from scipy import sparse

import jaxqsdp as qs

ABOVE = {np.float64: 2e-6, np.float32: 2e-4}  # relative
BELOW = {np.float64: 1e-9, np.float32: 1e-6}


def dual_norm(gram):
    """Return min 1ᵀp s.t. Diag(p) ± G ⪰ 0 by Clarabel."""
    d = len(gram)
    columns, rows = np.tril_indices(d)
    on_diagonal = np.flatnonzero(rows == columns)
    diagonal = sparse.csc_matrix((np.ones(d), (on_diagonal, np.arange(d))), (len(rows), d))
    vector = gram[rows, columns] * np.where(rows == columns, 1, np.sqrt(2))
    settings = clarabel.DefaultSettings()
    settings.verbose = False
    solution = clarabel.DefaultSolver(
        sparse.csc_matrix((d, d)),
        np.ones(d),
        sparse.vstack([-diagonal, -diagonal], format="csc"),
        np.concatenate([vector, -vector]),
        [clarabel.PSDTriangleConeT(d)] * 2,
        settings,
    ).solve()
    assert solution.status == clarabel.SolverStatus.Solved
    return solution.obj_val


def gram_of(data):
    weight = np.ones_like(data.y) if data.weight is None else data.weight
    return data.X.T @ ((weight * data.y)[:, None] * data.X)


# The smallest penalty without neurons


CASES = {"planted": planted(1, *SMALL)} | degenerate()


@pytest.mark.parametrize("name", [name for name, data in CASES.items() if len(data.X) == SMALL[0]])
def test_beta_max_equals_clarabel(name, dtype):
    data = CASES[name].astype(dtype)
    result = qs.beta_max(data.X, data.y)
    assert result.dtype == dtype
    result = float(result)
    gram = gram_of(data.astype(np.float64))
    if not np.any(gram):
        assert result == 0
        return
    size = np.abs(gram).max()
    expected = dual_norm(gram / size) * size
    assert expected * (1 - max(1e-7, BELOW[dtype])) <= result <= expected * (1 + ABOVE[dtype])


def test_beta_max_of_one_feature_is_its_moment(dtype):
    """For d = 1 it is |Σ w y x²|."""
    data = degenerate()["one feature"].astype(dtype)
    expected = np.abs(np.sum(data.y.astype(float) * data.X[:, 0].astype(float) ** 2))
    result = float(qs.beta_max(data.X, data.y))
    assert expected * (1 - BELOW[dtype]) <= result <= expected * (1 + ABOVE[dtype])


def test_beta_max_follows_units():
    X, y = planted(1, *SMALL).X, planted(1, *SMALL).y
    weight = 1.0 + np.arange(len(y)) % 3
    base = qs.beta_max(X, y, weight)
    # Powers of two round nothing; 1e±60 squared would overflow the sums of a plain product.
    np.testing.assert_array_equal(qs.beta_max(4 * X, y / 2, 8 * weight), 64 * base)
    np.testing.assert_allclose(qs.beta_max(1e60 * X, 1e-90 * y, weight), 1e30 * base, rtol=3e-6)
    np.testing.assert_allclose(qs.beta_max(X, -y, 7 * weight), 7 * base, rtol=3e-6)
    signs, order = np.array([1, -1, 1, 1, -1]), [3, 0, 4, 1, 2]
    np.testing.assert_allclose(qs.beta_max((X * signs)[:, order], y, weight), base, rtol=3e-6)


def test_beta_max_weights_are_repeated_rows():
    X, y = planted(1, *SMALL).X, planted(1, *SMALL).y
    weight = np.arange(len(y)) % 3
    chosen = np.repeat(np.arange(len(y)), weight)
    assert len(chosen) == len(y)  # no new shape
    X[weight == 0] = 1e9  # what does not count may hold anything
    expected = qs.beta_max(X[chosen], y[chosen])
    np.testing.assert_allclose(qs.beta_max(X, y, weight), expected, rtol=3e-6)


def test_beta_max_in_a_batch():
    datas = [planted(seed, *SMALL) for seed in (1, 2, 3)]
    X, y = np.stack([data.X for data in datas]), np.stack([data.y for data in datas])
    y[2] = np.nan
    batch = jax.jit(jax.vmap(qs.beta_max))(X, y)
    np.testing.assert_allclose(batch[0], qs.beta_max(X[0], y[0]), rtol=1e-9)
    np.testing.assert_allclose(batch[1], qs.beta_max(X[1], y[1]), rtol=1e-9)
    assert np.isnan(batch[2])


def test_beta_max_bad_targets():
    with pytest.raises(ValueError, match="`y` must have shape"):
        qs.beta_max(np.ones(SMALL), np.ones((SMALL[0], 2)))


def test_beta_max_at_scales_whose_products_are_out_of_range(dtype):
    """Units that multiply beyond the range of the dtype, though XᵀDiag(wy)X does not."""
    rng = np.random.default_rng(1)
    X, y, w = rng.normal(size=(5, 3)), rng.normal(size=5), np.abs(rng.normal(size=5))
    scales = {
        np.float64: [(1e108, 1e-201, 1e-131), (1e-100, 1e-100, 1e305), (1e100, 1e100, 1e-305)],
        np.float32: [(1e12, 1e-9, 1e-33), (1e-14, 1e-12, 1e36), (1e14, 1e12, 1e-36)],
    }[dtype]
    base = float(qs.beta_max(X, y, w))
    for feature, target, weight in scales:
        numbers = [(s * a).astype(dtype) for s, a in ((feature, X), (target, y), (weight, w))]
        expected = base * (feature * target) * (feature * weight)
        for found in (qs.beta_max(*numbers), jax.jit(qs.beta_max)(*numbers)):
            np.testing.assert_allclose(float(found), expected, rtol=ABOVE[dtype])


@pytest.mark.filterwarnings("ignore:(overflow|invalid value|underflow):RuntimeWarning")
def test_beta_max_inside_jit_is_that_outside_at_any_scale(dtype):
    rng, largest = np.random.default_rng(7), 300 if dtype == np.float64 else 36
    compiled, compared = jax.jit(qs.beta_max), 0
    for _ in range(200):
        X, y, w = rng.normal(size=(5, 3)), rng.normal(size=5), np.abs(rng.normal(size=5))
        scales = 10 ** rng.uniform(-largest, largest, 3)
        numbers = [(s * a).astype(dtype) for s, a in zip(scales, (X, y, w), strict=True)]
        try:
            outside = float(qs.beta_max(*numbers))
        except ValueError:  # beyond the range of the dtype
            continue
        compared += np.finfo(dtype).tiny < outside < np.inf
        np.testing.assert_allclose(float(compiled(*numbers)), outside, rtol=2 * ABOVE[dtype])
    assert compared > 20
