"""Whatever is in the leaves of a result, it can be printed."""

import dataclasses
from fractions import Fraction

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax._src import compiler
from public_values import public_classes, values

import jaxqsdp as qs
from jaxqsdp._base.text import rounded_down, rounded_up

# The two are no pytrees.
NAMES = [name for name in sorted(public_classes()) if name not in ("SolveError", "Levels")]


def test_every_public_class_has_a_value():
    assert set(values()) == public_classes()


def _deleted(leaf):
    if not isinstance(leaf, jax.Array):
        return leaf
    copied = leaf.copy()
    copied.delete()
    return copied


def _replaced(value, new):
    return lambda leaf: new if eqx.is_inexact_array(leaf) or isinstance(leaf, float) else leaf


CHANGES = {
    "none": lambda value: eqx.filter(value, lambda _: False),
    "no numbers": lambda value: eqx.partition(value, eqx.is_inexact_array)[1],
    "numbers only": lambda value: eqx.partition(value, eqx.is_inexact_array)[0],
    "ints": lambda value: jax.tree.map(lambda _: 3, value),
    "flags": lambda value: jax.tree.map(lambda _: True, value),
    "big ints": lambda value: jax.tree.map(lambda _: 10**30, value),
    "objects": lambda value: jax.tree.map(lambda _: object(), value),
    "shapes": lambda value: eqx.filter_eval_shape(lambda value: value, value),
    "NumPy": lambda value: jax.tree.map(np.asarray, value),
    "NumPy scalars": lambda value: jax.tree.map(lambda leaf: np.asarray(leaf).ravel()[0], value),
    "half precision": lambda value: jax.tree.map(
        lambda leaf: leaf.astype(jnp.bfloat16) if eqx.is_inexact_array(leaf) else leaf, value
    ),
    "stacked": lambda value: jax.tree.map(lambda leaf: np.stack([leaf, leaf]), value),
    "stacked twice": lambda value: jax.tree.map(lambda leaf: np.asarray(leaf)[None, None], value),
    "empty": lambda value: jax.tree.map(lambda leaf: np.stack([leaf])[:0], value),
    "keys": lambda value: jax.tree.map(lambda _: jax.random.key(0), value),
    "NaN": lambda value: jax.tree.map(_replaced(value, np.full((), np.nan)), value),
    "complex": lambda value: jax.tree.map(_replaced(value, np.ones((), complex)), value),
    "text": lambda value: jax.tree.map(_replaced(value, "text"), value),
    "lists": lambda value: jax.tree.map(_replaced(value, [1.0, "x"]), value),
    "deleted": lambda value: jax.tree.map(_deleted, value),
}


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_printed(name, change):
    changed = CHANGES[change](values()[name])
    for text in (repr(changed), str(changed), f"{changed}"):
        assert isinstance(text, str)
        assert text.strip()
    if name not in ("Status", "AdjointStatus", "GradientCheck"):
        assert name in text


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_printed_while_it_is_traced(name):
    arrays, rest = eqx.partition(values()[name], eqx.is_array)
    seen = []

    def look(arrays):
        seen.append(repr(eqx.combine(arrays, rest)))

    jax.eval_shape(look, arrays)
    jax.vmap(look, axis_size=1)(jax.tree.map(lambda leaf: leaf[None], arrays))
    assert all(seen)
    assert len(seen) == 2


@pytest.mark.parametrize("name", NAMES)
def test_it_can_be_printed_with_any_field_missing(name):
    value = values()[name]
    for field in dataclasses.fields(value) if dataclasses.is_dataclass(value) else ():
        if field.metadata.get("static") or name in ("Status", "AdjointStatus"):
            continue
        odd = eqx.tree_at(
            lambda value, field=field: getattr(value, field.name),
            value,
            None,
            is_leaf=lambda leaf: leaf is None,
        )
        assert repr(odd)


def test_what_transforms_return():
    problem = values()["Problem"]
    assert "float64[3,3]" in repr(eqx.filter_eval_shape(qs.solve, problem))
    gradient = eqx.filter_grad(lambda problem: qs.solve(problem).value)(problem)
    assert repr(gradient).startswith("Problem(n=12, d=3")
    jacobian = jax.jacfwd(lambda beta: qs.solve(qs.Problem(problem.X, problem.y, beta)))(0.1)
    assert repr(jacobian)


STATUS = "Solved: the certified gap"


def test_the_text_of_a_status_whatever_holds_it():
    solved, codes = qs.Status.solved, lambda leaf: lambda code: leaf(code)
    assert qs.Status[solved].startswith(STATUS)
    for kind in (int, float, np.int32, np.asarray, jnp.asarray, np.uint8):
        held = jax.tree.map(codes(lambda code, kind=kind: kind(int(code))), solved)
        assert qs.Status[held].startswith(STATUS)
    many = jax.tree.map(lambda code: np.asarray([code, code, code + 2]), solved)
    lines = qs.Status[many].splitlines()
    assert lines[0].startswith(f"2 × {STATUS}")
    assert lines[1].startswith("1 × Reached the step limit")
    assert len(lines) == 2
    for leaf in (7, -1, 0.5, None, "text", jax.ShapeDtypeStruct((), int)):
        assert qs.Status[jax.tree.map(lambda _, leaf=leaf: leaf, solved)] == "unknown"
    with pytest.raises(ValueError, match="index by an item of Status"):
        qs.Status[0]
    with pytest.raises(ValueError, match="index by an item of Status"):
        qs.Status[values()["AdjointStatus"]]


def test_the_text_of_the_status_of_a_batch():
    problem = values()["Problem"]
    for solution in qs.solve_batch([problem, problem]):
        assert qs.Status[solution.status].startswith(STATUS)
        assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(solution))
    stacked = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), problem)
    assert qs.Status[qs.solve_batch(stacked).status].startswith(f"3 × {STATUS}")
    assert qs.Status[values()["Path"].solution(0).status].startswith(STATUS)


def test_printing_compiles_nothing(monkeypatch):
    everything = values()
    jax.clear_caches()

    def refuse(*args, **kwargs):
        raise AssertionError("compiles")

    monkeypatch.setattr(compiler, "compile_or_get_cached", refuse)
    with pytest.raises(AssertionError, match="compiles"):
        jnp.cbrt(jnp.ones(3))
    for value in everything.values():
        assert str(value)


def test_digits_of_bounds_are_rounded_outwards():
    rng = np.random.default_rng(0)
    for number in [*rng.standard_normal(200), *10.0 ** rng.uniform(-300, 300, 200), 0.0, 5e-324]:
        for digits in (3, 7):
            below, above = rounded_down(number, digits), rounded_up(number, digits)
            assert Fraction(below) <= Fraction(number) <= Fraction(above)
            assert float(above) - float(below) <= 10.0 ** (1 - digits) * abs(number) + 1e-320
    assert (rounded_down(-np.inf), rounded_up(np.inf), rounded_up(np.nan)) == ("-inf", "inf", "nan")
    assert rounded_down(1.5) == rounded_up(1.5) == "1.5"
    assert (rounded_down(0.12345678), rounded_up(0.12345678)) == ("0.1234567", "0.1234568")
    assert rounded_down(np.float32(1e10)) == rounded_up(jnp.float32(1e10)) == "1e+10"
