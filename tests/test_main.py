"""The main job: what it prints, what it writes, and how it fails."""

import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxqsdp as qs
from jaxqsdp.__main__ import main
from jaxqsdp._demo import data as demo_data


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def table(rows=40, classes=2):
    rng = np.random.default_rng(0)
    X = rng.standard_normal((rows, 3))
    return X, np.arange(rows) % classes if classes else X[:, 0] * X[:, 1]


def write_csv(path, X, target, name="kind", header="a,b,c"):
    lines = [",".join([*map(str, row), str(label)]) for row, label in zip(X, target, strict=True)]
    path.write_text("\n".join([f"{header},{name}", *lines]) + "\n")
    return path


def test_breast_cancer(capsys, tmp_path):
    code, out, _ = run(capsys, "--output", tmp_path)
    assert code == 0
    for label in (
        "relaxation value",
        "proven lower bound",
        "objective of the network",
        "certified gap",
        "accuracy, this network",
        "accuracy, logistic regression",
        "neurons kept",
        "first layer",
        "seconds",
    ):
        assert label in out
    gap = float(re.search(r"certified gap\s+([\d.]+) %", out).group(1))
    test_accuracy = float(re.search(r"this network.* ([\d.]+) % test", out).group(1))
    assert gap < 5
    assert test_accuracy > 90
    picture = (tmp_path / "jaxqsdp-certificate.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    network = qs.QuantizedNetwork.load(tmp_path / "jaxqsdp-network.npz")
    assert 0 < network.num_neurons <= 64


def without_times(text):
    return re.sub(r"(?m)^  seconds.*$", "", text)


def test_same_seed_same_network(capsys, tmp_path):
    path = write_csv(tmp_path / "own.csv", *table())
    outputs, networks = [], []
    for _ in range(2):
        outputs.append(without_times(run(capsys, path, "--neurons", 8, "--output", tmp_path)[1]))
        networks.append(qs.QuantizedNetwork.load(tmp_path / "jaxqsdp-network.npz"))
    assert outputs[0] == outputs[1]
    np.testing.assert_array_equal(networks[0].packed_u, networks[1].packed_u)
    np.testing.assert_array_equal(networks[0].alpha, networks[1].alpha)


@pytest.mark.parametrize(
    ("classes", "labels", "metric"),
    [(2, ["no", "yes"], "accuracy"), (3, None, "accuracy"), (0, None, "R²")],
    ids=["two classes", "three classes", "regression"],
)
def test_own_table(capsys, tmp_path, classes, labels, metric):
    X, target = table(classes=classes)
    shown = [labels[k] for k in target] if labels else target
    path = write_csv(tmp_path / "own.csv", X, shown)
    code, out, _ = run(capsys, path, "--neurons", 8, "--output", tmp_path / "new" / "folder")
    assert code == 0
    assert f"{metric}, this network" in out
    network = qs.QuantizedNetwork.load(tmp_path / "new" / "folder" / "jaxqsdp-network.npz")
    assert network.alpha.shape[1:] == ((3,) if classes == 3 else ())


def test_npz_and_target_names(tmp_path):
    X, y = table()
    np.savez(tmp_path / "own.npz", X=X, y=y, other=-y)
    assert demo_data.read(tmp_path / "own.npz", None).classes == ("0", "1")
    assert demo_data.read(tmp_path / "own.npz", "other").classes == ("-1", "0")
    path = write_csv(tmp_path / "own.csv", X, y)
    read = demo_data.read(path, "b")
    np.testing.assert_array_equal(read.features, np.column_stack([X[:, [0, 2]], y]))
    np.testing.assert_array_equal(read.target, X[:, 1])


def test_beta_and_seed_change_the_result(capsys, tmp_path):
    path = write_csv(tmp_path / "own.csv", *table())
    arguments = (path, "--neurons", 8, "--output", tmp_path)
    outputs = {run(capsys, *arguments, *extra)[1] for extra in ((), ("--beta", 3), ("--seed", 1))}
    assert len(outputs) == 3
    assert sum(bool(re.search(r"penalty β +3  \(given\)\n", out)) for out in outputs) == 1


def test_split_standardizes_by_the_training_rows():
    X, y = table()
    X[:, 2] = 7.0  # constant
    data = demo_data.split(demo_data.Table("own", X, y, ("0", "1")), seed=0)
    np.testing.assert_allclose(data.train_X[:, :2].mean(0), 0, atol=1e-12)
    np.testing.assert_allclose(data.train_X[:, :2].std(0), 1)
    np.testing.assert_array_equal(data.train_X[:, 2:], [[0.0, 1.0]] * 28)
    assert set(data.test_y) == {-1.0, 1.0}
    assert len(data.test_X) == 12


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, (), "no such file"),
        ("a,b,kind\n" + "1,2,0\n" * 20, ("--target", "c"), "no column named 'c'"),
        ("a,b,kind\n" + "1,x,0\n" * 20, (), "column 'b' holds 'x' in line 2"),
        ("a,b,kind\n" + "1,,0\n" * 20, (), "column 'b' holds ''"),
        ("a,b,kind\n" + "1,nan,0\n" * 20, (), "missing or infinite value in data row 1"),
        ("a,b,kind\n" + "1,2,0\n" * 20, (), "one value only"),
        ("a,b,kind\n1,2,0\n1,2,1\n", (), "too few"),
        ("a,b,kind\n1,2\n", (), "line 2 has 2 fields"),
        ("a,b,kind\n", (), "at least one row"),
        ("a,kind\n" + "".join(f"{k},name{k}\n" for k in range(30)), (), "30 classes"),
        ("a,kind\n" + "".join(f"{k},nan\n" for k in range(30)), (), "missing or infinite"),
        ("a,kind\n" + "1,0\n2,1\n" * 10 + "3,\n", (), "line 22 has no target"),
        ("a,kind\n" + "1,yes\n2,no\n" * 10 + "3, \n", (), "line 22 has no target"),
        ("a,kind\n" + "1,.5\n2,1.5\n" * 10 + "3,NA\n", (), "'NA' in line 22"),
        ("a,a,kind\n" + "1,2,0\n" * 20, (), "two columns are named 'a'"),
        ("1.5,2,0\n" * 20, (), "first line holds numbers"),
        ("nan,2,0\n" * 20, (), "first line holds numbers"),
        ("a,kind\n" + "1,yes\n2,no\n" * 10, ("--task", "numbers"), "'no', which is not a number"),
        (
            "a,kind\n" + "".join(f"{k},{k}.5\n" for k in range(30)),
            ("--task", "classes"),
            "30 classes",
        ),
    ],
)
def test_bad_tables_are_one_clear_line(capsys, tmp_path, text, arguments, message):
    path = tmp_path / "own.csv"
    if text is not None:
        path.write_text(text)
    code, out, err = run(capsys, path, *arguments, "--output", tmp_path)
    assert (code, out) == (2, "")
    assert message in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": np.ones((20, 2))}, "no array named 'y' (arrays: X)"),
        ({"X": np.ones(20), "y": np.ones(20)}, "X must have shape (n, d)"),
        ({"X": np.full((20, 2), "a"), "y": np.ones(20)}, "array 'X' is not numeric"),
        ({"X": np.full((20, 2), None), "y": np.ones(20)}, "cannot read"),
    ],
)
def test_bad_npz_is_one_clear_line(capsys, tmp_path, arrays, message):
    np.savez(tmp_path / "own.npz", **arrays)
    code, _, err = run(capsys, tmp_path / "own.npz")
    assert code == 2
    assert message in err
    assert err.count("\n") == 1


def test_numbers_that_count_columns_are_names(tmp_path):
    X, y = table()
    path = write_csv(tmp_path / "own.csv", X, y, name="3", header="0,1,2")
    assert demo_data.read(path, None).columns == ("0", "1", "2")


def test_task_can_be_given(tmp_path):
    X, _ = table()
    path = write_csv(tmp_path / "own.csv", X, np.arange(40) % 7)
    assert len(demo_data.read(path, None).classes) == 7
    assert demo_data.read(path, None, "numbers").task == "regression"


def test_wrong_places_are_one_clear_line(capsys, tmp_path):
    path = write_csv(tmp_path / "own.csv", *table())
    binary = tmp_path / "own.xlsx"
    binary.write_bytes(b"PK\x03\x04\xff\xfe")
    for arguments, message in (
        ((tmp_path,), "is a folder"),
        ((binary,), "neither a CSV file"),
        ((path, "--output", path), "is not a folder"),
    ):
        code, out, err = run(capsys, *arguments)
        assert (code, out) == (2, "")
        assert message in err
        assert err.count("\n") == 1


def test_interrupt_is_one_line(capsys, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(demo_data, "split", interrupt)
    path = write_csv(tmp_path / "own.csv", *table())
    code, out, err = run(capsys, path, "--output", tmp_path)
    assert (code, out) == (130, "")
    assert "interrupted" in err.splitlines()[-1]


def test_file_suffices_for_new_rows(capsys, tmp_path):
    """The network file holds what it takes to predict rows of the user's own table."""
    X, y = table(classes=0)
    path = write_csv(tmp_path / "own.csv", 3 + 2 * X, 5 + 10 * y)
    code, _, _ = run(capsys, path, "--neurons", 8, "--output", tmp_path)
    assert code == 0
    file = np.load(tmp_path / "jaxqsdp-network.npz")
    network = qs.QuantizedNetwork.load(tmp_path / "jaxqsdp-network.npz")
    assert list(file["columns"]) == ["a", "b", "c"]
    rows = (3 + 2 * X - file["mean"]) / file["scale"]
    rows = np.column_stack([rows, np.ones(len(rows))])
    predictions = file["target_mean"] + file["target_scale"] * jax.vmap(network)(rows)
    assert np.corrcoef(predictions, 5 + 10 * y)[0, 1] > 0.9
    np.testing.assert_allclose(np.mean(predictions - 5 - 10 * y), 0, atol=2)


@pytest.mark.parametrize("arguments", [("--beta", "0"), ("--neurons", "-3"), ("--neurons", "x")])
def test_bad_options_are_refused(capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    assert exit.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_help_from_the_shell():
    command = [sys.executable, "-m", "jaxqsdp", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for option in ("--target", "--beta", "--neurons", "--seed", "--output"):
        assert option in shown
