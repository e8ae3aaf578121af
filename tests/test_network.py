"""The quantized network against its formula, written out with dense ±1 weights."""

import dataclasses
import re

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import lane, stack

import jaxqsdp as qs

from_weights = qs.QuantizedNetwork.from_weights


def weights(m, d, outputs=None, dtype=np.float64, seed=0):
    """Return random u, v and α."""
    rng = np.random.default_rng((seed, m, d))
    u, v = rng.choice((-1.0, 1.0), (2, m, d)).astype(dtype)
    shape = (m,) if outputs is None else (m, outputs)
    return u, v, rng.standard_normal(shape).astype(dtype)


def samples(d, dtype=np.float64):
    return np.random.default_rng(d).standard_normal((6, d)).astype(dtype)


@pytest.mark.parametrize("d", [1, 7, 8, 9, 31])
@pytest.mark.parametrize("m", [0, 1, 5])
def test_packing_loses_nothing_and_the_output_is_the_formula(m, d, dtype):
    u, v, alpha = weights(m, d, dtype=dtype)
    network = from_weights(u, v, alpha)
    for packed, unpacked, signs in (
        (network.packed_u, network.u, u),
        (network.packed_v, network.v, v),
    ):
        assert packed.dtype == np.uint8
        assert packed.shape == (m, -(-d // 8))
        assert unpacked.dtype == dtype
        np.testing.assert_array_equal(unpacked, signs)
    np.testing.assert_array_equal(network.alpha, alpha)
    assert (network.num_neurons, network.num_features) == (m, d)
    assert network.num_bits == 2 * m * d

    X = samples(d, dtype)
    outputs = jax.jit(jax.vmap(network))(X)
    assert outputs.dtype == dtype
    X, u, v, alpha, outputs = (np.asarray(a, float) for a in (X, u, v, alpha, outputs))
    rounding = 4 * (d + m) * np.finfo(dtype).eps
    size = np.sum(np.abs(X), axis=1) ** 2 * np.abs(alpha).sum()
    expected = ((X @ u.T) * (X @ v.T)) @ alpha
    assert np.all(np.abs(outputs - expected) <= rounding * size)


def test_most_significant_bit_first():
    u = np.array([[1, -1, -1, -1, -1, -1, -1, 1, 1]])
    np.testing.assert_array_equal(from_weights(u, -u, [1.0]).packed_u, [[0b10000001, 0b10000000]])
    np.testing.assert_array_equal(from_weights(u, -u, [1.0]).packed_v, [[0b01111110, 0]])


def test_sign_of_weights_may_be_of_any_type():
    u, v, alpha = weights(5, 9)
    network = from_weights(u, v, alpha)
    for kind in (np.int8, np.int32, np.float32):
        same = from_weights(u.astype(kind), v.astype(kind), alpha)
        assert eqx.tree_equal(same, network)
    assert eqx.tree_equal(from_weights(u.tolist(), v.tolist(), alpha.tolist()), network)
    assert from_weights(u, v, np.arange(5)).alpha.dtype == np.float64
    assert from_weights(u, v, jnp.ones(5, jnp.bfloat16)).alpha.dtype == np.float32


def test_several_outputs(dtype):
    u, v, alpha = weights(5, 9, outputs=3, dtype=dtype)
    network, X = from_weights(u, v, alpha), samples(9, dtype)
    outputs = jax.vmap(network)(X)
    assert outputs.shape == (6, 3)
    for k in range(3):
        column = jax.vmap(from_weights(u, v, alpha[:, k]))(X)
        np.testing.assert_allclose(outputs[:, k], column, rtol=1e3 * np.finfo(dtype).eps)


def test_vmap_over_networks():
    networks = [from_weights(*weights(5, 9, seed=seed)) for seed in range(3)]
    stacked, X = stack(networks), jnp.asarray(samples(9))
    assert stacked.num_neurons == 5
    outputs = jax.jit(jax.vmap(lambda network: jax.vmap(network)(X)))(stacked)
    for index, network in enumerate(networks):
        np.testing.assert_allclose(outputs[index], jax.vmap(network)(X), rtol=1e-12)
        np.testing.assert_array_equal(stacked.u[index], network.u)
        assert eqx.tree_equal(jax.tree.map(jnp.asarray, lane(stacked, index)), network)


def test_from_weights_under_jit_and_vmap():
    u, v, alpha = map(np.stack, zip(*(weights(5, 9, seed=seed) for seed in range(2)), strict=True))
    batch = jax.jit(jax.vmap(from_weights))(u, v, alpha)
    for index in range(2):
        one = jax.tree.map(jnp.asarray, lane(batch, index))
        assert eqx.tree_equal(one, from_weights(u[index], v[index], alpha[index]))


def test_derivatives(dtype):
    """∇f = Σ α [(xᵀv) u + (xᵀu) v], ∂f/∂α = (xᵀu)(xᵀv), ∇²f = Σ α (u vᵀ + v uᵀ)."""
    u, v, alpha = weights(5, 9, dtype=dtype)
    network, x = from_weights(u, v, alpha), samples(9, dtype)[0]
    tolerance = {"rtol": 100 * np.finfo(dtype).eps, "atol": 100 * np.finfo(dtype).eps}
    gradient = u.T @ (alpha * (v @ x)) + v.T @ (alpha * (u @ x))
    np.testing.assert_allclose(jax.grad(network)(x), gradient, **tolerance)
    curvature = u.T @ (alpha[:, None] * v)
    np.testing.assert_allclose(jax.hessian(network)(x), curvature + curvature.T, **tolerance)
    slope = eqx.filter_grad(lambda network: network(x))(network)
    np.testing.assert_allclose(slope.alpha, (u @ x) * (v @ x), **tolerance)
    assert slope.packed_u is slope.packed_v is None


def test_derivatives_of_several_outputs():
    u, v, alpha = weights(5, 9, outputs=3)
    network, x = from_weights(u, v, alpha), samples(9)[0]
    gradient = u.T @ (alpha * (v @ x)[:, None]) + v.T @ (alpha * (u @ x)[:, None])
    for jacobian in (jax.jacfwd, jax.jacrev):
        np.testing.assert_allclose(jacobian(network)(x), gradient.T, rtol=1e-12)


@pytest.mark.parametrize("outputs", [None, 3])
def test_prune_drops_exactly_the_zeros(outputs):
    u, v, alpha = weights(5, 9, outputs)
    alpha[[0, 3]] = 0
    alpha[2] *= 1e-300
    if outputs:
        alpha[4, :2] = 0  # one output still uses it
    network = from_weights(u, v, alpha)
    pruned = network.prune()
    kept = [1, 2, 4]
    assert pruned.num_neurons == 3
    for got, expected in ((pruned.u, u), (pruned.v, v), (pruned.alpha, alpha)):
        np.testing.assert_array_equal(got, expected[kept])
    X = samples(9)
    np.testing.assert_allclose(jax.vmap(pruned)(X), jax.vmap(network)(X), rtol=1e-12)
    assert eqx.tree_equal(pruned.prune(), pruned)


@pytest.mark.parametrize("outputs", [None, 3])
def test_prune_to_nothing(outputs, dtype):
    """A network of no neurons is zero: what a large penalty makes optimal."""
    u, v, alpha = weights(5, 9, outputs, dtype)
    pruned = from_weights(u, v, 0 * alpha).prune()
    assert (pruned.num_neurons, pruned.num_bits) == (0, 0)
    assert pruned.u.shape == pruned.v.shape == (0, 9)
    assert eqx.tree_equal(pruned.prune(), pruned)
    output = pruned(samples(9, dtype)[0])
    assert output.dtype == dtype
    np.testing.assert_array_equal(output, np.zeros(() if outputs is None else outputs))


@pytest.mark.parametrize("transform", [jax.jit, jax.vmap])
def test_prune_refuses_to_be_traced(transform):
    network = from_weights(*weights(5, 9))
    if transform is jax.vmap:
        network = stack([network, network])
    with pytest.raises(ValueError, match="`prune` changes shapes; call it outside"):
        transform(lambda network: network.prune())(network)


@pytest.mark.parametrize("m", [0, 5])
@pytest.mark.parametrize("outputs", [None, 3])
@pytest.mark.parametrize("as_text", [False, True])
def test_save_and_load(m, outputs, as_text, dtype, tmp_path):
    u, v, alpha = weights(m, 9, outputs, dtype)
    network = from_weights(u, v, alpha)
    path = tmp_path / "network.bin"
    assert network.save(str(path) if as_text else path) == path
    loaded = qs.QuantizedNetwork.load(str(path) if as_text else path)
    assert eqx.tree_equal(loaded, network)
    assert loaded.alpha.dtype == dtype
    with np.load(path) as file:  # without the package
        d = int(file["num_features"])
        for name, signs in (("packed_u", u), ("packed_v", v)):
            bits = np.unpackbits(file[name], axis=1)[:, :d]
            np.testing.assert_array_equal(2.0 * bits - 1, signs)
        np.testing.assert_array_equal(file["alpha"], alpha)


def test_other_arrays_in_the_file(tmp_path):
    network = from_weights(*weights(5, 9))
    path = network.save(tmp_path / "network.npz", mean=[1.0, 2.0])
    assert eqx.tree_equal(qs.QuantizedNetwork.load(path), network)
    with np.load(path) as file:
        np.testing.assert_array_equal(file["mean"], [1.0, 2.0])


def test_load_refuses_what_is_no_network(tmp_path):
    np.savez(tmp_path / "other.npz", X=np.ones(3))
    with pytest.raises(ValueError, match="holds no network"):
        qs.QuantizedNetwork.load(tmp_path / "other.npz")


def test_load_without_float64(tmp_path):
    network = from_weights(*weights(5, 9))
    path = network.save(tmp_path / "network.npz")
    with jax.enable_x64(False):
        loaded = qs.QuantizedNetwork.load(path)
    assert loaded.alpha.dtype == np.float32
    np.testing.assert_array_equal(loaded.alpha, np.asarray(network.alpha, np.float32))
    np.testing.assert_array_equal(loaded.packed_u, network.packed_u)


def test_repr():
    network = from_weights(*weights(5, 9))
    expected = "QuantizedNetwork(neurons=5, features=9, first layer 90 bits, alpha float64)"
    assert repr(network) == expected
    several = from_weights(*weights(5, 9, outputs=3, dtype=np.float32))
    expected = (
        "QuantizedNetwork(neurons=5, features=9, outputs=3, first layer 90 bits, alpha float32)"
    )
    assert repr(several) == expected
    seen = []
    jax.jit(lambda network: seen.append(repr(network)))(network)
    assert "neurons=5" in seen[0]


U, V, ALPHA = weights(4, 3)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"u": U[0]}, ValueError, "`u` must have shape (m, d) with d ≥ 1, got (3,)"),
        ({"u": U[:, :0], "v": V[:, :0]}, ValueError, "`u` must have shape (m, d) with d ≥ 1"),
        ({"v": V[:3]}, ValueError, "`v` must have the shape of `u`, (4, 3), got (3, 3)"),
        ({"alpha": ALPHA[:3]}, ValueError, "`alpha` must have shape (4,) or (4, c)"),
        ({"alpha": np.ones(())}, ValueError, "`alpha` must have shape (4,) or (4, c)"),
        ({"alpha": np.ones((4, 1, 1))}, ValueError, "`alpha` must have shape (4,) or (4, c)"),
        ({"u": 0 * U}, ValueError, "`u` must hold only −1 and +1"),
        ({"v": 0.5 * V}, ValueError, "`v` must hold only −1 and +1"),
        ({"u": U * np.nan}, ValueError, "`u` must hold only −1 and +1"),
        ({"v": V > 0}, ValueError, "`v` must hold only −1 and +1"),
        ({"alpha": ALPHA * np.nan}, ValueError, "`alpha` has non-finite values"),
        ({"alpha": ALPHA * np.inf}, ValueError, "`alpha` has non-finite values"),
        ({"alpha": ALPHA * 1j}, TypeError, "`alpha` is complex"),
        ({"alpha": "many"}, TypeError, "`alpha` must be an array of real numbers"),
    ],
)
def test_refuses_bad_weights(change, error, message):
    with pytest.raises(error, match=re.escape(message)):
        from_weights(**{"u": U, "v": V, "alpha": ALPHA, **change})


@pytest.mark.parametrize("name", ["u", "v"])
def test_refuses_complex_signs(name):
    """Of magnitude one, but no signs."""
    arguments = {"u": U, "v": V, "alpha": ALPHA}
    with pytest.raises((TypeError, ValueError), match=f"`{name}`"):
        from_weights(**{**arguments, name: 1j * U})


@pytest.mark.parametrize("shape", [(8,), (10,), (6, 9), ()])
def test_refuses_what_is_not_one_sample(shape):
    network = from_weights(*weights(5, 9))
    with pytest.raises(ValueError, match=re.escape(f"`x` must have shape (9,), got {shape}")):
        network(np.zeros(shape))


def test_is_a_frozen_pytree():
    network = from_weights(*weights(5, 9))
    assert [leaf.shape for leaf in jax.tree.leaves(network)] == [(5, 2), (5, 2), (5,)]
    with pytest.raises(dataclasses.FrozenInstanceError):
        network.alpha = network.alpha


@pytest.mark.parametrize("double", [False, True])
def test_samples_of_numpy_in_either_mode(double):
    """Without JAX's warning of a dtype that it does not have."""
    with jax.enable_x64(double):
        network = qs.QuantizedNetwork.from_weights([[1, -1]], [[1, 1]], [0.5])
        output = network(np.array([3.0, 1.0]))
        assert output.dtype == (np.float64 if double else np.float32)
        assert output == 4
        assert network(np.array([3, 1])) == 4
