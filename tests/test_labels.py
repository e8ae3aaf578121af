"""Targets that are labels: said where squared loss would take them for numbers."""

import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxqsdp as qs

X = np.random.default_rng(0).standard_normal((12, 2))


@pytest.mark.parametrize(
    "y",
    [
        np.array([0, 1, 2] * 4),
        [0, 1, 1, 0, 1, 0] * 2,
        np.array([0, 1, 1] * 4, np.uint8),
        jnp.array([1, 0, 0, 1, 1, 1] * 2),
    ],
)
def test_integers_that_look_like_labels(y):
    with pytest.warns(UserWarning, match=r"code two classes as ±1.*astype\(float\)") as caught:
        qs.Problem(X, y, 1.0)
    assert len(caught) == 1
    assert caught[0].filename == __file__


def test_digits_look_like_labels():
    with pytest.warns(UserWarning, match="integers from 0 to 9"):
        qs.Problem(np.ones((40, 1)), np.arange(40) % 10, 1.0)


@pytest.mark.parametrize(
    "y",
    [
        range(12),  # each once: a ramp
        [0, 3, 1, 0, 0, 1] * 2,  # counts: nothing has two
        [-1, 1, 1, -1, 1, 1] * 2,
        [1, 2] * 6,
        [0] * 12,
        [0, 1, 12] * 4,
        [0, 1, 2, 3] * 3,  # few of each
        np.array([0.0, 1, 1] * 4),
        np.array([[0, 1]] * 12),
    ],
)
def test_other_numbers_pass_without_a_word(y):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        problem = qs.Problem(X, y, 1.0)
        jax.vmap(lambda y: qs.Problem(X, y, 1.0))(jnp.zeros((2, 12), int))
    np.testing.assert_array_equal(problem.y, np.asarray(y, float))


@pytest.mark.parametrize(
    ("y", "match"),
    [
        (["a", "b"] * 6, "holds text"),
        (np.array(["a", "b"] * 6, object), "holds text"),
        (np.array(["1", "2"] * 6), "holds text"),
        ([True, False] * 6, "holds truth values"),
        (np.array([True, False] * 6), "holds truth values"),
        (jnp.array([True, False] * 6), "holds truth values"),
    ],
)
def test_text_and_truth_values_are_refused_with_the_remedy(y, match):
    with pytest.raises(TypeError, match=f"`y` {match}; code two classes as ±1"):
        qs.Problem(X, y, 1.0)


def test_a_loss_of_ones_own_is_not_ignored():
    class Doubled(qs.SquaredLoss):
        def __call__(self, predictions, targets, weight):
            return 2 * super().__call__(predictions, targets, weight)

    for loss in (Doubled(), qs.SquaredLoss, "squared"):
        with pytest.raises(TypeError, match="`loss` must be `SquaredLoss"):
            qs.Problem(X, X[:, 0], 1.0, loss=loss)
