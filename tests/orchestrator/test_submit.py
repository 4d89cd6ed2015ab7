"""Submitting: once and whole, whoever dies in the middle, however many do it, whether or not the disk is full."""

from __future__ import annotations

import json
import signal
import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from local_runs import (
    BACKEND,
    COUNT,
    SUCCEED,
    WAIT_FOR_GO,
    backend_for,
    python,
    single,
    starts,
    sweep,
)

from orchestrator.errors import BackendError, LongshoreError
from orchestrator.plan import Plan
from orchestrator.runs import RunRecord, RunStore
from orchestrator.states import RunState, Verdict
from orchestrator.submit import SubmitResult, execute
from orchestrator.waiting import wait
from orchestrator.watch import refresh
from tests.waiting import eventually


def submit(store: RunStore, plan: Plan, secrets: dict[str, str] | None = None, *, again: bool = False) -> SubmitResult:
    return execute(plan, store, BACKEND, secrets or {}, again=again)[0]


def end_of(store: RunStore, run_id: str = "demo-1") -> RunRecord:
    return wait(store, backend_for, [run_id], timeout=30, interval=0.05)[0]


def is_sound(home: Path) -> bool:
    return sqlite3.connect(home / "registry.sqlite3").execute("PRAGMA integrity_check").fetchone() == ("ok",)


# --- once ---------------------------------------------------------------------------------------------------------


def test_a_submitted_run_has_its_files_its_snapshot_and_is_started(home: Path):
    store = RunStore(home)
    plan = single(home, "demo-1", COUNT + SUCCEED)
    result = submit(store, plan)
    assert (result.run_id, result.verdict, result.state, result.message) == (
        "demo-1",
        Verdict.NEW,
        RunState.SETTING_UP,
        "",
    )
    assert end_of(store).state is RunState.SUCCEEDED
    assert (home / "demo-1" / "job.yaml").read_text() == "name: demo\n"
    assert (home / "snapshots" / plan.snapshot.digest / "trainer" / "__init__.py").exists()


def test_what_waits_or_runs_is_reported_and_not_started_again(home: Path):
    store = RunStore(home)
    submit(store, single(home, "demo-1", COUNT + WAIT_FOR_GO + SUCCEED, key="same"))
    again = submit(store, single(home, "demo-2", COUNT, key="same"), again=True)
    assert (again.run_id, again.verdict) == ("demo-1", Verdict.ACTIVE)
    assert "demo-1: submitted already, setting-up" in again.message
    (home / "demo-1" / "go").touch()
    end_of(store)
    assert starts(home / "demo-1") == 1
    assert not (home / "demo-2").exists()


def test_what_has_succeeded_is_reported_as_done_unless_again_is_asked_for(home: Path):
    store = RunStore(home)
    submit(store, single(home, "demo-1", SUCCEED, key="same"))
    end_of(store)
    done = submit(store, single(home, "demo-2", SUCCEED, key="same"))
    assert (done.run_id, done.verdict) == ("demo-1", Verdict.DONE)
    assert "--again" in done.message
    assert submit(store, single(home, "demo-3", SUCCEED, key="same"), again=True).run_id == "demo-3"


def test_a_run_that_died_unseen_does_not_stand_in_the_way(home: Path):
    """Nobody has looked since it was killed, so the registry still has it as running."""
    store = RunStore(home)
    submit(store, single(home, "demo-1", "kill -9 $$", key="same"))
    eventually(lambda: BACKEND.poll({_handle(store): home / "demo-1"})[_handle(store)].state is RunState.FAILED)
    assert store.get("demo-1").state is RunState.SETTING_UP
    assert submit(store, single(home, "demo-2", SUCCEED, key="same")).verdict is Verdict.NEW


def test_secrets_reach_the_run_and_no_file(home: Path):
    store = RunStore(home)
    plan = single(home, "demo-1", '[ "${#TOKEN}" = 10 ] && ' + SUCCEED, secrets=("TOKEN",))
    submit(store, plan, {"TOKEN": "hu sh-4711"})
    assert end_of(store).state is RunState.SUCCEEDED
    store.close()
    assert [path for path in home.rglob("*") if path.is_file() and b"hu sh-4711" in path.read_bytes()] == []


def test_a_missing_secret_leaves_the_run_waiting_with_its_name(home: Path):
    store = RunStore(home)
    with pytest.raises(LongshoreError, match="TOKEN is not set; submitting again finishes it"):
        submit(store, single(home, "demo-1", SUCCEED, key="same", secrets=("TOKEN",)))
    assert store.get("demo-1").state is RunState.QUEUED
    result = submit(store, single(home, "demo-2", "", key="same", secrets=("TOKEN",)), {"TOKEN": "x"})
    assert result.run_id == "demo-1"
    assert end_of(store).state is RunState.SUCCEEDED


def test_a_sweep_on_this_machine_runs_one_after_the_other_unless_it_says_more(home: Path):
    store = RunStore(home)
    results = execute(sweep(home, "s", [COUNT + WAIT_FOR_GO + SUCCEED] * 3), store, BACKEND, {})
    assert [result.state for result in results] == [RunState.SETTING_UP, RunState.QUEUED, RunState.QUEUED]
    assert results[1].message == "s-001: waits for a free slot"
    more = execute(sweep(home, "t", [WAIT_FOR_GO] * 3, max_parallel=2), store, BACKEND, {})
    assert [result.state for result in more].count(RunState.SETTING_UP) == 2


# --- interrupted --------------------------------------------------------------------------------------------------

# Each of these makes the submitting process kill itself at one point, without a chance to clean up.
DIE = "die = lambda *_, **__: os.kill(os.getpid(), signal.SIGKILL)\n"
UNREGISTERED = {
    "before anything is put in place": "submit._put_in_place = die",
    "in the middle of the files": (
        "def write(path, text, real=submit.write_atomically, **how):\n"
        "    real(path, text, **how) if path.name == 'setup-and-run.sh' else die()\n"
        "submit.write_atomically = write"
    ),
    "before the snapshot": "submit.store_snapshot = die",
    "in the middle of the snapshot": "import orchestrator.snapshot\norchestrator.snapshot._verify = die",
    "before it is registered": "RunStore.add_plan = die",
}
FAULTS = {
    "before the run queues": "RunStore.enqueue = die",
    "before the run is claimed": "submit.start_queued = die",
    "before the launch": "LocalBackend.launch = die",
    "right after the process was started": (
        "class Host:\n"
        "    def run(self, argv, *, environment, timeout):\n"
        "        subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)\n"
        "        die()\n"
        "backend = LocalBackend(host=Host())"
    ),
    "before the handle is stored": "RunStore.all_started = die",
}
SUBMIT = f"""
import subprocess
from orchestrator import submit
{DIE}
backend = BACKEND
exec(sys.argv[2])
home = Path(sys.argv[1])
submit.execute(single(home, "demo-1", COUNT + WAIT_FOR_GO + SUCCEED, key="same"), RunStore(home), backend, {{}})
"""


def submit_and_die(home: Path, fault: str) -> None:
    process = python(SUBMIT, home, fault)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL, errors


@pytest.mark.parametrize("point", UNREGISTERED)
def test_after_a_kill_before_the_registration_there_is_no_run_and_submitting_again_makes_one(home: Path, point: str):
    submit_and_die(home, UNREGISTERED[point])
    store = RunStore(home)
    assert is_sound(home)
    assert store.list() == ()
    refresh(store, backend_for)
    assert submit(store, single(home, "demo-2", COUNT + SUCCEED, key="same")).verdict is Verdict.NEW
    assert end_of(store, "demo-2").state is RunState.SUCCEEDED
    assert starts(home / "demo-2") == 1
    assert not (home / "demo-1" / "starts").exists()


@pytest.mark.parametrize("point", FAULTS)
def test_after_a_kill_at_any_later_point_submitting_again_finishes_the_same_run_once(home: Path, point: str):
    submit_and_die(home, FAULTS[point])
    store = RunStore(home)
    assert is_sound(home)
    result = submit(store, single(home, "demo-2", "echo never", key="same"))
    assert result.run_id == "demo-1"
    (home / "demo-1" / "go").touch()
    assert end_of(store).state is RunState.SUCCEEDED
    assert starts(home / "demo-1") == 1
    assert [record.run_id for record in store.list()] == ["demo-1"]


@pytest.mark.parametrize("point", ["before the launch", *list(FAULTS)[-2:]])
def test_once_a_run_queues_any_look_at_the_runs_finishes_its_start(home: Path, point: str):
    submit_and_die(home, FAULTS[point])
    store = RunStore(home)
    refresh(store, backend_for)
    assert store.get("demo-1").state is RunState.SETTING_UP
    (home / "demo-1" / "go").touch()
    assert end_of(store).state is RunState.SUCCEEDED
    assert starts(home / "demo-1") == 1


def test_a_backend_that_cannot_start_a_run_leaves_it_waiting_with_the_reason(home: Path):
    store = RunStore(home)
    blocker = home / "demo-1" / "attempts"
    blocker.parent.mkdir()
    blocker.touch()
    with pytest.raises(BackendError, match=r"attempts.*submitting again finishes it"):
        submit(store, single(home, "demo-1", SUCCEED, key="same"))
    assert "attempts" in store.get("demo-1").message
    blocker.unlink()
    assert submit(store, single(home, "demo-2", SUCCEED, key="same")).run_id == "demo-1"
    assert end_of(store).state is RunState.SUCCEEDED


# --- a full disk --------------------------------------------------------------------------------------------------


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """A disk of four megabytes at `folder`; yields a file that fills it."""
    folder.mkdir(parents=True, exist_ok=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", str(folder)]
    mounted = subprocess.run(command, capture_output=True, text=True, check=False)
    if mounted.returncode != 0:
        pytest.skip(f"no right to mount a small disk: {mounted.stderr.strip()}")
    try:
        yield folder / "filler"
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(filler: Path) -> None:
    with suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


def test_a_full_disk_under_the_run_directory_loses_nothing(home: Path):
    store = RunStore(home)
    with small_disk(home / "demo-1") as filler:
        fill(filler)
        with pytest.raises(LongshoreError, match="No space left on device; nothing was submitted"):
            submit(store, single(home, "demo-1", COUNT + SUCCEED, key="same"))
        assert store.list() == ()
        assert [path.name for path in (home / "demo-1").iterdir()] == [filler.name]
        filler.unlink()
        assert submit(store, single(home, "demo-1", COUNT + SUCCEED, key="same")).verdict is Verdict.NEW
        assert end_of(store).state is RunState.SUCCEEDED
        assert starts(home / "demo-1") == 1


def test_a_run_id_that_is_taken_is_refused_and_the_files_of_its_owner_stay(home: Path):
    store = RunStore(home)
    submit(store, single(home, "demo-1", SUCCEED, key="one"))
    end_of(store)
    with pytest.raises(LongshoreError, match="demo-1: this run id is taken; submit again for another"):
        submit(store, single(home, "demo-1", "echo other", key="other"))
    assert (home / "demo-1" / "setup-and-run.sh").read_text() == SUCCEED


def test_a_disk_too_full_to_claim_the_attempt_starts_nothing_and_can_be_repaired(home: Path):
    store = RunStore(home)
    with small_disk(home / "demo-1" / "attempts") as filler:
        fill(filler)
        with pytest.raises(BackendError, match="No space left on device"):
            submit(store, single(home, "demo-1", COUNT + SUCCEED, key="same"))
        filler.unlink()
        refresh(store, backend_for)
        assert end_of(store).state is RunState.SUCCEEDED
        assert starts(home / "demo-1") == 1


def test_a_disk_that_fills_up_while_a_run_writes_is_named_as_the_reason(home: Path):
    store = RunStore(home)
    script = (
        "set -e\ntrap 'echo $? >$LONGSHORE_RUN_DIR/attempts/1/exit_code' EXIT\n"
        "cat /dev/zero >$LONGSHORE_RUN_DIR/checkpoint\n" + SUCCEED
    )
    with small_disk(home / "demo-1"):
        submit(store, single(home, "demo-1", script))
        record = end_of(store)
    assert (record.state, record.failure_class) == (RunState.FAILED, "crash")
    assert "disk under the run directory is full" in record.message


def test_a_full_disk_under_the_registry_is_one_error_and_leaves_it_sound(tmp_path: Path):
    home = tmp_path / "runs"
    with small_disk(home) as filler:
        store = RunStore(home)
        fill(filler)
        with pytest.raises(LongshoreError, match="No space left on device; nothing was submitted"):
            submit(store, single(home, "demo-1", SUCCEED, key="same"))
        filler.unlink()
        assert is_sound(home)
        assert store.list() == ()
        assert submit(store, single(home, "demo-2", SUCCEED, key="same")).verdict is Verdict.NEW
        assert end_of(store, "demo-2").state is RunState.SUCCEEDED
        store.close()


# --- many at once -------------------------------------------------------------------------------------------------

# A process for each key, forked from one that has imported everything: fifty interpreters would take a minute to start.
RACE = """
from orchestrator.submit import execute
home, keys = Path(sys.argv[1]), sys.argv[2:]
snapshot_beside(home)
for number, key in enumerate(keys):
    if os.fork() == 0:
        plan = single(home, f"demo-{number}", COUNT + WAIT_FOR_GO + SUCCEED, key=key)
        (home / f"ready-{number}").touch()
        while len(list(home.glob("ready-*"))) < len(keys):
            time.sleep(0.01)
        [result] = execute(plan, RunStore(home), BACKEND, {})
        os.write(1, (json.dumps([result.run_id, result.verdict.name]) + "\\n").encode())  # in one piece
        os._exit(0)
while keys:
    _, status = os.wait()
    assert status == 0, status
    keys.pop()
"""


def race(home: Path, keys: list[str]) -> list[list[str]]:
    """Processes that submit at the same moment, one a key; their answers."""
    process = python(RACE, home, *keys)
    output, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    return [json.loads(line) for line in output.splitlines()]


def test_fifty_submits_of_the_same_job_at_once_are_one_run(home: Path):
    answers = race(home, ["same"] * 50)
    store = RunStore(home)
    [record] = store.list()
    assert {run_id for run_id, _ in answers} == {record.run_id}
    assert [verdict for _, verdict in answers].count("NEW") == 1
    assert is_sound(home)
    (record.run_dir / "go").touch()
    assert end_of(store, record.run_id).state is RunState.SUCCEEDED
    assert starts(record.run_dir) == 1


def test_fifty_submits_of_different_jobs_at_once_are_fifty_runs(home: Path):
    answers = race(home, [f"key {number}" for number in range(50)])
    store = RunStore(home)
    assert {run_id for run_id, _ in answers} == {record.run_id for record in store.list()}
    assert len(store.list()) == 50
    assert is_sound(home)
    for record in store.list():
        (record.run_dir / "go").touch()
    ended = wait(store, backend_for, [record.run_id for record in store.list()], timeout=60, interval=0.1)
    assert {record.state for record in ended} == {RunState.SUCCEEDED}
    assert {starts(record.run_dir) for record in ended} == {1}


def test_members_of_a_sweep_and_planned_runs_keep_their_order(home: Path):
    plan = sweep(home, "s", [SUCCEED] * 12)
    results = execute(plan, RunStore(home), BACKEND, {})
    assert [result.run_id for result in results] == [run.run_id for run in plan.runs]


def _handle(store: RunStore) -> str:
    handle = store.get("demo-1").handle
    assert handle is not None
    return handle
