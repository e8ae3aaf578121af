"""Symmetric matrices as vectors, and the map A(Z)_i = x_iᵀ Z x_i, against dense linear algebra."""

import jax
import numpy as np
import pytest

from jaxqsdp._base.lift import (
    LiftedMap,
    diagonal_index,
    lifted_size,
    quadratic_forms,
    smat,
    svec,
    weighted_gram,
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
    np.testing.assert_allclose(quadratic_forms(X, Z), [x @ Z @ x for x in X], rtol=1e-12)
    expected = sum(weight * np.outer(x, x) for weight, x in zip(dual, X, strict=True))
    np.testing.assert_allclose(weighted_gram(X, dual), expected, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize(("n", "d"), [(3, 4), (10, 4), (40, 4), (4100, 3), (1, 1)])
def test_lifted_map_matches_its_matrix(n, d):
    X = np.random.default_rng(n).standard_normal((n, d))
    lifted = LiftedMap(X)
    assert lifted.shape == (n, lifted_size(d))
    dense = np.asarray(jax.vmap(lifted.mv, out_axes=1)(np.eye(lifted_size(d))))
    np.testing.assert_allclose(dense, [svec(np.outer(x, x)) for x in X], rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(lifted.matrix(), dense, rtol=1e-12, atol=1e-14)
    dual = np.random.default_rng(0).standard_normal(n)
    np.testing.assert_allclose(lifted.rmv(dual), dense.T @ dual, rtol=1e-11, atol=1e-11)
    gram = np.asarray(lifted.gram())
    assert lifted.gram_is_primal == (lifted_size(d) <= n)
    assert len(gram) == min(n, lifted_size(d))
    expected = dense.T @ dense if lifted.gram_is_primal else dense @ dense.T
    np.testing.assert_allclose(gram, expected, rtol=1e-11, atol=1e-11)
