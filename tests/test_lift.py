"""Symmetric matrices as vectors, and the map A(Z)_i = x_iᵀ Z x_i, against dense linear algebra."""

import jax
import numpy as np
import pytest

from jaxqsdp._base.lift import (
    LevelMap,
    LiftedMap,
    diagonal_index,
    lifted_size,
    smat,
    svec,
)


def symmetric(rng, d):
    matrix = rng.standard_normal((d, d))
    return matrix + matrix.T


@pytest.mark.parametrize("d", [1, 2, 7])
def test_svec_is_an_isometry_with_inverse_smat(d):
    rng = np.random.default_rng(d)
    a, b = symmetric(rng, d), symmetric(rng, d)
    assert svec(a).shape == (lifted_size(d),)
    np.testing.assert_allclose(svec(a) @ svec(b), np.sum(a * b), rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(smat(svec(a), d), a, rtol=1e-15)
    np.testing.assert_allclose(svec(a)[diagonal_index(d)], np.diag(a), rtol=1e-15)


def test_quadratic_forms_and_weighted_gram_are_adjoint():
    rng = np.random.default_rng(0)
    X, dual, Z = rng.standard_normal((9, 4)), rng.standard_normal(9), symmetric(rng, 4)
    lifted = LiftedMap(X)
    np.testing.assert_allclose(lifted.outputs(Z), [x @ Z @ x for x in X], rtol=1e-12)
    np.testing.assert_allclose(
        lifted.outputs(np.stack([Z, 2 * Z])).T, [lifted.outputs(Z), 2 * lifted.outputs(Z)]
    )
    expected = sum(weight * np.outer(x, x) for weight, x in zip(dual, X, strict=True))
    np.testing.assert_allclose(lifted.adjoint(dual), expected, rtol=1e-12, atol=1e-14)


def with_corner(X):
    """Return the map with M = −xxᵀ but for another last entry, and these matrices."""
    corner = np.linspace(-1, 2, len(X))
    matrices = [-np.outer(x, x) for x in X]
    for matrix, number in zip(matrices, corner, strict=True):
        matrix[-1, -1] = number
    return LiftedMap(X, corner, -1.0), matrices


def leveled(X):
    """Return the same map on forms of constant diagonal, and its matrices."""
    lifted, matrices = with_corner(X)
    mean = [matrix + np.diag(np.mean(np.diag(matrix)) - np.diag(matrix)) for matrix in matrices]
    return LevelMap(lifted), mean


@pytest.mark.parametrize(("n", "d"), [(3, 4), (10, 4), (40, 4), (4100, 3), (1, 1)])
@pytest.mark.parametrize(
    "kind", [lambda X: (LiftedMap(X), [np.outer(x, x) for x in X]), with_corner, leveled]
)
def test_lifted_map_matches_its_matrix(n, d, kind):
    X = np.random.default_rng(n).standard_normal((n, d))
    lifted, matrices = kind(X)
    assert lifted.shape == (n, lifted_size(d))
    dense = np.asarray(jax.vmap(lifted.mv, out_axes=1)(np.eye(lifted_size(d))))
    expected = np.array([svec(matrix) for matrix in matrices])
    np.testing.assert_allclose(dense, expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(lifted.matrix(), dense, rtol=1e-12, atol=1e-14)
    dual = np.random.default_rng(0).standard_normal(n)
    np.testing.assert_allclose(lifted.rmv(dual), dense.T @ dual, rtol=1e-11, atol=1e-11)
    gram = np.asarray(lifted.gram())
    assert lifted.gram_is_primal == (lifted_size(d) <= n)
    assert len(gram) == min(n, lifted_size(d))
    expected = dense.T @ dense if lifted.gram_is_primal else dense @ dense.T
    np.testing.assert_allclose(gram, expected, rtol=1e-11, atol=1e-11)


def test_maps_turn_with_their_rows_and_take_weights():
    rng = np.random.default_rng(0)
    X, change = rng.standard_normal((2, 9, 4))
    change[:, -1] = 0
    dual, Z, factor = rng.standard_normal(9), symmetric(rng, 4), rng.uniform(0.5, 2, 9)
    (lifted, _), step = with_corner(X), 1e-6
    there, back = (with_corner(X + end * change)[0] for end in (step, -step))
    slope = (there.outputs(Z) - back.outputs(Z)) / (2 * step)
    np.testing.assert_allclose(lifted.turned(Z, change), slope, rtol=1e-7, atol=1e-7)
    slope = (there.adjoint(dual) - back.adjoint(dual)) / (2 * step)
    np.testing.assert_allclose(lifted.adjoint_turned(dual, change), slope, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(lifted.times(factor).outputs(Z), factor * lifted.outputs(Z))
