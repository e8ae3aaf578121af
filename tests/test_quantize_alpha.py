"""Output weights of a few bits: against all integers, the projection ADMM, and the float ones."""

import itertools

import equinox as eqx
import jax
import numpy as np
import pytest
from losses import ALL, STOOD_FOR
from losses import problem_of as problem_of_loss
from problems import planted

import jaxqsdp as qs
from jaxqsdp._search.integers import Quadratic

KEY = jax.random.key(5)


def fitted(m=8, dtype=np.float64, outputs=None, n=80, d=6, beta=0.3):
    case = planted(1, n, d)
    y = case.y if outputs is None else np.column_stack([case.y, 1e-3 * case.y[::-1]])
    betas = beta if outputs is None else np.array([beta, 1e-3 * beta])
    problem = qs.Problem(case.X.astype(dtype), y.astype(dtype), betas)
    solution = qs.solve(problem)
    drawn = qs.round(problem, solution, num_neurons=4 * m, key=KEY).prune()
    largest = np.argsort(-np.abs(drawn.alpha_columns).max(axis=1))[:m]
    return problem, qs.refit(problem, drawn.subset(largest)).prune()


def cost(problem, network, quantized):
    """Return by which share the objective is larger."""
    return float(problem.objective(quantized)) / float(problem.objective(network)) - 1


@pytest.mark.parametrize("seed", range(6))
def test_few_integers_are_the_best_of_all(seed):
    """Of all integers up to 3 for four neurons, each with its best scale."""
    rng = np.random.default_rng(seed)
    columns, y = rng.standard_normal((10, 4)), rng.standard_normal(10)
    columns[:, 1] += 2 * columns[:, 0]  # correlated, so that plain rounding does badly
    quadratic = Quadratic(columns.T @ columns, columns.T @ y, 0.1)
    alpha = np.linalg.lstsq(columns, y)[0]
    best = min(
        quadratic.best_scale(np.array(z, float)).value
        for z in itertools.product(range(-3, 4), repeat=4)
    )
    found = quadratic.search(alpha, 3)[0]
    assert found.value == pytest.approx(best, rel=1e-9)
    value = 0.5 * np.sum((columns @ found.integers * found.scale - y) ** 2) - 0.5 * y @ y
    value += 0.1 * found.scale * np.abs(found.integers).sum()
    assert found.value == pytest.approx(value, rel=1e-9)


def test_eight_bits_cost_nothing(dtype):
    problem, network = fitted(16, dtype, n=200, d=20, beta=1.0)
    quantized = qs.quantize_alpha(problem, network, bits=8)
    assert quantized.alpha.dtype == dtype
    assert -1e-6 < cost(problem, network, quantized) < 1e-3
    assert qs.quantize_alpha(problem, network).alpha_bits == 8


@pytest.mark.parametrize("bits", [2, 3, 4, 6, 8, 12])
def test_weights_are_integers_of_so_many_bits_times_a_scale(bits, tmp_path):
    problem, network = fitted(10)
    quantized = qs.quantize_alpha(problem, network, bits=bits)
    integers = np.asarray(quantized.alpha_integers)
    assert np.abs(integers).max() <= 2 ** (bits - 1) - 1
    assert np.all(integers != 0)  # neurons left out are dropped
    np.testing.assert_array_equal(quantized.alpha, integers * float(quantized.alpha_scale))
    m = quantized.num_neurons
    assert quantized.total_bits == quantized.num_bits + bits * m + 64
    path = quantized.save(tmp_path / "network.npz")
    assert eqx.tree_equal(qs.QuantizedNetwork.load(path), quantized)
    with np.load(path) as file:
        assert file["packed_alpha"].nbytes == -(-bits * m // 8)
    assert f"alpha {bits} bits" in repr(quantized)
    # Fitted anew, they are floats again.
    again = qs.refit(problem, quantized)
    assert again.alpha_bits is again.alpha_scale is None
    assert problem.objective(again) <= problem.objective(quantized) * (1 + 1e-9)


def projected(problem, network, bits, rounds=300):
    """Return what ADMM between a penalized fit and the nearest integers finds (Ren et al. 2019)."""
    X, y = np.asarray(problem.X), np.asarray(problem.y)
    u, v, alpha = (np.asarray(a) for a in (network.u, network.v, network.alpha))
    columns, most = (X @ u.T) * (X @ v.T), 2 ** (bits - 1) - 1
    gram, targets, beta = columns.T @ columns, columns.T @ y, float(problem.beta)
    quadratic, best = Quadratic(gram, targets, beta), np.inf
    for rate in np.trace(gram) / len(alpha) * 10.0 ** np.arange(-3, 2):
        snapped, dual = alpha, np.zeros_like(alpha)
        for _ in range(rounds):
            linear = targets - beta * np.sign(alpha) + rate * (snapped - dual)
            free = np.linalg.solve(gram + rate * np.eye(len(alpha)), linear)
            scale = np.abs(free + dual).max() / most
            integers = np.clip(np.rint((free + dual) / scale), -most, most)
            snapped = scale * integers
            dual = dual + free - snapped
            best = min(best, quadratic.best_scale(integers).value)
    return best + 0.5 * float(y @ y)


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_no_worse_than_projections(bits):
    problem, network = fitted(12)
    found = problem.objective(qs.quantize_alpha(problem, network, bits=bits))
    assert found <= projected(problem, network, bits) * (1 + 1e-9)


@pytest.mark.covering(1)
@pytest.mark.thorough(name=STOOD_FOR)
@pytest.mark.parametrize("name", ALL)
def test_any_loss(name, dtype):
    problem = problem_of_loss(name, 60, 5, fraction=0.03, dtype=dtype)
    solution = qs.solve(problem, throw=False)
    network = qs.round(problem, solution, num_neurons=12, key=KEY).prune()
    costs = [cost(problem, network, qs.quantize_alpha(problem, network, bits=b)) for b in (3, 8)]
    assert costs[1] < 1e-3 + 0.1 * costs[0]
    assert costs[1] < 1e-2
    few = qs.quantize_alpha(problem, network, bits=4)
    assert qs.certify(problem, few, solution).gap >= qs.certify(problem, network, solution).gap


def test_outputs_have_scales_of_their_own(tmp_path):
    problem, network = fitted(8, outputs=2)
    quantized = qs.quantize_alpha(problem, network, bits=6)
    assert quantized.alpha_scale.shape == (2,)
    assert quantized.alpha_integers.shape == quantized.alpha.shape == (quantized.num_neurons, 2)
    assert quantized.alpha_scale[1] < 1e-2 * quantized.alpha_scale[0]
    for output in range(2):
        alone = qs.Problem(problem.X, problem.y[:, output], problem.beta[output])
        parts = [
            qs.QuantizedNetwork.from_weights(one.u, one.v, one.alpha[:, output])
            for one in (network, quantized)
        ]
        assert cost(alone, *parts) < 0.02
    path = quantized.save(tmp_path / "network.npz")
    assert eqx.tree_equal(qs.QuantizedNetwork.load(path), quantized)


def test_levels_and_units_do_not_matter():
    problem, network = fitted(6)
    for unit in (1e-120, 1e120):
        scaled = qs.Problem(problem.X, problem.y * unit, problem.beta * unit)
        same = network.with_alpha(network.alpha * unit)
        found = qs.quantize_alpha(scaled, same, bits=4)
        expected = qs.quantize_alpha(problem, network, bits=4)
        np.testing.assert_array_equal(found.alpha_integers, expected.alpha_integers)
    levels = qs.Levels(bits=2)
    u, v = np.random.default_rng(0).choice(levels.values, (2, 5, 6))
    wide = qs.QuantizedNetwork.from_weights(u, v, np.ones(5), levels=levels)
    assert qs.quantize_alpha(problem, wide, bits=5).levels == levels


@pytest.mark.parametrize("name", ALL)
def test_where_the_penalty_leaves_nothing(name, dtype):
    problem = problem_of_loss(name, 30, 4, fraction=50.0, dtype=dtype)
    shape = (2, *problem.y.shape[1:])
    signs = np.random.default_rng(0).choice((-1.0, 1.0), (2, 2, 4))
    network = qs.QuantizedNetwork.from_weights(*signs, np.ones(shape, dtype))
    for some in (network, network.subset(np.zeros(0, int))):
        assert qs.quantize_alpha(problem, some, bits=4).num_neurons == 0


def test_files_hold_what_the_network_has(tmp_path):
    problem, network = fitted(6)
    quantized = qs.quantize_alpha(problem, network, bits=4)
    path = tmp_path / "network.npz"
    moved = eqx.tree_at(lambda network: network.alpha, quantized, quantized.alpha * 1.3 + 0.01)
    with pytest.raises(ValueError, match="`alpha` is no longer"):
        moved.save(path)
    again = qs.QuantizedNetwork.load(moved.with_alpha(moved.alpha).save(path))
    np.testing.assert_array_equal(again.alpha, moved.alpha)
    # XLA takes subnormal numbers for zero.
    least = eqx.tree_at(
        lambda network: (network.alpha, network.alpha_scale),
        quantized,
        (np.asarray(quantized.alpha_integers) * 5e-324, np.asarray(5e-324)),
    )
    again = qs.QuantizedNetwork.load(least.save(path))
    np.testing.assert_array_equal(np.asarray(again.alpha), np.asarray(least.alpha))


@pytest.mark.parametrize(
    "change",
    [
        {"alpha_scale": np.asarray(np.inf)},
        {"alpha_scale": np.asarray(-1.0)},
        {"alpha_scale": np.asarray(1e308)},
        {"alpha_scale": np.ones(2)},
        {"alpha_scale": None},
        {"alpha_bits": np.asarray(17)},
        {"alpha_bits": np.asarray(1)},
        {"packed_alpha": np.full(2, 255, np.uint8)},
        {"packed_alpha": np.zeros(3, np.uint8)},
        {"packed_alpha": None},
        {"alpha": np.ones(3)},
        {"levels": np.array([1e308, 0.0])},
        {"levels": np.array([np.nan])},
        {"levels": np.ones(9)},
        {"levels": np.ones(2, int)},
        {"polynomial": np.ones(3)},
        {"polynomial": np.array([np.inf, 0, 0])},
    ],
)
def test_damaged_files_are_refused(change, tmp_path):
    path, signs = tmp_path / "network.npz", np.full((3, 1), 0b11111000, np.uint8)
    members = {
        "packed_u": signs,
        "packed_v": signs,
        "num_features": np.asarray(5),
        "packed_alpha": np.array([0xE0, 0xA0], np.uint8),
        "alpha_scale": np.asarray(0.5),
        "alpha_bits": np.asarray(4),
    }
    np.savez(path, **members)
    np.testing.assert_array_equal(qs.QuantizedNetwork.load(path).alpha, [3.5, -3.5, 1.5])
    given = {name: array for name, array in (members | change).items() if array is not None}
    np.savez(path, **given)
    with pytest.raises(ValueError, match="`path` holds no network"):
        qs.QuantizedNetwork.load(path)


def test_a_network_of_nothing_stays_that():
    problem, network = fitted(4)
    large = problem.at(2 * float(qs.beta_max(problem)))
    empty = qs.quantize_alpha(large, network, bits=4)
    assert empty.num_neurons == 0
    assert empty.total_bits == 64
    assert large.objective(empty) == pytest.approx(0.5 * float(problem.y @ problem.y))


def test_what_is_wrong_is_named():
    problem, network = fitted(4)
    for bits in (1, 17, 0, 2.5, True):
        with pytest.raises(ValueError, match="`bits`"):
            qs.quantize_alpha(problem, network, bits=bits)
    with pytest.raises(ValueError, match="outside `jit`"):
        jax.jit(lambda y: qs.quantize_alpha(qs.Problem(problem.X, y, 1.0), network))(problem.y)
    with pytest.raises(TypeError, match="`network`"):
        qs.quantize_alpha(problem, network.alpha)
    with pytest.raises(ValueError, match="not quantized"):
        _ = network.alpha_integers
