"""Preparation by the command line: split, imputed, encoded, standardized, and again by the file."""

import json

import numpy as np
import pandas as pd
import pytest

import jaxqsdp as qs
from jaxqsdp._cli.errors import DataError
from jaxqsdp._cli.prepare import _rows as held_out
from jaxqsdp._cli.prepare import split
from jaxqsdp._cli.table import Table, breast_cancer


def table_of(features, target=None, classes=("0", "1"), **others):
    frame = pd.DataFrame(features)
    target = np.arange(len(frame)) % 2 if target is None else np.asarray(target)
    return Table("own", frame, target, "y", classes, **others)


def numbers(rows=40, columns=3):
    values = np.random.default_rng(0).standard_normal((rows, columns))
    return {f"x{k}": values[:, k] for k in range(columns)}


def from_the_file(units, frame):
    """Rows as the network sees them, by nothing but the file, as README says."""
    values = []
    for column in json.loads(units["columns"].tobytes()):
        cells = frame[column["column"]]
        if column["kind"] == "number":
            values.append(cells.fillna(column["missing"]).to_numpy(np.float64))
        elif column["kind"] == "missing":
            values.append(cells.isna().to_numpy(np.float64))
        elif column["kind"] == "text":
            values.append((cells == column["text"]).to_numpy(np.float64))
        else:
            values.append((~cells.isin(column["texts"])).to_numpy(np.float64))
    scaled = (np.column_stack(values) - units["mean"]) / units["scale"]
    return np.column_stack([scaled, np.full(len(frame), units["constant"])])


def test_standardized_by_the_training_rows_with_a_constant():
    data = split(table_of(numbers()), seed=0)
    assert data.train_X.shape == (28, 4)
    assert data.test_X.shape == (12, 4)
    np.testing.assert_allclose(data.train_X[:, :3].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(data.train_X[:, :3].std(0), 1)
    for features in (data.train_X, data.test_X):
        np.testing.assert_array_equal(features[:, 3], data.units["constant"])
    assert set(data.test_y) == {-1.0, 1.0}


@pytest.mark.parametrize(("usual", "odd"), [(15.0, 16.0), (14.62, 14.63), (0.1, 1e99), (0.0, 1.0)])
def test_what_training_rows_have_once_counts_as_constant(usual, odd):
    """Rounding in the mean of 14.62 leaves a spread of 3.6e-15 that is none."""
    plain = table_of({**numbers(), "c": np.full(40, usual)})
    _, test = held_out(plain, 0)
    column = np.full(40, usual)
    column[test[0]] = odd
    data = split(table_of({**numbers(), "c": column}), seed=0)
    assert data.left_out == {"c": "the same in all training rows"}
    np.testing.assert_array_equal(data.test_X, split(plain, seed=0).test_X)
    assert np.all(data.units["scale"] > 0.1)


def test_a_spread_that_is_no_rounding_error_counts():
    small = 1e9 + 1e-3 * numbers()["x0"]
    data = split(table_of({"x0": small, "x1": 1e-90 * small, "x2": 1e90 * small}), seed=0)
    np.testing.assert_allclose(data.train_X[:, :3].std(0), 1)
    assert data.left_out == {}


def messy(rows=200):
    """Numbers with gaps, categories of two, of several with rare ones, and gaps."""
    rng = np.random.default_rng(3)
    age, fare = rng.standard_normal((2, rows))
    age[rng.random(rows) < 0.2] = np.nan
    city = np.array(["Ulm", "Bonn", "", "Köln", "漢"])[
        rng.choice(5, rows, p=[0.4, 0.3, 0.1, 0.19, 0.01])
    ]
    many = np.array([f"m{k}" for k in range(60)])[rng.integers(0, 60, rows)]
    return {
        "age": age,
        "sex": np.array(["f", "m"], object)[rng.integers(0, 2, rows)],
        "fare": fare,
        "city": city.astype(object),
        "many": many.astype(object),
    }


def test_gaps_and_categories_become_features_and_are_reported():
    table = table_of(messy())
    data = split(table, seed=0)
    columns = json.loads(data.units["columns"].tobytes())
    kinds = {
        name: [column["kind"] for column in columns if column["column"] == name]
        for name in table.features.columns
    }
    assert kinds["age"] == ["number", "missing"]
    assert kinds["fare"] == ["number"]
    assert kinds["sex"] == ["text"]
    assert set(kinds["city"]) <= {"text", "other text"}
    assert kinds["many"].count("other text") == 1
    assert len(kinds["many"]) <= 20
    assert len(columns) == data.train_X.shape[1] - 1
    assert (
        f"{table.features['age'].isna().sum()} of 'age': the median"
        in (data.notes["missing values"])
    )
    assert "'sex' (2 texts)" in data.notes["categories"]
    assert (
        f"'many' ({len(set(messy()['many']))} texts, rare ones taken together)"
        in data.notes["categories"]
    )
    assert data.notes["categories"].count("missing") == 1
    missing = np.sum(messy()["city"] == "")
    assert f"'city' (4 texts, {missing} missing as one more, rare" in data.notes["categories"]
    assert np.isfinite(data.train_X).all()
    assert np.isfinite(data.test_X).all()


def test_the_file_suffices_for_new_rows():
    table = table_of(messy(), classes=("0", "1"))
    data = split(table, seed=0)
    train, test = held_out(table, 0)
    np.testing.assert_allclose(from_the_file(data.units, table.features.iloc[train]), data.train_X)
    np.testing.assert_allclose(from_the_file(data.units, table.features.iloc[test]), data.test_X)
    assert json.loads(data.units["classes"].tobytes()) == ["0", "1"]


def test_texts_in_the_file_take_their_bytes_and_no_more(tmp_path):
    """A long name made every other one as long, at four bytes a letter."""
    features = {
        ("n" * 10_000 if k == 0 else f"x{k}"): column
        for k, column in enumerate(numbers(columns=100).values())
    }
    units = split(table_of(features), seed=0).units
    np.savez(tmp_path / "file.npz", **units)
    assert (tmp_path / "file.npz").stat().st_size < 40_000
    with np.load(tmp_path / "file.npz", allow_pickle=False) as file:
        names = [column["column"] for column in json.loads(file["columns"].tobytes())]
    assert names == list(features)


def test_regression_targets_are_standardized_and_go_back():
    y = 5 + 10 * numbers()["x0"]
    data = split(table_of(numbers(), y, ()), seed=0)
    np.testing.assert_allclose(data.train_y.mean(), 0, atol=1e-12)
    np.testing.assert_allclose(data.train_y.std(), 1)
    train, _ = held_out(table_of(numbers(), y, ()), 0)
    back = data.units["target_mean"] + data.units["target_scale"] * data.train_y
    np.testing.assert_allclose(back, y[train])


def test_three_classes_are_three_columns():
    target = np.arange(60) % 3
    data = split(table_of(numbers(60), target, ("a", "b", "c")), seed=0)
    assert data.train_y.shape == (42, 3)
    np.testing.assert_array_equal(data.train_y.sum(1), -1)


@pytest.mark.parametrize("classes", [("a", "b"), ("a", "b", "c")])
def test_losses_that_take_classes_get_a_column_each(classes):
    target = np.arange(60) % len(classes)
    table = table_of(numbers(60), target, classes)
    data, (train, test) = split(table, 0, qs.SoftmaxLoss()), held_out(table, 0)
    np.testing.assert_array_equal(data.train_y, np.eye(len(classes))[target[train]])
    np.testing.assert_array_equal(data.test_y, np.eye(len(classes))[target[test]])


def test_seeds_split_differently():
    first, again, other = (split(breast_cancer(), seed).train_X for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def lonely_target(seed):
    """One number that differs, in a test row."""
    y = np.zeros(40)
    y[held_out(table_of(numbers(), np.arange(40.0), ()), seed)[1][0]] = 1
    return y


def lonely_class(seed):
    """One class of four that only test rows have; ten rows are too few to see to that."""
    _, test = held_out(table_of(numbers(10), np.arange(10.0), ()), seed)
    target = np.arange(10) % 3
    target[test[:2]] = 3
    return target


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (table_of(numbers(), lonely_target(0), ()), "the training rows, 70 % drawn at random, all"),
        (table_of(numbers(), 1e9 + 1e-7 * (np.arange(40) % 2), ()), "varies by rounding errors"),
        (table_of({"c": np.ones(40)}), "no column varies"),
        (table_of({"c": np.full(40, "a", object)}), "no column varies"),
        (table_of(numbers(10), lonely_class(0), tuple("abcd")), "lack a class"),
        (table_of(numbers(40, 2000)), "2,000 features are too many"),
    ],
)
def test_what_cannot_be_learned_is_one_clear_line(table, message):
    with pytest.raises(DataError, match=message) as caught:
        split(table, seed=0)
    assert "\n" not in str(caught.value)


def test_a_column_empty_in_the_training_rows_is_left_out():
    table = table_of(numbers())
    column = np.full(40, np.nan)
    column[held_out(table, 0)[1]] = 1.0
    data = split(table_of({**numbers(), "c": column}), seed=0)
    assert data.left_out == {"c": "the same in all training rows"}
