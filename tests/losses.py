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
ALL = {**LOSSES, "softmax": qs.SoftmaxLoss(3)}  # and that of which all outputs are one problem
# Where a test takes long others stand for them, with kinks or labels, too.
STOOD_FOR = ("absolute", "hinge")
# What CVXPY calls the loss of z at y, of each sample.
MODELS = {
    "squared": lambda z, y: cp.square(z - y) / 2,
    "absolute": lambda z, y: cp.abs(z - y),
    "quantile": lambda z, y: cp.maximum(0.3 * (y - z), 0.7 * (z - y)),
    "huber": lambda z, y: cp.huber(z - y, 0.7) / 2,
    "hinge": lambda z, y: cp.pos(1 - cp.multiply(y, z)),
    "squared hinge": lambda z, y: cp.square(cp.pos(1 - cp.multiply(y, z))) / 2,
    "logistic": lambda z, y: cp.logistic(-cp.multiply(y, z)),
    "softmax": lambda z, y: cp.log_sum_exp(z, axis=1) - cp.sum(cp.multiply(y, z), axis=1),
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
    loss = ALL[name]
    if loss.takes_classes:
        y = np.eye(loss.num_classes)[classes(rng, X, loss.num_classes)]
    else:
        shape = (n,) if outputs is None else (n, outputs)
        y = (X[:, 0] * X[:, -1] + 0.5 * X[:, 0]).reshape((n,) + (1,) * (len(shape) - 1))
        y = y + 0.3 * rng.standard_normal(shape)
        y = np.where(y > 0, 1.0, -1.0) if loss.takes_labels else y
    weight = rng.uniform(0.3, 2, n)
    first = loss.dual_at(np.zeros(y.shape), y, weight).reshape(n, -1)[:, :1]
    beta = fraction * np.linalg.norm(X.T @ (first * X), 2) * np.sqrt(d)
    return tuple(np.asarray(array, dtype) for array in (X, y, beta, weight))


def classes(rng, X, count):
    """Return integers, the largest of products of features and noise; each of them occurs."""
    scores = np.stack([X[:, 0] * X[:, k % X.shape[1]] for k in range(count)], axis=1)
    y = np.argmax(scores + 0.7 * rng.standard_normal(scores.shape), axis=1)
    y[:count] = np.arange(count)
    return y


def problem_of(name, *arguments, loss=None, activation=None, **options):
    """Return such a problem."""
    X, y, beta, weight = made(name, *arguments, **options)
    loss = ALL[name] if loss is None else loss
    return qs.Problem(X, y, beta, loss=loss, sample_weight=weight, activation=activation)


def gram_form(d):
    """Return CVXPY's quadratic form and scale, with what holds of them: a block of one matrix."""
    gram, scale = cp.Variable((2 * d, 2 * d), PSD=True), cp.Variable()
    form = gram[:d, d:]
    return form, scale, [cp.diag(gram) == scale, form == form.T]


def split_form(d):
    """Return the same as the difference of two matrices, which solvers do several times faster."""
    plus, minus = (cp.Variable((d, d), PSD=True) for _ in range(2))
    scale = cp.Variable()
    return (plus - minus) / 2, scale, [cp.diag(plus + minus) == 2 * scale]


def cvxpy_model(name, X, y, beta, weight, form_of=gram_form):
    """Return the relaxation as CVXPY states it, with a form for each column of predictions."""
    predictions, constraints, penalty = cp.Variable(y.shape), [], 0
    columns = [predictions] if y.ndim == 1 else [predictions[:, k] for k in range(y.shape[1])]
    for column, price in zip(columns, np.broadcast_to(beta, len(columns)), strict=True):
        form, scale, conditions = form_of(X.shape[1])
        constraints += [*conditions, column == cp.sum(cp.multiply(X @ form, X), axis=1)]
        penalty += price * scale
    loss = weight @ MODELS[name](predictions, y)
    return cp.Problem(cp.Minimize(loss + penalty), constraints)


def cvxpy_value(*arguments):
    """Return the relaxation's value by Clarabel."""
    tight = {name: 1e-9 for name in ("tol_gap_abs", "tol_gap_rel", "tol_feas")}
    with warnings.catch_warnings():  # it says so where it stops at 1e-8
        warnings.simplefilter("ignore", UserWarning)
        return cvxpy_model(*arguments).solve(solver="CLARABEL", **tight)
