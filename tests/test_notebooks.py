"""The notebooks run from top to bottom as they are in git, and leave nothing beside themselves."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
PICTURES = {"01_quickstart": 5, "02_inspect_a_model": 6, "03_your_own_recordings": 3}


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def code_of(notebook: nbformat.NotebookNode) -> list[str]:
    cells = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return ["\n".join(line for line in cell.splitlines() if not line.startswith("%")) for cell in cells]


def test_every_notebook_is_tested():
    assert {path.stem for path in FOLDER.iterdir()} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_cleared_and_valid(name: str):
    notebook = read(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@pytest.mark.parametrize("name", PICTURES)
def test_imports_resolve(name: str):
    for code in code_of(read(name)):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                for alias in node.names:
                    importlib.import_module(alias.name)
            elif isinstance(node, ast.ImportFrom):
                module = importlib.import_module(node.module)
                for alias in node.names:
                    assert hasattr(module, alias.name), f"{node.module} has no {alias.name}"


@pytest.mark.parametrize("name", PICTURES)
def test_runs(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    beside, temporary = tmp_path / "beside", tmp_path / "temporary"
    beside.mkdir()
    temporary.mkdir()
    # a notebook writes into a temporary folder, and its kernel must not meet the user's own settings
    for variable, value in {
        "TMPDIR": temporary,
        "IPYTHONDIR": tmp_path / "ipython",
        "JUPYTER_RUNTIME_DIR": tmp_path / "runtime",
        "OMP_NUM_THREADS": 1,
    }.items():
        monkeypatch.setenv(variable, str(value))
    notebook = read(name)
    NotebookClient(notebook, timeout=280, kernel_name="python3", resources={"metadata": {"path": beside}}).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert sum("image/png" in output.get("data", {}) for output in outputs) == PICTURES[name]
    assert list(beside.iterdir()) == []
    assert [path.name[:7] for path in temporary.glob("butppg_*")] == ["butppg_"]
