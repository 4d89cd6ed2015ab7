"""`resume`, `watch` and `prune`, typed."""

from __future__ import annotations

import json
import signal
import subprocess
from pathlib import Path

import pytest
from command_line import Project
from local_runs import eventually

from orchestrator import notify
from orchestrator.runs import Event
from orchestrator.states import RunState


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project.make(tmp_path)


def submitted(project: Project, behaviour: str = "succeed") -> str:
    run_id = project.run("submit", project.job(behaviour)).stdout.strip()
    project.run("wait", run_id, check=None)
    return run_id


def test_resume_starts_another_attempt_of_the_same_run(project: Project):
    run_id = submitted(project, "fail")
    done = project.run("resume", run_id, "optimization.total_optim_steps=7")
    assert done.stdout == f"{run_id} setting-up: attempt 2\n"
    project.run("wait", run_id, check=1)
    assert json.loads(project.run("status", run_id, "--json").stdout)["attempt"] == 2


def test_resuming_what_has_succeeded_is_a_mistake_that_says_what_is_missing(project: Project):
    done = project.run("resume", submitted(project), check=2)
    assert "give it more to do: optimization.total_optim_steps=NUMBER" in done.stderr


def test_watch_tells_each_change_until_it_is_interrupted(project: Project, tmp_path: Path):
    told = tmp_path / "told"
    command = f'echo "$LONGSHORE_RUN_ID $LONGSHORE_STATE" >>{told}'
    watching = subprocess.Popen(
        project.command("watch", "--interval", "1", "--notify", command),
        cwd=project.folder,
        env=project.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        run_id = submitted_behind_its_back(project)
        eventually(lambda: told.exists() and f"{run_id} succeeded" in told.read_text(), 60)
    finally:
        watching.send_signal(signal.SIGINT)
        out, error = watching.communicate(timeout=30)
    assert watching.returncode == 130
    assert f"{run_id} succeeded" in out
    assert error == f"watching {project.home}, every 1 s\n"


def test_a_command_that_fails_or_hangs_is_told_and_no_more(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    change = Event("demo-1", 0.0, RunState.RUNNING, RunState.SUCCEEDED, "")
    monkeypatch.setattr(notify, "TIMEOUT", 0.2)
    notify.tell("exit 3", change)
    notify.tell("exec sleep 30", change)
    assert capsys.readouterr().err.splitlines() == [
        "warning: --notify ended with exit code 3",
        "warning: --notify did not end within 0.2 s, and was ended",
    ]


def submitted_behind_its_back(project: Project) -> str:
    """A run that nobody else waits for."""
    return project.run("submit", project.job()).stdout.strip()


def test_prune_lists_first_and_removes_when_it_is_told_to(project: Project):
    run_id = submitted(project)
    listed = project.run("prune")
    assert listed.stdout.startswith(f"{run_id} succeeded ")
    assert "1 runs, " in listed.stderr
    assert (project.home / run_id).exists()
    assert project.run("prune", "--older", "1d").stdout == ""
    project.run("prune", "--state", "succeeded", "--yes")
    assert not (project.home / run_id).exists()
    assert run_id not in project.run("runs").stdout


@pytest.mark.parametrize("words", [("--state", "done"), ("--older", "soon"), ("--larger", "much")])
def test_prune_refuses_what_it_does_not_understand(project: Project, words: tuple[str, str]):
    submitted(project)
    assert words[0] in project.run("prune", *words, check=2).stderr
