"""in-turn.sh, which goes through the runs that an allocation of steve's was given, and what a look makes of it."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from dataclasses import replace
from pathlib import Path

from golden_files import assert_golden
from steve_project import SWEEP
from test_plan import planned

from orchestrator.backends.base import LaunchRequest, Observation
from orchestrator.backends.steve.commands import allocation_script, in_turn_script
from orchestrator.backends.steve.steps import Life, StepHost
from orchestrator.backends.steve.turns import Turn, read_turn
from orchestrator.hosts import Completed, LocalHost
from orchestrator.spec import load_job
from orchestrator.states import RunState
from tests.waiting import eventually

SCRIPT = """\
echo "$LONGSHORE_ATTEMPT $*" >>"$0.calls"
if [[ "${1:-}" == --build-only ]]; then exit; fi
trap 'echo told >>"$0.calls"; exit 75' TERM
%s
"""


def test_the_scripts_of_a_sweep_are_as_recorded(tmp_path):
    (tmp_path / "job.yaml").write_text(SWEEP % 1)
    plan = planned(load_job(tmp_path / "job.yaml"))
    first, second = (run.launch.request for run in plan.runs[:2])
    requests = [first, replace(second, attempt=2, words=("env.name=Isaac-Ant-v0",))]
    assert_golden("steve.in-turn.sh", in_turn_script(requests, "/root"))
    assert_golden(
        "steve.sweep.allocate.sh", allocation_script(first, plan.runs[0].launch.commands, folder="/root", ready=1800)
    )


class Turns:
    """in-turn.sh in a folder, with scripts of a line or two."""

    def __init__(self, folder: Path, *bodies: str, left: int = 1000) -> None:
        self.folder = folder
        self.requests = [
            LaunchRequest(f"run-{number}", folder / "runs" / f"run-{number}", folder, 1)
            for number in range(len(bodies))
        ]
        for request, body in zip(self.requests, bodies, strict=True):
            request.run_dir.mkdir(parents=True)
            (request.run_dir / "setup-and-run.sh").write_text(SCRIPT % body)
        deadline = int(time.time()) + left
        (folder / "longshore.env").write_bytes(
            f"LONGSHORE_DEADLINE={deadline}\0TOKEN=LONGSHORE_DEADLINE=1\0\0".encode()
        )
        (folder / "in-turn.sh").write_text(in_turn_script(self.requests, str(folder)))

    def start(self, *words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(["bash", str(self.folder / "in-turn.sh"), *words])

    def calls(self, number: int) -> list[str]:
        """How a run's script was called."""
        path = self.folder / "runs" / f"run-{number}" / "setup-and-run.sh.calls"
        return path.read_text().splitlines() if path.exists() else []

    def lives(self, *, tidy: bool = False) -> list[Life]:
        entries = [f"{request.run_id}.1" for request in self.requests]
        turns = self.folder / "longshore.turns"
        steps = StepHost(Typed(), ["steve"], "1", self.folder / "runs", turns, entries, self.folder, tidy)
        steps.run(["true"])
        return list(steps.lives)


class Typed(LocalHost):
    """A host whose steve runs steps here."""

    def run(self, argv, *, environment=None, timeout=None):
        done = super().run(("sh", "-c", argv[-1]), environment=environment, timeout=timeout)
        return Completed(tuple(argv), done.exit_code, done.stdout, done.stderr)


def test_an_allocation_has_more_to_do_until_the_last_of_its_runs_is_over_or_pruned(tmp_path):
    entries = ("run-0.1", "run-1.2", "run-2.1")
    turns = [Turn(f"7:{entry[-1]}:{entry[:-2]}", tmp_path / entry[:-2], "seeds.1", entries) for entry in entries]
    for turn in turns:
        turn.note()
    assert [turn.is_next for turn in turns] == [True, False, False]
    turns[0].note_end(Observation(RunState.CANCELLED))
    assert [turn.is_next for turn in turns] == [False, True, False]
    assert turns[2].leaves_some()
    assert not turns[2].leaves_some(turns[1:])
    shutil.rmtree(turns[1].run_dir)
    assert not turns[2].leaves_some([turns[2]])
    read = read_turn(turns[2].run_dir, 1)
    assert read == turns[2]
    turns[2].note_begun()
    assert not turns[2].is_next


def test_the_set_up_is_that_of_the_first_run(tmp_path):
    turns = Turns(tmp_path, "", "")
    assert turns.start("--build-only").wait() == 0
    assert (turns.calls(0), turns.calls(1)) == (["1 --build-only"], [])
    assert turns.lives() == [Life.WAITING, Life.WAITING]


def test_no_run_is_begun_with_less_time_left_than_the_longest_has_taken(tmp_path):
    turns = Turns(tmp_path, "sleep 2", "", "", left=3)
    assert turns.start().wait() == 0
    assert [turns.calls(number) for number in range(3)] == [["1 "], [], []]
    assert turns.lives() == [Life.GONE, Life.RETURNED, Life.RETURNED]


def test_the_first_run_is_begun_however_little_time_is_left(tmp_path):
    turns = Turns(tmp_path, "", left=-5)
    turns.start().wait()
    assert turns.lives() == [Life.GONE]


def test_an_allocation_that_is_told_to_end_waits_for_its_run_and_begins_no_other(tmp_path):
    turns = Turns(tmp_path, "sleep 30 & wait", "")
    driver = turns.start()
    eventually(lambda: turns.calls(0))
    assert turns.lives() == [Life.ALIVE, Life.WAITING]
    children = Path(f"/proc/{driver.pid}/task/{driver.pid}/children")
    [script] = children.read_text().split()
    driver.send_signal(signal.SIGTERM)
    time.sleep(0.3)
    assert driver.poll() is None
    os.kill(int(script), signal.SIGTERM)
    driver.wait(timeout=10)
    assert turns.calls(0) == ["1 ", "told"]
    assert turns.lives() == [Life.GONE, Life.RETURNED]


def test_runs_that_nobody_is_left_to_begin_are_seen_and_taken_away(tmp_path):
    turns = Turns(tmp_path, "sleep 30", "")
    driver = turns.start()
    eventually(lambda: turns.calls(0))
    [script] = Path(f"/proc/{driver.pid}/task/{driver.pid}/children").read_text().split()
    assert turns.lives(tidy=True) == [Life.ALIVE, Life.WAITING]
    driver.kill()
    driver.wait()
    assert turns.lives() == [Life.GONE, Life.WAITING]
    assert turns.lives(tidy=True) == [Life.GONE, Life.STRANDED]
    os.kill(int(script), signal.SIGKILL)
    turns.start().wait()
    assert turns.calls(1) == []
