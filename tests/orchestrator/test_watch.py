"""Looking at runs: what becomes of them is seen, whoever was killed; slots are filled; cancelled is cancelled."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import ClassVar

import pexpect
import pytest
from local_runs import (
    BACKEND,
    COUNT,
    HEARTBEAT,
    PREAMBLE,
    REPOSITORY,
    SUCCEED,
    backend_for,
    pid_of,
    python,
    single,
    starts,
    sweep,
)

from orchestrator.backends.base import Backend, Launch, LaunchRequest, Observation
from orchestrator.backends.local import LocalBackend
from orchestrator.errors import BackendError, LongshoreError, RefusedStart, UnclearStart
from orchestrator.plan import Plan
from orchestrator.processes import Process
from orchestrator.runs import RunRecord, RunStore
from orchestrator.states import FailureClass, RunState
from orchestrator.submit import execute
from orchestrator.waiting import wait
from orchestrator.watch import cancel, refresh
from tests.waiting import eventually

FOREVER = "while :; do sleep 0.05; done\n"
ON_TERM = """trap 'echo 75 >"$LONGSHORE_RUN_DIR/attempts/1/exit_code"; exit 75' TERM\n"""
READY = 'touch "$LONGSHORE_RUN_DIR/ready"\n'
# As the real script does: the trainer in the background, its fate in exit_code.
WITH_TRAINER = (
    HEARTBEAT
    + """bash -c 'echo $$ >"$LONGSHORE_RUN_DIR/trainer.tmp"; mv "$LONGSHORE_RUN_DIR"/trainer{.tmp,}
    while :; do sleep 0.05; done' &
wait $!; echo $? >"$LONGSHORE_RUN_DIR/attempts/1/exit_code"
"""
)


def submit(store: RunStore, plan: Plan) -> None:
    execute(plan, store, BACKEND, {})


def end_of(store: RunStore, run_id: str = "demo-1") -> RunRecord:
    return wait(store, backend_for, [run_id], timeout=30, interval=0.05)[0]


# --- kills --------------------------------------------------------------------------------------------------------


def test_a_killed_trainer_is_a_crash(store: RunStore, home: Path):
    submit(store, single(home, "demo-1", WITH_TRAINER))
    eventually((home / "demo-1" / "trainer").exists)
    refresh(store, backend_for)
    assert store.get("demo-1").state is RunState.RUNNING
    os.kill(int((home / "demo-1" / "trainer").read_text()), signal.SIGKILL)
    record = end_of(store)
    assert (record.state, record.failure_class) == (RunState.FAILED, FailureClass.CRASH)
    assert store.attempts("demo-1")[0].exit_code == 137


def test_a_killed_script_is_a_crash_and_takes_its_trainer_along(store: RunStore, home: Path):
    submit(store, single(home, "demo-1", WITH_TRAINER))
    eventually((home / "demo-1" / "trainer").exists)
    trainer = int((home / "demo-1" / "trainer").read_text())
    os.kill(pid_of(home / "demo-1"), signal.SIGKILL)
    record = end_of(store)
    assert (record.state, record.failure_class) == (RunState.FAILED, FailureClass.CRASH)
    eventually(lambda: not Path(f"/proc/{trainer}").exists())


FOLLOW = """
from orchestrator.submit import execute
from orchestrator.waiting import wait
home = Path(sys.argv[1])
store = RunStore(home)
execute(single(home, "demo-1", HEARTBEAT + COUNT + WAIT_FOR_GO + SUCCEED), store, BACKEND, {})
print("following", flush=True)
wait(store, backend_for, ["demo-1"], interval=0.01)
"""


def test_a_run_outlives_the_kill_of_whoever_submitted_and_follows_it(store: RunStore, home: Path):
    process = python(FOLLOW, home)
    eventually(lambda: starts_or_zero(home / "demo-1") == 1)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    refresh(store, backend_for)  # writes the start down where the kill came before that
    refresh(store, backend_for)
    assert store.get("demo-1").state is RunState.RUNNING
    (home / "demo-1" / "go").touch()
    assert end_of(store).state is RunState.SUCCEEDED
    assert starts(home / "demo-1") == 1


def test_a_run_outlives_the_terminal_that_it_was_submitted_from(store: RunStore, home: Path):
    paths = os.pathsep.join([str(REPOSITORY), str(Path(__file__).parent)])
    code = PREAMBLE + FOLLOW
    arguments = ["-c", code, str(home)]
    python_path = BACKEND.environment | {"PYTHONPATH": paths}
    terminal = pexpect.spawn(sys.executable, arguments, env=dict(python_path), timeout=30)
    terminal.expect("following")
    eventually(lambda: starts_or_zero(home / "demo-1") == 1)
    terminal.close(force=True)  # hangs up, as a closed window does
    refresh(store, backend_for)
    assert store.get("demo-1").state is RunState.RUNNING
    (home / "demo-1" / "go").touch()
    assert end_of(store).state is RunState.SUCCEEDED


def test_a_registry_whose_writer_is_killed_again_and_again_stays_sound(home: Path):
    code = """
from orchestrator.backends.base import Observation
from orchestrator.states import RunState
store = RunStore(Path(sys.argv[1]))
for number in range(10**6):
    plan = single(store.home, f"demo-{os.getpid()}-{number}", "true")
    store.add_plan(plan)
    store.enqueue([plan.plan_id])
    print(plan.plan_id, flush=True)
"""
    written: list[str] = []
    for _ in range(4):
        process = python(code, home)
        assert process.stdout is not None
        written += [process.stdout.readline().strip() for _ in range(10)]
        process.kill()
        process.communicate()
    store = RunStore(home)
    assert store._db.execute("PRAGMA integrity_check").fetchone()[0] == "ok"
    known = {record.run_id: record.state for record in store.list()}
    assert {known[run_id] for run_id in written} == {RunState.QUEUED}


# --- a start that nobody has seen ---------------------------------------------------------------------------------


class CutOff(LocalBackend):
    """Starts runs, and is cut off before it can say so, `times` times."""

    times = 1

    def launch(self, launch, secrets):
        handle = super().launch(launch, secrets)
        if self.times:
            self.times -= 1
            raise UnclearStart("the connection was lost")
        return handle


def test_cancelling_finishes_a_submission_that_was_cut_short_and_ends_what_it_finds(store: RunStore, home: Path):
    backend = CutOff(leftover_grace=1.0)
    with pytest.raises(BackendError, match="the connection was lost; submitting again finishes it"):
        execute(single(home, "demo-1", "sleep 60"), store, backend, {})
    [record] = cancel(store, lambda _, __: backend, [store.get("demo-1")], timedelta(seconds=1))
    assert record.state is RunState.CANCELLED
    pid = pid_of(home / "demo-1")
    eventually(lambda: not Path(f"/proc/{pid}").exists())


def test_what_may_have_been_started_is_not_called_cancelled_while_nobody_knows(store: RunStore, home: Path):
    backend = CutOff(leftover_grace=1.0)
    backend.times = 2
    with pytest.raises(BackendError):
        execute(single(home, "demo-1", "sleep 60"), store, backend, {})
    with pytest.raises(BackendError, match=r"demo-1: may have been started or not, and is not cancelled: the conn"):
        cancel(store, lambda _, __: backend, [store.get("demo-1")], timedelta(seconds=1))
    assert store.get("demo-1").state is RunState.QUEUED
    [record] = cancel(store, lambda _, __: backend, [store.get("demo-1")], timedelta(seconds=1))
    assert record.state is RunState.CANCELLED


def test_what_was_refused_for_certain_is_cancelled_without_another_try(store: RunStore, home: Path):
    class Refusing(LocalBackend):
        def launch(self, launch, secrets):
            raise RefusedStart("no such partition")

    with pytest.raises(BackendError):
        execute(single(home, "demo-1", SUCCEED), store, Refusing(), {})
    [record] = cancel(store, lambda _, __: Refusing(), [store.get("demo-1")], timedelta(0))
    assert record.state is RunState.CANCELLED


# --- slots --------------------------------------------------------------------------------------------------------

# Each run says when it began and when it ended, in one file that all of them append to.
LOGGED = """cd "$LONGSHORE_RUN_DIR"; echo "1 $LONGSHORE_RUN_ID" >>../trace
sleep 0.2; echo "-1 $LONGSHORE_RUN_ID" >>../trace
"""


def trace(home: Path) -> list[tuple[int, str]]:
    lines = [line.split() for line in (home / "trace").read_text().splitlines()]
    return [(int(change), run_id) for change, run_id in lines]


def most_at_once(home: Path) -> int:
    running, most = 0, 0
    for change, _ in trace(home):
        running += change
        most = max(most, running)
    return most


def test_waiting_for_a_sweep_starts_its_runs_as_slots_get_free(store: RunStore, home: Path):
    submit(store, sweep(home, "s", [LOGGED + SUCCEED] * 5, max_parallel=2))
    records = wait(store, backend_for, [f"s-{n:03d}" for n in range(5)], timeout=60, interval=0.02)
    assert {record.state for record in records} == {RunState.SUCCEEDED}
    assert most_at_once(home) == 2
    assert sorted(run_id for change, run_id in trace(home) if change == 1) == [f"s-{n:03d}" for n in range(5)]
    claimed = [(record.run_dir / "attempts" / "1" / "pid").stat().st_mtime_ns for record in records]
    assert claimed == sorted(claimed), "in their order"


def test_many_who_look_at_once_start_each_run_of_a_sweep_once(store: RunStore, home: Path):
    submit(store, sweep(home, "s", [COUNT + LOGGED + SUCCEED] * 6, max_parallel=2))
    code = (
        "from orchestrator.waiting import wait\n"
        "store = RunStore(Path(sys.argv[1]))\n"
        "wait(store, backend_for, [r.run_id for r in store.list()], timeout=60, interval=0.01)\n"
    )
    watchers = [python(code, home) for _ in range(4)]
    errors = [watcher.communicate(timeout=120)[1] for watcher in watchers]
    assert errors == [""] * 4
    assert {record.state for record in store.list()} == {RunState.SUCCEEDED}
    assert [starts(record.run_dir) for record in store.list()] == [1] * 6
    assert most_at_once(home) == 2


def test_a_failed_run_frees_its_slot(store: RunStore, home: Path):
    submit(store, sweep(home, "s", ["kill -9 $$", SUCCEED]))
    records = wait(store, backend_for, ["s-000", "s-001"], timeout=30, interval=0.02)
    assert [record.state for record in records] == [RunState.FAILED, RunState.SUCCEEDED]


def test_a_run_whose_secret_is_not_here_waits_and_says_so(store: RunStore, home: Path):
    plan = single(home, "demo-1", SUCCEED, secrets=("TOKEN",))
    with pytest.raises(LongshoreError):
        submit(store, plan)
    refresh(store, backend_for, {"OTHER": "x"})
    assert (store.get("demo-1").state, "TOKEN is not set" in store.get("demo-1").message) == (RunState.QUEUED, True)
    refresh(store, backend_for, {"TOKEN": "x"})
    assert end_of(store).state is RunState.SUCCEEDED


# --- looking ------------------------------------------------------------------------------------------------------


@dataclass
class Cluster:
    """A backend somewhere else, which counts how often it is asked and may be out of reach."""

    name: ClassVar[str] = "slurm"
    queues: ClassVar[bool] = False
    answers: Mapping[str, Observation] = field(default_factory=dict)
    reachable: bool = True
    asked: list[set[str]] = field(default_factory=list)

    def plan(self, request: LaunchRequest) -> Launch:
        return Launch(request, commands=())

    def launch(self, launch: Launch, secrets: Mapping[str, str]) -> str:
        return f"job of {launch.request.run_id}"

    def poll(self, handles: Mapping[str, Path]) -> dict[str, Observation]:
        self.asked.append(set(handles))
        if not self.reachable:
            raise BackendError("the login node does not answer")
        return {handle: seen for handle, seen in self.answers.items() if handle in handles}

    def cancel(self, handles: Mapping[str, Path], grace: timedelta) -> None:
        raise BackendError("the login node does not answer")


def on(cluster: Cluster, store: RunStore, run_ids: Sequence[str]) -> Cluster:
    for run_id in run_ids:
        plan = single(store.home, run_id, "true")
        execute(Plan(**{**vars(plan), "backend": "slurm"}), store, cluster, {})
    return cluster


def test_a_backend_is_asked_once_for_all_of_its_runs(store: RunStore):
    cluster = on(Cluster(), store, ["a", "b", "c"])
    cluster.answers = {f"job of {run_id}": Observation(RunState.RUNNING) for run_id in "ab"}
    changes = refresh(store, lambda *_: cluster)
    assert cluster.asked == [{"job of a", "job of b", "job of c"}]
    assert {(change.run_id, change.old, change.new) for change in changes} == {
        ("a", RunState.SETTING_UP, RunState.RUNNING),
        ("b", RunState.SETTING_UP, RunState.RUNNING),
    }


def test_a_run_that_has_ended_is_not_asked_about_again(store: RunStore):
    cluster = on(Cluster(), store, ["a"])
    cluster.answers = {"job of a": Observation(RunState.SUCCEEDED)}
    assert len(refresh(store, lambda *_: cluster)) == 1
    assert refresh(store, lambda *_: cluster) == ()
    assert len(cluster.asked) == 1


def test_a_backend_that_is_out_of_reach_does_not_hide_the_others(store: RunStore, home: Path):
    cluster = on(Cluster(reachable=False), store, ["a"])
    submit(store, single(home, "demo-1", "exit 1"))
    handle = store.get("demo-1").handle
    assert handle is not None
    eventually(lambda: not Process.parse(handle).is_alive)
    both: Mapping[str, Backend] = {"slurm": cluster, "local": BACKEND}
    with pytest.raises(BackendError, match="login node does not answer"):
        refresh(store, lambda name, _: both[name])
    assert store.get("demo-1").state is RunState.FAILED
    assert store.get("a").state is RunState.SETTING_UP


def test_waiting_gives_up_after_its_time_and_says_where_the_run_stands(store: RunStore, home: Path):
    submit(store, single(home, "demo-1", FOREVER))
    with pytest.raises(LongshoreError, match=r"not ended within 0\.2 s: demo-1 is setting-up"):
        wait(store, backend_for, ["demo-1"], timeout=0.2, interval=0.05)


# --- cancelling ---------------------------------------------------------------------------------------------------


def stop(store: RunStore, *references: str, grace: float = 10.0) -> list[RunState]:
    records = [record for reference in references for record in store.resolve(reference)]
    return [record.state for record in cancel(store, backend_for, records, timedelta(seconds=grace))]


def test_a_run_that_saves_and_stops_when_told_to_is_cancelled_not_failed(store: RunStore, home: Path):
    submit(store, single(home, "demo-1", ON_TERM + READY + FOREVER))
    eventually((home / "demo-1" / "ready").exists)
    assert stop(store, "demo-1") == [RunState.CANCELLED]
    assert store.get("demo-1").failure_class is None
    assert store.get("demo-1").message == "after saving a checkpoint"
    assert store.attempts("demo-1")[0].exit_code == 75


def test_a_run_that_does_not_listen_is_cancelled_by_force(store: RunStore, home: Path):
    submit(store, single(home, "demo-1", "trap '' TERM\n" + READY + FOREVER))
    eventually((home / "demo-1" / "ready").exists)
    assert stop(store, "demo-1", grace=0.3) == [RunState.CANCELLED]
    assert "by force" in store.get("demo-1").message


def test_a_run_that_succeeds_before_it_can_be_stopped_has_succeeded(store: RunStore, home: Path):
    submit(store, single(home, "demo-1", f"trap '{SUCCEED.strip()}; exit' TERM\n" + READY + FOREVER))
    eventually((home / "demo-1" / "ready").exists)
    assert stop(store, "demo-1") == [RunState.SUCCEEDED]


def test_cancelling_a_sweep_ends_what_runs_and_never_starts_the_rest(store: RunStore, home: Path):
    submit(store, sweep(home, "s", [COUNT + FOREVER] * 3))
    assert stop(store, "s", grace=0.2) == [RunState.CANCELLED] * 3
    refresh(store, backend_for)
    assert not (home / "s-001" / "attempts").exists()


def test_a_run_stays_cancelled_when_whoever_cancelled_it_was_killed(store: RunStore, home: Path):
    submit(
        store, single(home, "demo-1", f"trap 'until [ -e go ]; do sleep 0.05; done; exit 75' TERM\n{READY}{FOREVER}")
    )
    eventually((home / "demo-1" / "ready").exists)
    code = (
        "from datetime import timedelta\nfrom orchestrator.watch import cancel\n"
        "store = RunStore(Path(sys.argv[1]))\n"
        "cancel(store, backend_for, store.resolve('demo-1'), timedelta(seconds=60))\n"
    )
    canceller = python(code, home)
    eventually(lambda: store.get("demo-1").cancelling)
    canceller.kill()
    canceller.communicate()
    os.kill(pid_of(home / "demo-1"), signal.SIGTERM)  # it may have died before it could ask
    (home / "demo-1" / "go").touch()
    assert end_of(store).state is RunState.CANCELLED


def test_a_run_that_is_cancelled_while_it_is_being_started_does_not_stay_alive(store: RunStore, home: Path):
    class Slow:
        """Somebody else cancels between the launch and the note of it."""

        queues = False

        def launch(self, launch: Launch, secrets: Mapping[str, str]) -> str:
            handle = BACKEND.launch(launch, secrets)
            RunStore(home).request_cancel([launch.request.run_id])
            return handle

        cancel = BACKEND.cancel

    execute(single(home, "demo-1", FOREVER), store, Slow(), {})  # type: ignore[arg-type]
    assert store.get("demo-1").state is RunState.CANCELLED
    handle = store.get("demo-1").handle
    assert handle is not None
    assert not Process.parse(handle).is_alive


def test_what_a_backend_cannot_end_is_an_error_and_not_cancelled(store: RunStore):
    cluster = on(Cluster(), store, ["a"])
    with pytest.raises(BackendError, match="login node"):
        cancel(store, lambda *_: cluster, store.resolve("a"), timedelta(seconds=1))
    assert (store.get("a").state, store.get("a").cancelling) == (RunState.SETTING_UP, True)


def starts_or_zero(run_dir: Path) -> int:
    return starts(run_dir) if (run_dir / "starts").exists() else 0
