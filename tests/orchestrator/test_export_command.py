"""The command `export`: which Python and whose trainer it starts, and what it says of what they answer."""

from __future__ import annotations

import json
import shlex
import sys

import pytest

from tests.orchestrator.command_line import Project

# In the place of the interpreter: says what it was started with.
RECORDER = """#!/bin/sh
if [ "$1 $2" = "-m trainer.export" ]; then
  printf '%s\\n' "$PYTHONPATH" "$@" >{record}
  echo "no such checkpoint" >&2
  exit "${{STANDIN_EXIT:-0}}"
fi
exec {python} "$@"
"""


@pytest.fixture
def project(tmp_path):
    return Project.make(tmp_path)


@pytest.fixture
def run_id(project):
    [run_id] = project.run("submit", project.job()).stdout.split()
    project.run("wait", run_id)
    return run_id


@pytest.fixture
def started(project, run_id, tmp_path):
    """Reads what the interpreter of the profile was started with."""
    record, python = tmp_path / "record", tmp_path / "standin-python"
    python.write_text(RECORDER.format(record=shlex.quote(str(record)), python=shlex.quote(sys.executable)))
    return lambda: record.read_text().splitlines()


def test_the_runs_own_trainer_is_started_with_the_profiles_python(project, run_id, started):
    project.run("export", "last")
    plan = json.loads((project.home / run_id / "plan.json").read_text())
    folder = project.home / run_id
    assert started() == [
        plan["snapshot"]["folder"],
        *("-m", "trainer.export", str(folder), "--output", str(folder / "export"), "--checkpoint", "latest"),
    ]


def test_output_and_checkpoint_are_handed_on(project, run_id, started):
    project.run("export", run_id, "--output", "my policy", "--checkpoint", "best")
    assert started()[-3:] == [str(project.folder / "my policy"), "--checkpoint", "best"]


def test_the_exit_code_is_that_of_the_export(project, run_id, started):
    done = project.with_variables(STANDIN_EXIT="1").run("export", "last", check=1)
    assert done.stderr == "no such checkpoint\n"


def test_a_sweep_and_an_interpreter_that_is_not_there_are_refused_in_a_line(project, run_id):
    (project.folder / "standin-python").unlink()
    done = project.run("export", run_id, check=1)
    assert "No such file or directory; `python` in profiles.yaml names the interpreter" in done.stderr
    project.run("submit", project.job(more="sweep:\n  seed: [0, 1]\n"))
    assert "name one of them" in project.run("export", "last", check=2).stderr


def test_a_run_of_the_debug_simulator_is_exported(project, run_id):
    """The real trainer, which finds no checkpoint in a run of the stand-in."""
    (project.folder / "standin-python").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
    done = project.run("export", "last", check=1, timeout=200)
    assert done.stderr.startswith("error: ")
    assert "interface.json is not there" in done.stderr
