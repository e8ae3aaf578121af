"""Projection on the cone and the proven bound on the smallest eigenvalue."""

import hypothesis
import jax
import numpy as np
import pytest
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from referee import integers, is_positive_definite

from jaxqsdp._base.cone import positive_part, square_root
from jaxqsdp._bound.eigenvalues import smallest_eigenvalue_bound
from jaxqsdp._solver.scaling import definite_shift

bound_below = jax.jit(smallest_eigenvalue_bound)


def is_below_every_eigenvalue(bound, matrix):
    """Prove bound < λmin by elimination in exact integers."""
    numbers, _ = integers(np.append(np.ravel(matrix), bound))
    d = len(matrix)
    shift = np.diag(np.full(d, numbers[-1]))
    return is_positive_definite(numbers[:-1].reshape(d, d) - shift)


def spectra(d):
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((d, d)))[0]
    yield "random", rng.standard_normal(d), basis
    yield "definite", rng.uniform(1, 2, d), basis
    yield "graded", 10.0 ** -np.arange(d), basis
    yield "repeated", np.where(np.arange(d) < 2, 1.0, -1.0), basis
    yield "rank one", np.eye(d)[0], basis
    yield "zero", np.zeros(d), basis
    yield "diagonal", rng.standard_normal(d) * 1e4, np.eye(d)


@pytest.mark.parametrize("d", [1, 6, 20])
def test_eigenvalue_bound_is_proven_and_tight(d, dtype):
    for name, eigenvalues, basis in spectra(d):
        matrix = ((basis * eigenvalues) @ basis.T).astype(dtype)
        matrix = (matrix + matrix.T) / 2
        bound = float(bound_below(matrix))
        assert is_below_every_eigenvalue(bound, matrix), name
        smallest = np.linalg.eigvalsh(matrix.astype(np.float64))[0]
        allowance = (8 + 12 * d**1.5) * np.finfo(dtype).eps * np.abs(eigenvalues).max()
        underflow = d * (2 * d + 4) * np.finfo(dtype).tiny  # the norm of that in each entry
        assert smallest - bound <= allowance + underflow, name


@hypothesis.settings(max_examples=100, deadline=None, derandomize=True)
@hypothesis.given(arrays(np.float32, (4, 4), elements=st.floats(-1e6, 1e6, width=32)))
def test_eigenvalue_bound_is_proven_for_any_matrix(matrix):
    matrix = np.triu(matrix) + np.triu(matrix, 1).T
    for dtype in (np.float32, np.float64):
        assert is_below_every_eigenvalue(float(bound_below(matrix.astype(dtype))), matrix)


def test_eigenvalue_bound_of_garbage_is_minus_infinity(dtype):
    for bad in (np.nan, np.inf):
        matrix = np.eye(4, dtype=dtype)
        matrix[1, 2] = matrix[2, 1] = bad
        assert bound_below(matrix) == -np.inf


def test_positive_part_is_the_projection(dtype):
    d, eps = 6, np.finfo(dtype).eps
    for name, eigenvalues, basis in spectra(d):
        matrix = ((basis * eigenvalues) @ basis.T).astype(dtype)
        matrix = (matrix + matrix.T) / 2
        projection = np.asarray(jax.jit(positive_part)(matrix))
        expected = (basis * np.maximum(eigenvalues, 0)) @ basis.T
        size = np.abs(eigenvalues).max()
        np.testing.assert_allclose(projection, expected, atol=50 * eps * size, err_msg=name)
        np.testing.assert_array_equal(projection, projection.T)
        root = np.asarray(jax.jit(square_root)(matrix), np.float64)
        np.testing.assert_allclose(root @ root, expected, atol=50 * eps * size, err_msg=name)


@pytest.mark.parametrize("d", [1, 2, 6, 12, 20, 40])
def test_definite_shift_is_enough_and_hardly_more(d, dtype):
    least = 0.5
    shift = jax.jit(lambda matrix: definite_shift(matrix, least))
    cases = list(spectra(d))
    cases += [("multiple of 1", np.full(d, -2.0), cases[0][2])]
    cases += [("nearly one", -1 + 1e-4 * cases[0][1], cases[0][2])]
    for name, eigenvalues, basis in cases:
        matrix = ((basis * eigenvalues) @ basis.T).astype(dtype)
        matrix = (matrix + matrix.T) / 2
        exact = max(-np.min(eigenvalues), least)
        size = np.abs(eigenvalues).max()
        rounding = 100 * np.finfo(dtype).eps * size
        short, excess = (0, 0.01 * exact) if d <= 12 else (0.1 * size, 0.1 * size + 0.01 * exact)
        assert -rounding - short <= float(shift(matrix)) - exact <= excess + rounding, name


def test_the_proof_asks_for_full_precision_itself():
    """The default product of accelerators is TF32 or bfloat16; the error counted is float32's."""
    text = str(jax.make_jaxpr(smallest_eigenvalue_bound)(np.eye(3, dtype=np.float32)))
    assert "dot_general" in text
    assert "precision=None" not in text
