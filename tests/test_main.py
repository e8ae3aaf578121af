"""The main job: what it prints, what it writes, and how it fails."""

import json
import re
import subprocess
import sys

import jax
import numpy as np
import pytest

import jaxqsdp as qs
from jaxqsdp.__main__ import main
from jaxqsdp._cli import prepare, train
from jaxqsdp._cli.table import read


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
        "optimum of any size",
        "gap to the optimum",
        "accuracy, this network",
        "accuracy, logistic regression",
        "neurons kept",
        "bits",
        "seconds",
    ):
        assert label in out
    gap = float(re.search(r"certified gap\s+([\d.]+) %", out).group(1))
    assert float(re.search(r"gap to the optimum\s+([\d.]+) %", out).group(1)) < gap
    test_accuracy = float(re.search(r"this network.* ([\d.]+) % test", out).group(1))
    assert gap < 5
    assert test_accuracy > 90
    picture = (tmp_path / "jaxqsdp-certificate.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    network = qs.QuantizedNetwork.load(tmp_path / "jaxqsdp-network.npz")
    assert 0 < network.num_neurons <= 64


def without_times(text):
    return re.sub(r"(?m)^  seconds.*$", "", text)


def test_the_optimum(capsys, tmp_path, monkeypatch):
    """Of all networks: known where there is time, and left out where there is not."""
    path = write_csv(tmp_path / "own.csv", *table(classes=0))
    options = [path, "--neurons", 2, "--output", tmp_path, "--beta", 0.3, "--json", "-"]
    facts = json.loads(run(capsys, *options)[1])
    optimum = facts["optimum"]
    assert facts["lower_bound"] <= optimum["lower_bound"] <= optimum["objective"]
    assert optimum["objective"] <= facts["objective"] * (1 + 1e-12)
    assert optimum["lower_bound"] >= (1 - 1e-3) * optimum["objective"]
    assert optimum["gap"] == pytest.approx(1 - optimum["lower_bound"] / facts["objective"])
    assert optimum["neurons"] > 0
    assert json.loads(run(capsys, *options, "--prove", 0)[1])["optimum"] is None

    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(qs, "solve_exactly", interrupted)
    code, out, _ = run(capsys, *options)
    assert code == 0
    assert json.loads(out)["optimum"] is None
    code, out, _ = run(capsys, *options[:-2])
    assert "optimum of any size" not in out
    with pytest.raises(SystemExit):
        run(capsys, path, "--prove", -1)


@pytest.mark.thorough
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
    path, folder = write_csv(tmp_path / "own.csv", X, shown), tmp_path / "new" / "folder"
    facts = tmp_path / "facts.json"
    code, out, _ = run(capsys, path, "--neurons", 8, "--output", folder, "--json", facts)
    assert code == 0
    assert f"{metric}, this network" in out
    assert json.loads(facts.read_text())["loss"] == ("softmax" if classes == 3 else "squared")
    network = qs.QuantizedNetwork.load(folder / "jaxqsdp-network.npz")
    assert network.alpha.shape[1:] == ((3,) if classes == 3 else ())


@pytest.mark.thorough(classes=(2,))
@pytest.mark.parametrize(
    ("classes", "loss"),
    [(2, "logistic"), (3, "squared-hinge"), (0, "absolute")],
)
def test_losses(capsys, tmp_path, classes, loss):
    path = write_csv(tmp_path / "own.csv", *table(classes=classes))
    arguments = (path, "--neurons", 4, "--output", tmp_path, "--json", "-")
    code, out, _ = run(capsys, *arguments, "--loss", loss)
    facts = json.loads(out)
    assert (code, facts["loss"]) == (0, loss)
    assert 0 < facts["lower_bound"] <= facts["objective"]
    assert facts["relaxation_value"] * (1 - 1e-6) <= facts["objective"]
    # That of the network that has no neurons, which no choice of the penalty changes.
    rows, worst = facts["data"]["train_rows"], np.log(max(classes, 2))
    if loss in ("logistic", "softmax"):
        assert facts["objective"] <= rows * worst
        assert 0 < facts["log_loss"]["network"]["train"] <= worst
    else:
        assert facts["log_loss"] is None
    if loss in ("logistic", "absolute"):  # of two classes, and of numbers
        _, other, _ = run(capsys, *arguments, "--beta", facts["beta"])
        assert json.loads(other)["loss"] == "squared"
        assert json.loads(other)["objective"] != facts["objective"]


@pytest.mark.parametrize(
    ("loss", "slope"),
    [(qs.SquaredLoss(), 1), (qs.LogisticLoss(), 0.5), (qs.SoftmaxLoss(), 2**0.5 / 3)],
)
def test_a_rule_where_choosing_would_take_long(monkeypatch, tmp_path, loss, slope):
    """By the size of the slopes at predictions of zero."""
    data = prepare.split(
        read(write_csv(tmp_path / "own.csv", *table(classes=3)), None, None, []), 0, loss
    )
    monkeypatch.setattr(train, "_MOST_WORK", 0)
    _, beta, how = train._choice(data, loss, None, None, jax.random.key(0))
    assert beta == pytest.approx(0.02 * data.train_X.size * slope)
    assert how == "β = 0.02 · n · d · rms(slopes of the loss at 0), constant by its rule"


def test_beta_and_seed_change_the_result(capsys, tmp_path):
    path = write_csv(tmp_path / "own.csv", *table())
    arguments = (path, "--neurons", 8, "--output", tmp_path)
    outputs = {run(capsys, *arguments, *extra)[1] for extra in ((), ("--beta", 3), ("--seed", 1))}
    assert len(outputs) == 3
    line = r"penalty β +3, constant feature [0-9.]+  \(β given, constant by its rule\)\n"
    assert sum(bool(re.search(line, out)) for out in outputs) == 1


def test_what_is_chosen_can_be_given(capsys, tmp_path):
    path = write_csv(tmp_path / "own.csv", *table())
    arguments = (path, "--neurons", 8, "--output", tmp_path)
    report = tmp_path / "report.json"
    chosen = run(capsys, *arguments, "--json", report)[1]
    facts = json.loads(report.read_text())
    options = "--beta", facts["beta"], "--constant", facts["constant"]
    given = run(capsys, *arguments, *options)[1]
    assert "(β given, constant given)" in given
    for line in ("objective of the network", "certified gap", "accuracy, this network"):
        (one,) = re.findall(f"(?m)^  {line}.*", chosen)
        assert one in given
    own = run(capsys, *arguments, "--constant", 2.5)[1]
    assert re.search(r"constant feature 2\.5  \(β by 5-fold cross-validation, constant given", own)


def test_says_that_the_smallest_penalty_was_the_best(capsys, tmp_path):
    """Of the constant that was chosen: each has a grid of its own."""
    rng = np.random.default_rng(0)
    X = rng.standard_normal((60, 3))
    for noise, said in ((0.0, True), (3.0, False)):
        y = X[:, 0] * X[:, 1] + noise * rng.standard_normal(60)
        path = write_csv(tmp_path / "own.csv", X, y)
        out = run(capsys, path, "--neurons", 2, "--output", tmp_path)[1]
        assert ("the smallest β tried" in out) == said


@pytest.mark.parametrize(
    ("text", "arguments", "message"),
    [
        (None, (), "no such file"),
        ("a,b,kind\n" + "1,2,0\n" * 5 + "1,x,1\n" * 2 + "1,2,0\n" * 9, (), "'x' in line 7"),
        ("a,b,kind\n" + "1,2,0\n" * 20, ("--target", "c"), "no column named 'c'"),
        ("a,b,kind\n" + "1,2,0\n" * 20, ("--drop", "c"), "no feature is named 'c'"),
        ("a,b,kind\n" + "1,2,0\n" * 20, (), "one value only"),
        ("a,kind\n" + "1,0\n1,1\n" * 20, (), "no column varies"),
        ("a,kind\n" + "1,yes\n2,no\n" * 10, ("--task", "numbers"), "'yes' in line 2"),
        ("a,kind\n" + "1,2.5\n2,3.5\n" * 10, ("--loss", "hinge"), "--loss hinge is for classes"),
        ("a,kind\n" + "1,2.5\n2,3.5\n" * 10, ("--loss", "softmax"), "there are squared, absolute"),
        ('a,kind\n1,"\x1b[31m\nred"\n' + "1,2.5\n" * 20, (), "\\x1b[31m\\nred' in line 2"),
    ],
)
def test_bad_tables_are_one_clear_line(capsys, tmp_path, text, arguments, message):
    path = tmp_path / "own.csv"
    if text is not None:
        path.write_text(text)
    code, out, err = run(capsys, path, *arguments, "--output", tmp_path)
    assert (code, out) == (2, "")
    assert message in err
    assert err.startswith("jaxqsdp: ")
    assert err.count("\n") == 1


@pytest.mark.parametrize("option", [("--target", "y"), ("--task", "numbers"), ("--drop", "y")])
def test_options_of_a_table_need_one(capsys, tmp_path, option):
    code, out, err = run(capsys, *option, "--output", tmp_path)
    assert (code, out) == (2, "")
    assert f"{option[0]} is about a table, but none is given" in err


def test_interrupt_is_one_line(capsys, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(prepare, "split", interrupt)
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
    with np.load(tmp_path / "jaxqsdp-network.npz", allow_pickle=False) as file:
        units = dict(file)
    network = qs.QuantizedNetwork.load(tmp_path / "jaxqsdp-network.npz")
    columns = json.loads(units["columns"].tobytes())
    assert [(column["column"], column["kind"]) for column in columns] == [
        (name, "number") for name in "abc"
    ]
    rows = (3 + 2 * X - units["mean"]) / units["scale"]
    rows = np.column_stack([rows, np.full(len(rows), units["constant"])])
    predictions = units["target_mean"] + units["target_scale"] * jax.vmap(network)(rows)
    target = 5 + 10 * y
    assert np.corrcoef(predictions, target)[0, 1] > 0.9
    np.testing.assert_allclose(np.mean(predictions - target), 0, atol=2)


@pytest.mark.parametrize(
    "arguments",
    [
        ("--beta", "0"),
        ("--constant", "0"),
        ("--constant", "1e200"),
        ("--neurons", "-3"),
        ("--neurons", "x"),
        ("--loss", "cubic"),
    ],
)
def test_bad_options_are_refused(capsys, arguments):
    with pytest.raises(SystemExit) as exit:
        main(list(arguments))
    assert exit.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_help_from_the_shell():
    command = [sys.executable, "-m", "jaxqsdp", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    options = (
        "--target",
        "--loss",
        "--drop",
        "--beta",
        "--constant",
        "--neurons",
        "--seed",
        "--output",
        "--json",
    )
    for option in options:
        assert option in shown
