"""Derivatives through steps of the splitting iteration."""

from __future__ import annotations

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.scipy.linalg import lu_factor, lu_solve
from jaxtyping import Array, Bool

from .._base.cone import positive_part
from .._base.control_flow import scan
from .._base.types import Scalar, check_count, highest_precision, tiny
from .._problem.core import Core
from .._relaxation.solution import Solution, outputs_first, outputs_last
from .._relaxation.status import Status
from .implicit import AbstractAdjoint, Scaling, each_output, is_usable


class Unrolled(AbstractAdjoint):
    """Derivatives through so many steps of the plain splitting iteration, from the solution on.

    The iteration s⁺ = s + z − x, x = prox_f(s), z = Π(2x − s) (Douglas–Rachford; see `ADMM`) stays
    where it is, and its derivative converges to that of the solution, linearly and as slowly as the
    iteration itself: a few hundred steps for a few digits. An independent check on `Implicit`, and
    cheap where a few steps will do. First derivatives only; every step factors two matrices, and
    one system of n equations is factored. For the squared loss and bilinear neurons.

    **Arguments:**

    - `num_steps`: default 500.

    **Raises:** `ValueError` naming the argument if it is not a positive integer, `TypeError` when
    used with another loss or activation.
    """

    num_steps: int = eqx.field(default=500, static=True)

    def __check_init__(self) -> None:
        check_count(self.num_steps, "num_steps")

    @highest_precision
    def attach_numbers(self, data: Core, numbers: Solution, status: Status) -> Solution:
        """Return the numbers of a solution, with derivatives for each output that was solved."""
        if not data.loss.is_quadratic:
            raise TypeError(
                f"`adjoint` is `Unrolled`, which is for the squared loss, not {data.loss!r}; use "
                "`Implicit()`."
            )
        if not data.layout.shares_diagonal or data.shift is not None:
            raise TypeError(
                "`adjoint` is `Unrolled`, which is for bilinear neurons without an intercept; use "
                "`Implicit()`."
            )
        usable = is_usable(status)
        if data.y.ndim == 1:
            return self._attach_output(data, numbers, usable)
        lanes = outputs_first(numbers)
        return outputs_last(each_output(self._attach_output, data, lanes, usable))

    def _attach_output(self, data: Core, numbers: Solution, usable: Bool[Array, ""]) -> Solution:
        scaling, data = Scaling.of(data, usable)
        units = scaling.units
        split = _Split.of(data, units.scale_form(numbers.scale))
        layout = data.layout
        blocks = layout.blocks(numbers.quadratic_form, numbers.block)
        dual = units.scale_dual(numbers.dual)
        gram = data.map.adjoint(dual)
        slack = layout.slacks(units.scale_diagonal(numbers.dual_diagonal), gram)
        start = jax.lax.stop_gradient(units.scale_form(blocks) + slack / split.penalty)

        def step(s: Array, _: None) -> tuple[Array, None]:
            x = split.fitted(s)[0]
            return s + jax.vmap(positive_part)(2 * x - s) - x, None

        s, _ = scan(step, start, None, length=self.num_steps)
        x, dual, scale, diagonal = split.fitted(s)
        form, block = layout.form(x), layout.block(x)
        predictions = data.map.outputs(form)
        value = data.loss(predictions, data.y, data.weight) + data.beta * scale
        moved = dataclasses.replace(
            jax.tree.map(jnp.zeros_like, numbers),
            value=units.restore_value(value),
            lower_bound=units.restore_value(value),
            quadratic_form=units.restore_form(form),
            scale=units.restore_form(scale),
            gram=units.restore_form(layout.gram(form, block)),
            dual=units.restore_dual(dual),
            dual_diagonal=units.restore_diagonal(diagonal),
            predictions=units.restore_predictions(predictions),
        )
        return jax.tree.map(
            lambda at, moved: at + jnp.where(usable, moved - jax.lax.stop_gradient(moved), 0),
            numbers,
            moved,
        )


class _Split(eqx.Module):
    """The proximal operator of loss + βρ on {diag(P + N)/2 = ρ·1}, factored."""

    data: Core
    penalty: Scalar
    factors: tuple[Array, Array]

    @staticmethod
    def of(data: Core, scale: Scalar) -> _Split:
        """Choose the penalty that balances P and S, and factor 2·penalty·1 + W·AA*."""
        d, n = data.X.shape[1], data.y.size
        penalty = jax.lax.stop_gradient(
            data.beta / d / jnp.maximum(scale, tiny(scale.dtype) ** 0.5)
        )
        system = data.weight[:, None] * jnp.square(data.X @ data.X.T)
        system = system + 2 * penalty * jnp.eye(n, dtype=system.dtype)
        return _Split(data, penalty, lu_factor(system))

    def fitted(self, s: Array) -> tuple[Array, Array, Scalar, Array]:
        """Return prox_f(s), and the λ, ρ and p that belong to it."""
        data, d = self.data, s.shape[1]
        form, block = data.layout.form(s), data.layout.block(s)
        sums = jnp.diagonal(block)
        scale = data.layout.level(sums, data.beta, self.penalty)
        misfit = data.weight * (data.y - data.map.outputs(form))
        multiplier = lu_solve(self.factors, misfit)
        form = form + data.map.adjoint(multiplier)
        block = jnp.where(jnp.eye(d, dtype=bool), scale, block)
        dual = 2 * self.penalty * multiplier
        return (
            data.layout.blocks(form, block),
            dual,
            scale,
            2 * self.penalty * (sums - scale),
        )
