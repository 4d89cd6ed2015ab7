"""`python -m trainer`: its arguments, its surroundings, and what it must not import."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.coordinator import role_commands
from trainer.errors import ConfigError
from trainer.run_dir import FailureClass, RunDir

ROOT = Path(__file__).parents[2]


def test_the_roles_of_a_pipeline_have_a_bare_argv():
    assert role_commands("sync") == {"trainer": [sys.executable, "-m", "trainer.pipelines.sync"]}
    with pytest.raises(ConfigError, match=r"pipeline\.name: 'synch' is not one of sync"):
        role_commands("synch")


def trainer(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_wrong_override_is_one_line_and_a_failure_of_class_spec(tmp_path):
    done = trainer("env.nmae=Ant", folder=tmp_path, LONGSHORE_RUN_DIR=str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr == "trainer: env.nmae: unknown key; did you mean env.name?\n"
    assert RunDir(tmp_path / "run").read_failure().failure_class is FailureClass.SPEC


def test_a_wrong_override_writes_nothing_where_no_run_directory_is_named(tmp_path):
    assert trainer("seed=x", folder=tmp_path).returncode == 2
    assert not list(tmp_path.iterdir())


def test_a_deadline_that_is_no_number_is_an_error(tmp_path):
    done = trainer(folder=tmp_path, LONGSHORE_DEADLINE="tomorrow")
    assert (done.returncode, done.stderr) == (2, "trainer: LONGSHORE_DEADLINE: 'tomorrow' is no number\n")


def test_help_shows_the_defaults(tmp_path):
    done = trainer("--help", folder=tmp_path)
    assert done.returncode == 0
    assert "total_optim_steps" in done.stdout


def test_the_coordinator_imports_neither_torch_nor_numpy():
    """Importing torch before Isaac's AppLauncher breaks it, and costs seconds and a gigabyte of memory."""
    code = (
        "import sys, trainer.coordinator as c; from trainer.config import compose; compose(['seed=1']);"
        "print(sorted(name for name in ('torch', 'numpy', 'tensordict') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
