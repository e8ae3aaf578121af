"""Proofs at the edges of the dtype: exponents over its whole range, subnormal numbers, zeros.

XLA computes with subnormal numbers as with zero, but huge weights can make them count.
"""

import functools
import json
import operator
import subprocess
import sys
from fractions import Fraction

import equinox as eqx
import hypothesis
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import strategies as st
from test_certificate import exact_objective

import jaxqsdp as qs
from jaxqsdp._base.types import in_float64
from jaxqsdp._bound.combinatorial import combinatorial_bound
from jaxqsdp._bound.objective import objective_above
from jaxqsdp._bound.relaxation import bound_on_host, scaled_dual_bound
from jaxqsdp._exact.powers import rescaled, root

N, D = 4, 2
bound_of = jax.jit(scaled_dual_bound)
above_of = jax.jit(objective_above)
NEURONS = [((1, 1), (1, 1)), ((1, -1), (1, 1)), ((1, -1), (1, -1))]  # all, up to symmetry


def numbers(dtype, *, positive=False):
    """Zeros, and floats over the whole range, subnormal ones and the edges more often."""
    info = np.finfo(dtype)
    low, high = int(info.minexp) - int(info.nmant), int(info.maxexp) - 1
    exponents = st.one_of(
        st.integers(low, high),
        st.integers(low, int(info.minexp) + 2),
        st.integers(high - 2, high),
        st.integers(-8, 8),
    )
    mantissas = st.floats(1, 1.75, width=32)
    signs = st.sampled_from([1.0] if positive else [1.0, -1.0])
    nonzero = st.builds(
        lambda sign, mantissa, exponent: float(dtype(sign * np.ldexp(mantissa, exponent))),
        signs, mantissas, exponents,
    )  # fmt: skip
    return nonzero if positive else st.one_of(nonzero, nonzero, st.just(0.0))


def arrays(elements, *shape):
    size = int(np.prod(shape))
    return st.lists(elements, min_size=size, max_size=size).map(
        lambda values: np.reshape(values, shape)
    )


@st.composite
def problems(draw, dtype):
    """Draw X, y, w, β: each with a common scale and, some of the time, scales of their own."""
    info = np.finfo(dtype)

    def scaled(*shape):
        if draw(st.booleans()):
            return draw(arrays(numbers(dtype), *shape)).astype(dtype)
        moderate = draw(arrays(st.floats(-2, 2, width=32), *shape))
        size = draw(st.integers(int(info.minexp) - int(info.nmant), int(info.maxexp) - 2))
        return np.ldexp(moderate, size).astype(dtype)

    X, y, weight = scaled(N, D), scaled(N), np.abs(scaled(N))
    weight[0] = max(weight[0], info.tiny)
    beta = max(dtype(draw(numbers(dtype, positive=True))), info.tiny)
    return X, y, weight, beta


def fractions(array):
    return np.vectorize(Fraction, otypes=[object])(np.asarray(array, np.float64))


def best_of_one_neuron(X, y, weight, beta):
    """Return the exact optimum over networks of one neuron and a dual point that belongs to it."""
    X, y, weight, beta = fractions(X), fractions(y), fractions(weight), Fraction(float(beta))
    best, residual = Fraction(1, 2) * sum(weight * y * y), weight * y
    for u, v in NEURONS:
        column = (X @ np.array(u)) * (X @ np.array(v))
        energy, slope = sum(weight * column * column), sum(weight * column * y)
        if abs(slope) <= beta or energy == 0:
            continue
        alpha = (abs(slope) - beta) / energy * (1 if slope > 0 else -1)
        misfit = y - alpha * column
        value = Fraction(1, 2) * sum(weight * misfit * misfit) + beta * abs(alpha)
        if value < best:
            best, residual = value, weight * misfit
    return best, residual


def in_range(vector, dtype):
    """Round a dual point of rationals, along its ray, to what a dtype holds."""
    largest = max(abs(entry) for entry in vector)
    return np.array([float(entry / largest) if largest else 0.0 for entry in vector], dtype)


def check_bounds(X, y, weight, beta, dtype):
    """No bound, from the dual point of a good network, is above what that network attains."""
    best, residual = best_of_one_neuron(X, y, weight, beta)
    dual = in_range(residual, dtype)
    largest = max(abs(entry) for entry in residual)
    ratio = float(min(Fraction(float(beta)) / largest, Fraction(10) ** 30)) if largest else 1.0
    for p in (np.zeros(D, dtype), np.full(D, ratio / D, dtype)):
        arguments = [np.asarray(a, dtype) for a in (X, y, weight, beta, dual, p)]
        traced, host = bound_of(*arguments), bound_on_host(*arguments)
        for bound in (traced, host, combinatorial_bound(*arguments[:5])):
            assert 0 <= Fraction(float(bound)) <= best


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_no_bound_exceeds_the_exact_objective(number):
    @hypothesis.settings(max_examples=300, deadline=None, derandomize=True)
    @hypothesis.given(problems(number))
    def check(numbers):
        check_bounds(*numbers, number)

    check()


@pytest.mark.parametrize("number", [np.float32, np.float64])
def test_no_objective_is_below_the_exact_one(number):
    """Traced and on the host, α over the whole range as well."""

    @hypothesis.settings(max_examples=200, deadline=None, derandomize=True)
    @hypothesis.given(problems(number), arrays(numbers(number), 3))
    def check(data, alpha):
        X, y, weight, beta = data
        problem = qs.Problem(X, y, beta, sample_weight=weight)
        u, v = np.swapaxes(NEURONS, 0, 1)
        network = qs.QuantizedNetwork.from_weights(u, v, alpha.astype(number))
        exact = exact_objective(problem, network)
        with np.errstate(all="ignore"):
            host = objective_above(*in_float64((problem, network)))
        for above in (host, above_of(problem, network)):
            assert above == np.inf or Fraction(float(above)) >= exact

    check()


def edge(dtype):
    """Targets of the order of the smallest normal number, weights of half the largest."""
    info, rng = np.finfo(dtype), np.random.default_rng(0)
    X = rng.standard_normal((12, D)).astype(dtype)
    y = (info.tiny * rng.uniform(-1.5, 1.5, 12)).astype(dtype)
    weight = np.full(12, info.max / 2, dtype)
    beta = dtype(0.1 * float(info.tiny) * float(info.max / 2))
    return X, y, weight, beta


@pytest.mark.thorough(dtype=(np.float64,))
def test_subnormal_targets_count_where_weights_are_huge(dtype):
    X, y, weight, beta = edge(dtype)
    assert np.any((np.abs(y) < np.finfo(dtype).tiny) & (y != 0))
    best, _ = best_of_one_neuron(X, y, weight, beta)
    problem = qs.Problem(X, y, beta, sample_weight=weight)
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf, leaf]), problem)
    network = qs.QuantizedNetwork.from_weights([[1, 1]], [[1, 1]], np.zeros(1, dtype))
    solutions = [qs.solve(problem, throw=False)]
    batch = qs.solve_batch(stacked)
    solutions.append(jax.tree.map(lambda leaf: leaf[0], batch))
    check_bounds(X, y, weight, beta, dtype)
    for solution in solutions:
        assert Fraction(float(solution.lower_bound)) <= best
        for prove in (qs.certify, jax.jit(qs.certify)):
            proof = prove(problem, network, solution)
            assert Fraction(float(proof.lower_bound)) <= best
            assert Fraction(float(proof.objective)) >= exact_objective(problem, network)


def test_the_bound_is_tight_at_the_edge(dtype):
    """One feature: the optimum is one neuron's, and its residual proves it."""
    info = np.finfo(dtype)
    for size in (1.0, 0.2):  # normal and subnormal targets
        y = (size * info.tiny * np.array([1.0, 2, -0.5, 1])).astype(dtype)
        X, weight = np.ones((4, 1), dtype), np.full(4, info.max / 2, dtype)
        beta = dtype(0.1 * float(y.sum()) * float(info.max / 2))
        best = Fraction(0)
        f = fractions(y), fractions(weight), Fraction(float(beta))
        alpha = (sum(f[0] * f[1]) - f[2]) / sum(f[1])
        misfit = f[0] - alpha
        best = sum(f[1] * misfit * misfit) / 2 + f[2] * alpha
        dual = in_range(f[1] * misfit, dtype)
        p = np.array([float(f[2] / max(abs(f[1] * misfit)))], dtype)
        arguments = X, y, weight, beta, dual, p
        rounding = 1e-12 if dtype == np.float64 else 1e-3
        for bound in (bound_of(*arguments), bound_on_host(*arguments)):
            if float(best) > 4 * info.tiny or bound.dtype != dtype:
                assert float(best) * (1 - rounding) <= float(bound)
            assert Fraction(float(bound)) <= best


def test_samples_of_subnormal_weight_count():
    X, y = np.ones((2, 1)), np.array([0, 1e200])
    problem = qs.Problem(X, y, 1.0, sample_weight=[1, 1e-310])
    network = qs.QuantizedNetwork.from_weights([[1]], [[1]], [0.0])
    exact = exact_objective(problem, network)
    solution = qs.solve(problem, throw=False)
    assert solution.value >= float(exact) * (1 - 1e-9)  # what the relaxation attains, no less
    for prove in (qs.certify, jax.jit(qs.certify)):
        found = Fraction(float(prove(problem, network, solution).objective))
        assert exact <= found <= exact * (1 + Fraction(1, 10**9))
    np.testing.assert_allclose(problem.objective(network), float(exact), rtol=1e-12)
    np.testing.assert_allclose(jax.jit(lambda p: p.objective(network))(problem), float(exact))


def test_outputs_whose_bounds_add_up_to_more_than_the_dtype_holds(dtype):
    size = dtype(np.sqrt(np.finfo(dtype).max) * 1.2)
    X, y = np.ones((1, 1), dtype), np.full((1, 3), size, dtype)
    problem = qs.Problem(X, y, dtype(4) * size)  # the best network is zero
    solution = qs.solve(problem, throw=False)
    largest = np.finfo(dtype).max
    assert np.all(np.isfinite(solution.lower_bound))
    assert 0.9 * largest < solution.total_lower_bound <= largest
    network = qs.QuantizedNetwork.from_weights([[1]], [[1]], np.zeros((1, 3), dtype))
    for prove in (qs.certify, jax.jit(qs.certify)):
        proof = prove(problem, network, solution)
        assert 0.9 * largest < proof.lower_bound <= largest
        assert proof.objective == proof.gap == np.inf


def test_limits_are_said(dtype):
    X, y, small = np.ones((2, 1), dtype), np.ones(2, dtype), np.finfo(dtype).smallest_subnormal
    with pytest.raises(ValueError, match="`beta` is too small"):
        qs.Problem(X, y, small)
    with pytest.raises(ValueError, match="`sample_weight` is too small"):
        qs.Problem(X, y, dtype(1), sample_weight=np.full(2, small))
    with pytest.raises(ValueError, match="`sample_weight` has negative"):
        qs.Problem(X, y, dtype(1), sample_weight=np.array([1, -small], dtype))
    base = qs.Problem(X, y, dtype(1), sample_weight=np.ones(2, dtype))
    for name, value in (
        ("beta", small),
        ("sample_weight", np.full(2, small)),
        ("sample_weight", np.array([1, -small], dtype)),
    ):
        traced = eqx.tree_at(operator.attrgetter(name), base, jnp.asarray(value))
        assert not jax.jit(lambda problem: problem.is_valid)(traced)
        assert not traced.is_valid


def test_a_gap_of_nothing_is_zero(dtype):
    """Objective 0, bound 0."""
    problem = qs.Problem(np.ones((5, 2), dtype), np.zeros(5, dtype), dtype(1))
    network = qs.QuantizedNetwork.from_weights([[1, 1]], [[1, 1]], np.zeros(1, dtype))
    solution = qs.solve(problem)
    for prove in (
        qs.certify,
        functools.partial(qs.certify, kind="relaxation"),
        jax.jit(qs.certify),
    ):
        proof = prove(problem, network, solution)
        assert proof.objective == proof.lower_bound == proof.gap == 0
    exact = qs.solve_exactly(problem).certificate
    assert (exact.gap, exact.percentage) == (0, "below 0.0001 %")


_FLUSHED = """
import ctypes, json, mmap, sys
import jax
jax.config.update("jax_enable_x64", True)
import numpy as np
sys.path.insert(0, {tests!r})
import jaxqsdp as qs
import test_extreme_scales as cases
from jaxqsdp._base.types import widened

# stmxcsr [rdi]; ret and ldmxcsr [rdi]; ret
code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
code.write(bytes([0x0F, 0xAE, 0x1F, 0xC3, 0x0F, 0xAE, 0x17, 0xC3]))
start = ctypes.addressof(ctypes.c_char.from_buffer(code))
read, write = (ctypes.CFUNCTYPE(None, ctypes.c_void_p)(start + k) for k in (0, 4))
word, one = ctypes.c_uint32(), np.array([1e-310])
read(ctypes.addressof(word))
plain, flush = ctypes.c_uint32(word.value), ctypes.c_uint32(word.value | 0x8040)

found = []
for dtype in (np.float32, np.float64):
    X, y, weight, beta = cases.edge(dtype)
    best, residual = cases.best_of_one_neuron(X, y, weight, beta)
    dual = cases.in_range(residual, dtype)
    narrow = np.array([1e-40], np.float32)
    write(ctypes.addressof(flush))
    flushes = float((one * 1.0)[0]) == 0
    numbers = X, y, weight, beta, dual, np.zeros(2, dtype)
    bounds = [cases.bound_on_host(*numbers), cases.combinatorial_bound(*numbers[:5])]
    subnormal = widened(narrow)
    above = []
    problem = qs.Problem(X, y, beta, sample_weight=weight)
    network = qs.QuantizedNetwork.from_weights([[1, 1]], [[1, 1]], np.zeros(1, dtype))
    with np.errstate(all="ignore"):
        above = float(cases.objective_above(*cases.in_float64((problem, network))))
    write(ctypes.addressof(plain))
    exact = cases.exact_objective(problem, network)
    found.append([
        flushes, all(cases.Fraction(float(b)) <= best for b in bounds),
        float(subnormal[0]) == float(narrow[0]), cases.Fraction(above) >= exact,
    ])
print(json.dumps(found))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="sets a register of the processor")
def test_proofs_survive_a_process_that_flushes_subnormals():
    """Libraries built with -ffast-math switch that on for whoever loads them."""
    import pathlib
    import platform

    if platform.machine() != "x86_64":
        pytest.skip("x86 only")
    tests = str(pathlib.Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", _FLUSHED.format(tests=tests)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == [[True] * 4] * 2


def test_compiled_scaling_keeps_subnormal_numbers(dtype):
    """XLA multiplies constants first where it may, and their product would underflow."""
    tiny = np.finfo(dtype).tiny
    x = np.array([0.3, -0.7, 0, 1, 2], dtype) * tiny
    for power in (dtype(2.0**20), dtype(0.25) / tiny):
        expected = rescaled(x, power)
        assert np.all(expected[:2] != 0)
        np.testing.assert_array_equal(jax.jit(rescaled)(x, power), expected)
        np.testing.assert_array_equal(jax.jit(lambda x, p=power: rescaled(x, p))(x), expected)
    np.testing.assert_allclose(jax.jit(root)(np.abs(x)), root(np.abs(x)), rtol=1e-6)


def test_the_exact_objective_asks_for_full_precision_itself():
    """The default product of accelerators is TF32 or bfloat16; the error counted is float32's."""
    X = np.eye(3, dtype=np.float32)
    network = qs.QuantizedNetwork.from_weights(np.ones((1, 3)), np.ones((1, 3)), np.ones(1))
    text = str(jax.make_jaxpr(objective_above)(qs.Problem(X, X[0], 0.1), network))
    assert "dot_general" in text
    assert "precision=None" not in text
