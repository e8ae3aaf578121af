"""Better networks of at most so many neurons, and never worse ones."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from helpers import problem_of
from problems import SMALL, Data, degenerate, planted

import jaxqsdp as qs
import jaxqsdp._improve as module
from jaxqsdp._host import programs
from jaxqsdp._problem.host_core import HostCore
from jaxqsdp._run.padding import pad
from jaxqsdp._search import kicks
from jaxqsdp._search.generated import generate_and_prune
from jaxqsdp._search.latent import descend, loss_of
from jaxqsdp._search.local import coordinate_descent, local_search
from jaxqsdp._search.target import Target

KEY = jax.random.key(3)
from_weights = qs.QuantizedNetwork.from_weights


@functools.cache
def improved(dtype=np.float64, max_neurons=4):
    """Return a weighted problem, what is rounded and what `improve` makes of it."""
    case = planted(1, *SMALL)
    weight = np.arange(SMALL[0]) % 5 / 2.0
    problem = problem_of(Data(case.X, case.y, 0.5, weight), dtype)
    solution = qs.solve(problem)
    rounded = qs.round(problem, solution, num_neurons=max_neurons, key=KEY)
    network = improve(problem, rounded, max_neurons=max_neurons, solution=solution)
    return problem, solution, rounded, network


def improve(problem, network, **options):
    return qs.improve(problem, network, key=KEY, num_starts=4, num_steps=200, **options)


def test_is_better_and_within_the_bounds(dtype):
    problem, solution, rounded, network = improved(dtype)
    assert network.num_neurons <= 4
    assert network.alpha.dtype == dtype
    assert np.all(np.asarray(network.alpha) != 0)
    objective = problem.objective(network)
    assert objective < 0.9 * problem.objective(rounded)
    assert solution.lower_bound <= objective
    # α is the best for these neurons.
    refitted = qs.refit(problem, network)
    np.testing.assert_allclose(problem.objective(refitted), objective, rtol=1e-4)


def test_finds_the_optimum_where_neurons_suffice():
    """With as many neurons as the optimum has, found by exact pricing, a few per cent are left."""
    problem, solution, *_ = improved()
    exact = qs.solve_exactly(problem, solution=solution)
    _, _, _, network = improved(np.float64, exact.network.num_neurons)
    optimum = float(exact.certificate.lower_bound)
    assert optimum <= problem.objective(network) <= 1.05 * optimum


def test_same_key_same_network():
    problem, solution, rounded, network = improved()
    again = improve(problem, rounded, max_neurons=4, solution=solution)
    assert eqx.tree_equal(again, network)
    # The solution is only there to save time.
    assert eqx.tree_equal(improve(problem, rounded, max_neurons=4), network)


def test_never_worse_than_a_network_that_fits():
    """The optimum itself comes back, whatever zero neurons it carries."""
    problem, solution, *_ = improved()
    exact = qs.solve_exactly(problem, solution=solution).network
    count = exact.num_neurons
    padded = from_weights(
        jnp.concatenate([exact.u, exact.u]),
        jnp.concatenate([exact.v, exact.v]),
        jnp.concatenate([exact.alpha, 0 * exact.alpha]),
    )
    network = improve(problem, padded, max_neurons=count, solution=solution)
    assert network.num_neurons <= count
    assert problem.objective(network) <= problem.objective(exact)


def test_never_worse_than_the_largest_neurons_refitted():
    problem, solution, *_ = improved()
    exact = qs.solve_exactly(problem, solution=solution).network
    network = improve(problem, exact, max_neurons=4, solution=solution)
    size = np.abs(exact.alpha) * np.linalg.norm(
        (problem.X @ exact.u.T) * (problem.X @ exact.v.T), axis=0
    )
    kept = np.argsort(-size)[:4]
    largest = from_weights(exact.u[kept], exact.v[kept], exact.alpha[kept])
    assert network.num_neurons <= 4
    assert problem.objective(network) <= problem.objective(qs.refit(problem, largest))


def test_several_outputs_share_neurons():
    cases = [planted(seed, *SMALL) for seed in range(2)]
    y = np.stack([case.y for case in cases], axis=1)
    problem = qs.Problem(cases[0].X, y, np.array([0.3, 3.0]))
    solution = qs.solve(problem)
    rounded = qs.round(problem, solution, num_neurons=6, key=KEY)
    network = improve(problem, rounded, max_neurons=6, solution=solution)
    assert network.alpha.shape[1:] == (2,)
    assert network.num_neurons <= 6
    assert solution.total_lower_bound <= problem.objective(network)
    assert problem.objective(network) < 0.9 * problem.objective(rounded)


@pytest.mark.parametrize("name", [n for n in degenerate() if not n.startswith("one ")])
def test_degenerate_problems(name):
    problem = problem_of(degenerate()[name], np.float64)
    solution = qs.solve(problem, throw=False)
    rounded = qs.round(problem, solution, num_neurons=4, key=KEY)
    network = improve(problem, rounded, max_neurons=4, solution=solution)
    objective = problem.objective(network)
    assert solution.lower_bound <= objective * (1 + 1e-9)
    assert objective <= problem.objective(rounded)
    if name in ("zero targets", "zero features", "zero optimum"):
        assert network.num_neurons == 0


@pytest.mark.parametrize("shape", [(1, 5), (24, 1)])
def test_one_sample_or_feature(shape):
    case = planted(0, *shape) if shape[0] > 1 else Data(np.ones(shape), np.ones(1))
    problem = qs.Problem(case.X, case.y, 0.1)
    nothing = from_weights(np.ones((1, shape[1])), np.ones((1, shape[1])), np.zeros(1))
    network = improve(problem, nothing, max_neurons=2)
    assert problem.objective(network) <= problem.objective(nothing)


@pytest.mark.parametrize("c", [1e-6, 1e6])
def test_units_do_not_matter(c, dtype):
    problem, _, rounded, network = improved(dtype)
    c = dtype(c)
    moved = qs.Problem(problem.X, c * problem.y, c * problem.beta, None, problem.sample_weight)
    rounded = eqx.tree_at(lambda network: network.alpha, rounded, c * rounded.alpha)
    again = improve(moved, rounded, max_neurons=4)
    expected = float(c) ** 2 * float(problem.objective(network))
    np.testing.assert_allclose(moved.objective(again), expected, rtol=0.2)


@pytest.mark.parametrize("levels", [qs.Levels().values, qs.Levels.ternary().values])
def test_local_search_never_raises_the_objective(levels):
    """Whatever it starts from, and not only by refitting: weights change."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((30, 6)), rng.standard_normal((30, 2))
    u, v = rng.choice(levels, (2, 5, 3, 6))
    beta = np.array([0.1, 2.0])

    def objective(u, v):
        phi = (X @ u.T) * (X @ v.T)
        alpha = coordinate_descent(phi.T @ phi, phi.T @ y, beta, jnp.zeros((3, 2)), 200)
        loss = 0.5 * jnp.sum(jnp.square(phi @ alpha - y))
        return loss + jnp.sum(beta * jnp.sum(jnp.abs(alpha), axis=0))

    def search(u, v, sweeps, rooms=3):
        """Search in a program with room for more neurons than the three that are in use."""
        order = np.zeros((sweeps, rooms), np.int32)
        order[:, :3] = [rng.permutation(3) for _ in range(sweeps)]
        starts = rng.integers(0, len(levels), (sweeps, rooms, 2, 6, 6), np.uint8)
        u, v = (jnp.pad(signs, ((0, rooms - 3), (0, 0)), constant_values=1) for signs in (u, v))
        found = jax.jit(local_search)(X, y, beta, u, v, order, starts, np.int32(3), levels)
        assert np.all(np.asarray(found.alpha)[3:] == 0)
        return found.u[:3], found.v[:3]

    found_u, found_v = (
        jnp.stack(signs)
        for signs in zip(*(search(u[k], v[k], 3, 3 + k % 2) for k in range(5)), strict=True)
    )
    assert np.all(np.isin(found_u, levels))
    assert np.all(np.isin(found_v, levels))
    before, after = jax.vmap(objective)(u, v), jax.vmap(objective)(found_u, found_v)
    assert np.all(after <= before * (1 + 1e-6))
    assert np.all(after < 0.95 * before)
    # No single flip helps much once sweeps change nothing.
    u, v = found_u[0], found_v[0]
    for _ in range(5):
        u, v = search(u, v, 4)
    best = float(objective(u, v))
    for j in range(3):
        for k in range(6):
            assert float(objective(u.at[j, k].multiply(-1), v)) >= best * (1 - 1e-6)


@pytest.mark.parametrize(
    ("n", "outputs", "num_neurons", "name"),
    [(9, 2, 1, "_ByNeurons"), (9, 1, 20, "_BySamples"), (200, 2, 20, "_ByLifted")],
)
def test_gradient_of_the_descent_is_that_of_the_loss(n, outputs, num_neurons, name):
    """Each form against automatic differentiation, with real weights in place of signs."""
    rng = np.random.default_rng(n)
    X, y = rng.standard_normal((n, 8)), rng.standard_normal((n, outputs))
    u, v = rng.standard_normal((2, num_neurons, 8))
    alpha = rng.standard_normal((num_neurons, outputs))

    def value(u, v, alpha):
        return 0.5 * jnp.sum(jnp.square(((X @ u.T) * (X @ v.T)) @ alpha - y))

    loss = loss_of(X, y, num_neurons)
    assert type(loss).__name__ == name
    expected = jax.grad(value, argnums=(0, 1, 2))(u, v, alpha)
    for found, wanted in zip(loss.gradient(u, v, alpha), expected, strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-6)


def test_descent_lowers_the_loss():
    case = planted(0, *SMALL)
    X, y = jnp.asarray(case.X), jnp.asarray(case.y)[:, None]
    rng = np.random.default_rng(0)
    start = (*jnp.asarray(rng.uniform(-1, 1, (2, 6, SMALL[1]))), jnp.zeros((6, 1)))
    loss, beta = loss_of(X, y, 6), jnp.array([0.5])

    def value(latent):
        u, v = (jnp.where(w >= 0, 1.0, -1.0) for w in latent[:2])
        misfit = ((X @ u.T) * (X @ v.T)) @ latent[2] - y
        return float(0.5 * jnp.sum(jnp.square(misfit)) + 0.5 * jnp.sum(jnp.abs(latent[2])))

    end = descend(
        loss,
        jnp.tile(beta[None], (len(start[2]), 1)),
        start,
        0.03,
        0.03,
        300,
        np.array([-1.0, 1.0]),
    )
    assert value(end) < 0.5 * value(start)
    assert np.all(np.abs(end[0]) <= 1)


def test_other_dtypes_and_rows_that_do_not_count():
    """A float32 network for a float64 problem; what a row of zero weight holds does not matter."""
    problem, solution, _, network = improved()
    narrow = eqx.tree_at(lambda n: n.alpha, network, network.alpha.astype(np.float32))
    again = improve(problem, narrow, max_neurons=2, solution=solution)
    assert again.alpha.dtype == np.float64
    padded = eqx.tree_at(lambda p: p.X, problem, problem.X.at[0].set(1e6 * np.arange(1.0, 6)))
    assert problem.sample_weight[0] == 0
    others = improve(padded, network, max_neurons=2, solution=solution)
    expected = improve(problem, network, max_neurons=2, solution=solution)
    assert eqx.tree_equal(others, expected)


def test_many_neurons_are_no_more_than_needed(monkeypatch):
    """Column generation and local search are left out where they would take too much."""
    problem, solution, rounded, _ = improved()
    assert improve(problem, rounded, max_neurons=10**6, solution=solution).num_neurons <= 16
    monkeypatch.setattr(module, "_MOST_ENTRIES", 1)
    monkeypatch.setattr(kicks, "_MOST_SEARCHED", 1)
    network = improve(problem, rounded, max_neurons=9, solution=solution)
    assert problem.objective(network) <= problem.objective(rounded)


def test_errors():
    problem, _, _, network = improved()
    other = from_weights(np.ones((1, 9)), np.ones((1, 9)), np.ones(1))
    for name, bad in (("max_neurons", 0), ("num_starts", 0), ("num_steps", -1)):
        options = {"max_neurons": 4, "key": KEY, name: bad}
        with pytest.raises(ValueError, match=name):
            qs.improve(problem, network, **options)
    with pytest.raises(TypeError, match="key"):
        qs.improve(problem, network, max_neurons=4, key=0)
    with pytest.raises(TypeError, match="solution"):
        qs.improve(problem, network, max_neurons=4, key=KEY, solution=1)
    with pytest.raises(ValueError, match="features"):
        qs.improve(problem, other, max_neurons=4, key=KEY)
    with pytest.raises(ValueError, match="outside"):
        jax.jit(lambda n: qs.improve(problem, n, max_neurons=4, key=KEY))(network)
    with pytest.raises(ValueError, match="outside"):
        jax.vmap(lambda key: qs.improve(problem, network, max_neurons=4, key=key).alpha)(
            jax.random.split(KEY, 2)
        )


@pytest.mark.thorough(dtype=(np.float64,))
def test_what_does_not_count_may_be_huge(dtype):
    case = planted(0, 20, 3)
    weight = np.ones(20)
    weight[0] = 0
    X, y = np.copy(case.X), np.copy(case.y)
    X[0] = y[0] = float(np.finfo(dtype).max) ** 0.6
    alpha = np.array([1, -1], dtype)
    network = from_weights(np.ones((2, 3)), [[1, 1, 1], [1, -1, 1]], alpha)

    def outcome(X, y):
        problem = problem_of(Data(X, y, 0.3, weight), dtype)
        refitted = qs.refit(problem, network)
        better = improve(problem, network, max_neurons=2)
        certificate = jax.jit(qs.certify)(problem, network)  # in the dtype at hand
        objectives = problem.objective(network), problem.objective(better), certificate.objective
        return np.asarray(refitted.alpha), np.asarray(objectives)

    for found, expected in zip(outcome(X, y), outcome(case.X, case.y), strict=True):
        np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_outputs_of_different_size():
    def objective(problem, alone):
        core, solution = HostCore.of(problem), qs.solve(problem)
        rng = np.random.default_rng(0)
        arguments = core, solution, rng, 8, lambda note: None, lambda: False
        u, v = generate_and_prune(*arguments)
        return alone.objective(qs.refit(alone, from_weights(u, v, np.ones(len(u)))))

    together = separately = 0
    for seed in (2, 4, 6):
        case, small = planted(seed, 40, 4), 1e-3 * planted(seed + 1, 40, 4).y
        alone = qs.Problem(case.X, case.y, 0.2)
        both = qs.Problem(case.X, np.column_stack([small, case.y]), [2e-4, 0.2])
        together += objective(both, alone)
        separately += objective(alone, alone)
    # The first output hardly counts, so it takes hardly any neurons from the second.
    assert together < 1.1 * separately


def test_what_is_late_is_pruned_at_once(monkeypatch):
    """For two outputs: a round of column generation each, a fit to choose by and one to see.

    Nothing then looks for fewer neurons of the same predictions, which takes longer than fits.
    """
    case = planted(0, 60, 6)
    problem = qs.Problem(case.X, np.column_stack([case.y, case.y[::-1]]), 0.2)
    solution, fits, basic = qs.solve(problem), [], []
    for name, calls in (("restricted", fits), ("basic_weights", basic)):
        plain = getattr(Target, name)

        def counted(*given, plain=plain, calls=calls, **limits):
            calls.append(1)
            return plain(*given, **limits)

        monkeypatch.setattr(Target, name, counted)
    for late in (True, False):
        fits.clear()
        basic.clear()
        u, v = generate_and_prune(
            HostCore.of(problem), solution, np.random.default_rng(0), 6, str, lambda late=late: late
        )
        assert u.shape == v.shape == (6, 6)
        assert (len(fits) == 2 * 3) == late
        assert len(basic) == (0 if late else 2 * 2)


def test_a_time_limit_ends_the_search_early():
    """Compilation does not count, and what is returned is no worse than what was given."""
    problem, solution, rounded, _ = improved(np.float64, 9)
    notes = []

    class Bar:
        def __init__(self, **options):
            pass

        def __enter__(self):
            return self

        def __exit__(self, *error):
            pass

        def set_postfix_str(self, note, refresh):
            notes.append(note)

        def update(self, count):
            pass

    for limit in (None, 1e-9):
        notes.clear()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("tqdm.tqdm", Bar)
            network = improve(
                *(problem, rounded),
                max_neurons=9,
                solution=solution,
                time_limit=limit,
                progress=True,
            )
        assert problem.objective(network) <= problem.objective(rounded)
        rounds = [note for note in notes if "gap" in note]
        assert (len(rounds) == 1) == (limit is not None)
        assert any("kick" in note for note in notes) == (limit is None)
    with pytest.raises(ValueError, match="time_limit"):
        improve(problem, rounded, max_neurons=9, time_limit=0)


def test_late_is_late_only_where_work_is_left(monkeypatch):
    """With one batch of networks and too many neurons to kick only its second round can be cut."""
    monkeypatch.setattr(kicks, "_round", lambda core, batch, *_: batch)
    core = HostCore.of(qs.Problem(np.eye(40, 2), np.ones(40), 1.0))
    for m, batches, asked in ((33, 1, 1), (33, 3, 5), (32, 1, 2)):
        calls = []

        def is_late(calls=calls):
            calls.append(True)
            return False

        slots = 64
        monkeypatch.setattr(kicks, "_MOST_KICKS", 1)
        u = np.ones((batches * kicks.side_by_side(slots), m, 2))
        rng = np.random.default_rng(0)
        kicks.search(core, u, u, rng, slots, qs.Levels(), lambda note: None, is_late)
        assert len(calls) == asked


def test_shapes_that_are_near_share_programs():
    """Padding changes no result but for rounding, and nothing is compiled for the second shape."""
    programs._programs.clear()
    counts = []
    for n, d, m in ((30, 6, 12), (27, 6, 9)):
        case = planted(0, n, d)
        problem = qs.Problem(case.X, case.y, 0.3)
        result = qs.fit(*(case.X, case.y), beta=0.3, num_neurons=m, key=KEY)
        assert result.certificate.gap >= 0
        counts.append(len(programs._programs))
    assert counts[0] == counts[1]
    padded = pad(problem, (40, 8))
    rounded = qs.round(problem, result.solution, num_neurons=9, key=KEY)
    for one, other in (
        (problem.objective(rounded), padded_objective(padded, rounded)),
        (result.solution.value, qs.solve(padded).value),
        (result.solution.value, jax.jit(qs.solve)(problem).value),
    ):
        np.testing.assert_allclose(one, other, rtol=1e-8)


def padded_objective(padded, network):
    d = padded.X.shape[1] - network.num_features
    u, v = (jnp.pad(signs, ((0, 0), (0, d)), constant_values=1) for signs in (network.u, network.v))
    return padded.objective(qs.QuantizedNetwork.from_weights(u, v, network.alpha))


def test_numpy_counts_and_invalid_problems():
    problem, solution, rounded, _ = improved()
    counts = {"num_starts": np.int64(2), "num_steps": np.int32(3)}
    network = qs.improve(
        problem, rounded, max_neurons=np.int64(2), key=KEY, solution=solution, **counts
    )
    assert network.num_neurons <= 2
    broken = eqx.tree_at(lambda problem: problem.y, problem, problem.y.at[0].set(jnp.nan))
    with pytest.raises(ValueError, match="`problem` has invalid numbers"):
        improve(broken, rounded, max_neurons=4)


def test_a_network_without_an_objective_is_replaced():
    problem, solution, rounded, _ = improved()
    broken = eqx.tree_at(lambda network: network.alpha, rounded, rounded.alpha * jnp.nan)
    network = improve(problem, broken, max_neurons=4, solution=solution)
    assert jnp.isfinite(problem.objective(network))
