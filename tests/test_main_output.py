"""What the main job says and writes: anywhere, to anybody, or one line on why not."""

import contextlib
import fcntl
import gzip
import io
import json
import math
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import numpy as np
import pytest
from quick_main import quick
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import train_test_split

import jaxqsdp as qs
from jaxqsdp.__main__ import main
from jaxqsdp._base.text import rounded_down, rounded_up
from jaxqsdp._cli import console, picture, prepare, progress, train
from jaxqsdp._cli.table import read


@pytest.fixture
def table(tmp_path):
    rng = np.random.default_rng(0)
    lines = [f"{a},{b},{k % 2}" for k, (a, b) in enumerate(rng.standard_normal((40, 2)))]
    path = tmp_path / "own.csv"
    path.write_text("\n".join(["a,b,kind", *lines]) + "\n")
    return path


def run(capsys, monkeypatch, *arguments):
    monkeypatch.setattr(train, "train", quick)
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_json_has_the_numbers_of_the_text(capsys, monkeypatch, table, tmp_path):
    path = tmp_path / "report.json"
    code, out, _ = run(capsys, monkeypatch, table, "--output", tmp_path, "--json", path)
    assert code == 0
    facts = json.loads(path.read_text())
    assert f"{rounded_down(facts['lower_bound'])}  (relaxation bound)" in out
    assert f"{rounded_up(facts['objective'])}  (after" in out
    assert "between 1.5 and 1.75, which 3 neurons reach" in out
    assert re.search(r"gap to the optimum +25 %", out)
    assert facts["optimum"]["gap"] == 0.25
    assert f"{100 * facts['network']['test']:.4g} % test" in out
    assert facts["data"]["classes"] == {"0": 20, "1": 20}
    assert facts["written"]["network"] == str(tmp_path / "jaxqsdp-network.npz")
    code, out, err = run(capsys, monkeypatch, table, "--output", tmp_path, "--json", "-")
    again = json.loads(out)
    del again["written"], facts["written"]
    assert (code, again, err) == (0, facts, "")


@pytest.mark.parametrize(
    ("classes", "loss"), [(2, "logistic"), (3, "logistic"), (2, "softmax"), (3, "softmax")]
)
def test_log_losses_are_those_of_the_probabilities(capsys, monkeypatch, tmp_path, classes, loss):
    """Of the network's columns, one for each class but for logistic of two; of scikit-learn's."""
    path = tmp_path / "own.csv"
    rows = [f"{k % 7},{k % 5},{k % classes}" for k in range(40)]
    path.write_text("\n".join(["a,b,y", *rows]) + "\n")
    arguments = path, "--output", tmp_path, "--loss", loss
    facts = json.loads(run(capsys, monkeypatch, *arguments, "--json", "-")[1])
    data = prepare.split(read(path, None, None, []), 0)
    outputs = np.sum(data.test_X, axis=1) ** 2  # of one neuron of ones, for each class
    if (classes, loss) == (2, "logistic"):
        expected = np.mean(np.log1p(np.exp(-data.test_y * outputs)))
    else:
        expected = np.log(classes)
    found = facts["log_loss"]
    np.testing.assert_allclose(found["network"]["test"], expected, rtol=1e-6)
    labels = data.train_y > 0 if classes == 2 else data.train_y.argmax(1)
    model = LogisticRegression(max_iter=5000).fit(data.train_X, labels)
    likelihood = model.predict_log_proba(data.train_X)[np.arange(len(labels)), labels.astype(int)]
    np.testing.assert_allclose(found["baseline"]["train"], -np.mean(likelihood), rtol=1e-6)
    text = run(capsys, monkeypatch, *arguments)[1]
    assert re.search(r"log-loss, this network +[0-9.]+ train, [0-9.]+ test\n", text)
    assert re.search(r"log-loss, logistic regression +[0-9.]+ train, [0-9.]+ test\n", text)
    assert re.search(rf"\n  loss +{loss}\n", text)
    assert "log-loss" not in run(capsys, monkeypatch, *arguments[:-1], "hinge")[1]


def test_numbers_that_json_lacks_are_null(capsys, monkeypatch, tmp_path):
    """Test targets that are all the same have no R²."""
    y = np.zeros(40)
    y[::7] = np.arange(6)
    path = tmp_path / "own.csv"
    path.write_text(
        "a,y\n" + "".join(f"{k % 9},{value}.5\n" for k, value in enumerate(y.astype(int)))
    )
    held_out = (
        train_test_split(np.arange(40), test_size=0.3, random_state=s)[1] for s in range(999)
    )
    seed = next(s for s, rows in enumerate(held_out) if not y[rows].any())
    code, out, _ = run(
        capsys, monkeypatch, path, "--output", tmp_path, "--json", "-", "--seed", seed
    )
    assert code == 0
    scores = json.loads(out)["network"]
    assert scores["test"] is None
    assert math.isfinite(scores["train"])
    out = run(capsys, monkeypatch, path, "--output", tmp_path, "--seed", seed)[1]
    assert "train, undefined in test" in out


@pytest.mark.parametrize("classes", [2, 3])
def test_bits_are_those_of_both_layers(capsys, monkeypatch, tmp_path, classes):
    path = tmp_path / "own.csv"
    path.write_text("a,b,y\n" + "".join(f"{k % 7},{k % 5},{k % classes}\n" for k in range(40)))
    code, out, _ = run(capsys, monkeypatch, path, "--output", tmp_path)
    assert code == 0
    weights, alphas = 2 * 3, 1 if classes == 2 else classes
    total = weights + 64 * alphas
    assert f"{total}: first layer {weights}, α in float64 {64 * alphas}" in out
    assert f"float32: {32 * (weights + alphas)})" in out


def test_what_was_done_to_the_columns_is_said(capsys, monkeypatch, tmp_path):
    path = tmp_path / "own.csv"
    rows = [f"{k};{k % 9 or ''};{'mf'[k % 2]};7;{k % 3 % 2}" for k in range(40)]
    path.write_text("\n".join(["id;age;sex;same;kind", *rows]))
    code, out, _ = run(capsys, monkeypatch, path, "--output", tmp_path, "--drop", "id")
    assert code == 0
    assert re.search(r"read +separated by semicolons", out)
    assert re.search(r"missing values +5 of 'age': the median", out)
    assert re.search(r"categories +'sex' \(2 texts\): one feature a text", out)
    assert re.search(r"left out +'id' \(--drop\), 'same' \(the same in all training rows\)", out)
    assert re.search(r"classes +'0' \(27 rows\), '1' \(13 rows\)", out)


def test_a_title_is_text(capsys, monkeypatch, table, tmp_path):
    """Two dollars made a formula, which failed after the training."""
    for name in ("budget_$k_vs_plan_$k.csv", "x" * 200 + ".csv", "漢字 \\frac{$.csv", "a\nb.csv"):
        path = tmp_path / name
        path.write_bytes(table.read_bytes())
        code, out, err = run(capsys, monkeypatch, path, "--output", tmp_path)
        assert (code, err) == (0, "")
        assert name.replace("\n", "\\n") in out
        assert (tmp_path / "jaxqsdp-certificate.png").read_bytes().startswith(b"\x89PNG")


def test_a_file_that_cannot_be_written_loses_nothing_else(capsys, monkeypatch, table, tmp_path):
    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(picture, "draw", fail)
    code, out, err = run(capsys, monkeypatch, table, "--output", tmp_path)
    assert code == 2
    assert "objective of the network" in out
    assert "jaxqsdp-certificate.png: No space left" in err
    assert err.count("\n") == 1
    assert qs.QuantizedNetwork.load(tmp_path / "jaxqsdp-network.npz").num_neurons == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--output", "own.csv"), "is not a folder"),
        (("--output", "own.csv/below"), "--output: cannot write"),
        (("--output", "/proc/nowhere"), "--output: cannot write"),
        (("--json", "missing/report.json"), "--json: cannot write"),
        (("--json", "."), "--json: cannot write"),
    ],
)
def test_wrong_places_are_one_line_before_the_work(capsys, monkeypatch, table, arguments, message):
    monkeypatch.chdir(table.parent)
    monkeypatch.setattr(train, "train", None)  # not reached
    code = main([str(table), *arguments])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert message in captured.err
    assert captured.err.count("\n") == 1
    assert sorted(os.listdir(".")) == ["own.csv"]


class Console(io.TextIOWrapper):
    """A standard stream in an encoding of its own."""

    def __init__(self, encoding):
        super().__init__(io.BytesIO(), encoding=encoding)

    def shown(self):
        return self.buffer.getvalue().decode(self.encoding)


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "cp1253", "utf-8"])
def test_any_console(monkeypatch, table, tmp_path, encoding):
    monkeypatch.setattr(train, "train", quick)
    for arguments, word in (
        ([str(table), "--output", str(tmp_path)], "penalty {}  "),
        (["--help"], "penalty {} on"),
    ):
        out, err = Console(encoding), Console(encoding)
        monkeypatch.setattr(sys, "stdout", out)
        monkeypatch.setattr(sys, "stderr", err)
        with contextlib.suppress(SystemExit):  # of --help
            assert main(arguments) == 0
        assert err.shown() == ""
        assert word.format("β" if encoding in ("utf-8", "cp1253") else "beta") in out.shown()


@pytest.fixture
def broken(request):
    """A standard stream that cannot be written to."""
    if request.param == "none":
        yield None
        return
    with open("/dev/full" if request.param == "full" else os.devnull, "w") as stream:
        if request.param == "closed":
            stream.close()
        yield stream


@pytest.mark.parametrize(
    ("broken", "arguments", "message"),
    [
        ("full", (), "cannot write the report: No space left"),
        ("full", ("--json", "-"), "cannot write the report: No space left"),
        ("closed", (), "cannot write the report: the stream is closed"),
        ("none", (), "cannot write the report: the stream is closed"),
        ("fine", ("--json", "/dev/full"), "cannot write /dev/full: No space left"),
    ],
    indirect=["broken"],
)
def test_no_place_for_the_report_is_one_line(
    capsys, monkeypatch, table, tmp_path, broken, arguments, message
):
    monkeypatch.setattr(train, "train", quick)
    monkeypatch.setattr(sys, "stdout", broken)
    code = main([str(table), "--output", str(tmp_path), *arguments])
    err = capsys.readouterr().err
    assert code == 2
    assert message in err
    assert err.count("\n") == 1
    assert (tmp_path / "jaxqsdp-network.npz").exists()


@pytest.mark.parametrize("broken", ["full", "closed", "none"], indirect=True)
def test_nobody_to_complain_to(capsys, monkeypatch, tmp_path, broken):
    monkeypatch.setattr(sys, "stderr", broken)
    assert main([str(tmp_path / "none.csv")]) == 2
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ('"$@" > /dev/full', b"cannot write the report: No space left"),
        ('"$@" | true; exit ${PIPESTATUS[0]}', b"cannot write the report: Broken pipe"),
        ('"$@" --help | true; exit ${PIPESTATUS[0]}', b"standard output: Broken pipe"),
    ],
)
def test_the_interpreter_exits_in_silence_after_that(table, tmp_path, command, message):
    """What is left in a buffer is written, and fails, once more at exit."""
    script = [sys.executable, str(Path(__file__).parent / "quick_main.py")]
    done = subprocess.run(
        ["bash", "-c", command, "bash", *script, table, "--output", tmp_path],
        capture_output=True,
        timeout=300,
        env={name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"},
    )
    assert done.returncode == 2
    assert done.stderr.startswith(b"jaxqsdp: ")
    assert message in done.stderr
    assert done.stderr.count(b"\n") == 1


@pytest.fixture
def standard_input(monkeypatch):
    """Give bytes to standard input through a pipe."""
    before = os.dup(0)

    def give(contents):
        reader, writer = os.pipe()
        os.write(writer, contents)
        os.close(writer)
        os.dup2(reader, 0)
        os.close(reader)
        monkeypatch.setattr(sys, "stdin", open(0, closefd=False))  # noqa: SIM115

    yield give
    os.dup2(before, 0)
    os.close(before)


@pytest.mark.parametrize("name", ["-", "/dev/stdin", "/dev/fd/0"])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_tables_come_through_standard_input(
    capsys, monkeypatch, table, tmp_path, standard_input, name, pack
):
    standard_input(pack(table.read_bytes()))
    code, out, err = run(capsys, monkeypatch, name, "--output", tmp_path)
    assert (code, err) == (0, "")
    assert "2 classes: 28 train + 12 test samples" in out


def test_standard_input_that_is_closed(capsys, monkeypatch):
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["-"]) == 2
    assert capsys.readouterr().err == "jaxqsdp: standard input is closed\n"


STAGES = """
import sys, time
from jaxqsdp._cli.progress import Stages
stages = Stages({"first": 1.0, "second": 3.0})
with stages.stage("first"): time.sleep(0.3)
with stages.stage("second", " of two"): time.sleep(0.9)
stages.close("done")
"""


@pytest.mark.parametrize("broken", ["full", "closed", "none"], indirect=True)
def test_stages_need_no_standard_error(monkeypatch, broken):
    monkeypatch.setattr(sys, "stderr", broken)
    stages = progress.Stages({"first": 1.0})
    with stages.stage("first"):
        pass
    stages.close("done")


def test_no_frames_where_nobody_looks():
    done = subprocess.run([sys.executable, "-c", STAGES], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


def test_frames_on_a_terminal_move_inside_a_stage():
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 120, 0, 0))
    process = subprocess.Popen([sys.executable, "-c", STAGES], stderr=follower)
    os.close(follower)
    shown = b""
    while True:
        try:
            part = os.read(leader, 4096)
        except OSError:  # the other end is closed
            break
        if not part:
            break
        shown += part
    os.close(leader)
    assert process.wait() == 0
    percentages = [int(number) for number in re.findall(rb"(\d+)%", shown)]
    assert percentages == sorted(percentages)
    assert len({p for p in percentages if 30 <= p < 95}) >= 2  # inside the second stage
    assert percentages[-1] == 100
    assert b"second of two" in shown


def test_the_bar_moves_evenly_at_the_pace_of_the_machine():
    weights, seconds = (10.0, 5.0, 25.0), 0.3  # for a unit of weight, on this machine
    places, done = [], 10.0
    elapsed = done * seconds
    for weight in weights[1:]:
        for step in range(10):
            inside = weight * seconds * step / 10
            places.append(progress.position(done, weight, elapsed, inside))
        done, elapsed = done + weight, elapsed + weight * seconds
    np.testing.assert_allclose(np.diff(places[:10]), 0.5)
    np.testing.assert_allclose(np.diff(places[10:]), 2.5)
    late = progress.position(10.0, 5.0, 3.0, 1e6)
    assert 14 < late < 15
    assert progress.position(0.0, 10.0, 0.0, 0.0) == 0


@pytest.mark.parametrize(
    ("neurons", "rounded", "objectives", "bound"),
    [
        ([4, 16, 64], [120.0, 70.0, 55.0], [77.0, 53.0, 52.1], 52.0),
        ([4, 16, 64], [52.3, 52.2, 52.1], [52.2, 52.1, 52.0001], 52.0),
        ([4, 16, 64], [2.8, 1.0, 0.5], [2.8, 0.9, 0.1], 0.09),
        ([1], [3.0], [2.0], 1.9),
        ([1, 2], [3.0, 3.0], [2.0, 2.0], 2.0),
        ([1, 2], [3.0, 1.0], [2.0, 0.0], 0.0),
        ([1, 2], [2.0, 2.0], [2.0, 2.0], 2.0),
    ],
)
def test_no_number_stands_where_no_network_is(neurons, rounded, objectives, bound):
    drawn = picture.figure(
        title="own",
        neurons=neurons,
        rounded=rounded,
        objectives=objectives,
        lower_bound=bound,
        gap="1.23 %",
    )
    drawn.canvas.draw()
    axes = drawn.axes[0]
    shown = [text.get_text() for text in axes.texts]
    assert shown == [f"{objectives[-1]:.4g}", f"{rounded_down(bound, 4)}, gap 1.23 %"]
    line = axes.transData.transform((neurons[-1], bound))[1]
    boxes = [text.get_window_extent() for text in axes.texts]
    assert boxes[0].y0 >= line - 0.5
    assert not boxes[0].overlaps(boxes[1])
    frame = axes.get_window_extent()
    for box in boxes:
        assert box.y0 >= frame.y0 - 1
        assert box.x1 <= drawn.bbox.x1


def test_messages_stay_on_their_line():
    assert console.one_line("a\nb\r\x1b[31m\u2028é漢") == "a\\nb\\r\\x1b[31m\\u2028é漢"


def test_streams_are_left_as_they_were():
    before = sys.stdout.errors
    with console.any_encoding():
        assert sys.stdout.errors == "jaxqsdp.spelled_out"
    assert sys.stdout.errors == before
    assert "λ ≤ β".encode("ascii", "jaxqsdp.spelled_out") == b"? <= beta"
