"""Attempts that follow failed ones: in the same place by the script, later by whoever looks, and by hand."""

from __future__ import annotations

import json
import signal
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from local_runs import (
    BACKEND,
    COUNT,
    HEARTBEAT,
    SUCCEED,
    backend_for,
    plan_of,
    planned,
    single,
    starts,
    sweep,
)

from orchestrator.backends.base import Observation
from orchestrator.errors import UsageError
from orchestrator.plan import Plan
from orchestrator.processes import Process
from orchestrator.resume import resume
from orchestrator.retry import LONGEST, RetryPolicy
from orchestrator.runs import RunRecord, RunStore
from orchestrator.script import ScriptContext, render_script
from orchestrator.states import FailureClass, RunState
from orchestrator.submit import execute
from orchestrator.waiting import wait
from orchestrator.watch import cancel, refresh, start_queued
from tests.waiting import eventually
from trainer.run_dir import RunDir

FAIL = (
    'printf \'{"class": "%s", "message": "gone", "attempt": %d}\' node-failure "$LONGSHORE_ATTEMPT" '
    '>"$LONGSHORE_RUN_DIR/failure.json"; exit 1\n'
)
FOREVER = "while :; do sleep 0.05; done\n"
# Stands where Python stands in a script: verifies everything, and fails as the class of its attempt says.
TRAINER = """#!/bin/bash
if [[ "$1" != -m ]]; then
  exit 0
fi
echo "training in attempt $LONGSHORE_ATTEMPT"
printf '%s\\n' "$*" >>"$LONGSHORE_RUN_DIR/starts"
class=$(sed -n "${LONGSHORE_ATTEMPT}p" "${BASH_SOURCE[0]}.classes")
case "$class" in
  success) echo '{}' >"$LONGSHORE_RUN_DIR/SUCCESS"; exit 0 ;;
  hang) sleep 300 ;;
  killed) kill -9 $$ ;;
esac
printf '{"class": "%s", "message": "it was %s", "attempt": %d}' \
  "$class" "$class" "$LONGSHORE_ATTEMPT" >"$LONGSHORE_RUN_DIR/failure.json"
exit 1
"""


class Clock:
    """Unix seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1e9

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(home: Path, clock: Clock) -> RunStore:
    return RunStore(home, clock=clock)


def with_policy(home: Path, script: str, policy: RetryPolicy) -> Plan:
    run = planned(home, "demo-1", script)
    request = replace(run.launch.request, retry=policy)
    return plan_of(home, replace(run, launch=replace(run.launch, request=request)))


def policy(**changes: object) -> RetryPolicy:
    return RetryPolicy(**{"max": 2, "on": ("node-failure",), "backoff": {"node-failure": 60.0}, **changes})  # type: ignore[arg-type]


def submit(store: RunStore, plan: Plan) -> None:
    execute(plan, store, BACKEND, {})


def until(store: RunStore, *states: RunState) -> RunRecord:
    def reached() -> bool:
        refresh(store, backend_for)
        return store.get("demo-1").state in states

    eventually(reached)
    return store.get("demo-1")


@pytest.mark.parametrize(
    ("failure_class", "attempt", "delay"),
    [
        (FailureClass.NODE_FAILURE, 1, 60.0),
        (FailureClass.NODE_FAILURE, 2, 120.0),
        (FailureClass.NODE_FAILURE, 3, None),
        (FailureClass.CRASH, 1, None),
        (None, 1, None),
    ],
)
def test_a_policy_says_whether_and_when(failure_class: FailureClass | None, attempt: int, delay: float | None):
    assert policy().delay(failure_class, attempt) == delay


def test_waiting_doubles_up_to_an_hour():
    assert policy(max=1000).delay(FailureClass.NODE_FAILURE, 999) == LONGEST


# --- by whoever looks ---------------------------------------------------------------------------------------------


def test_another_attempt_follows_after_its_time_and_goes_on_in_the_same_folder(
    store: RunStore, home: Path, clock: Clock
):
    submit(store, with_policy(home, f'if [ "$LONGSHORE_ATTEMPT" = 1 ]; then {FAIL} fi; {SUCCEED}', policy()))
    record = until(store, RunState.REQUEUED)
    assert record.message == "attempt 1: node-failure: gone; another one follows in 60 s"
    clock.now += 59
    refresh(store, backend_for)
    assert (store.get("demo-1").state, store.get("demo-1").handle) == (RunState.REQUEUED, None)
    clock.now += 2
    assert until(store, RunState.SUCCEEDED).attempt == 2
    first, second = store.attempts("demo-1")
    assert (first.failure_class, first.message, second.failure_class) == (FailureClass.NODE_FAILURE, "gone", None)
    states = [event.new for event in store.events("demo-1")]
    assert states.count(RunState.REQUEUED) == 1
    assert RunDir(home / "demo-1").attempts() == [1, 2]


def test_a_run_fails_for_good_after_its_last_attempt(store: RunStore, home: Path, clock: Clock):
    submit(store, with_policy(home, FAIL, policy(backoff={})))
    record = until(store, RunState.FAILED)
    assert (record.attempt, record.failure_class) == (3, FailureClass.NODE_FAILURE)
    assert [attempt.failure_class for attempt in store.attempts("demo-1")] == [FailureClass.NODE_FAILURE] * 3


def test_other_failures_are_final_at_once(store: RunStore, home: Path):
    submit(store, with_policy(home, FAIL, policy(on=("preempted",))))
    assert until(store, RunState.FAILED).attempt == 1


def test_a_cancelled_run_is_not_tried_again(store: RunStore, home: Path):
    submit(store, with_policy(home, f"trap '{FAIL.strip()}' TERM\ntouch ready\n{FOREVER}", policy()))
    eventually((home / "demo-1" / "ready").exists)
    refresh(store, backend_for)
    [record] = cancel(store, backend_for, [store.get("demo-1")], timedelta(seconds=10))
    assert (record.state, len(store.attempts("demo-1"))) == (RunState.CANCELLED, 1)


def test_a_run_that_waits_for_its_next_attempt_can_be_cancelled(store: RunStore, home: Path, clock: Clock):
    submit(store, with_policy(home, FAIL, policy()))
    until(store, RunState.REQUEUED)
    cancel(store, backend_for, [store.get("demo-1")], timedelta(seconds=1))
    clock.now += 100
    refresh(store, backend_for)
    assert (store.get("demo-1").state, store.get("demo-1").attempt) == (RunState.CANCELLED, 1)


def test_a_waiting_attempt_leaves_its_slot_to_others(store: RunStore, home: Path, clock: Clock):
    plan = sweep(home, "s", [FAIL, SUCCEED], max_parallel=1)
    first = plan.runs[0]
    request = replace(first.launch.request, retry=policy())
    submit(store, replace(plan, runs=(replace(first, launch=replace(first.launch, request=request)), plan.runs[1])))

    def done() -> bool:
        refresh(store, backend_for)
        return store.get("s-001").state is RunState.SUCCEEDED

    eventually(done)
    assert store.get("s-000").state is RunState.REQUEUED


def test_an_attempt_that_is_lost_in_the_queue_of_its_backend_is_followed_by_another_one(store: RunStore, home: Path):
    submit(store, with_policy(home, FOREVER, policy(backoff={})))
    lost = Observation(RunState.FAILED, FailureClass.NODE_FAILURE)
    for attempt in (1, 2):
        store.observe({"demo-1": (str(store.get("demo-1").handle), lost)})
        assert store.get("demo-1").state is RunState.REQUEUED
        assert store.started("demo-1", attempt + 1, f"job {attempt}", queues=True).state is RunState.QUEUED
    store.observe({"demo-1": ("job 2", lost)})
    assert store.get("demo-1").state is RunState.FAILED


def test_a_run_that_is_handed_back_waits_for_its_start_and_has_no_attempt_less(
    store: RunStore, home: Path, clock: Clock
):
    submit(store, with_policy(home, FAIL, policy(max=1, backoff={})))
    back = Observation(RunState.REQUEUED, message="there was no time for it", handed_back=True)
    [event] = store.observe({"demo-1": (str(store.get("demo-1").handle), back)})
    record = store.get("demo-1")
    assert (event.new, record.state, record.handle) == (RunState.REQUEUED, RunState.REQUEUED, None)
    assert record.message == "there was no time for it"
    assert until(store, RunState.FAILED).attempt == 3
    classes = [attempt.failure_class for attempt in store.attempts("demo-1")]
    assert classes == [None, FailureClass.NODE_FAILURE, FailureClass.NODE_FAILURE]


def test_a_run_that_is_handed_back_when_its_end_was_asked_for_is_cancelled(store: RunStore, home: Path):
    submit(store, with_policy(home, FOREVER, policy()))
    handle = str(store.get("demo-1").handle)
    store.request_cancel(["demo-1"])
    store.observe({"demo-1": (handle, Observation(RunState.REQUEUED, handed_back=True))})
    assert store.get("demo-1").state is RunState.CANCELLED


def test_of_many_who_look_at_once_one_starts_the_next_attempt(store: RunStore, home: Path, clock: Clock):
    script = f'{COUNT}if [ "$LONGSHORE_ATTEMPT" = 1 ]; then {FAIL} fi; {FOREVER}'
    submit(store, with_policy(home, script, policy(backoff={})))
    first = Process.parse(str(store.get("demo-1").handle))
    eventually(lambda: not first.is_alive)
    with ThreadPoolExecutor() as threads:
        for look in [threads.submit(lambda: refresh(RunStore(home), backend_for)) for _ in range(5)]:
            look.result()
    assert RunDir(home / "demo-1").attempts() == [1, 2]
    eventually(lambda: starts(home / "demo-1") == 2)
    assert until(store, RunState.SETTING_UP).attempt == 2


def test_a_registry_of_the_version_before_gets_what_is_new(home: Path):
    store = RunStore(home)
    execute(single(home, "demo-1", SUCCEED), store, BACKEND, {})
    with store._db:
        for column in ("not_before", "words", "wanted_gpus", "leased_gpus", "owner", "after"):
            store._db.execute(f"ALTER TABLE runs DROP COLUMN {column}")
        store._db.execute("ALTER TABLE sweeps DROP COLUMN stop")
        store._db.execute("DROP TABLE worths")
        store._db.execute("PRAGMA user_version = 1")
    store.close()
    store = RunStore(home)
    record = store.get("demo-1")
    assert (record.words, record.gpus, record.owner) == ((), (), "")
    assert store.is_mine(record)


# --- by the script ------------------------------------------------------------------------------------------------


def run_in_place(home: Path, classes: Sequence[str], store: RunStore, **changes: object) -> None:
    """A local run of the real script, whose trainer fails in the ways of `classes`, one an attempt."""
    python = home.parent / "python"
    python.write_text(TRAINER)
    python.chmod(0o755)
    (home.parent / "python.classes").write_text("\n".join(classes) + "\n")
    context = ScriptContext("demo-1", str(home / "demo-1"), str(home.parent), (str(python),), grace=5)
    settings = {"last_attempt": 3, "retry_on": ("stalled", "nan"), "backoff": {}, **changes}
    submit(store, single(home, "demo-1", render_script(replace(context, **settings))))  # type: ignore[arg-type]


def failure(home: Path, attempt: int) -> Mapping[str, object]:
    return json.loads((home / "demo-1" / "attempts" / str(attempt) / "failure.json").read_text())


def test_the_script_tries_again_in_the_same_process_and_the_registry_knows(store: RunStore, home: Path):
    run_in_place(home, ["stalled", "nan", "success"], store)
    record = until(store, RunState.SUCCEEDED)
    attempts = store.attempts("demo-1")
    assert (record.attempt, len({attempt.handle for attempt in attempts})) == (3, 1)
    assert [attempt.failure_class for attempt in attempts] == [FailureClass.STALLED, FailureClass.NAN, None]
    run_dir = RunDir(home / "demo-1")
    assert run_dir.attempts() == [1, 2, 3]
    logs = [(run_dir.attempt(number) / "log.txt").read_text() for number in (1, 2, 3)]
    assert [log.count("training in attempt") for log in logs] == [1, 1, 1]
    assert "stalled: attempt 2 of 3 begins in 0 s" in logs[0]
    assert [run_dir.exit_code(number).read_text() for number in (1, 2, 3)] == ["1\n", "1\n", "0\n"]
    assert [failure(home, number)["class"] for number in (1, 2)] == ["stalled", "nan"]


def test_after_the_last_attempt_the_failure_stands(store: RunStore, home: Path):
    run_in_place(home, ["stalled"] * 4, store)
    record = until(store, RunState.FAILED)
    assert (record.attempt, record.failure_class, record.message) == (3, FailureClass.STALLED, "it was stalled")


@pytest.mark.parametrize("failed", ["crash", "killed"])
def test_other_failures_end_the_script(store: RunStore, home: Path, failed: str):
    run_in_place(home, [failed, "success"], store)
    record = until(store, RunState.FAILED)
    assert (record.attempt, record.failure_class) == (1, FailureClass.CRASH)


def test_a_script_that_waits_for_its_next_attempt_stops_when_it_is_told_to(store: RunStore, home: Path):
    run_in_place(home, ["stalled", "success"], store, backoff={"stalled": 300.0})
    log = home / "demo-1" / "attempts" / "1" / "log.txt"
    eventually(lambda: "begins in 300 s" in (log.read_text() if log.exists() else ""))
    [record] = cancel(store, backend_for, [store.get("demo-1")], timedelta(seconds=20))
    assert (record.state, record.message) == (RunState.CANCELLED, "after saving a checkpoint")
    assert RunDir(home / "demo-1").attempts() == [1]


# --- by hand ------------------------------------------------------------------------------------------------------

JOB = "name: demo\nbackend: local\ntrain: {env.backend: debug, env.name: Debug-Reach}\n"
WORDS = 'printf "%s\\n" "$*" >>"$LONGSHORE_RUN_DIR/words"\n'


def ended(store: RunStore, home: Path, script: str, state: RunState) -> RunRecord:
    submit(store, single(home, "demo-1", script))
    (home / "demo-1" / "job.yaml").write_text(JOB)
    return until(store, state)


def go_on(store: RunStore, settings: Sequence[str] = (), checkpoint: str | None = None) -> RunRecord:
    resume(store, store.get("demo-1"), settings, checkpoint)
    start_queued(store, backend_for, {})
    return wait(store, backend_for, ["demo-1"], timeout=30, interval=0.05)[0]


def test_a_failed_run_goes_on_by_hand_with_its_settings_in_this_and_later_attempts(store: RunStore, home: Path):
    fails = f'{WORDS} if [ "$LONGSHORE_ATTEMPT" -lt 3 ]; then {FAIL} fi; {SUCCEED}'
    ended(store, home, fails, RunState.FAILED)
    assert go_on(store, ["optimization.total_optim_steps=7"]).state is RunState.FAILED
    record = go_on(store, ["seed=3"])
    assert (record.state, record.attempt) == (RunState.SUCCEEDED, 3)
    assert (home / "demo-1" / "words").read_text().splitlines() == [
        "",
        "optimization.total_optim_steps=7",
        "optimization.total_optim_steps=7 seed=3",
    ]


def test_a_run_that_has_succeeded_goes_on_where_it_gets_more_to_do(store: RunStore, home: Path):
    record = ended(store, home, WORDS + SUCCEED, RunState.SUCCEEDED)
    with pytest.raises(UsageError, match=r"has succeeded; give it more to do: optimization\.total_optim_steps=NUMBER"):
        resume(store, record, [], None)
    assert go_on(store, ["optimization.total_optim_steps=70"]).attempt == 2


def test_a_run_goes_back_to_an_older_checkpoint_of_its_own_and_to_no_other(store: RunStore, home: Path):
    record = ended(store, home, FAIL, RunState.FAILED)
    folder = home / "demo-1" / "checkpoints"
    for name in ("step_00000010", "step_00000020"):
        (folder / name).mkdir(parents=True)
    (folder / "latest").symlink_to("step_00000020")
    (folder / "best").symlink_to("step_00000010")
    with pytest.raises(UsageError, match="has no such checkpoint; it has step_00000010, step_00000020"):
        resume(store, record, [], "../../other/checkpoints/step_1")
    assert store.get("demo-1").state is RunState.FAILED
    go_on(store, checkpoint="best")
    assert (folder / "latest").resolve().name == "step_00000010"


def test_what_has_not_ended_cannot_be_resumed(store: RunStore, home: Path):
    submit(store, single(home, "demo-1", HEARTBEAT + FOREVER))
    with pytest.raises(UsageError, match="has not ended"):
        resume(store, until(store, RunState.RUNNING), [], None)


def test_a_run_whose_place_another_one_has_taken_cannot_be_resumed(store: RunStore, home: Path):
    submit(store, single(home, "demo-1", FAIL, key="same"))
    until(store, RunState.FAILED)
    submit(store, single(home, "demo-2", FOREVER, key="same"))
    with pytest.raises(UsageError, match="demo-2 has taken its place"):
        store.resume("demo-1", ())


def test_a_wrong_setting_changes_nothing(store: RunStore, home: Path):
    record = ended(store, home, FAIL, RunState.FAILED)
    with pytest.raises(Exception, match="total_optim_step"):
        resume(store, record, ["optimization.total_optim_step=7"], None)
    assert store.get("demo-1").state is RunState.FAILED


def test_an_observation_of_the_end_does_not_end_it_twice(store: RunStore, home: Path):
    """Whoever asked a backend before the run was put back must not fail the attempt that comes."""
    record = ended(store, home, FAIL, RunState.FAILED)
    store.resume("demo-1", ())
    late = Observation(RunState.FAILED, FailureClass.CRASH, signal.SIGKILL, "old news")
    store.observe({"demo-1": (str(record.handle), late)})
    assert store.get("demo-1").state is RunState.REQUEUED
