"""What a user sees of the package first: its names, its help, its metadata."""

import ast
import builtins
import importlib.metadata
import pydoc
import re
import tomllib
import typing
from pathlib import Path

import jaxqsdp as qs

ROOT = Path(__file__).parent.parent


def test_a_star_import_hides_nothing_of_python():
    namespace = {}
    exec("from jaxqsdp import *", namespace)
    names = set(namespace) - {"__builtins__"}
    assert names == set(qs.__all__)
    assert not names & set(dir(builtins))
    assert {"Problem", "solve", "fit", "FittedRelaxation"} <= names
    assert qs.round is not round


def test_every_public_name_is_listed():
    source = ast.parse(Path(qs.__file__).read_text())
    imported = {
        alias.asname
        for node in source.body
        if isinstance(node, ast.ImportFrom) and node.level
        for alias in node.names
    }
    assert imported == {*qs.__all__, "round"} == set(dir(qs))
    assert len(qs.__all__) == len(set(qs.__all__))
    assert not [name for name in dir(qs) if name.startswith("_")]
    for name in dir(qs):
        assert getattr(qs, name) is not None


def test_every_public_name_has_a_text():
    for name in dir(qs):
        if callable(getattr(qs, name)):
            text = pydoc.getdoc(getattr(qs, name))
            assert text.strip(), name
            assert not text.startswith(f"{name}("), name  # what dataclasses put there


def test_help_reads_well_and_its_example_runs(capsys):
    text = pydoc.plain(pydoc.render_doc(qs))
    for word in ("solve_batch", "Status", "cross_validate", "KRIVINE_CONSTANT"):
        assert word in text
    lines = qs.__doc__.splitlines()
    start = next(k for k, line in enumerate(lines) if line.startswith("    import"))
    stop = next(k for k in range(start, len(lines)) if lines[k] and lines[k][0] != " ")
    exec("\n".join(line[4:] for line in lines[start:stop]), {})
    assert re.fullmatch(r"Certificate\(.* ≤ optimum ≤ .*\)\n", capsys.readouterr().out)


def test_types_of_batches():
    one, many = typing.get_overloads(qs.solve_batch)
    assert typing.get_type_hints(one)["return"] is qs.Solution
    assert typing.get_type_hints(one)["problems"] is qs.Problem
    assert typing.get_type_hints(many)["return"] == list[qs.Solution]
    assert list(one.__annotations__) == list(many.__annotations__)
    assert one.__kwdefaults__ == many.__kwdefaults__ == qs.solve_batch.__kwdefaults__


def test_links_work_on_the_package_index():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    home = project["urls"]["Homepage"]
    assert all(url.startswith(home) for url in project["urls"].values())
    readme = (ROOT / "README.md").read_text()
    links = re.findall(r"\]\(([^)]*)\)", readme)
    assert links
    for link in links:
        assert link.startswith(("https://", "#")), link
        own = link.removeprefix(f"{home}/blob/main/")
        assert own == link or (ROOT / own).is_file()
    assert qs.__version__ == importlib.metadata.version("jaxqsdp")
