"""Where a search is, on disk, to go on from."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from .._bound.largest import Proven
from .._host.files import DamagedFile, read_arrays, write_arrays
from .columns import Round

_FIELDS = ("neurons", "alpha", "dual", "value", "bound", "grams", "norms")


class Journal:
    """A file with the last round of each output, written anew after each round.

    It is there whole or not at all, so that a kill at any moment loses one round. What is no
    file of this kind, for the same problem, is not touched. If the disk fails, a warning says so,
    and the search goes on.
    """

    def __init__(self, path: str | os.PathLike[str], key: str):
        if not isinstance(path, str | os.PathLike) or os.fspath(path) == "":
            raise ValueError(f"`checkpoint` must be the path of a file, got {path!r}.")
        self._path, self._key, self._failed = Path(path), key, False
        name = os.fspath(path)
        self.rounds: dict[int, Round] = {}
        try:
            if self._path.is_dir():
                raise ValueError(f"`checkpoint` {name!r} is a folder; name a file.")
            if self._path.exists():
                self.rounds = self._read()
            elif not self._path.absolute().parent.is_dir():
                raise ValueError(
                    f"`checkpoint` {name!r} is in no folder that exists; make it first."
                )
        except (DamagedFile, OSError) as error:
            raise ValueError(
                f"`checkpoint` {name!r} cannot be used: {error}; name another file, or delete that "
                "one."
            ) from None

    def _read(self) -> dict[int, Round]:
        content = read_arrays(self._path)
        key = content.pop("fingerprint", np.zeros(0))
        if key.shape != () or key.dtype.kind != "U":
            raise DamagedFile("it is no checkpoint of a search")
        if str(key) != self._key:
            raise ValueError(
                f"`checkpoint` {os.fspath(self._path)!r} belongs to another problem or another "
                "version; name another file, or delete that one."
            )
        count, rest = divmod(len(content), len(_FIELDS))
        names = {_name(index, field) for index in range(count) for field in _FIELDS}
        if rest or set(content) != names:
            raise DamagedFile("it does not hold what a search needs")
        rounds = {}
        for index in range(count):
            arrays = {field: content[_name(index, field)] for field in _FIELDS}
            if not _fit_together(arrays):
                raise DamagedFile("what it holds does not fit together")
            rounds[index] = _round(arrays)
        return rounds

    def write(self, index: int, last: Round) -> None:
        """Write the last round of an output, the outputs one after the other."""
        self.rounds[index] = last
        if self._failed:
            return
        arrays: dict[str, Any] = {"fingerprint": np.asarray(self._key)}
        for place, known in self.rounds.items():
            arrays |= {_name(place, field): part for field, part in _arrays(known).items()}
        try:
            write_arrays(self._path, arrays)
        except OSError as error:
            self._failed = True
            warnings.warn(f"`checkpoint` is given up: {error}.", RuntimeWarning, stacklevel=2)


def _name(index: int, field: str) -> str:
    return f"output{index}_{field}"


def _arrays(last: Round) -> dict[str, Any]:
    """Return a round as arrays."""
    return {
        "neurons": np.stack(last.neurons).astype(np.int8),
        "alpha": last.alpha,
        "dual": last.dual,
        "value": np.asarray(last.value),
        "bound": np.asarray(last.bound),
        "grams": np.array([one.gram for one in last.proven]),
        "norms": np.array([one.norm for one in last.proven]),
    }


def _fit_together(arrays: dict[str, np.ndarray]) -> bool:
    """Whether arrays are those of a round, by their shapes and values."""
    neurons, numbers = arrays["neurons"], [arrays[field] for field in _FIELDS[1:]]
    shapes = [array.shape for array in (arrays["value"], arrays["bound"])]
    return (
        neurons.ndim == 3
        and bool(np.all(np.abs(neurons) == 1))
        and all(array.dtype == np.float64 for array in numbers)
        and len(arrays["alpha"].shape) > 0
        and len(arrays["alpha"]) == neurons.shape[1]
        and arrays["dual"].ndim == arrays["alpha"].ndim
        and bool(np.all(np.isfinite(arrays["dual"])))
        and shapes == [(), ()]
        and arrays["norms"].shape == arrays["grams"].shape[:1]
    )


def _round(arrays: dict[str, np.ndarray]) -> Round:
    """Return arrays as a round."""
    return Round(
        tuple(arrays["neurons"].astype(np.float64)),
        arrays["alpha"],
        arrays["dual"],
        float(arrays["value"]),
        float(arrays["bound"]),
        tuple(map(Proven, arrays["grams"], arrays["norms"].tolist())),
    )
