"""Problems to test with: planted, real, degenerate, and built from a known solution."""

import dataclasses
import functools

import numpy as np
from scipy.linalg import block_diag, hadamard
from sklearn import datasets

SIZES = [(30, 6), (100, 10), (100, 20), (400, 20), (400, 40)]
BETAS = (0.003, 0.05, 0.1, 1.0)  # as fractions of d, for data of unit variance
SMALL = (24, 5)  # the shape of whatever needs no other, as each one costs a compilation


@dataclasses.dataclass(frozen=True)
class Data:
    """Samples and targets, and the penalty where the problem fixes it."""

    X: np.ndarray
    y: np.ndarray
    beta: float = 1.0
    weight: np.ndarray | None = None

    def astype(self, dtype):
        """Return the same problem with its numbers rounded to a dtype."""
        weight = None if self.weight is None else self.weight.astype(dtype)
        return Data(self.X.astype(dtype), self.y.astype(dtype), float(dtype(self.beta)), weight)


def planted(seed, n, d, neurons=5, noise=0.1):
    """Return normal X and the noisy outputs of a random ±1 network, of unit variance."""
    rng = np.random.default_rng((seed, n, d))
    X = rng.standard_normal((n, d))
    u, v = rng.choice((-1.0, 1.0), (2, neurons, d))
    y = ((X @ u.T) * (X @ v.T)) @ rng.standard_normal(neurons)
    y = y / y.std() + noise * rng.standard_normal(n)
    return Data(X, y / y.std(), beta=0.1 * d)


def _prepared(X, y):
    """Standardize the features, leave constant ones at zero, and append a constant one."""
    spread = X.std(axis=0)
    X = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1)
    X = np.column_stack([X, np.ones(len(X))])
    return Data(X, y, beta=0.1 * X.shape[1])


@functools.cache
def real(name):
    """Return a real data set, 400 samples of digits: standardized targets, or two classes as ±1."""
    X, y = getattr(datasets, f"load_{name}")(return_X_y=True)
    if name == "diabetes":
        return _prepared(X, (y - y.mean()) / y.std())
    if name == "digits":
        X, y = X[:400], y[:400]
    positive = {"breast_cancer": y == 1, "wine": y == 0, "digits": y % 2 == 0}[name]
    return _prepared(X, np.where(positive, 1.0, -1.0))


def degenerate():
    """Return problems that each have one thing wrong, by name; most are of shape `SMALL`."""
    n, base = SMALL[0], planted(0, *SMALL)
    X, y, beta = base.X, base.y, base.beta
    outlier = np.where(np.arange(n) == 3, 100.0, 1.0)
    return {
        "zero targets": Data(X, 0 * y, beta),
        "zero features": Data(0 * X, y, beta),
        "zero optimum": Data(X, y, 1e4),
        "duplicated rows": Data(np.repeat(X[: n // 3], 3, axis=0), np.repeat(y[: n // 3], 3), beta),
        "contradicting rows": Data(np.tile(X[: n // 2], (2, 1)), y, beta),
        "constant columns": Data(np.column_stack([X[:, :3], np.ones(n), np.zeros(n)]), y, beta),
        "duplicated columns": Data(X[:, [0, 1, 0, 1, 1]] * [1, 1, 1, 1, -1], y, beta),
        "constant targets": Data(X, 1 + 0 * y, beta),
        "negative targets": Data(X, -(X[:, 0] ** 2), beta),
        "binary features": Data(np.sign(X), y, beta),
        "one sample counts": Data(X * (outlier > 1)[:, None], y, beta),
        "outlying sample": Data(X * outlier[:, None], y, beta),
        "outlying target": Data(X, y * outlier, beta),
        "columns far apart": Data(X * 10.0 ** np.arange(-2, 3), y, beta),
        "attainable targets": Data(X, X[:, 0] * X[:, 1], beta),
        "one sample": Data(X[:1], y[:1], beta),
        "one feature": Data(X[:, :1], y, beta),
    }


@dataclasses.dataclass(frozen=True)
class Solved:
    """A problem together with its optimum."""

    data: Data
    value: float
    form: np.ndarray  # Z
    scale: float  # ρ
    dual: np.ndarray  # λ
    dual_diagonal: np.ndarray  # p


def built_from_solution(seed, d=8, n=50, strict=True):
    """Draw complementary P, N and Diag(p) ∓ G on one orthogonal basis, then the data.

    The basis has a Hadamard matrix in each of two diagonal blocks, so that any P and N on it have
    constant diagonals block by block. Eigenvalues of G are ±p_k where those of Z are not zero and
    smaller in magnitude elsewhere (as large if not `strict`). With n ≥ d(d + 1)/2 random samples
    some λ has Xᵀ diag(λ) X = G, and y = λ + ŷ makes it optimal; Z is unique as A is injective.
    """
    rng = np.random.default_rng((seed, d, n))
    half, rho = d // 2, 0.7
    basis = block_diag(hadamard(half), hadamard(half)) / np.sqrt(half)
    level = np.repeat(rng.uniform(0.5, 2.0, 2), half)  # p
    signs = rng.choice((-1.0, 1.0), d)
    active = np.arange(d) % half < max(half // 2, 1)
    sizes = np.where(active, rng.uniform(0.2, 1.0, d), 0)
    for block in (slice(half), slice(half, d)):
        sizes[block] *= rho * half / sizes[block].sum()  # Σ|z_k| = ρ·(size of the block)
    slack = np.where(active | (not strict), 1.0, rng.uniform(0, 0.9, d))
    form = (basis * (signs * sizes)) @ basis.T
    gram = (basis * (signs * slack * level)) @ basis.T

    X = rng.standard_normal((n, d))
    rows, columns = np.triu_indices(d)
    lifted = X[:, rows] * X[:, columns]
    dual = np.linalg.lstsq(lifted.T, gram[rows, columns], rcond=None)[0]
    null = np.linalg.svd(lifted.T)[2][len(rows) :]
    dual += null.T @ rng.standard_normal(len(null)) * 0.1
    y = dual + np.einsum("ni,ij,nj->n", X, form, X)
    beta = level.sum()
    value = 0.5 * dual @ dual + beta * rho
    return Solved(Data(X, y, beta), value, form, rho, dual, level)


def gram_of(kind, seed, d):
    """Return a symmetric matrix of a family that can break a search."""
    rng = np.random.default_rng(seed)
    rows = rng.standard_normal((2 * d, d))
    weight = rng.standard_normal(2 * d)
    if kind == "features twice":
        rows[:, : d // 2] = rows[:, d - d // 2 :]
    if kind == "features of zero":
        rows[:, : d // 2] = 0
    if kind == "ties":
        rows, weight = np.sign(rows), np.sign(weight)
    if kind == "rank one":
        weight[1:] = 0
    if kind == "of one sign":
        weight = np.abs(weight)
    if kind == "scales":
        rows *= 10.0 ** rng.uniform(-4, 4, d)
    if kind == "nothing":
        weight[:] = 0
    return rows.T @ (weight[:, None] * rows)


FAMILIES = [
    *("plain", "features twice", "features of zero", "ties", "rank one", "of one sign"),
    *("scales", "nothing"),
]
