"""Paths over the penalty."""

import functools
import sys

import jax
import jax.numpy as jnp
import matplotlib as mpl
import numpy as np
import pytest
from clarabel_reference import reference
from matplotlib import pyplot as plt
from problems import SMALL, planted

import jaxqsdp as qs
import jaxqsdp._tuning.path as module

mpl.use("Agg")

NUM_BETAS = 6
TIGHT = qs.InteriorPoint(tol=1e-10)
WEIGHT = np.arange(SMALL[0]) % 3  # of all paths, so that they share a program


@functools.cache
def small_path(dtype):
    data = planted(1, *SMALL).astype(dtype)
    weight = WEIGHT.astype(dtype)
    return qs.path(data.X, data.y, sample_weight=weight, num_betas=NUM_BETAS)


def test_default_grid(dtype):
    data, path = planted(1, *SMALL).astype(dtype), small_path(dtype)
    largest = float(qs.beta_max(data.X, data.y, WEIGHT.astype(dtype)))
    assert len(path) == NUM_BETAS
    assert path.betas.dtype == dtype
    np.testing.assert_allclose(path.betas, largest * np.geomspace(1, 1e-3, NUM_BETAS), rtol=1e-5)
    assert path.scale[0] <= 1e-6 * path.scale[-1]
    assert path.scale[1] > 0


def test_path_in_a_batch():
    data = planted(1, *SMALL)
    stacked = jax.eval_shape(jax.jit(jax.vmap(qs.path)), data.X[None], data.y[None])
    assert stacked.betas.shape == (1, 30)
    filled = jax.tree.map(lambda leaf: jnp.ones(leaf.shape, leaf.dtype), stacked)
    assert repr(filled) == "Path(stacked=(1,), 30 betas)"
    np.testing.assert_array_equal(filled.loss, np.zeros((1, 30)))
    with pytest.raises(ValueError, match="stacked"):
        filled.solution(0)


def test_scale_begins_at_beta_max():
    """At β_max all is zero, one per cent below it is not."""
    data = planted(1, *SMALL)
    largest = float(qs.beta_max(data.X, data.y, WEIGHT))
    betas = largest * np.array([1.5, 1.0, 0.99, 0.9, 0.5, 0.1])
    scale = qs.path(data.X, data.y, betas, sample_weight=WEIGHT).scale
    assert np.all(scale[:2] <= 1e-7 * scale[-1])
    assert scale[2] > 1e-4 * scale[-1]


def test_path_equals_single_solves():
    data, path = planted(1, *SMALL), small_path(np.float64)
    for index, beta in enumerate(path.betas):
        alone = qs.solve(qs.Problem(data.X, data.y, beta, sample_weight=WEIGHT), throw=False)
        part = path.solution(index)
        assert jax.tree.structure(part) == jax.tree.structure(alone)
        for one, other in zip(jax.tree.leaves(part), jax.tree.leaves(alone), strict=True):
            assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(part.value, alone.value, rtol=1e-6)
        np.testing.assert_allclose(part.lower_bound, alone.lower_bound, rtol=1e-6)
        np.testing.assert_allclose(part.predictions, alone.predictions, atol=1e-6)
        single = path.problem(index)
        assert single.y.shape == data.y.shape
        assert single.beta == beta
    last = path.solution(-1), path.solution(NUM_BETAS - 1)
    np.testing.assert_array_equal(last[0].quadratic_form, last[1].quadratic_form)


def test_path_is_monotone():
    path = small_path(np.float64)
    assert np.all(np.diff(path.betas) < 0)
    assert np.all(np.diff(path.value) < 0)
    assert np.all(np.diff(path.loss) < 0)
    assert np.all(np.diff(path.scale) > 0)
    assert np.all(path.lower_bound <= path.value)
    assert np.all(path.status == qs.Status.solved)
    assert np.all(path.stats.gap <= 1e-6)
    np.testing.assert_allclose(path.value, path.loss + path.betas * path.scale, rtol=1e-9)
    fitted = np.einsum("ni,kij,nj->nk", path.problems.X, path.quadratic_form, path.problems.X)
    np.testing.assert_allclose(path.predictions, fitted, atol=1e-9)


def test_path_sorts_and_weighs():
    data = planted(1, *SMALL)
    betas = np.array([0.3, 30.0, 3.0, 1.0, 10.0, 0.1])
    path = qs.path(data.X, data.y, betas, sample_weight=WEIGHT)
    np.testing.assert_array_equal(path.betas, np.sort(betas)[::-1])
    for index in (1, 4):
        expected = reference(data.X, data.y, path.betas[index], WEIGHT)
        np.testing.assert_allclose(path.value[index], expected.value, rtol=2e-6)
        np.testing.assert_allclose(path.scale[index], expected.scale, rtol=1e-2)
    np.testing.assert_allclose(path.value, path.loss + path.betas * path.scale, rtol=1e-9)


def test_parts_fit_the_other_functions():
    path = small_path(np.float64)
    neurons = np.ones((2, 3, SMALL[1]))
    network = qs.QuantizedNetwork.from_weights(*neurons, 0.01 * np.ones(3))
    certificate = qs.certify(path.problem(3), network, path.solution(3), kind="relaxation")
    assert path.lower_bound[3] <= certificate.objective
    np.testing.assert_allclose(certificate.lower_bound, path.lower_bound[3], rtol=1e-6)


def test_path_repr():
    text, betas = repr(small_path(np.float64)), small_path(np.float64).betas
    assert text.startswith("Path(6 betas: Solution(solved ×6")
    assert len(text.splitlines()) == 1 + 1 + NUM_BETAS + 1
    assert f"{float(betas[2]):.5g}" in text


def test_options_reach_solve(monkeypatch):
    """Each would be a compilation; that `solve` heeds them is tested there."""
    calls = []

    def record(problem, solver, **options):
        calls.append((problem, solver, options))

    monkeypatch.setattr(module, "solve", record)
    data = planted(1, *SMALL)
    qs.path(data.X, data.y, [1.0, 2.0], solver=TIGHT, max_steps=3, sample_weight=WEIGHT)
    ((problem, solver, options),) = calls
    assert (solver, options) == (TIGHT, {"max_steps": 3, "throw": False})
    np.testing.assert_array_equal(problem.y, np.column_stack([data.y, data.y]))
    np.testing.assert_array_equal(problem.beta, [2, 1])
    np.testing.assert_array_equal(problem.weight, WEIGHT)


@pytest.mark.parametrize("index", [NUM_BETAS, -NUM_BETAS - 1])
def test_path_index_out_of_range(index):
    with pytest.raises(IndexError, match="`index`"):
        small_path(np.float64).solution(index)
    with pytest.raises(IndexError, match="`index`"):
        small_path(np.float64).problem(index)


@pytest.mark.parametrize(
    ("change", "error", "match"),
    [
        ({"y": np.ones((24, 2))}, ValueError, "`y` must have shape"),
        ({"y": np.ones(3)}, ValueError, "`y`"),
        ({"X": np.ones(24)}, ValueError, "`X`"),
        ({"y": np.zeros(24)}, ValueError, "`betas` has no default"),
        ({"betas": []}, ValueError, "`betas` must have shape"),
        ({"betas": 1.0}, ValueError, "`betas` must have shape"),
        ({"betas": [1.0, 0.0]}, ValueError, "`betas` must be positive"),
        ({"betas": [1.0, np.inf]}, ValueError, "`betas` must be positive"),
        ({"num_betas": 0}, ValueError, "`num_betas`"),
        ({"ratio": 0.0}, ValueError, "`ratio`"),
        ({"ratio": 1.0}, ValueError, "`ratio`"),
        ({"sample_weight": -np.ones(24)}, ValueError, "`sample_weight`"),
        ({"solver": "fast"}, TypeError, "`solver`"),
        ({"max_steps": 0}, ValueError, "`max_steps`"),
    ],
)
def test_path_bad_inputs(change, error, match):
    data = planted(1, *SMALL)
    with pytest.raises(error, match=match):
        qs.path(**({"X": data.X, "y": data.y} | change))


@pytest.mark.parametrize("given", [False, True], ids=["new axes", "given axes"])
def test_plot(given):
    path = small_path(np.float64)
    ax = plt.subplots()[1] if given else None
    drawn = path.plot(ax)
    assert drawn is ax or not given
    assert drawn.get_xscale() == "log"
    assert drawn.get_xlabel() == "penalty β"
    assert drawn.get_ylabel() == "objective and loss"
    texts = [text.get_text() for text in drawn.get_legend().get_texts()]
    assert texts == ["value of the relaxation", "proven lower bound", "loss", "scale ρ (right)"]
    np.testing.assert_array_equal(drawn.get_lines()[0].get_ydata(), path.value)
    drawn.figure.canvas.draw()
    plt.close(drawn.figure)


def test_plots_name_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"jaxqsdp\[demo\]"):
        small_path(np.float64).plot()
