"""docs/notebook.ipynb is executed in a kernel, with runs that train for real."""

from __future__ import annotations

import builtins
import os
import subprocess
import sys
from pathlib import Path

import pytest

from orchestrator import notebook
from orchestrator.errors import LongshoreError
from tests.waiting import PATIENCE

nbclient = pytest.importorskip("nbclient")
nbformat = pytest.importorskip("nbformat")

ROOT = Path(__file__).parents[2]
NOTEBOOK = ROOT / "docs" / "notebook.ipynb"
# In place of the quickstart and its minutes.
JOB = """\
name: tiny
backend: local
train: {experiment: debug, eval.episodes: 0}
sweep: {seed: [0, 1]}
"""


@pytest.mark.timeout(900)  # two runs, which wait for a core where others train
def test_the_notebook_runs_as_it_stands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "tiny.yaml").write_text(JOB)
    python, environments = tmp_path / "python", tmp_path / "environments"
    python.write_text(f'#!/bin/sh\nenv >>"{environments}"\nexec "{sys.executable}" "$@"\n')
    python.chmod(0o755)
    (tmp_path / "profiles.yaml").write_text(f"default: {{python: {python}}}\n")
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    [first, *_] = [cell for cell in notebook.cells if cell.cell_type == "code"]
    imports, _ = first.source.split("JOB = ")
    first.source = f'{imports}JOB, SETTINGS = "tiny.yaml", ["optimization.total_optim_steps=12"]'
    for name, value in {"LONGSHORE_HOME": str(tmp_path / "runs"), "PYTHONPATH": str(ROOT)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    nbclient.NotebookClient(notebook, timeout=10 * PATIENCE, kernel_name="python3").execute(cwd=tmp_path)
    shown = {cell.source: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}
    outputs = [output for cells in shown.values() for output in cells if output.output_type == "execute_result"]
    assert len(outputs) == len(shown) - 2, "all but the imports and the plan, which prints, show a table"
    ended, _, figures, _ = [output.data["text/plain"] for output in outputs]
    assert ended.count("succeeded") == 2
    assert [line.split()[1] for line in figures.splitlines()[1:]] == ["4", "8", "12"] * 2
    assert "MPLBACKEND" not in environments.read_text(), "the trainer has no notebook to draw in"


def test_its_outputs_name_no_folder_of_whoever_ran_it():
    cells = nbformat.read(NOTEBOOK, as_version=4).cells
    assert all(cell.outputs for cell in cells[3:] if cell.cell_type == "code")
    assert "/home/" not in NOTEBOOK.read_text()
    assert not any(part in NOTEBOOK.read_text() for part in ("/tmp/", "/root/"))


def test_without_pandas_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch):
    real = builtins.__import__

    def without_pandas(name: str, *arguments: object) -> object:
        if name == "pandas":
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr(builtins, "__import__", without_pandas)
    with pytest.raises(LongshoreError, match=r"pip install '\.\[notebook\]'"):
        notebook.metrics("last")


def test_a_run_that_is_not_there_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("LONGSHORE_HOME", str(tmp_path))
    with pytest.raises(LongshoreError, match="no run is called 'nobody'"):
        notebook.status("nobody")


def test_importing_the_package_costs_nothing():
    code = "import sys, orchestrator; print([name for name in ('pydantic', 'pandas', 'rich') if name in sys.modules])"
    variables = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
