"""Runs of a sweep behind steve: allocations that they share, on the test double of tests/fakes/steve_cluster.py."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from steve_project import FAKES, SWEEP, Steve, steve_project
from test_plan import planned

from orchestrator.backends.steve.backend import SteveBackend
from orchestrator.hosts import LocalHost
from orchestrator.plan import Plan
from orchestrator.profile import Assumptions, Profile
from orchestrator.snapshot import store_snapshot, take_snapshot
from orchestrator.spec import load_job
from orchestrator.submit import _put_in_place
from tests.waiting import eventually
from trainer.run_dir import RunDir


@pytest.fixture
def project(tmp_path: Path) -> Iterator[Steve]:
    with steve_project(tmp_path) as project:
        yield project


def wait(project: Steve, runs: Sequence[RunDir], check: int = 0) -> None:
    project.run("wait", *[run.root.name for run in runs], check=check, timeout=200)


def states(project: Steve) -> list[str]:
    return [row["state"] for row in json.loads(project.run("runs", "--json").stdout)]


def has_pulled(project: Steve, run: RunDir) -> bool:
    return project.status(run)["state"] == "running" and (run.checkpoints / "latest").exists()


# --- one allocation -----------------------------------------------------------------------------------------------


def test_runs_of_a_sweep_are_done_one_after_the_other_in_one_allocation_that_is_set_up_once(project):
    runs = project.submit("succeed", sweep="{seed: [0, 1, 2]}")
    wait(project, runs)
    assert len(project.calls("steve", "job")) == len(project.calls("scancel")) == 1
    assert len(project.calls("steve", "step", "-d")) == 1
    assert project.jobs() == []
    for seed, run in enumerate(runs):
        log = run.log(1).read_text()
        assert f"seed={seed}" in log.partition("words ")[2].split()
        assert (run.checkpoints / "latest" / "weights").read_text() == "after 3 steps"
        assert log.count("from step 0") == 1
    assert [run.log(1).read_text().count("set up and verified") for run in runs] == [1, 0, 0]
    assert project.begun(runs) == [(0, 1), (1, 1), (2, 1)]


def test_what_waits_says_so_and_what_has_ended_makes_room_in_the_container(project):
    runs = project.submit("long/seed=1", sweep="{seed: [0, 1, 2]}")
    eventually(lambda: has_pulled(project, runs[1]))
    assert states(project) == ["succeeded", "running", "queued"]
    [job] = project.jobs()
    assert project.status(runs[2])["message"] == f"waits for its turn in allocation {job.name}"
    assert not (job / "root" / "longshore" / runs[0].root.name).exists()
    assert (job / "root" / "longshore" / runs[1].root.name).exists()


def test_a_look_at_all_runs_of_an_allocation_is_one_step(project):
    project.assume(pull="1h")
    project.submit("long", sweep="{seed: [0, 1, 2, 3]}")
    eventually(lambda: states(project) == ["running", "queued", "queued", "queued"])
    before = len(project.calls("steve", "step"))
    project.run("runs")
    assert len(project.calls("steve", "step")) - before == 1


def test_a_cancelled_run_leaves_the_allocation_to_the_others(project):
    runs = project.submit("long/seed=0", sweep="{seed: [0, 1, 2, 3]}")
    eventually(lambda: has_pulled(project, runs[0]))
    assert project.run("cancel", runs[2].root.name).stdout.split()[1] == "cancelled"
    assert project.status(runs[2])["message"] == "before it had begun"
    assert project.calls("scancel") == []
    assert project.run("cancel", runs[0].root.name).stdout.split()[1] == "cancelled"
    assert project.status(runs[0])["message"] == "after saving a checkpoint"
    wait(project, [runs[1], runs[3]])
    assert states(project) == ["cancelled", "succeeded", "cancelled", "succeeded"]
    assert project.begun(runs) == [(0, 1), (1, 1), (3, 1)]
    assert len(project.calls("steve", "job")) == len(project.calls("scancel")) == 1


def test_a_run_that_does_not_stop_is_ended_and_nothing_else_in_the_allocation(project):
    runs = project.submit("deaf/seed=0", sweep="{seed: [0, 1]}")
    eventually(lambda: has_pulled(project, runs[0]))
    project.run("cancel", runs[0].root.name, "--grace", "1s")
    assert "by force" in project.status(runs[0])["message"]
    wait(project, runs[1:])
    assert len(project.calls("steve", "job")) == 1


def test_runs_that_are_cancelled_while_the_allocation_is_waited_for_never_begin(project):
    project.assume(ready="1m")
    project.set(pending=True)
    runs = project.submit("succeed", sweep="{seed: [0, 1, 2]}")
    assert "waits for its allocation" in project.status(runs[0])["message"]
    project.run("cancel", runs[0].root.name, runs[2].root.name)
    assert project.calls("scancel") == []
    project.set()
    wait(project, [runs[1]])
    assert states(project) == ["cancelled", "succeeded", "cancelled"]
    assert project.begun(runs) == [(1, 1)]
    assert len(project.calls("scancel")) == 1


def test_an_allocation_none_of_whose_runs_is_wanted_any_more_is_given_back(project):
    project.assume(ready="1m")
    project.set(pending=True)
    runs = project.submit("succeed", sweep="{seed: [0, 1]}")
    project.run("cancel", *[run.root.name for run in runs])
    assert len(project.calls("scancel")) == 1
    assert project.jobs() == []


def test_a_set_up_that_fails_is_the_failure_of_all_and_nothing_is_started(project):
    runs = project.submit("broken", sweep="{seed: [0, 1, 2]}")
    wait(project, runs, check=1)
    assert ["there is no torch" in project.status(run)["message"] for run in runs] == [True] * 3
    assert {project.status(run)["failure_class"] for run in runs} == {"setup"}
    assert project.calls("steve", "step", "-d") == []
    assert len(project.calls("steve", "job")) == len(project.calls("scancel")) == 1


def test_a_lost_allocation_loses_what_ran_in_it_and_the_others_are_started_anew(project):
    runs = project.submit("long/seed=1", sweep="{seed: [0, 1, 2, 3]}")
    eventually(lambda: has_pulled(project, runs[1]))
    [job] = project.jobs()
    subprocess.run([str(FAKES / "scancel"), job.name], env=project.variables(), check=True)
    wait(project, runs)
    attempts = [project.status(run)["attempts"] for run in runs]
    assert [[one["failure_class"] for one in ones] for ones in attempts] == [
        [None],
        ["node-failure", None],
        [None, None],
        [None, None],
    ]
    assert f"it had not begun: allocation {job.name} is lost" in attempts[2][0]["message"]
    assert int(runs[1].log(2).read_text().partition("from step ")[2].split()[0]) > 0
    assert project.begun(runs) == [(0, 1), (1, 1), (2, 2), (3, 2), (1, 2)]
    assert project.jobs() == []


def test_what_has_succeeded_before_its_allocation_was_lost_has_succeeded_where_its_folder_is_shared(project, tmp_path):
    project.assume(shared=tmp_path / "shared")
    runs = project.submit("long/seed=1", sweep="{seed: [0, 1]}")
    latest = RunDir(tmp_path / "shared" / runs[1].root.name).checkpoints / "latest"
    eventually(latest.exists)  # and nobody has looked
    [job] = project.jobs()
    subprocess.run([str(FAKES / "scancel"), job.name], env=project.variables(), check=True)
    wait(project, runs)
    assert [project.status(run)["attempt"] for run in runs] == [1, 2]
    assert project.begun(runs) == [(0, 1), (1, 1), (1, 2)]


def test_an_allocation_that_is_lost_before_anything_has_begun_costs_one_run_its_attempt(project):
    """Otherwise a cluster that loses every allocation would be asked for ever."""
    project.set(loses=True)
    runs = project.submit("succeed", sweep="{seed: [0, 1]}")
    wait(project, runs, check=1)
    failed = [sum(one["failure_class"] is not None for one in project.status(run)["attempts"]) for run in runs]
    assert failed == [2, 2]  # retry.max is 1
    assert len(project.calls("steve", "job")) == 4


def test_runs_that_there_is_no_time_for_get_the_next_allocation(project):
    runs = project.submit("slow", "--set", "resources.time=0:01", sweep="{seed: [0, 1]}")
    wait(project, runs)
    attempts = [project.status(run)["attempts"] for run in runs]
    assert [["had too little time left" in one["message"] for one in ones] for ones in attempts] == [
        [False],
        [True, False],
    ]
    assert project.begun(runs) == [(0, 1), (1, 2)]
    assert len(project.calls("steve", "job")) == len(project.calls("scancel")) == 2


def test_a_resumed_run_of_a_sweep_gets_its_settings_and_an_allocation(project):
    runs = project.submit("succeed", sweep="{seed: [0, 1]}")
    wait(project, runs)
    project.run("resume", runs[1].root.name, "optimization.total_optim_steps=7")
    wait(project, runs)
    log = runs[1].log(2).read_text()
    assert "optimization.total_optim_steps=7" in log.partition("words ")[2].splitlines()[0].split()
    assert "from step 3" in log
    assert len(project.calls("steve", "job")) == len(project.calls("scancel")) == 2


def test_where_steps_may_not_overlap_each_run_has_an_allocation_and_they_come_in_turn(project):
    project.set(overlap=False)
    project.assume(overlap=False)
    runs = project.submit("succeed", sweep="{seed: [0, 1]}")
    assert "waits until others of its sweep have ended" in project.status(runs[1])["message"]
    wait(project, runs)
    assert len(project.calls("steve", "job")) == len(project.calls("scancel")) == 2


# --- several allocations, each attempt in one of them -------------------------------------------------------------


@pytest.fixture
def waiting(project, monkeypatch) -> Steve:
    """A cluster on which jobs wait, for commands that are typed by this process."""
    project.set(pending=True)
    for name, value in project.environment.items():
        monkeypatch.setenv(name, value)
    return project


def sweep(project: Steve, max_parallel: int) -> Plan:
    """A sweep of five whose files are in place."""
    (project.folder / "sweep.yaml").write_text(SWEEP % max_parallel)
    (project.folder / "code").mkdir(exist_ok=True)
    (project.folder / "code" / "__main__.py").touch()
    plan = planned(
        load_job(project.folder / "sweep.yaml"),
        home=project.home,
        run_id="seeds-1",
        snapshot=take_snapshot(project.folder / "code"),
        profile=Profile(name="default", assume=assumptions(project)),
    )
    _put_in_place(plan, plan.runs)
    store_snapshot(plan.snapshot, plan.home)
    return plan


def assumptions(project: Steve) -> Assumptions:
    return Assumptions(folder=str(project.folder / "root"), ready="1m")


def tables(project: Steve) -> list[list[str]]:
    """What each allocation was given."""
    folders = sorted((project.home / "submissions").glob("seeds-1.?"))
    return [[line.removeprefix("seeds-1-") for line in (one / "runs").read_text().split()] for one in folders]


def test_as_many_allocations_as_may_run_at_once_share_the_runs(waiting):
    plan = sweep(waiting, max_parallel=2)
    backend = SteveBackend(assume=assumptions(waiting))
    handles = backend.launch_sweep([run.launch for run in plan.runs], {})
    assert tables(waiting) == [["000.1", "002.1", "004.1"], ["001.1", "003.1"]]
    assert len({handle.split(":")[0] for handle in handles.values()}) == 2
    assert len(set(handles.values())) == 5
    assert backend.launch_sweep([run.launch for run in plan.runs], {}) == handles
    again = [backend.again(run.launch, 2, []) for run in plan.runs[:2]]
    assert backend.launch_sweep(again, {}) == {}  # until one of the two is over
    seen = backend.poll({handle: plan.home / run_id for run_id, handle in handles.items()})
    assert {one.message.partition(" ")[2].partition(" ")[2] for one in seen.values()} == {"waits for its allocation"}
    assert len(waiting.calls("steve", "job")) == 2


class Died(BaseException):
    """The end of a submitter."""


class Mortal(LocalHost):
    """A host whose user dies when so many things have been done there."""

    def __init__(self, most: int) -> None:
        object.__setattr__(self, "most", most)
        object.__setattr__(self, "done", [])

    def _count(self) -> None:
        if len(self.done) == self.most:
            raise Died
        self.done.append(None)

    def run(self, argv, **options):
        self._count()
        return super().run(argv, **options)

    def put(self, source, target):
        self._count()
        super().put(source, target)

    def write(self, path, text, *, mode=0o666):
        self._count()
        super().write(path, text, mode=mode)


def test_wherever_a_submitter_dies_each_attempt_is_given_to_one_allocation(waiting):
    whole = Mortal(10**9)
    plan = sweep(waiting, max_parallel=2)
    launches = [run.launch for run in plan.runs]
    SteveBackend(whole, assumptions(waiting)).launch_sweep(launches, {})
    steps = len(whole.done)
    assert steps > 10
    for number, host in enumerate([Mortal(at) for at in range(steps)], start=2):
        typed = len(waiting.calls("steve", "job"))
        attempt = [replace(launch, request=replace(launch.request, attempt=number)) for launch in launches]
        for one in waiting.home.glob("submissions/seeds-1.*"):
            (one / "cancelled").touch()  # those before have been given back
        with pytest.raises(Died):
            SteveBackend(host, assumptions(waiting)).launch_sweep(attempt, {})
        handles = SteveBackend(assume=assumptions(waiting)).launch_sweep(attempt, {})
        assert len(handles) == 5
        assert len(waiting.calls("steve", "job")) - typed == 2
    given = [entry for table in tables(waiting) for entry in table]
    assert len(given) == len(set(given))
