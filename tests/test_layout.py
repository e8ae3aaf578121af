"""What the blocks of the relaxation, its slacks and its neurons are to each other."""

import itertools

import jax.numpy as jnp
import numpy as np
import pytest

import jaxqsdp as qs
from jaxqsdp._network.bilinear import BILINEAR
from jaxqsdp._network.levels import ONE_BIT

LAYOUT = BILINEAR.layout


@pytest.fixture
def blocks():
    factors = np.random.default_rng(0).standard_normal((2, 5, 5))
    return factors @ np.swapaxes(factors, 1, 2)


@pytest.mark.parametrize("xp", [np, jnp])
def test_slacks_are_adjoint_to_forms_and_diagonals(xp, blocks):
    rng = np.random.default_rng(1)
    p, gram = xp.asarray(rng.standard_normal(5)), rng.standard_normal((5, 5))
    gram, blocks = xp.asarray(gram + gram.T), xp.asarray(blocks)
    product = float((LAYOUT.slacks(p, gram) * blocks).sum())
    assert product == pytest.approx(
        float(p @ LAYOUT.diagonal(blocks) - (gram * LAYOUT.form(blocks)).sum()), rel=1e-12
    )


@pytest.mark.parametrize("xp", [np, jnp])
def test_slacks_of_several_outputs_are_those_of_each(xp):
    rng = np.random.default_rng(2)
    p, gram = rng.standard_normal((3, 5)), rng.standard_normal((3, 5, 5))
    together = LAYOUT.slacks(xp.asarray(p), xp.asarray(gram))
    each = [
        LAYOUT.gain * np.stack([np.diag(a) - g, np.diag(a) + g])
        for a, g in zip(p, gram, strict=True)
    ]
    np.testing.assert_allclose(together, each, rtol=1e-15)


def test_blocks_are_those_of_their_form_and_block(blocks):
    again = LAYOUT.blocks(LAYOUT.form(blocks), LAYOUT.block(blocks))
    np.testing.assert_allclose(again, blocks, rtol=1e-13, atol=1e-13)
    # Signs u, v make a point whose diagonal is 1 and whose gram matrix is (u, v)(u, v)ᵀ, averaged
    # with its swap.
    u, v = np.array([1.0, -1, 1]), np.array([1.0, 1, -1])
    own = np.stack([np.outer(u + v, u + v), np.outer(u - v, u - v)]) / 2
    form, block = LAYOUT.form(own), LAYOUT.block(own)
    np.testing.assert_array_equal(LAYOUT.diagonal(own), 1)
    np.testing.assert_array_equal(form, (np.outer(u, v) + np.outer(v, u)) / 2)
    both = [np.outer(one, one) for one in (np.append(u, v), np.append(v, u))]
    np.testing.assert_array_equal(LAYOUT.gram(form, block), sum(both) / 2)


def test_the_level_minimizes():
    rng = np.random.default_rng(2)
    for beta in (0.1, 1.0, 30.0):
        diagonal = rng.standard_normal(4) + 1
        level = LAYOUT.level(diagonal, np.float64(beta), np.float64(0.7))
        others = np.linspace(0, 3, 3001)
        costs = beta * others + 0.7 * np.sum((others[:, None] - diagonal) ** 2, axis=1)
        assert beta * level + 0.7 * np.sum((level - diagonal) ** 2) <= costs.min()


def test_neurons_are_functions_of_projections():
    X, signs = np.random.default_rng(3).standard_normal((7, 3)), [-1.0, 1.0]
    vectors = np.array(list(itertools.product(signs, repeat=3)))
    u, v = vectors, vectors[::-1]
    expected = [[(x @ a) * (x @ b) for a, b in zip(u, v, strict=True)] for x in X]
    np.testing.assert_allclose(BILINEAR.neurons(X, u, v), expected, rtol=1e-12, atol=1e-14)
    network = qs.QuantizedNetwork.from_weights(u, v, np.ones(8))
    np.testing.assert_allclose(network(jnp.asarray(X[0])), np.sum(expected[0]), atol=1e-12)
    assert BILINEAR.guarantee == qs.KRIVINE_CONSTANT


@pytest.mark.parametrize("count", [1, 7, 8, 9, 17])
def test_weights_are_stored_in_few_bytes(count):
    positive = np.random.default_rng(count).random((4, count)) < 0.5
    packed = ONE_BIT.pack(positive)
    assert packed.shape == (4, ONE_BIT.bytes_for(count))
    assert not ONE_BIT.has_rest(packed, count)
    weights = ONE_BIT.unpack(packed, count, np.float32)
    assert weights.dtype == np.float32
    np.testing.assert_array_equal(weights, np.where(positive, 1, -1))
    assert ONE_BIT.holds(weights)
    assert not ONE_BIT.holds(weights / 3)
    if count % 8:
        packed[0, -1] |= 1
        assert ONE_BIT.has_rest(packed, count)
