"""The training problem: data, penalty and loss, validated where they enter."""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, ArrayLike, Bool, Float

from .._base.fork import check_process
from .._base.lift import LiftedMap
from .._base.text import numbers_of, outline, shape_of
from .._base.types import (
    Scalar,
    across,
    as_float_array,
    cast,
    highest_precision,
    in_float64,
    is_concrete,
    namespace,
    tiny,
)
from .._exact.powers import is_negative
from .._loss.base import AbstractLoss
from .._loss.softmax import SoftmaxLoss
from .._loss.squared import SquaredLoss
from .._network.activation import AbstractActivation, check_activation
from .._network.bilinear import BILINEAR
from .._network.levels import ONE_BIT, Levels, check_levels
from .._network.network import QuantizedNetwork
from .._network.polynomial import Polynomial
from .checks import (
    check_activation_range,
    check_largest_weight,
    check_shapes,
    check_sign,
    check_values,
)
from .export import cvxpy_model, write_sdpa
from .labels import check_labels
from .objective import objective

if TYPE_CHECKING:
    import cvxpy


class Problem(eqx.Module):
    """Training a two-layer network whose first-layer weights are ±1.

        minimize  ℓ(f(X), y) + β ‖α‖₁   over  f(x) = Σ_j α_j (xᵀu_j)(xᵀv_j),  u_j, v_j ∈ {−1, +1}^d

    or neurons of another `activation`, with any number of them and ℓ(ŷ, y) = Σ_i w_i φ(ŷ_i, y_i), a
    sum over samples, by default ½ Σ_i w_i (ŷ_i − y_i)². Append a constant feature to X to let a
    bilinear network have linear and constant terms. For targets with c columns, α_j ∈ R^c, the
    penalty is Σ_k β_k Σ_j |α_jk| and the problem separates into c that share X, unless the loss
    couples them, as `SoftmaxLoss` does.

    With `fit_intercept` f(x) has a constant besides, free of penalty, one for each output.

    A `Problem` is a pytree of arrays, β included, so problems are stacked by
    `jax.vmap(lambda X, y: Problem(X, y, beta))(Xs, ys)`.

    **Arguments:**

    - `X`: samples, shape (n, d).
    - `y`: targets, shape (n,) or (n, c): numbers, and two classes coded as ±1; for `SoftmaxLoss`
        classes 0, 1, …, which become rows of 0 and 1. Text and truth values are refused, and
        integers 0, 1, … that look like labels of other losses get a warning.
    - `beta`: the penalty β > 0, a scalar or shape (c,). (cX, y, c²β) is the same problem for any
        loss; with squared loss (X, cy, cβ) has c² times the value.
    - `loss`: any `AbstractLoss`, default `SquaredLoss()`. `HingeLoss`, `SquaredHingeLoss` and
        `LogisticLoss` are for targets ±1, `SoftmaxLoss` for more classes, `AbsoluteLoss`,
        `QuantileLoss(q)` and `HuberLoss(delta)` for numbers.
    - `sample_weight`: w ≥ 0, shape (n,), not all zero; zero-weight samples do not count.
    - `levels`: what first-layer weights may be, default ±1; see `Levels`. The optimum over networks
        of any size is the same for all, and so are relaxation and bounds; `round`, `improve` and
        `fit` make networks of these levels, which need fewer neurons the more there are.
    - `activation`: what neurons are, `Bilinear()`, the default, or `Polynomial(a, b, c)` with
        a ≠ 0, f(x) = Σ_j α_j σ(xᵀu_j), σ(t) = at² + bt + c, for weights ±1. With b and c other than
        zero these need no constant feature.

    - `fit_intercept`: whether f has a constant term without penalty, `network.intercept`; a
        constant feature is of use to penalized neurons only.

    β and the largest weight must be normal numbers, not below 1.2e-38 (float32) or 2.2e-308
    (float64); all else may be subnormal.

    X, y and weights promote to one floating-point dtype; integers, of any size, become JAX's
    default float and half precisions float32. That is float32 throughout while JAX's 64-bit mode is
    off. What the dtype cannot hold is rounded to the nearest number it has, and everything here,
    bounds included, speaks of the data as rounded.

    **Raises:** `TypeError` or `ValueError` naming the argument. Numbers are checked (finite, within
    the range of the dtype, β > 0, w ≥ 0) where they can be seen; under a transform, bad ones give
    `Status.invalid_data` instead.

    Source: Bartan & Pilanci, ICML 2021 (arXiv 2105.01420).
    """

    X: Float[Array, "n d"]
    y: Float[Array, " n"] | Float[Array, "n c"]
    beta: Float[Array, ""] | Float[Array, " c"]
    sample_weight: Float[Array, " n"] | None
    loss: AbstractLoss
    levels: Levels = eqx.field(static=True)
    activation: AbstractActivation
    fit_intercept: bool = eqx.field(static=True)

    def __init__(
        self,
        X: ArrayLike,
        y: ArrayLike,
        beta: ArrayLike,
        loss: AbstractLoss | None = None,
        sample_weight: ArrayLike | None = None,
        levels: Levels | None = None,
        activation: AbstractActivation | None = None,
        fit_intercept: bool = False,
    ):
        self.fit_intercept = check_flag(fit_intercept, "fit_intercept")
        self.levels = check_levels(levels)
        self.activation = check_trained(activation, levels)
        loss = check_loss(SquaredLoss() if loss is None else loss)
        y = loss.encoded(y)
        check_labels(y)
        X, y = as_float_array(X, "X"), as_float_array(y, "y")
        weight = None if sample_weight is None else as_float_array(sample_weight, "sample_weight")
        beta = as_float_array(beta, "beta")
        check_shapes(X, y, beta, weight)
        data = (X, y) if weight is None else (X, y, weight)
        dtype = np.result_type(*(array.dtype for array in data))
        if is_concrete(X, y, beta, weight):
            check_values(X, y, beta, weight)
        self.X, self.y, self.beta = (
            cast(array, dtype, name) for name, array in (("X", X), ("y", y), ("beta", beta))
        )
        if self.activation.mask is not None and is_concrete(self.X):
            check_activation_range(self.activation, np.asarray(self.X))
        if is_concrete(self.beta):
            check_sign(np.asarray(beta), np.asarray(self.beta))
        self.sample_weight = None if weight is None else cast(weight, dtype, "sample_weight")
        if weight is not None and is_concrete(self.sample_weight):
            check_largest_weight(np.asarray(self.sample_weight))
        if is_concrete(self.y):
            loss.check_targets(np.asarray(self.y))
        self.loss = jax.tree.map(
            lambda leaf: np.asarray(leaf, dtype) if is_concrete(leaf) else leaf.astype(dtype), loss
        )

    def at(self, beta: ArrayLike) -> Problem:
        """Return the same problem with another penalty, checked as that of a new one.

        **Raises:** `TypeError` or `ValueError` naming the argument.

        Example: `problem.at(0.5 * qs.beta_max(problem))`.
        """
        numbers = self.X, self.y, beta, self.loss, self.sample_weight
        return Problem(*numbers, self.levels, self.activation, self.fit_intercept)

    @property
    def of_one_bit(self) -> Problem:
        """The same problem for weights ±1, which has the same relaxation: what is solved."""
        if self.levels == ONE_BIT:
            return self
        plain = object.__new__(Problem)
        for field in dataclasses.fields(Problem):
            value = ONE_BIT if field.name == "levels" else getattr(self, field.name)
            object.__setattr__(plain, field.name, value)
        return plain

    def with_numbers(self, **numbers: Any) -> Problem:
        """Return the problem with other X, y, beta or sample_weight, taken as they are."""
        names = tuple(numbers)

        def parts(problem: Problem) -> list[Any]:
            return [getattr(problem, name) for name in names]

        return eqx.tree_at(parts, self, list(numbers.values()), is_leaf=lambda leaf: leaf is None)

    @property
    def num_samples(self) -> int:
        """Return n."""
        return self.X.shape[-2]

    @property
    def num_features(self) -> int:
        """Return d."""
        return self.X.shape[-1]

    @property
    def map(self) -> LiftedMap:
        """The map A of the relaxation from forms Z to predictions."""
        return self.activation.lifted(self.X)

    @property
    def num_lifted(self) -> int:
        """The size of Z."""
        return self.activation.num_lifted(self.num_features)

    @property
    def num_outputs(self) -> int:
        """Return c, 1 for scalar targets."""
        return 1 if self.y.ndim < self.X.ndim else self.y.shape[-1]

    @property
    def weight(self) -> Float[Array, " n"]:
        """Sample weights, ones where none were given."""
        if self.sample_weight is None:
            return namespace(self.X).ones(self.X.shape[:-1], self.X.dtype)
        return self.sample_weight

    @property
    def is_valid(self) -> Bool[Array, ""] | Bool[Array, " c"]:
        """Whether the numbers make a problem, or one for each separate output; can be traced."""
        weight = self.weight
        xp = namespace(self.X, self.y, weight, self.beta)
        shared = xp.all(xp.isfinite(self.X)) & xp.all(xp.isfinite(weight) & ~is_negative(weight))
        least = tiny(self.X.dtype)
        shared = shared & xp.any(weight >= least)
        penalty = xp.isfinite(self.beta) & (self.beta >= least)
        known, finite = self.loss.are_targets(self.y), xp.isfinite(self.y)
        if self.loss.couples_outputs:
            penalty, finite = xp.all(penalty), xp.all(finite, axis=-1)
        targets = finite & (known | ~across(weight > 0, known))
        return shared & penalty & xp.all(targets, axis=0)

    @property
    def columns(self) -> Problem:
        """The same problem with targets (n, c) and penalties (c,), c = 1 for scalar targets."""
        y = self.y if self.y.ndim == 2 else self.y[:, None]
        beta = namespace(self.beta).broadcast_to(self.beta, (y.shape[1],))
        return eqx.tree_at(lambda problem: (problem.y, problem.beta), self, (y, beta))

    @highest_precision
    def objective(self, network: QuantizedNetwork) -> Scalar:
        """Return the objective ℓ(f(X), y) + β‖α‖₁ of any network, summed over outputs.

        Outside transforms it is computed in float64, whatever the dtype, and rounded last.
        """
        check_fits(self, network)
        if not is_concrete(self, network):
            return _objective(self, network)
        with np.errstate(all="ignore"):
            value = _objective(*in_float64((self, network)))
            return jax.device_put(np.asarray(value, self.X.dtype))

    def to_cvxpy(
        self, output: int | None = None
    ) -> tuple[cvxpy.Problem, dict[str, cvxpy.Variable]]:
        """Return the relaxation as a CVXPY problem, to check a value with any of its solvers.

            min Σ w φ(x_iᵀ Z x_i, y_i) + β·scale,   gram = [[V, Z], [·, W]] ⪰ 0, diag = scale

        Its value is `solve(problem).value` up to the tolerances of both; those of solvers are often
        absolute, so bring weights and targets to the size of 1 where they are far from it.

        **Arguments:** `output`: which column of y (n, c) to take; None for y (n,), and for
        `SoftmaxLoss`, whose outputs are one problem.

        **Returns:** the `cvxpy.Problem`, and its variables by name, "gram" (2d, 2d) and "scale";
        for `SoftmaxLoss` "gram_0", "scale_0" and so on, one pair for each class. For `Polynomial`
        neurons "plus" and "minus", P and N (d + 1, d + 1), and "scale", (ρ₊, ρ₋). With
        `fit_intercept` "intercept" besides.

        **Raises:** `ValueError` naming the argument; `NotImplementedError` for a loss of your own
        without `AbstractLoss.modelled`, `ValueError` if that is not the model of its `value`;
        `ImportError` without CVXPY.

        Example: `model, variables = problem.to_cvxpy(); print(model.solve(), variables["scale"])`
        """
        X, y, weight, beta = _one_output(self, output)
        return cvxpy_model(X, y, weight, beta, self.loss, self.activation, self.fit_intercept)

    def write_sdpa(self, path: str | os.PathLike[str], output: int | None = None) -> Path:
        """Write the relaxation as a semidefinite program in SDPA's sparse format (`.dat-s`).

            min t + βρ   s.t.   V + Z ⪰ 0,   V − Z ⪰ 0,   [[1, r], [rᵀ, 2t]] ⪰ 0

        with diag V = ρ·1 and r_i = √w_i·(x_iᵀ Z x_i − y_i), rotated to D + 1 numbers where there
        are more, D = d(d+1)/2. In SDPA's words it is the primal problem, min cᵀx, so the optimal
        value is that of `solve`, with no sign to turn and nothing to add. x holds Z (row by row,
        i ≤ j), V (i < j), ρ and t. Numbers have all their digits; there are D² of them, so it is
        for some dozen features.

        **Arguments:** `path`: the file; `output`: as that of `to_cvxpy`.

        **Returns:** the path.

        **Raises:** `ValueError` naming the argument, or for another loss than the squared one, or
        other neurons than bilinear ones; `OSError`.

        Source: Fujisawa et al., *SDPA user's manual*, for the format.
        """
        if not self.loss.is_quadratic:
            raise ValueError(
                f"`problem` has {type(self.loss).__name__}; SDPA's format is written for "
                "`SquaredLoss`, and `to_cvxpy` has models of all losses."
            )
        if self.fit_intercept:
            raise ValueError(
                "`problem` has an intercept; SDPA's format is written without; `to_cvxpy` has it."
            )
        if self.activation != BILINEAR:
            raise ValueError(
                f"`problem` has {self.activation!r}; SDPA's format is written for bilinear "
                "neurons, and `to_cvxpy` has models of all."
            )
        return write_sdpa(path, *_one_output(self, output))

    def __repr__(self) -> str:
        X, y, beta = shape_of(self.X), shape_of(self.y), numbers_of(self.beta)
        if X is None or y is None or len(X) < 2 or len(y) == 0:
            return outline(self)
        outputs = "" if len(y) < len(X) else f", outputs={y[-1]}"
        weighted = "" if self.sample_weight is None else ", weighted"
        penalty = "(…)" if beta is None or beta[0].ndim else f"{float(beta[0]):.4g}"
        penalty += "" if isinstance(self.loss, SquaredLoss) else f", {self.loss!r}"
        levels = "" if self.levels == ONE_BIT else f", {self.levels!r}"
        levels += "" if self.activation == BILINEAR else f", {self.activation!r}"
        levels += ", intercept" if self.fit_intercept else ""
        shape = f"n={self.num_samples}, d={self.num_features}{outputs}, beta={penalty}{weighted}"
        shape += levels
        stacked = "" if len(X) == 2 else f", stacked={X[:-2]}"
        return f"Problem({shape}, {self.X.dtype}{stacked})"


def check_loss(loss: AbstractLoss) -> AbstractLoss:
    """Return the loss, or raise `TypeError` unless it is one that is not ignored."""
    if not isinstance(loss, AbstractLoss):
        raise TypeError(f"`loss` must be `SquaredLoss()` or another loss, got {loss!r}.")
    if loss.is_quadratic and type(loss) is not SquaredLoss:  # what it computes would be ignored
        raise TypeError(
            f"`loss` must be `SquaredLoss()` itself or another loss, got {loss!r}, "
            "a subclass of it; subclass `AbstractLoss`."
        )
    if loss.couples_outputs and type(loss) is not SoftmaxLoss:  # its derivatives would be others
        raise TypeError(
            f"`loss` couples outputs, which only `SoftmaxLoss()` itself can, got {loss!r}."
        )
    return loss


def check_flag(value: Any, name: str) -> bool:
    """Return a yes or no, or raise `TypeError`."""
    if not isinstance(value, bool | np.bool_):
        raise TypeError(f"`{name}` must be True or False, got {value!r}.")
    return bool(value)


def check_trained(
    activation: AbstractActivation | None, levels: Levels | None = None
) -> AbstractActivation:
    """Return the activation, bilinear if None, or raise unless these levels have a relaxation."""
    activation = check_activation(BILINEAR if activation is None else activation)
    if isinstance(activation, Polynomial) and activation.a == 0:
        raise ValueError(
            f"`activation` is {activation!r}, a linear neuron; `a` must not be zero to train it."
        )
    if levels not in (None, ONE_BIT) and not activation.has_levels:
        raise ValueError(
            f"`levels` must be ±1 with `activation={activation!r}`, got {levels!r}: σ may be "
            "larger at other weights than at ±1, and the bound would not hold. Train bilinear "
            "neurons of these levels and convert the network by `to_polynomial`."
        )
    return activation


def _objective(problem: Problem, network: QuantizedNetwork) -> Scalar:
    columns = problem.columns
    return objective(columns.X, columns.y, columns.weight, columns.beta, network, columns.loss)


def _one_output(problem: Problem, output: int | None) -> tuple[np.ndarray, ...]:
    """Return X, y (n,), weights and β of one output, in float64, or raise `ValueError`.

    Of all outputs where the loss couples them.
    """
    check_single(problem)
    if not is_concrete(problem):
        raise ValueError("`problem` is traced; write models outside `jit` and `vmap`.")
    check_numbers(problem)
    count, coupled = problem.num_outputs, problem.loss.couples_outputs
    if coupled and output is not None:
        raise ValueError(
            f"`output` must be None for {type(problem.loss).__name__}, whose outputs are one "
            f"problem, got {output!r}."
        )
    if output is None and problem.y.ndim == 2 and not coupled:
        raise ValueError(
            f"`problem` has {count} outputs, which are problems of their own: pass `output=0` to "
            f"`output={count - 1}`. Their values add up to `solve(problem).total_value`."
        )
    index: Any = 0 if output is None else output
    if isinstance(index, bool) or not hasattr(index, "__index__") or not 0 <= index < count:
        raise ValueError(f"`output` must be an integer from 0 to {count - 1}, got {output!r}.")
    columns = in_float64(problem).columns  # on the host, where nothing is compiled
    index = slice(None) if coupled else index
    return columns.X, columns.y[:, index], columns.weight, columns.beta[index]


def check_numbers(problem: Problem) -> None:
    """Raise `ValueError` unless the numbers make a problem; in NumPy, without compiling."""
    if not np.all(jax.tree.map(np.asarray, problem).is_valid):
        raise ValueError("`problem` has invalid numbers; see `Status.invalid_data`.")


def check_single(problem: Problem) -> None:
    """Raise `ValueError` for a stacked problem, `TypeError` for none or a loss of its dtype."""
    if not isinstance(problem, Problem):
        raise TypeError(
            f"`problem` must be a `Problem`, got {type(problem).__name__}; build one with "
            "`Problem(X, y, beta)`."
        )
    check_dtype(problem)
    if problem.X.ndim != 2:
        raise ValueError(
            f"`problem` is stacked: X has shape {problem.X.shape}. Use `jax.vmap`, as in "
            "`jax.vmap(jaxqsdp.solve)(problem)`."
        )


def check_dtype(problem: Problem) -> None:
    """Raise `TypeError` for float64 data while JAX is in 32-bit mode, which would round them."""
    check_process()
    if jax.dtypes.canonicalize_dtype(problem.X.dtype) != problem.X.dtype:
        raise TypeError(
            f"`problem` is {problem.X.dtype}, but 64-bit mode is off here; turn it on by "
            "`jax.config.update('jax_enable_x64', True)`, or build the problem in float32."
        )


def check_fits(problem: Problem, network: QuantizedNetwork) -> None:
    """Raise `TypeError` or `ValueError` unless the network takes and gives what the problem has."""
    check_single(problem)
    if not isinstance(network, QuantizedNetwork):
        raise TypeError(
            f"`network` must be a `QuantizedNetwork`, got {type(network).__name__}; build one with "
            "`QuantizedNetwork.from_weights(u, v, alpha)`."
        )
    if network.activation != problem.activation:
        square = isinstance(network.activation, Polynomial) and network.activation.is_square
        remedy = "; `network.to_bilinear()` has them" if square else ""
        raise ValueError(
            f"`network` has neurons of {network.activation!r}, `problem` of "
            f"{problem.activation!r}{remedy}."
        )
    if network.intercept is not None and not problem.fit_intercept:
        raise ValueError(
            "`network` has an intercept, for which `problem` has a bound only if it is built with "
            "`fit_intercept=True`."
        )
    if network.num_features != problem.num_features:
        raise ValueError(
            f"`network` takes {network.num_features} features, `problem` has "
            f"{problem.num_features}."
        )
    if network.alpha.shape[1:] != problem.y.shape[1:]:
        raise ValueError(
            f"`network` has outputs of shape {network.alpha.shape[1:]}, `problem` has "
            f"{problem.y.shape[1:]}."
        )
