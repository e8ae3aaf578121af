"""The neurons that violate a dual point most, against brute force."""

import itertools

import numpy as np
import pytest

from jaxqsdp._bound.signs import enumerate_signs, partners, search_signs
from jaxqsdp._search.pricing import distinct


def symmetric(seed, d):
    matrix = np.random.default_rng(seed).standard_normal((d, d))
    return matrix + matrix.T


def brute_force(gram):
    """Return ‖Gu‖₁ for all u, u and −u being one."""
    signs = np.array(list(itertools.product((-1.0, 1.0), repeat=len(gram) - 1)))
    u = np.column_stack([signs, np.ones(len(signs))])
    return np.abs(u @ gram).sum(axis=1), u


@pytest.mark.parametrize("d", [1, 2, 3, 7, 12, 14])
def test_enumeration_finds_the_largest(d):
    """Beyond 12 features there are several blocks."""
    gram = symmetric(d, d)
    values, u = enumerate_signs(gram, 20)
    expected = np.sort(brute_force(gram)[0])[::-1]
    assert np.all(np.abs(u) == 1)
    np.testing.assert_allclose(values, np.abs(u @ gram).sum(axis=1), rtol=1e-12)
    assert len(np.unique(u, axis=0)) == len(u) == min(20, 2 ** (d - 1))
    np.testing.assert_allclose(values[0], expected[0], rtol=1e-12)
    if d <= 12:  # one block: all of them
        np.testing.assert_allclose(values, expected[: len(values)], rtol=1e-12)


def test_enumeration_with_ties():
    values, u = enumerate_signs(np.eye(13), 50)
    np.testing.assert_array_equal(values, 13)
    assert len(np.unique(u, axis=0)) == 50
    np.testing.assert_array_equal(enumerate_signs(np.zeros((5, 5)), 3)[0], 0)


def test_partner_is_the_best():
    gram = symmetric(0, 6)
    u = np.random.default_rng(1).choice((-1.0, 1.0), (4, 6))
    all_v = np.array(list(itertools.product((-1.0, 1.0), repeat=6)))
    best = np.sum((u @ gram) * partners(gram, u), axis=1)
    np.testing.assert_allclose(best, np.max(np.abs(u @ gram @ all_v.T), axis=1), rtol=1e-12)


@pytest.mark.parametrize("d", [1, 2, 8, 15])
def test_search_ends_where_no_flip_helps(d):
    gram = symmetric(d, d)
    starts = np.random.default_rng(d).choice((-1.0, 1.0), (30, d))
    values, u = search_signs(gram, starts)
    np.testing.assert_allclose(values, np.abs(u @ gram).sum(axis=1), rtol=1e-12)
    assert np.all(np.diff(values) <= 0)
    assert np.all(np.sort(values) >= np.sort(np.abs(starts @ gram).sum(axis=1)) * (1 - 1e-12))
    for k in range(d):
        flipped = u * np.where(np.arange(d) == k, -1, 1)
        assert np.all(np.abs(flipped @ gram).sum(axis=1) <= values * (1 + 1e-9))
    # Thirty starts find the maximum at these sizes.
    np.testing.assert_allclose(values[0], brute_force(gram)[0].max(), rtol=1e-12)


def test_distinct_up_to_order_and_signs():
    rng = np.random.default_rng(3)
    u, v = rng.choice((-1.0, 1.0), (2, 1, 9))
    one_flip = u * np.where(np.arange(9) == 2, -1, 1)
    two_flips = one_flip * np.where(np.arange(9) == 5, -1, 1)
    many_u = np.concatenate([u, -u, v, -v, one_flip, two_flips])
    many_v = np.concatenate([v, -v, u, -u, v, v])
    np.testing.assert_array_equal(distinct((many_u, many_v), 10), [0, 5])
    np.testing.assert_array_equal(distinct((many_u, many_v), 1), [0])
    np.testing.assert_array_equal(distinct((many_u[:0], many_v[:0]), 3), [])
