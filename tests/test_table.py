"""Tables of the command line: what is read, what it means, and what is refused in one line."""

import gzip
import io
import os
import threading
import time

import numpy as np
import pytest

from jaxqsdp._cli import table as tables
from jaxqsdp._cli.errors import DataError

rng = np.random.default_rng(0)


def rows_of(count=40, *, c="{c:.3f}", y="{y:.3f}"):
    """Lines of three features and a target, the last two as given."""
    values = np.random.default_rng(0).standard_normal((count, 4)).round(3)
    return [
        f"{a},{b},{c.format(c=c_value, k=k)},{y.format(y=y_value, k=k)}"
        for k, (a, b, c_value, y_value) in enumerate(values)
    ]


def csv_text(lines, header="a,b,c,y"):
    return "\n".join([header, *lines]) + "\n"


def read(tmp_path, contents, name="own.csv", **options):
    path = tmp_path / name
    path.write_bytes(contents if isinstance(contents, bytes) else contents.encode())
    return tables.read(path, **options)


def error_of(tmp_path, contents, name="own.csv", **options):
    with pytest.raises(DataError) as caught:
        read(tmp_path, contents, name, **options)
    return str(caught.value)


def npz(**arrays):
    file = io.BytesIO()
    np.savez(file, **arrays)
    return file.getvalue()


def test_a_plain_table_is_read_exactly(tmp_path):
    X = np.random.default_rng(1).standard_normal((40, 4)) * 10.0 ** np.arange(-20, 20, 10)
    read_table = read(tmp_path, csv_text([",".join(map(str, row)) for row in X.tolist()]))
    np.testing.assert_array_equal(read_table.features.to_numpy(), X[:, :3])
    np.testing.assert_array_equal(read_table.target, X[:, 3])
    assert list(read_table.features.columns) == ["a", "b", "c"]
    assert read_table.classes == ()


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (("1_0", "10", "1_1", "11"), ("10", "11", "1_0", "1_1")),
        (("001", "1", "002", "2"), ("001", "1", "002", "2")),
        (("1E1", "10", "2E1", "20"), ("10", "1E1", "20", "2E1")),
        (("1000001", "1000002", "999999", "1000003"), ("999999", "1000001", "1000002", "1000003")),
        (("no", "yes", "NA", "None"), ("NA", "None", "no", "yes")),
        (("1", "2", "3", "other"), ("1", "2", "3", "other")),
        (("+1", "-1", "1.0", "1"), ("-1", "+1", "1", "1.0")),
        (("ä", "Ä", "a", "A"), ("A", "a", "Ä", "ä")),
    ],
)
def test_distinct_texts_are_distinct_classes_named_as_in_the_file(tmp_path, labels, classes):
    lines = [line.rpartition(",")[0] + f",{labels[k % 4]}" for k, line in enumerate(rows_of())]
    read_table = read(tmp_path, csv_text(lines))
    assert read_table.classes == classes
    assert [classes[code] for code in read_table.target] == [labels[k % 4] for k in range(40)]


@pytest.mark.parametrize(
    ("labels", "classes"),
    [
        (np.arange(40) % 2 == 0, ("False", "True")),
        (1234567.0 + np.arange(40) % 3, ("1234567", "1234568", "1234569")),
        (2**60 + np.arange(40) % 2, (str(2**60), str(2**60 + 1))),
        (np.array([b"x", "ß".encode()])[np.arange(40) % 2], ("x", "ß")),
        (np.array(["1_0", "10"])[np.arange(40) % 2], ("10", "1_0")),
    ],
)
def test_classes_of_arrays(tmp_path, labels, classes):
    X = rng.standard_normal((40, 2))
    assert read(tmp_path, npz(X=X, y=labels), "own.npz").classes == classes


def test_numbers_and_classes_by_the_values_or_as_told(tmp_path):
    text = csv_text(rows_of(y="{k}"))
    assert read(tmp_path, text).classes == ()  # 40 whole numbers
    seven = csv_text([f"{k}.5,{k % 7}" for k in range(40)], "a,y")
    assert len(read(tmp_path, seven).classes) == 7
    assert read(tmp_path, seven, task="numbers").task == "regression"
    np.testing.assert_array_equal(read(tmp_path, seven, task="numbers").target, np.arange(40) % 7)


@pytest.mark.parametrize(
    ("delimiter", "name", "word"),
    [
        (",", "own.csv", None),
        (";", "own.csv", "semicolons"),
        ("\t", "own.tsv", "tabs"),
        ("\t", "own.csv", "tabs"),
        ("|", "own.txt", "bars"),
    ],
)
def test_separators_are_found_and_named(tmp_path, delimiter, name, word):
    text = csv_text(rows_of()).replace(",", delimiter)
    read_table = read(tmp_path, text, name)
    assert read_table.features.shape == (40, 3)
    assert read_table.notes == ({} if word is None else {"read": f"separated by {word}"})


def test_decimal_commas_are_read_and_said(tmp_path):
    lines = [line.replace(",", ";").replace(".", ",") for line in rows_of()]
    found = read(tmp_path, csv_text(lines, "a;b;c;y"))
    expected = read(tmp_path, csv_text(rows_of()))
    np.testing.assert_array_equal(found.features.to_numpy(), expected.features.to_numpy())
    np.testing.assert_array_equal(found.target, expected.target)
    assert found.notes["decimals"] == "with a comma in 'a', 'b', 'c', 'y'"


def test_thousands_are_not_taken_for_decimals(tmp_path):
    """Whatever another column holds, and where commas separate."""
    lines = "".join(f"1,{k + 100};0,{k % 9}5;{k % 2}\n" for k in range(30))
    found = error_of(tmp_path, "a;b;y\n" + lines)
    assert "column 'a' holds '1,100' in line 2; write decimals with a point, thousands" in found
    lines = "".join(f'"1,{k + 100}","0,{k % 9}5",{k % 2}\n' for k in range(30))
    assert "write decimals with a point" in error_of(tmp_path, "a,b,y\n" + lines)


def test_decimal_commas_with_exponents(tmp_path):
    found = read(tmp_path, "a;y\n" + "".join(f"{k},5e-3;{k % 2}\n" for k in range(30)))
    np.testing.assert_allclose(found.features["a"], (np.arange(30) + 0.5) / 1e3)


@pytest.mark.parametrize("text", ["1,5.0", "1,2,3", "12,5 kg"])
def test_what_need_not_be_a_decimal_comma_is_none(tmp_path, text):
    found = read(tmp_path, "a;b;y\n" + "".join(f"{k};{text};{k % 2}\n" for k in range(30)))
    assert set(found.features["b"]) == {text}
    assert "decimals" not in found.notes


def test_a_separator_in_a_name_does_not_mislead(tmp_path):
    lines = rows_of()
    for header in ("a;x,b,c;y;z;w,y", '"a;b;c;d;e",b,c,y', "a\tb,b\tc,c,y", "a|b,b,c,y"):
        assert read(tmp_path, csv_text(lines, header)).features.shape == (40, 3)
    tabs = [line.replace(",", "\t") for line in lines]
    assert read(
        tmp_path, csv_text(tabs, "height, cm\tb, x\tc, y\ty"), "own.tsv"
    ).features.shape == (
        40,
        3,
    )


@pytest.mark.parametrize("ends", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_line_ends_and_encodings(tmp_path, ends, encoding):
    lines = csv_text(rows_of(), "ä,b,c,y").split("\n")
    read_table = read(tmp_path, ends.join(lines).encode(encoding))
    assert list(read_table.features.columns) == ["ä", "b", "c"]
    lines[5] = "1,oops,3,4"
    message = error_of(tmp_path, ends.join(lines).encode(encoding))
    assert "column 'b' holds 'oops' in line 6" in message


BAD_LINE = "1,oops,3,0.5"


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("a,b,c,y\n\n\n" + "\n".join([*rows_of()[:3], BAD_LINE, *rows_of()]), 7),
        ("\n \n\ta,b,c,y\n" + "\n".join([*rows_of()[:3], BAD_LINE, *rows_of()]), 7),
        ('"a\n(m)",b,c,y\n' + "\n".join([*rows_of()[:3], BAD_LINE, *rows_of()]), 6),
        ("a,b,c,y\n" + "\n".join(['1,2,"3\n",4', "", "  ", ",,,", BAD_LINE, *rows_of()]), 7),
        ("a,b,c,y\n" + "\n".join([*rows_of(), '"1\n\n",oops,3,4']), 44),
    ],
    ids=["blank lines", "blank before", "quoted newline", "both", "inside the record"],
)
def test_lines_are_counted_as_an_editor_does(tmp_path, text, line):
    message = error_of(tmp_path, text)
    assert f"column 'b' holds 'oops' in line {line}," in message
    assert text.split("\n")[line - 1].find("oops") >= 0


@pytest.mark.parametrize(
    "cell", ["1_0", "0x10", "1,5", "१", "1+2j", "1 000", "--1", "1e", "3 days"]
)
def test_what_is_no_number_is_not_read_as_one(tmp_path, cell):
    lines = rows_of()
    lines[4] = f'1,"{cell}",3,4'
    message = error_of(tmp_path, csv_text(lines))
    assert f"column 'b' holds '{cell}' in line 6, which is not a number" in message


@pytest.mark.parametrize(
    "cell", ["-1.7976931348623157e308", "1e400", "-inf", "Infinity", "1e101", "9" * 120]
)
@pytest.mark.parametrize("column", ["b", "y"])
def test_out_of_range_is_one_line_with_column_and_line(tmp_path, cell, column):
    lines = rows_of()
    lines[7] = f"1,{cell},3,4" if column == "b" else f"1,2,3,{cell}"
    message = error_of(tmp_path, csv_text(lines))
    assert "line 9" in message
    assert f"'{column}'" in message
    assert "out of range" in message


def test_numbers_too_small_to_square_are_refused(tmp_path):
    message = error_of(tmp_path, csv_text(rows_of(c="{c}e-200")))
    assert "column 'c'" in message
    assert "too small" in message
    assert "change its unit" in error_of(tmp_path, csv_text(rows_of(y="{y}e-200")))


def test_missing_numbers_are_nan_whatever_they_are_called(tmp_path):
    lines = rows_of()
    marks = ["", " ", "NA", "n/a", "NaN", "nan", "NULL", "None", "?", "#N/A", "<NA>"]
    for k, mark in enumerate(marks):
        lines[k] = f"1,{mark},3,4"
    cells = read(tmp_path, csv_text(lines)).features["b"]
    np.testing.assert_array_equal(np.isnan(cells), np.arange(40) < len(marks))


def test_texts_are_categories_even_if_they_look_like_marks(tmp_path):
    words = ["NA", "yes", "", "None", "01", "no"]
    lines = [f"{k},{words[k % 6]},{k % 5}" for k in range(60)]
    cells = read(tmp_path, csv_text(lines, "a,b,y")).features["b"]
    assert list(cells) == [words[k % 6] for k in range(60)]


def test_columns_are_dropped_when_empty_nameless_or_told(tmp_path):
    lines = [f"{k},{line.replace(',', ',,', 1)}," for k, line in enumerate(rows_of())]
    read_table = read(tmp_path, csv_text(lines, ",a,e,b,c,y,"), target="y", drop=["b"])
    assert list(read_table.features.columns) == ["a", "c"]
    assert read_table.left_out == {"b": "--drop", "e": "empty"}
    assert "column 1 (counts the rows)" in read_table.notes["columns without a name"]
    assert "column 7 (empty)" in read_table.notes["columns without a name"]


def semicolons(header="a;b;c;y"):
    return "\n".join([header, *(f"{k % 3};{k % 2};{k % 5};{k % 2}" for k in range(40))])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is empty"),
        ("\n\n", "is empty"),
        ("a,b,y\n", "at least one row"),
        ("a,b,y\n1,2,3\n4,5,0\n", "2 rows are too few"),
        ("y\n" + "1\n0\n" * 20, "one column only, 'y'"),
        (semicolons().replace(";", " "), "one column only, 'a b c y'"),
        ("a,b\n" + "1,2\n" * 5 + "1,2,3\n" + "1,2\n" * 20, "line 7 has 3 fields, the header has 2"),
        ("a,b\n" + "1,2\n" * 5 + "1\n" + "1,2\n" * 20, "line 7 has 1 fields, the header has 2"),
        ("a,b\n\n" + "1,2\n" * 5 + '"1,2\n' + "1,2\n" * 20, "quote that opens in line 8 is never"),
        ("a,a,y\n" + "1,2,3\n" * 20, "two columns are named 'a'"),
        ("1.5,2,0\n" * 20, "first line holds numbers"),
        ("nan,2,0\n" * 20, "first line holds numbers"),
        ("a,y\n" + "1,0\n2,1\n" * 10 + "3,\n", "line 22 has no target"),
        ("a,y\n" + "1,yes\n2,no\n" * 10 + "3, \n", "line 22 has no target"),
        ("a,y\n" + "1,.5\n2,1.5\n" * 10 + "3,NA\n", "line 22 has no target ('NA')"),
        ("a,y\n" + "1,.5\n2,1.5\n" * 10 + "3,x\n", "holds 'x' in line 22, which is not a number"),
        ("a,y\n" + "1,yes\n2,no\n" * 10 + "3,x\n", "class 'x' has one row only, line 22"),
        ("a,y\n" + "1,2\n" * 20, "one value only, '2'"),
        ("a,y\n" + "1,nan\n" * 20, "one value only, 'nan'"),
        ("a,y\n" + "".join(f"{k},name{k}\n" for k in range(30)), "30 classes"),
        ("a,y\n" + ",1\n,0\n" * 20, "no column is left"),
        ("a,b,y\n" + "".join(f"{k},i{k},{k % 2}\n" for k in range(30)), "30 different texts"),
        (
            "a;b;y\n" + "".join(f"{k};{k % 4 + 1},500;{k % 2}\n" for k in range(30)),
            "write decimals with a point",  # or are these thousands?
        ),
        ("a,b\0,y\n" + "1,2,3\n" * 20, "line 1 holds a NUL"),
        (b"a,b,y\n" + b"1,2,3\n" * 4 + b"caf\xe9,2,3\n" * 20, "line 6 is not text in UTF-8"),
        (b"\xff\xfea\0,\0y\0\n\0" + b"\0\xd8" * 5, "line 2 is not text"),
        (b"\x1f\x8b\x08\0\0\0\0\0", "cannot unpack"),
        (b"PK\x03\x04\xff\xfe", "as NPZ"),
    ],
)
def test_bad_tables_are_one_clear_line(tmp_path, text, message):
    found = error_of(tmp_path, text)
    assert message in found
    assert "\n" not in found


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"target": "z"}, "no column named 'z' (columns: 'a', 'b', 'c', 'y')"),
        ({"drop": ["z"]}, "--drop: no feature is named 'z'"),
        ({"drop": ["y"]}, "--drop: no feature is named 'y'"),
        ({"drop": ["a", "b", "c"]}, "no column is left"),
        ({"task": "classes"}, "40 classes"),
    ],
)
def test_options_that_do_not_fit_are_one_clear_line(tmp_path, options, message):
    assert message in error_of(tmp_path, csv_text(rows_of(y="{k}.5")), **options)


def test_words_cannot_be_numbers(tmp_path):
    text = "a,y\n" + "1,yes\n2,no\n" * 10
    assert "'yes' in line 2, which is not a number" in error_of(tmp_path, text, task="numbers")


X40 = np.random.default_rng(2).standard_normal((40, 2))
Y40 = X40[:, 0] + 0.0


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"X": X40}, "no array named 'y' (arrays: 'X')"),
        ({"X": X40[:, 0], "y": Y40}, "X must have shape (n, d)"),
        ({"X": X40, "y": Y40[:, None]}, "got (40, 2) and (40, 1)"),
        ({"X": np.full((20, 2), None), "y": np.ones(20)}, "cannot read"),
        ({"X": X40 + 1j, "y": Y40}, "array 'X' holds complex numbers"),
        ({"X": X40, "y": Y40 + 0j}, "array 'y' holds complex numbers"),
        ({"X": X40.astype("m8[s]"), "y": Y40}, "array 'X' holds durations"),
        ({"X": X40, "y": Y40.astype("m8[s]")}, "array 'y' holds durations"),
        ({"X": X40.astype("M8[s]"), "y": Y40}, "array 'X' holds dates"),
        ({"X": X40, "y": np.zeros(40, "V8")}, "array 'y' holds records"),
        ({"X": np.zeros(40, [("a", "f8", 3)]), "y": Y40}, "field 'a': must hold one value a row"),
        ({"X": np.zeros(40, [("a", "c16")]), "y": Y40}, "field 'a' holds complex numbers"),
        ({"X": np.full((40, 2), b"\xff"), "y": Y40}, "not text in UTF-8"),
        (
            {"X": np.where(np.arange(80).reshape(40, 2) == 7, np.inf, X40), "y": Y40},
            "'X[:, 1]' holds inf in row 4",
        ),
        ({"X": X40, "y": np.where(np.arange(40) == 6, np.nan, Y40)}, "row 7 has no target"),
        (
            {"X": X40, "y": np.where(np.arange(40) == 6, np.inf, Y40)},
            "row 7, which is out of range",
        ),
        ({"X": X40.astype(np.longdouble) * np.longdouble("1e1000"), "y": Y40}, "out of range"),
        ({"X": np.zeros((20, 10_001)), "y": np.ones(20)}, "10,001 columns are too many"),
    ],
)
def test_bad_arrays_are_one_clear_line(tmp_path, arrays, message):
    found = error_of(tmp_path, npz(**arrays), "own.npz")
    assert message in found
    assert "\n" not in found


def test_fields_of_a_record_array_are_columns(tmp_path):
    records = np.zeros(40, [("width", "f8"), ("kind", "U3"), ("count", "i4")])
    records["width"], records["count"] = X40[:, 0], np.arange(40)
    records["kind"] = np.array(["a", "b "])[np.arange(40) % 2]
    features = read(tmp_path, npz(X=records, y=Y40), "own.npz").features
    assert list(features.columns) == ["width", "kind", "count"]
    np.testing.assert_array_equal(features["width"], X40[:, 0])
    assert list(features["kind"][:2]) == ["a", "b"]


def test_another_array_can_be_the_target(tmp_path):
    contents = npz(X=X40, y=np.arange(40) % 2, other=-(np.arange(40) % 2))
    assert read(tmp_path, contents, "own.npz").classes == ("0", "1")
    assert read(tmp_path, contents, "own.npz", target="other").classes == ("-1", "0")


def test_gzip_of_text_and_arrays(tmp_path):
    text = csv_text(rows_of()).encode()
    plain = read(tmp_path, text)
    packed = read(tmp_path, gzip.compress(text), "own.csv.gz")
    assert plain.features.equals(packed.features)
    arrays = gzip.compress(npz(X=X40, y=Y40))
    assert read(tmp_path, arrays, "own.npz.gz").features.shape == (40, 2)
    cut = gzip.compress(text)[:-20]
    assert "cannot unpack" in error_of(tmp_path, cut, "own.csv.gz")


def test_a_pipe_is_read(tmp_path):
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text(csv_text(rows_of())))
    writer.start()
    assert tables.read(path).features.shape == (40, 3)
    writer.join()


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere.csv", "no such file"), (".", "is a folder"), ("/dev/null", "is empty")],
)
def test_wrong_places(tmp_path, monkeypatch, path, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=message):
        tables.read(tables.Path(path))


def test_a_million_columns_are_refused_at_once(tmp_path):
    """The old reader compared every name with all before it: hours."""
    text = ",".join(f"c{k}" for k in range(10**6)) + "\n"
    start = time.perf_counter()
    message = error_of(tmp_path, text + text)
    assert "1,000,000 columns are too many" in message
    assert time.perf_counter() - start < 20


def test_long_names_are_cut_in_messages(tmp_path):
    text = csv_text(rows_of(), "a," + "b" * 5000 + ",c,y").replace("0", "x")
    assert len(error_of(tmp_path, text)) < 400
    names = ",".join(f"column{k}" for k in range(3000))
    wide = f"{names}\n" + f"{names}\n" * 12
    assert len(error_of(tmp_path, wide, target="z")) < 400
