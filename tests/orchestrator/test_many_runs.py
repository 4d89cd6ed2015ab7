"""Many runs and many users at once: nothing is lost, nothing is started twice, and looking stays possible."""

from __future__ import annotations

import json
import os
import subprocess
import time
from pathlib import Path

import pytest
from command_line import Project
from local_runs import BACKEND, COUNT, SUCCEED, backend_for, python, starts, sweep

from orchestrator.keeper import KEEPER, KEPT_FOR, is_kept_up
from orchestrator.processes import Process
from orchestrator.runs import RunStore
from orchestrator.states import RunState
from orchestrator.submit import execute
from orchestrator.surroundings import look
from orchestrator.waiting import Lookout
from trainer.run_dir import RunDir

WAIT = (
    "from orchestrator.waiting import wait\n"
    "store = RunStore(Path(sys.argv[1]))\n"
    "wait(store, backend_for, [r.run_id for r in store.list()], timeout=100, interval=0.05)\n"
)


def test_a_sweep_of_many_loses_nothing_while_it_is_looked_at_all_the_time(home: Path, tmp_path: Path):
    store = RunStore(home)
    execute(sweep(home, "s", [COUNT + SUCCEED] * 32, max_parallel=8), store, BACKEND, {})
    project = Project(tmp_path, {"LONGSHORE_HOME": str(home)})
    waiting = python(WAIT, home)
    looks = 0
    while waiting.poll() is None:
        rows = json.loads(project.run("runs", "--json").stdout)
        assert len(rows) == 32
        assert sum(row["state"] in {"setting-up", "running"} for row in rows) <= 8
        assert len(project.run("status", "s").stdout.splitlines()) == 33
        looks += 1
    assert waiting.communicate()[1] == ""
    assert looks > 0
    assert {record.state for record in store.list()} == {RunState.SUCCEEDED}
    assert [starts(record.run_dir) for record in store.list()] == [1] * 32
    assert store._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"


def test_a_sweep_that_two_submit_at_once_is_one_sweep_and_each_of_its_runs_is_started_once(tmp_path: Path):
    project = Project.make(tmp_path)
    job = project.job(more="sweep:\n  seed: [0, 1, 2, 3]\n  max_parallel: 2\n")
    submits = [
        subprocess.Popen(
            project.command("submit", job),
            cwd=project.folder,
            env=project.variables(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    printed = [submit.communicate(timeout=120) for submit in submits]
    assert [submit.returncode for submit in submits] == [0, 0], printed
    assert printed[0][0] == printed[1][0]
    ids = printed[0][0].split()
    project.run("wait", *ids)
    rows = json.loads(project.run("runs", "--json").stdout)
    assert [(row["run_id"], row["state"], row["attempt"]) for row in rows] == [(i, "succeeded", 1) for i in ids]
    assert len({row["sweep_id"] for row in rows}) == 1
    logs = [RunDir(project.home / run_id).log(1).read_text() for run_id in ids]
    assert [log.count("overrides ") for log in logs] == [1] * 4


def test_who_looks_while_somebody_keeps_the_registry_up_to_date_only_reads(home: Path, monkeypatch: pytest.MonkeyPatch):
    store = RunStore(home)
    assert not is_kept_up(store)
    Lookout(store, backend_for, [], print).look()
    assert is_kept_up(store)
    monkeypatch.setattr("orchestrator.watch.refresh", None)  # must not be asked
    assert look(store) == 0


def test_a_keeper_that_was_killed_or_hangs_counts_no_more(home: Path):
    store = RunStore(home)
    mark = home / f"{KEEPER}{store.user}"
    gone = subprocess.Popen(["true"])
    mark.write_text(str(Process.current()).replace(f"{os.getpid()}:", f"{gone.pid}:", 1))
    gone.wait()
    assert not is_kept_up(store)
    Lookout(store, backend_for, [], print).look()
    hung = time.time() - KEPT_FOR - 1
    os.utime(mark, (hung, hung))
    assert not is_kept_up(store)
    mark.write_text("what a crash has left")
    assert not is_kept_up(store)
