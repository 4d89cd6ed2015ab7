"""`pull` and `exec` as they are typed, for runs of this machine; other places are in test_steve and tests/services."""

from __future__ import annotations

import json

import pytest

from tests.orchestrator.command_line import Project
from tests.waiting import eventually


@pytest.fixture
def project(tmp_path):
    return Project.make(tmp_path)


def test_a_run_of_this_machine_is_copied_where_it_is_wanted(project):
    [run_id] = project.run("submit", project.job()).stdout.split()
    project.run("wait", run_id)
    done = project.run("pull", "last")
    assert done.stdout == f"{project.home / run_id}\n"
    assert done.stderr == f"{run_id}: all that there is lies here\n"
    done = project.run("pull", "last", "--to", "copies", "--what", "logs,metrics")
    copy = project.folder / "copies" / run_id
    assert done.stdout == f"{copy}\n"
    assert (copy / "attempts/1/log.txt").read_text() == (project.home / run_id / "attempts/1/log.txt").read_text()
    assert not (copy / "job.yaml").exists()
    project.run("pull", "last", "--to", "copies", "--what", "all")
    assert (copy / "job.yaml").exists()
    assert project.run("pull", "last", "--to", "copies", "--what", "all").stderr.startswith(f"{run_id}: 0 files")


def test_a_part_that_is_none_is_refused_with_those_that_there_are(project):
    project.run("submit", project.job())
    done = project.run("pull", "last", "--what", "weights", check=2)
    assert "checkpoints, latest, logs, metrics, all" in done.stderr


def test_a_command_runs_in_the_runs_folder_with_its_variables_and_gives_its_exit_code(project):
    [run_id] = project.run("submit", project.job("hang", more="secrets: []\n")).stdout.split()
    eventually(lambda: json.loads(project.run("status", "last", "--json").stdout)["state"] == "running")
    script = 'pwd; echo "$STANDIN in $LONGSHORE_RUN_DIR"; echo oops >&2; exit 7'
    done = project.run("exec", "last", "--", "bash", "-c", script, check=7)
    folder = project.home / run_id
    assert done.stdout == f"{folder}\nhang in {folder}\n"
    assert done.stderr == "oops\n"
    assert "LONGSHORE_RUN_ID" not in project.run("exec", "last", "--", "env").stdout  # the next attempt would end it
    assert "no-such-command" in project.run("exec", "last", "--", "no-such-command", check=127).stderr
    project.run("cancel", "last")
    assert (
        "is cancelled; a command needs a run that goes on" in project.run("exec", "last", "--", "true", check=1).stderr
    )
