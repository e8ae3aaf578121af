"""The members of the family of losses: a new one is a row here."""

import warnings

import cvxpy as cp
import jax.numpy as jnp
import numpy as np

import jaxqsdp as qs

LOSSES = {
    "squared": qs.SquaredLoss(),
    "absolute": qs.AbsoluteLoss(),
    "quantile": qs.QuantileLoss(0.3),
    "huber": qs.HuberLoss(0.7),
    "hinge": qs.HingeLoss(),
    "squared hinge": qs.SquaredHingeLoss(),
    "logistic": qs.LogisticLoss(),
}
# What CVXPY calls the loss of z at y, elementwise.
MODELS = {
    "squared": lambda z, y: cp.square(z - y) / 2,
    "absolute": lambda z, y: cp.abs(z - y),
    "quantile": lambda z, y: cp.maximum(0.3 * (y - z), 0.7 * (z - y)),
    "huber": lambda z, y: cp.huber(z - y, 0.7) / 2,
    "hinge": lambda z, y: cp.pos(1 - cp.multiply(y, z)),
    "squared hinge": lambda z, y: cp.square(cp.pos(1 - cp.multiply(y, z))) / 2,
    "logistic": lambda z, y: cp.logistic(-cp.multiply(y, z)),
}


class SquareRoot(qs.AbstractLoss):
    """A loss of a user's own, √(1 + r²) − 1, by its three functions and nothing else."""

    def value(self, predictions, targets):
        square = jnp.square(predictions - targets)
        return square / (jnp.sqrt(1 + square) + 1)

    def conjugate(self, dual, targets):
        square = jnp.square(dual)
        return square / (1 + jnp.sqrt(1 - square)) - dual * targets

    def interval(self, targets):
        return -jnp.ones_like(targets), jnp.ones_like(targets)


OTHERS = [name for name in LOSSES if name != "squared"]


def made(name, n, d, *, fraction=0.1, seed=0, dtype=np.float64, outputs=None):
    """Return X, y, β and weights of a problem: products of features and noise.

    β is a fraction of what is about the least that leaves nothing.
    """
    rng = np.random.default_rng(seed)
    X = rng.standard_normal((n, d))
    shape = (n,) if outputs is None else (n, outputs)
    y = (X[:, 0] * X[:, -1] + 0.5 * X[:, 0]).reshape((n,) + (1,) * (len(shape) - 1))
    y = y + 0.3 * rng.standard_normal(shape)
    y = np.where(y > 0, 1.0, -1.0) if LOSSES[name].takes_labels else y
    weight = rng.uniform(0.3, 2, n)
    first = y if outputs is None else y[:, 0]
    gram = X.T @ (LOSSES[name].dual_at(np.zeros(n), first, weight)[:, None] * X)
    beta = fraction * np.linalg.norm(gram, 2) * np.sqrt(d)
    return tuple(np.asarray(array, dtype) for array in (X, y, beta, weight))


def problem_of(name, *arguments, loss=None, **options):
    """Return such a problem."""
    X, y, beta, weight = made(name, *arguments, **options)
    loss = LOSSES[name] if loss is None else loss
    return qs.Problem(X, y, beta, loss=loss, sample_weight=weight)


def cvxpy_model(name, X, y, beta, weight):
    """Return the relaxation as CVXPY states it."""
    d = X.shape[1]
    gram, scale = cp.Variable((2 * d, 2 * d), PSD=True), cp.Variable()
    form = gram[:d, d:]
    predictions = cp.sum(cp.multiply(X @ form, X), axis=1)
    loss = weight @ MODELS[name](predictions, y)
    constraints = [cp.diag(gram) == scale, form == form.T]
    return cp.Problem(cp.Minimize(loss + beta * scale), constraints)


def cvxpy_value(*arguments):
    """Return the relaxation's value by Clarabel."""
    tight = {name: 1e-9 for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas")}
    with warnings.catch_warnings():  # it says so where it stops at 1e-8
        warnings.simplefilter("ignore", UserWarning)
        return cvxpy_model(*arguments).solve(solver="CLARABEL", **tight)
