"""Runs that come after others: what they wait for, when they begin, and what becomes of those that wait in vain."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pytest
from command_line import Project
from local_runs import (
    BACKEND,
    SUCCEED,
    WAIT_FOR_GO,
    backend_for,
    single,
    sweep,
)
from test_plan import planned as planned_job
from test_plan import read_job

from orchestrator.backends.base import Launch, Observation
from orchestrator.backends.slurm import SlurmBackend
from orchestrator.errors import LongshoreError, SpecError, UsageError
from orchestrator.plan import Plan
from orchestrator.prune import candidates, remove
from orchestrator.resume import resume
from orchestrator.runs import RunStore
from orchestrator.spec import job_to_yaml
from orchestrator.states import RunState
from orchestrator.submit import SubmitResult, execute
from orchestrator.waiting import wait
from orchestrator.watch import cancel, refresh
from tests.waiting import eventually

FAIL = "exit 1\n"


def submit(store: RunStore, plan: Plan, *after: str) -> SubmitResult:
    return execute(replace(plan, after=after), store, BACKEND, {})[0]


def states(store: RunStore) -> dict[str, RunState]:
    return {record.run_id: record.state for record in store.list()}


def ended(store: RunStore, *run_ids: str) -> list[RunState]:
    return [record.state for record in wait(store, backend_for, run_ids, timeout=30, interval=0.02)]


# --- waiting ------------------------------------------------------------------------------------------------------


def test_a_run_begins_when_the_one_that_it_follows_has_succeeded(store: RunStore, home: Path):
    submit(store, single(home, "first", WAIT_FOR_GO + SUCCEED))
    told = submit(store, single(home, "second", SUCCEED), "first")
    assert told.message == "second: waits for first"
    refresh(store, backend_for)
    assert (states(store)["second"], store.get("second").after) == (RunState.QUEUED, ("first",))
    assert not (home / "second" / "attempts").exists()
    (home / "first" / "go").touch()
    assert ended(store, "first", "second") == [RunState.SUCCEEDED] * 2
    first, second = (store.attempts(name)[0].started for name in ("first", "second"))
    assert first < second
    assert store.get("second").after == ()


def test_what_has_succeeded_already_is_not_waited_for(store: RunStore, home: Path):
    submit(store, single(home, "first", SUCCEED))
    ended(store, "first")
    assert submit(store, single(home, "second", SUCCEED), "first").state is RunState.SETTING_UP


def test_a_run_that_follows_several_waits_for_all_of_them(store: RunStore, home: Path):
    for name in ("a", "b"):
        submit(store, single(home, name, WAIT_FOR_GO + SUCCEED))
    submit(store, single(home, "last", SUCCEED), "a", "b")
    (home / "a" / "go").touch()
    ended(store, "a")
    refresh(store, backend_for)
    assert states(store)["last"] is RunState.QUEUED
    (home / "b" / "go").touch()
    assert ended(store, "last") == [RunState.SUCCEEDED]


def test_a_run_that_follows_a_sweep_waits_for_all_of_its_runs_and_counts_the_last_of_each(store: RunStore, home: Path):
    first = sweep(home, "s", [SUCCEED, FAIL], max_parallel=2)
    submit(store, first)
    assert ended(store, "s-000", "s-001") == [RunState.SUCCEEDED, RunState.FAILED]
    mended = replace(sweep(home, "t", [SUCCEED, WAIT_FOR_GO + SUCCEED]), max_parallel=2)
    runs = [replace(new, key=old.key) for new, old in zip(mended.runs, first.runs, strict=True)]
    submit(store, replace(mended, runs=tuple(runs)))  # joins the sweep in the place of what has failed
    submit(store, single(home, "after", SUCCEED), "s")
    assert states(store)["after"] is RunState.QUEUED
    (home / "t-001" / "go").touch()
    assert ended(store, "after") == [RunState.SUCCEEDED]


def test_runs_that_wait_for_others_take_no_slot_of_their_sweep(store: RunStore, home: Path):
    submit(store, single(home, "first", WAIT_FOR_GO + SUCCEED))
    submit(store, sweep(home, "s", [SUCCEED] * 2), "first")
    (home / "first" / "go").touch()
    assert ended(store, "s-000", "s-001") == [RunState.SUCCEEDED] * 2


# --- waiting in vain ----------------------------------------------------------------------------------------------


def test_a_run_whose_predecessor_fails_is_cancelled_and_so_is_what_follows_that_one(store: RunStore, home: Path):
    submit(store, single(home, "first", WAIT_FOR_GO + FAIL))
    submit(store, single(home, "second", SUCCEED), "first")
    submit(store, single(home, "third", SUCCEED), "second")
    (home / "first" / "go").touch()
    assert ended(store, "first", "second", "third") == [RunState.FAILED, RunState.CANCELLED, RunState.CANCELLED]
    assert store.get("second").message == "never started: first has failed"
    assert store.get("third").message == "never started: second was cancelled"
    assert not (home / "second" / "attempts").exists()


def test_a_run_whose_predecessor_is_cancelled_is_cancelled_and_watch_is_told(store: RunStore, home: Path):
    submit(store, single(home, "first", WAIT_FOR_GO))
    submit(store, single(home, "second", SUCCEED), "first")
    cancel(store, backend_for, [store.get("first")], timedelta(seconds=5))
    [change] = refresh(store, backend_for)
    assert (change.run_id, change.new, change.message) == (
        "second",
        RunState.CANCELLED,
        "never started: first was cancelled",
    )


def test_what_would_wait_in_vain_is_not_submitted(store: RunStore, home: Path):
    submit(store, single(home, "first", FAIL))
    ended(store, "first")
    with pytest.raises(LongshoreError, match="after: first has failed; nothing was submitted"):
        submit(store, single(home, "second", SUCCEED), "first")
    assert not (home / "second").exists()
    assert "second" not in states(store)


def test_a_run_that_waited_in_vain_is_resumed_after_the_one_that_it_follows(store: RunStore, home: Path):
    wait_or_fail = 'if [ "$LONGSHORE_ATTEMPT" = 1 ]; then exit 1; fi\n' + WAIT_FOR_GO
    submit(store, single(home, "first", WAIT_FOR_GO.replace("go", "fail") + wait_or_fail + SUCCEED))
    submit(store, single(home, "second", SUCCEED), "first")
    (home / "first" / "fail").touch()
    ended(store, "first", "second")
    with pytest.raises(UsageError, match="second: first has failed; resume that one first"):
        resume(store, store.get("second"), (), None)
    for name in ("first", "second"):
        resume(store, store.get(name), (), None)
    refresh(store, backend_for)
    assert states(store) == {"first": RunState.SETTING_UP, "second": RunState.REQUEUED}
    (home / "first" / "go").touch()
    assert ended(store, "second") == [RunState.SUCCEEDED]


def test_a_run_that_has_begun_goes_on_whatever_becomes_of_the_one_that_it_followed(store: RunStore, home: Path):
    submit(store, single(home, "first", SUCCEED))
    ended(store, "first")
    submit(store, single(home, "second", WAIT_FOR_GO + SUCCEED), "first")
    (home / "first" / "SUCCESS").unlink()
    store.resume("first", ["more=1"])
    cancel(store, backend_for, [store.get("first")], timedelta(0))
    (home / "second" / "go").touch()
    assert ended(store, "second") == [RunState.SUCCEEDED]


def test_what_others_wait_for_is_not_pruned(store: RunStore, home: Path):
    submit(store, single(home, "first", SUCCEED))
    submit(store, single(home, "other", WAIT_FOR_GO + SUCCEED))
    ended(store, "first")
    submit(store, single(home, "second", SUCCEED), "first", "other")
    assert remove(store, candidates(store.list(), 1e12)) == []
    (home / "other" / "go").touch()
    ended(store, "second")
    assert len(remove(store, candidates(store.list(), 1e12))) == 3


# --- a backend with a queue of its own ----------------------------------------------------------------------------


@dataclass
class Cluster:
    """A queue that can wait for others of its own; it says what it was told to begin, and after what."""

    name: ClassVar[str] = "slurm"
    queues: ClassVar[bool] = True
    answers: dict[str, Observation] = field(default_factory=dict)
    told: list[tuple[str, tuple[str, ...]]] = field(default_factory=list)

    def following(self, launch: Launch, handles: Sequence[str]) -> Launch:
        return replace(launch, commands=(tuple(handles),))

    def plan(self, request):
        return Launch(request, commands=())

    def again(self, launch: Launch, attempt: int, words: Sequence[str]) -> Launch:
        return replace(launch, request=replace(launch.request, attempt=attempt), commands=())

    def launch(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        [words] = launch.commands or ((),)
        self.told.append((launch.request.run_id, words))
        return f"job of {launch.request.run_id}"

    def poll(self, handles: Mapping[str, Path]) -> dict[str, Observation]:
        return {handle: seen for handle, seen in self.answers.items() if handle in handles}

    def cancel(self, handles: Mapping[str, Path], grace: timedelta) -> None: ...

    def execute(self, handle, run_dir, command, variables): ...


def on(cluster: Cluster, store: RunStore, run_id: str, *after: str, profile: str = "default") -> None:
    plan = single(store.home, run_id, "true")
    runs = tuple(replace(run, launch=replace(run.launch, commands=())) for run in plan.runs)
    execute(replace(plan, runs=runs, backend="slurm", profile=profile, after=after), store, cluster, {})


def test_a_queue_waits_itself_for_what_is_in_it(store: RunStore):
    cluster = Cluster()
    on(cluster, store, "a")
    on(cluster, store, "b", "a")
    assert cluster.told == [("a", ()), ("b", ("job of a",))]
    cluster.answers = {"job of a": Observation(RunState.SUCCEEDED), "job of b": Observation(RunState.RUNNING)}
    refresh(store, lambda *_: cluster)
    on(cluster, store, "c", "a", "b")
    assert cluster.told[-1] == ("c", ("job of b",)), "what has succeeded may be forgotten there"


def test_runs_of_another_site_are_waited_for_here(store: RunStore):
    cluster, other = Cluster(), Cluster()
    on(other, store, "a", profile="elsewhere")
    on(cluster, store, "b", "a")
    assert (cluster.told, states(store)["b"]) == ([], RunState.QUEUED)
    on(cluster, store, "c", "b")
    assert cluster.told == [], "what waits here has no handle"
    other.answers = {"job of a": Observation(RunState.SUCCEEDED)}

    def at(name: str, profile: str) -> Cluster:
        return other if profile == "elsewhere" else cluster

    refresh(store, at)
    refresh(store, at)
    assert cluster.told == [("b", ()), ("c", ("job of b",))]


def test_a_queue_that_ends_what_waits_in_vain_is_told_why(store: RunStore):
    cluster = Cluster()
    on(cluster, store, "a")
    on(cluster, store, "b", "a")
    cluster.answers = {"job of a": Observation(RunState.FAILED), "job of b": Observation(RunState.CANCELLED)}
    refresh(store, lambda *_: cluster)
    assert store.get("b").message == "never started: a has failed"


def test_slurm_is_told_by_job_or_task(tmp_path: Path):
    text = "name: a\nbackend: slurm\nresources: {gpus: 0}\ntrain: {env.backend: debug}\n"
    backend = SlurmBackend(commands={"sbatch": ["sudo", "sbatch"]})
    launch = backend.plan(planned_job(read_job(tmp_path, text)).runs[0].launch.request)
    [command] = backend.following(launch, ["7", "8_3"]).commands
    assert command[:4] == ("sudo", "sbatch", "--dependency=afterok:7:8_3", "--kill-on-invalid-dep=yes")
    assert command[4:] == launch.commands[0][2:]


# --- the job file and the command line ----------------------------------------------------------------------------

JOB = "name: b\nbackend: slurm\nresources: {gpus: 0}\ntrain: {env.backend: debug}\n"


@pytest.mark.parametrize(("written", "read"), [("last", ("last",)), ("[a-1, b]", ("a-1", "b"))])
def test_a_job_names_one_run_or_several(tmp_path: Path, written: str, read: tuple[str, ...]):
    job = read_job(tmp_path, JOB + f"after: {written}\n")
    assert job.after == read
    assert read_job(tmp_path, job_to_yaml(job)) == job


@pytest.mark.parametrize("written", ["a b", "'../x'", "{a: 1}", "['']"])
def test_what_is_no_run_is_refused_where_it_stands(tmp_path: Path, written: str):
    with pytest.raises(SpecError, match=r"job\.yaml:5:\d+: after"):
        read_job(tmp_path, JOB + f"after: {written}\n")


def test_slurms_own_word_for_it_cannot_stand_beside_it(tmp_path: Path):
    text = JOB.replace("gpus: 0", "gpus: 0, extra: {dependency: singleton}")
    with pytest.raises(SpecError, match=r"after: stands in resources\.extra\.dependency too"):
        read_job(tmp_path, text + "after: a\n")
    script = planned_job(read_job(tmp_path, text)).runs[0].files["job.sbatch"]
    assert '#SBATCH --dependency="singleton"\n#SBATCH --kill-on-invalid-dep="yes"\n' in script


def test_when_work_begins_is_no_part_of_what_it_is(tmp_path: Path):
    plans = [planned_job(read_job(tmp_path, JOB + more)) for more in ("", "after: a-1\n")]
    assert len({plan.runs[0].key for plan in plans}) == 1
    assert [plan.to_dict()["after"] for plan in plans] == [[], ["a-1"]]


def test_status_says_what_a_run_waits_for(tmp_path: Path):
    project = Project.make(tmp_path)
    first = project.run("submit", project.job("hang", "first")).stdout.strip()
    job = project.job("succeed", "second")
    shown = project.run("plan", job, "--set", "after=first").stdout
    assert f"after     {first}\n" in shown, "a name that is cut short is found before the plan is made"
    done = project.run("submit", job, "--set", "after=last")
    second = done.stdout.strip()
    assert done.stderr == f"{second}: waits for {first}\n"
    assert f"after: [{first}]" in (project.home / second / "job.yaml").read_text().replace("'", "").replace('"', "")
    assert f"after    {first} (" in project.run("status", second).stdout
    assert json.loads(project.run("status", second, "--json").stdout)["after"] == [first]
    assert project.run("submit", job, "--set", "after=last").stdout.strip() == second
    eventually(lambda: json.loads(project.run("status", first, "--json").stdout)["state"] == "running")
    project.run("cancel", first, "--grace", "1s")
    assert "never started: " + first in project.run("status", second).stdout


def test_a_run_that_is_not_there_is_a_mistake_in_the_job(tmp_path: Path):
    project = Project.make(tmp_path)
    done = project.run("submit", project.job(), "--set", "after=nowhere", check=2)
    assert "no run is called 'nowhere'" in done.stderr
