"""Every notebook runs from top to bottom as it stands, and shows what it stores.

`python tests/test_notebooks.py` runs them all and stores their outputs.
"""

import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))


def run(path, folder):
    """Return the notebook with the outputs of a fresh run, in a folder for what it writes."""
    notebook = nbformat.read(path, as_version=4)
    NotebookClient(notebook, timeout=600, resources={"metadata": {"path": folder}}).execute()
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)  # when it ran
        if cell.cell_type == "code":  # progress bars come and go
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    notebook.metadata.language_info = {"name": "python"}
    return notebook


def kinds(notebook):
    """Return what each code cell shows: text, a result, pictures, by their types."""
    return [
        {(output.output_type, *sorted(output.get("data", ()))) for output in cell.outputs}
        for cell in notebook.cells
        if cell.cell_type == "code"
    ]


@pytest.mark.notebooks
@pytest.mark.filterwarnings("default")  # the kernel's own start-up may warn
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_notebook_runs(path, tmp_path):
    assert kinds(run(path, tmp_path)) == kinds(nbformat.read(path, as_version=4))


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_outputs_are_stored(path):
    """GitHub shows what is stored: figures and figures of merit, all of one run."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    types = {kind for shown in kinds(notebook) for kind in shown}
    assert any("image/png" in kind for kind in types)
    assert ("stream",) in types
    assert not any(kind[0] == "error" for kind in types)


def test_there_are_notebooks():
    assert NOTEBOOKS


if __name__ == "__main__":
    for notebook_path in NOTEBOOKS:
        with tempfile.TemporaryDirectory() as temporary:
            nbformat.write(run(notebook_path, temporary), notebook_path)
