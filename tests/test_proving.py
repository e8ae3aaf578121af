"""Global optimality beyond enumeration: against brute force, and by enumeration."""

import time

import jax
import numpy as np
import pytest
from losses import ALL, made
from networks import best_of_all
from problems import planted

import jaxqsdp as qs
import jaxqsdp._bound.largest as bounds
import jaxqsdp._certify as certificates
import jaxqsdp._search.optimum as search
from jaxqsdp._bound.largest import largest_form
from jaxqsdp._bound.signs import enumerate_forms, enumerate_signs
from jaxqsdp._search.target import Target

POLYNOMIAL = qs.Polynomial(0.7, 0.4, -0.3)


@pytest.fixture(params=["bilinear", "polynomial"])
def activation(request):
    return {"bilinear": qs.Bilinear(), "polynomial": POLYNOMIAL}[request.param]


@pytest.fixture
def without_enumeration(monkeypatch):
    for module in (bounds, search):
        monkeypatch.setattr(module, "MOST_ENUMERATED", 0)


def problem_of(name, n, d, *, fit_intercept=False, **options):
    activation = options.pop("activation", None)
    X, y, beta, weight = made(name, n, d, **options)
    kinds = {"activation": activation, "fit_intercept": fit_intercept}
    return qs.Problem(X, y, beta, ALL[name], weight, **kinds)


@pytest.mark.covering(2)
@pytest.mark.usefixtures("without_enumeration")
@pytest.mark.parametrize("fit_intercept", [False, True])
@pytest.mark.parametrize("name", ["squared", "hinge", "softmax"])
def test_is_the_optimum(name, fit_intercept, activation):
    problem = problem_of(name, 14, 4, activation=activation, fit_intercept=fit_intercept)
    result = qs.solve_exactly(problem)
    best, _ = best_of_all(problem)
    assert float(result.certificate.gap) <= 2e-6
    assert float(result.certificate.lower_bound) <= best * (1 + 1e-9)
    assert float(result.certificate.objective) == pytest.approx(best, rel=2e-6)
    bounds = np.asarray(result.history)[:, 1]
    assert np.all(np.diff(bounds) >= 0)
    assert np.all(bounds <= best * (1 + 1e-9))


@pytest.mark.usefixtures("without_enumeration")
def test_outputs_by_themselves(dtype):
    problem = problem_of("squared", 14, 4, outputs=2, dtype=dtype)
    result = qs.solve_exactly(problem)
    best, _ = best_of_all(problem)
    tolerance = 3e-6 if dtype == np.float64 else 3e-5
    assert float(result.certificate.gap) <= tolerance
    assert float(result.certificate.objective) == pytest.approx(best, rel=tolerance)


def test_agrees_with_enumeration(monkeypatch):
    data = planted(0, 80, 17)
    problem = qs.Problem(data.X, data.y, 0.8 * 17)
    found = qs.solve_exactly(problem)
    monkeypatch.setattr(search, "MOST_ENUMERATED", 17)
    monkeypatch.setattr(bounds, "MOST_ENUMERATED", 17)
    expected = qs.solve_exactly(problem)
    assert float(found.certificate.gap) <= 1e-6
    np.testing.assert_allclose(
        found.certificate.objective, expected.certificate.objective, rtol=1e-6
    )
    # What one proves, so does the other.
    again = qs.certify(problem, expected.network, dual=found.dual)
    np.testing.assert_allclose(again.lower_bound, found.certificate.lower_bound, rtol=1e-9)


@pytest.mark.parametrize("d", [17, 18])
def test_the_largest_form(d, activation):
    rng = np.random.default_rng(d)
    rows = rng.standard_normal((2 * d, d))
    gram = rows.T @ (rng.standard_normal((2 * d, 1)) * rows)
    enumerate_all = enumerate_signs if activation.num_vectors == 2 else enumerate_forms
    expected = enumerate_all(gram, 1)[0][0]
    found = largest_form(gram, activation.layout)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert largest_form(gram, activation.layout, aim=1.1 * expected) >= expected
    late = largest_form(gram, activation.layout, deadline=time.monotonic() - 1)
    assert expected <= late <= 2 * expected


def test_many_features_in_time():
    """There is a gap left, an honest one, and smaller than the relaxation's."""
    data = planted(1, 120, 30)
    problem = qs.Problem(data.X, data.y, 0.3 * 30)
    solution = qs.solve(problem)
    start = time.monotonic()
    result = qs.solve_exactly(problem, solution=solution, time_limit=10.0)
    assert time.monotonic() - start < 40
    network = qs.round(problem, solution, num_neurons=10, key=jax.random.key(0))
    relaxed = qs.certify(problem, network, solution)
    timed = qs.certify(problem, network, solution, time_limit=15.0)
    assert relaxed.kind == "relaxation"
    assert timed.kind == "combinatorial"
    assert relaxed.lower_bound < timed.lower_bound
    assert relaxed.lower_bound < result.certificate.lower_bound <= result.certificate.objective
    assert float(timed.lower_bound) <= float(result.certificate.objective)


def test_a_fit_with_a_better_proof():
    data = planted(1, 60, 8)
    options = {"beta": 4.0, "num_neurons": 8, "key": jax.random.key(0)}
    plain = qs.fit(data.X, data.y, **options)
    proven = qs.fit(data.X, data.y, prove=20.0, **options)
    assert proven.certificate.kind == "combinatorial"
    assert float(proven.certificate.objective) == float(plain.certificate.objective)
    best = qs.solve_exactly(proven.problem).certificate.lower_bound
    np.testing.assert_allclose(proven.certificate.lower_bound, best, rtol=3e-6)
    assert float(proven.certificate.gap) <= float(plain.certificate.gap)
    with pytest.raises(ValueError, match="`prove`"):
        qs.fit(data.X, data.y, prove=0.0, **options)


def test_time_is_no_matter_of_transforms():
    problem = problem_of("squared", 14, 4)
    network = qs.QuantizedNetwork.from_weights(*np.ones((2, 1, 4)), np.ones(1))
    with pytest.raises(ValueError, match="`time_limit` works outside"):
        jax.jit(lambda problem: qs.certify(problem, network, time_limit=1.0))(problem)
    with pytest.raises(ValueError, match="`time_limit`"):
        qs.certify(problem, network, time_limit=-1.0)
    _, best = best_of_all(problem)
    plain, timed = (qs.certify(problem, best, time_limit=limit) for limit in (None, 5.0))
    assert float(timed.gap) <= min(1e-5, float(plain.gap) + 1e-12)


@pytest.mark.parametrize("scale", [2.0**-40, 1e-3, 1.0, 1e3, 2.0**40])
def test_units_do_not_matter(scale):
    """A proof that is as long as the first, of a dual point as it is, in whatever units."""
    data = planted(3, 60, 20)
    problem = qs.Problem(data.X, scale * data.y, scale * 0.5 * 20)
    result = qs.solve_exactly(problem)
    assert result.certificate.kind == "combinatorial"
    assert float(result.certificate.gap) <= 2e-6
    weighted = qs.Problem(data.X / scale, data.y, 0.5 * 20, sample_weight=np.full(60, scale**2))
    assert float(qs.solve_exactly(weighted).certificate.gap) <= 2e-6


@pytest.mark.parametrize("name", ["no features", "dead features", "one feature", "no targets"])
def test_odd_data(name, activation):
    data = planted(4, 40, 18)
    X, y = data.X.copy(), data.y.copy()
    if name == "no features":
        X[:] = 0
    if name == "dead features":
        X[:, 6:] = 0
    if name == "one feature":
        X[:] = X[:, :1]
    if name == "no targets":
        y[:] = 0
    problem = qs.Problem(X, y, 0.5 * 18, activation=activation)
    result = qs.solve_exactly(problem)
    certificate = result.certificate
    assert float(certificate.objective - certificate.lower_bound) <= 1e-5 * max(
        float(certificate.objective), 1e-9
    )
    assert qs.certify(problem, result.network, kind="combinatorial").kind == "combinatorial"


def test_a_class_that_does_not_occur():
    """Its intercept has no best value, so that there is no optimum; but there is an end."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((40, 17)), np.arange(40) % 2
    loss = qs.SoftmaxLoss(num_classes=3)
    problem = qs.Problem(X, y, 20.0, loss, fit_intercept=True)
    solution = qs.solve(problem, throw=False)
    start = time.monotonic()
    result = qs.solve_exactly(problem, solution=solution, time_limit=3.0)
    assert time.monotonic() - start < 60
    assert float(result.certificate.gap) <= 0.2


def test_fits_end_in_time(monkeypatch):
    """Those of coupled outputs: the first one is finished, later ones are not waited for."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((40, 17))
    y = np.argmax(X[:, :3] * X[:, 3:6], axis=1)
    problem = qs.Problem(X, y, 3.0, qs.SoftmaxLoss(3))
    solution = qs.solve(problem)
    late = 0

    def restricted(self, columns, start, tol, cutoff=np.inf, deadline=np.inf):
        nonlocal late
        if deadline < np.inf:
            time.sleep(max(deadline - time.monotonic(), 0) + 0.01)
            late += 1
        return whole(self, columns, start, tol, cutoff, deadline)

    whole = Target.restricted
    monkeypatch.setattr(Target, "restricted", restricted)
    result = qs.solve_exactly(problem, solution=solution, time_limit=0.5)
    assert late >= 2  # a round and the last fit
    assert len(result.history) == 1
    assert result.network.num_neurons > 0
    certificate = result.certificate
    assert float(certificate.gap) < 0.5
    assert certificate.objective <= result.history[0, 0] * (1 + 1e-9)


def test_what_only_a_longer_search_finds():
    """Neurons that violate a dual point after all are added, and the proof goes on."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((120, 26))
    y = X[:, 0] * X[:, 1] + X[:, 2] * X[:, 3] + 0.5 * rng.standard_normal(120)
    result = qs.solve_exactly(qs.Problem(X, y, 13.0), tol=1e-5, time_limit=60.0)
    assert float(result.certificate.gap) <= 1e-4


def test_certificates_end_in_time(monkeypatch):
    """Of dual points that are far from feasible, too."""
    monkeypatch.setattr(certificates, "_SECONDS", 2.0)
    data = planted(0, 100, 45)
    problem = qs.Problem(data.X, data.y, 0.05 * 45)
    solution = qs.solve(problem)
    network = qs.round(problem, solution, num_neurons=4, key=jax.random.key(0))
    relaxed = qs.certify(problem, network, solution, kind="relaxation")
    for options in ({"kind": "combinatorial"}, {"dual": 3 * solution.dual}):
        start = time.monotonic()
        certificate = qs.certify(problem, network, solution, **options)
        assert time.monotonic() - start < 40
        assert float(certificate.lower_bound) >= 0.99 * float(relaxed.lower_bound)
