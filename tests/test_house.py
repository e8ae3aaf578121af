"""The structure: packages and the verbs beside them import one way only, types included."""

import ast
import graphlib
from pathlib import Path

import jaxqsdp as qs

ROOT = Path(qs.__file__).parent


def arrows():
    """Return which packages each package, or module on the top floor, imports from."""
    found = {}
    for path in ROOT.rglob("*.py"):
        place = path.relative_to(ROOT).with_suffix("").parts
        here = found.setdefault(place[0], set())
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.ImportFrom) or not node.level:
                continue
            package = place[: len(place) - node.level]
            names = [node.module] if node.module else [alias.name for alias in node.names]
            here |= {(*package, *name.split("."))[0] for name in names} - {place[0]}
    return found


def test_nothing_imports_upward():
    order = list(graphlib.TopologicalSorter(arrows()).static_order())  # raises for a circle
    assert order[0] == "_base"
    assert {"__init__", "__main__"} <= set(order[-3:])


def test_no_circle_of_modules():
    found = {}
    for path in ROOT.rglob("*.py"):
        place = path.relative_to(ROOT).with_suffix("").parts
        here = found.setdefault(place, set())
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and node.level:
                package = place[: len(place) - node.level]
                parts = tuple(node.module.split(".")) if node.module else ()
                named = [(*package, *parts, alias.name) for alias in node.names]
                here |= {(*package, *parts), *named}
    graphlib.TopologicalSorter(found).prepare()  # raises for a circle


def test_the_proof_stands_on_little():
    """What a sceptic has to read: nothing of a solver or a search is in it."""
    found, below, todo = arrows(), set(), ["_bound"]
    while todo:
        for name in found[todo.pop()] - below:
            below.add(name)
            todo.append(name)
    assert below <= {"_base", "_exact", "_host", "_loss", "_network", "_problem"}
