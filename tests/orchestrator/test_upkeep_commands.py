"""`resume`, `watch` and `prune`, typed."""

from __future__ import annotations

import json
import signal
import subprocess
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from command_line import Project

from orchestrator import notify
from orchestrator.runs import Event
from orchestrator.states import RunState
from tests.waiting import eventually


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
        eventually(lambda: told.exists() and f"{run_id} succeeded" in told.read_text())
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


def test_an_address_gets_each_change_as_json(capsys: pytest.CaptureFixture[str]):
    got: list[tuple[str | None, dict[str, str]]] = []

    class Receiver(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.headers["Content-Type"], json.loads(body)))
            self.send_response(200 if self.path == "/hook" else 404)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    change = Event("demo-1", 1.0, RunState.RUNNING, RunState.FAILED, "loss is nan")
    with HTTPServer(("127.0.0.1", 0), Receiver) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{server.server_port}"
        notify.tell(f"{address}/hook", change)
        notify.tell(f"{address}/elsewhere", change)
        server.shutdown()
    notify.tell(f"{address}/hook", change)
    message = {"run_id": "demo-1", "state": "failed", "message": "loss is nan", "text": "demo-1 failed: loss is nan"}
    assert got == [("application/json", message)] * 2
    missing, gone = capsys.readouterr().err.splitlines()
    assert missing == "warning: --notify could not post: HTTP Error 404: Not Found"
    assert "Connection refused" in gone


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
