"""Which combinations of parameters the suite has."""

import itertools

import pytest
from covering import covering


@pytest.mark.parametrize(("strength", "most"), [(1, 5), (2, 17), (3, 30)])
def test_every_few_values_occur_together(strength, most):
    combinations = [
        dict(zip("abc", values, strict=True))
        for values in itertools.product(range(5), range(3), range(2))
    ]
    kept = [combinations[place] for place in covering(combinations, strength)]
    assert len(kept) <= most
    for names in itertools.combinations("abc", strength):
        expected = {tuple(one[name] for name in names) for one in combinations}
        assert {tuple(one[name] for name in names) for one in kept} == expected


def test_what_does_not_occur_is_not_asked_for():
    assert covering([{"a": 0, "b": 1}, {"a": 1, "b": 0}], 2) == [0, 1]
    assert covering([{}], 1) == [0]
