"""Polynomial neurons of the same outputs as bilinear ones, and back."""

import equinox as eqx
import jax
import numpy as np
import pytest
from problems import planted

import jaxqsdp as qs

from_weights = qs.QuantizedNetwork.from_weights
SQUARES = [(1.0, 0.0, 0.0), (2.5, 0.0, 0.0)]
OTHERS = [(0.09, 0.5, 0.47), (1.0, -1.0, 0.3), (-0.5, 0.0, 2.0)]


def network(levels=None, outputs=None, dtype=np.float64, m=5, d=9):
    rng = np.random.default_rng(0)
    values = (levels or qs.Levels()).values
    u, v = rng.choice(values, (2, m, d)).astype(dtype)
    alpha = rng.standard_normal((m,) if outputs is None else (m, outputs)).astype(dtype)
    return from_weights(u, v, alpha, levels=levels)


def outputs_of(network, dtype=np.float64):
    X = np.random.default_rng(1).standard_normal((50, 9)).astype(dtype)
    return np.asarray(jax.vmap(network)(X), np.float64)


@pytest.mark.parametrize("coefficients", SQUARES + OTHERS)
@pytest.mark.parametrize(
    ("levels", "outputs"), [(None, None), (qs.Levels.ternary(), 3), (qs.Levels(bits=2), None)]
)
def test_outputs_are_the_same(levels, coefficients, outputs, dtype):
    bilinear = network(levels, outputs, dtype)
    polynomial = bilinear.to_polynomial(*coefficients)
    assert polynomial.v is None
    assert polynomial.activation == qs.Polynomial(*coefficients)
    assert polynomial.num_neurons == (2 if coefficients[1] == 0 else 4) * 5
    expected = outputs_of(bilinear, dtype)
    error = np.abs(outputs_of(polynomial, dtype) - expected).max() / np.abs(expected).max()
    assert error < (1e-12 if dtype == np.float64 else 3e-6)
    traced = jax.jit(lambda network: network.to_polynomial(*coefficients))(bilinear)
    assert eqx.tree_equal(traced.packed_u, polynomial.packed_u)
    if levels is None:
        assert polynomial.levels == qs.Levels.ternary()


def test_the_formula_of_a_neuron():
    rng = np.random.default_rng(0)
    w, alpha = rng.choice((-1.0, 0.0, 1.0), (3, 9)), rng.standard_normal(3)
    activation = qs.Polynomial(0.09, 0.5, 0.47)
    ternary = qs.Levels.ternary()
    x = rng.standard_normal(9)
    t = w @ x
    one = from_weights(w, alpha=alpha, activation=activation, levels=ternary)
    assert float(one(x)) == pytest.approx((0.09 * t**2 + 0.5 * t + 0.47) @ alpha, rel=1e-12)
    gradient = ((2 * 0.09 * t + 0.5) * alpha) @ w
    np.testing.assert_allclose(jax.grad(one)(x), gradient, rtol=1e-12)
    assert one.num_bits == 3 * 16  # nine weights, five to a byte


@pytest.mark.parametrize("coefficients", SQUARES)
@pytest.mark.parametrize("levels", [None, qs.Levels(bits=2)])
def test_back_to_what_it_was(levels, coefficients):
    bilinear = network(levels)
    again = bilinear.to_polynomial(*coefficients).to_bilinear()
    assert again.levels == bilinear.levels
    np.testing.assert_array_equal(again.packed_u, bilinear.packed_u)
    np.testing.assert_array_equal(again.packed_v, bilinear.packed_v)
    np.testing.assert_allclose(again.alpha, bilinear.alpha, rtol=1e-15)


def test_any_squares_are_bilinear_and_can_be_judged():
    rng = np.random.default_rng(2)
    case, ternary = planted(1, 40, 5), qs.Levels.ternary()
    w = rng.choice((-1.0, 0.0, 1.0), (4, 5))
    squares = from_weights(
        w, alpha=[1.0, -2, 3, 0.5], activation=qs.Polynomial(1.0), levels=ternary
    )
    bilinear = squares.to_bilinear()
    assert bilinear.levels == ternary
    np.testing.assert_allclose(
        jax.vmap(bilinear)(case.X), jax.vmap(squares)(case.X), rtol=1e-12, atol=1e-12
    )
    traced = jax.jit(lambda network: network.to_bilinear())(squares)
    np.testing.assert_array_equal(traced.packed_v, bilinear.packed_v)
    problem = qs.Problem(case.X, case.y, 0.5)
    certificate = qs.certify(problem, bilinear)
    assert 0 < certificate.gap < 1
    for some in (squares, bilinear.to_polynomial(2.0)):
        with pytest.raises(ValueError, match=r"`network\.to_bilinear\(\)` has them"):
            qs.certify(problem, some)
    with pytest.raises(ValueError, match="`problem` of") as error:
        problem.objective(network(d=5).to_polynomial(0.09, 0.5, 0.47))
    assert "to_bilinear" not in str(error.value)


@pytest.mark.parametrize("coefficients", [SQUARES[0], OTHERS[0]])
def test_files_hold_the_activation(coefficients, tmp_path):
    polynomial = network(outputs=3).to_polynomial(*coefficients)
    again = qs.QuantizedNetwork.load(polynomial.save(tmp_path / "network.npz"))
    assert eqx.tree_equal(again, polynomial)
    assert again.activation == polynomial.activation
    assert repr(qs.Polynomial(*coefficients)) in repr(again)
    pruned = eqx.tree_at(lambda n: n.alpha, again, again.alpha.at[0].set(0)).prune()
    assert pruned.num_neurons == again.num_neurons - 1
    assert pruned.activation == again.activation


def test_what_is_wrong_is_named():
    one = network()
    with pytest.raises(ValueError, match="`a` must not be zero"):
        one.to_polynomial(0.0, 1.0)
    for name, wrong in (("a", (np.nan,)), ("b", (1, np.inf)), ("c", (1, 0, -np.inf))):
        with pytest.raises(ValueError, match=f"`{name}` must be finite"):
            one.to_polynomial(*wrong)
    with pytest.raises(TypeError, match="`a` must be a number"):
        qs.Polynomial("1")
    with pytest.raises(ValueError, match=r"Levels\(bits=5\), of more than 4 coefficients"):
        network(qs.Levels(bits=5)).to_polynomial(1.0)
    with pytest.raises(ValueError, match="`a` is too small"):
        one.to_polynomial(5e-324)
    stacked = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), one)
    with pytest.raises(ValueError, match=r"stacked; use `jax\.vmap`"):
        stacked.to_polynomial(1.0)
    both = jax.vmap(lambda network: network.to_polynomial(1.0))(stacked)
    assert both.u.shape == (2, 10, 9)
    with pytest.raises(ValueError, match="must have bilinear neurons"):
        one.to_polynomial(1.0).to_polynomial(1.0)
    with pytest.raises(ValueError, match=r"a·\(xᵀw\)²"):
        one.to_polynomial(1.0, 2.0).to_bilinear()
    with pytest.raises(ValueError, match="`v` does not fit"):
        from_weights([[1.0]], alpha=[1.0])
    with pytest.raises(ValueError, match="`v` does not fit"):
        from_weights([[1.0]], [[1.0]], [1.0], activation=qs.Polynomial(1.0))
    with pytest.raises(TypeError, match="`alpha` is missing"):
        from_weights([[1.0]], [[1.0]])
    with pytest.raises(TypeError, match="`activation`"):
        from_weights([[1.0]], [[1.0]], [1.0], activation="bilinear")
