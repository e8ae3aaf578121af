"""A value of every public class, from a few solves of one shape."""

import functools

import jax
import numpy as np

import jaxqsdp as qs

N, D = 12, 3


@functools.cache
def values():
    """Return values by the name of their class, exceptions and enumerations included."""
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((N, D)), rng.standard_normal(N)
    key = jax.random.key(0)
    problem = qs.Problem(X, y, 0.1)
    solution = qs.solve(problem)
    network = qs.round(problem, solution, num_neurons=4, key=key)
    certificate = qs.certify(problem, network, solution)
    adjoint = qs.adjoint_report(problem, solution)
    row = {"levels": qs.Levels(), "alpha_bits": 8, "neurons": 4, "bits": 99, "objective": 1.0}
    names = "quadratic_form", "scale", "dual", "predictions", "value"
    found = [
        problem,
        solution,
        solution.stats,
        solution.status,
        network,
        certificate,
        qs.FitResult(network, solution, certificate, problem),
        qs.Compression(network, certificate, (row,)),
        qs.ExactResult(network, certificate, solution.dual, jax.numpy.ones((3, 2))),
        qs.path(X, y, [1.0, 0.1]),
        qs.cross_validate(X, y, [1.0, 0.1], key=key, folds=2, constant=False),
        adjoint,
        adjoint.status,
        qs.GradientCheck({name: dict.fromkeys(names, 1e-9) for name in ("X", "y")}, 1e-4),
        qs.RelaxationLayer(0.1, solver=qs.InteriorPoint(max_steps=20)),
        qs.FittedRelaxation(solution.quadratic_form),
        qs.SolveError("It failed [relative gap 1e-3]", solution),
        qs.Bilinear(),
        qs.Polynomial(0.09, 0.5, 0.47),
        qs.Levels(bits=2),
        qs.SquaredLoss(),
        qs.AbsoluteLoss(),
        qs.QuantileLoss(0.3),
        qs.HuberLoss(0.7),
        qs.SoftmaxLoss(),
        qs.HingeLoss(),
        qs.SquaredHingeLoss(),
        qs.LogisticLoss(),
        qs.ADMM(tol=1e-3),
        qs.InteriorPoint(),
        qs.Implicit(smoothing=1e-3),
        qs.Unrolled(num_steps=7),
    ]
    named = {type(value).__name__: value for value in found}
    named["Status"], named["AdjointStatus"] = solution.status, adjoint.status
    return {name: value for name, value in named.items() if name != "EnumerationItem"}


def public_classes():
    """Return the names of the public classes that have values, abstract ones excepted."""
    return {
        name
        for name in dir(qs)
        if isinstance(getattr(qs, name), type) and not name.startswith("Abstract")
    }
