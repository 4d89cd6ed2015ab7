"""The local backend, with real scripts: a run starts once, outlives everybody, ends when told to, and says how."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
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
    WAIT_FOR_GO,
    home_of_runs,
    pid_of,
    request,
    starts,
)

from orchestrator.backends.base import Observation
from orchestrator.backends.local import CLAIM, NICE, Markers, outcome
from orchestrator.errors import BackendError
from orchestrator.processes import Process
from orchestrator.states import FailureClass, RunState
from tests.waiting import eventually
from trainer.run_dir import Failure, RunDir

FOREVER = "while :; do sleep 0.05; done\n"
SECONDS = timedelta(seconds=1)


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    with home_of_runs(tmp_path) as home:
        folder = home / "demo-260101-120000-abcd"
        folder.mkdir()
        yield folder


def launch(run_dir: Path, script: str, secrets: dict[str, str] | None = None) -> str:
    secrets = secrets or {}
    (run_dir / "setup-and-run.sh").write_text(script)
    return BACKEND.launch(BACKEND.plan(request(run_dir, secrets=tuple(secrets))), secrets)


def poll(run_dir: Path, handle: str) -> Observation:
    return BACKEND.poll({handle: run_dir})[handle]


def end_of(run_dir: Path, handle: str) -> Observation:
    eventually(lambda: not Process.parse(handle).is_alive)
    return poll(run_dir, handle)


def log(run_dir: Path) -> str:
    return (run_dir / "attempts" / "1" / "log.txt").read_text()


# --- starting -----------------------------------------------------------------------------------------------------


def test_a_run_goes_from_setting_up_over_running_to_succeeded(run_dir: Path):
    handle = launch(run_dir, WAIT_FOR_GO + "rm $LONGSHORE_RUN_DIR/go\n" + HEARTBEAT + WAIT_FOR_GO + SUCCEED)
    assert poll(run_dir, handle).state is RunState.SETTING_UP
    (run_dir / "go").touch()
    eventually(lambda: poll(run_dir, handle).state is RunState.RUNNING)
    (run_dir / "go").touch()
    assert end_of(run_dir, handle).state is RunState.SUCCEEDED


def test_a_run_gives_way_to_the_commands_that_its_user_types(run_dir: Path):
    told = 'nice >"$LONGSHORE_RUN_DIR/nice"; cat /proc/self/autogroup >"$LONGSHORE_RUN_DIR/autogroup" || true\n'
    end_of(run_dir, launch(run_dir, told + SUCCEED))
    assert int((run_dir / "nice").read_text()) == min(19, os.nice(0) + NICE)
    if Path("/proc/self/autogroup").exists():
        assert (run_dir / "autogroup").read_text().endswith(f" nice {NICE}\n")


def test_a_run_that_is_to_stop_before_it_has_begun_can_be_started_again(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    patient = CLAIM.replace("{1..10}", "{1..600}")
    assert patient != CLAIM
    monkeypatch.setattr("orchestrator.backends.local.CLAIM", patient)
    monkeypatch.setattr("orchestrator.backends.local.NICE", 99)  # the kernel refuses that until it is given up
    if not Path("/proc/self/autogroup").exists():
        pytest.skip("this kernel has no autogroups")
    handle = launch(run_dir, COUNT + SUCCEED)
    os.kill(pid_of(run_dir), signal.SIGTERM)
    assert end_of(run_dir, handle).failure_class is FailureClass.PREEMPTED
    assert not (run_dir / "starts").exists()


def test_the_handle_is_the_pid_and_start_of_the_script_itself(run_dir: Path):
    handle = launch(run_dir, "echo $$ >$LONGSHORE_RUN_DIR/mine\n" + FOREVER)
    eventually((run_dir / "mine").exists)
    process = Process.parse(handle)
    assert process.is_alive
    assert process.pid == int((run_dir / "mine").read_text()) == pid_of(run_dir)


def test_a_run_has_its_own_session_no_input_and_ignores_the_hangup_of_a_terminal(run_dir: Path):
    script = 'read -r _ || echo "no input"\nkill -HUP $$; echo "still here"\ncut -d" " -f1,5,6 /proc/$$/stat\n'
    handle = launch(run_dir, script)
    end_of(run_dir, handle)
    pid = str(Process.parse(handle).pid)
    assert log(run_dir) == f"no input\nstill here\n{pid} {pid} {pid}\n"


def test_output_and_errors_are_appended_to_the_log_of_the_attempt(run_dir: Path):
    (run_dir / "attempts" / "1").mkdir(parents=True)
    (run_dir / "attempts" / "1" / "log.txt").write_text("before\n")
    end_of(run_dir, launch(run_dir, "echo out; echo err >&2"))
    assert log(run_dir) == "before\nout\nerr\n"


def test_a_run_gets_the_submitters_variables_its_own_and_its_secrets(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    script = 'echo "$FROM_USER|$LONGSHORE_RUN_ID|$LONGSHORE_RUN_DIR|$LONGSHORE_ATTEMPT|$TOKEN"\nenv >"$OUTSIDE"\n'
    (run_dir / "setup-and-run.sh").write_text(script)
    inherited = {**os.environ, "FROM_USER": "x y", "LONGSHORE_RUN_ID": "outer", "OUTSIDE": str(run_dir.parent / "env")}
    backend = replace(BACKEND, environment=inherited)
    limited = replace(request(run_dir, secrets=("TOKEN",)), time_limit=3600.0)
    handle = backend.launch(backend.plan(limited), {"TOKEN": "hush", "OTHER": "never"})
    end_of(run_dir, handle)
    assert log(run_dir) == f"x y|{run_dir.name}|{run_dir}|1|hush\n"
    variables = dict(line.split("=", 1) for line in (run_dir.parent / "env").read_text().splitlines() if "=" in line)
    assert "OTHER" not in variables
    assert 3590 < float(variables["LONGSHORE_DEADLINE"]) - time.time() <= 3601


def test_the_plan_of_a_launch_names_secrets_and_holds_none(run_dir: Path):
    planned = BACKEND.plan(request(run_dir, secrets=("TOKEN",)))
    assert planned.commands == (("bash", str(run_dir / "setup-and-run.sh")),)
    assert set(planned.environment) == {"LONGSHORE_RUN_ID", "LONGSHORE_RUN_DIR", "LONGSHORE_ATTEMPT"}


def test_an_attempt_that_is_launched_again_is_found_and_not_started_again(run_dir: Path):
    handle = launch(run_dir, COUNT + WAIT_FOR_GO)
    assert launch(run_dir, COUNT + WAIT_FOR_GO) == handle
    (run_dir / "go").touch()
    end_of(run_dir, handle)
    assert launch(run_dir, COUNT + WAIT_FOR_GO) == handle
    assert starts(run_dir) == 1


def test_of_many_who_launch_an_attempt_at_once_one_starts_it_and_all_find_it(run_dir: Path):
    (run_dir / "setup-and-run.sh").write_text(COUNT + WAIT_FOR_GO)
    planned = BACKEND.plan(request(run_dir))
    with ThreadPoolExecutor(16) as pool:
        handles = list(pool.map(lambda _: BACKEND.launch(planned, {}), range(16)))
    (run_dir / "go").touch()
    end_of(run_dir, handles[0])
    assert len(set(handles)) == 1
    assert starts(run_dir) == 1
    assert [path.name for path in (run_dir / "attempts" / "1").iterdir() if path.name.startswith(".")] == []


def test_a_second_attempt_is_started_beside_the_first(run_dir: Path):
    first = launch(run_dir, COUNT)
    end_of(run_dir, first)
    second = BACKEND.launch(BACKEND.plan(request(run_dir, attempt=2)), {})
    end_of(run_dir, second)
    assert second != first
    assert starts(run_dir) == 2


def test_a_run_that_cannot_be_started_leaves_no_claim(run_dir: Path):
    shutil.rmtree(run_dir)
    run_dir.write_text("a file where the folder should be")
    with pytest.raises(BackendError, match=r"Not a directory|File exists"):
        BACKEND.launch(BACKEND.plan(request(run_dir)), {})


def test_a_log_that_cannot_be_written_is_reported_before_anything_starts(run_dir: Path):
    (run_dir / "attempts" / "1" / "log.txt").mkdir(parents=True)
    with pytest.raises(BackendError, match=r"could not be started: .*log\.txt: Is a directory"):
        launch(run_dir, COUNT)
    assert not (run_dir / "attempts" / "1" / "pid").exists()
    assert not (run_dir / "starts").exists()


# --- how it ended -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("markers", "state", "failure_class"),
    [
        (Markers(success=True), RunState.SUCCEEDED, None),
        (Markers(success=True, exit_code=139), RunState.SUCCEEDED, None),
        (Markers(exit_code=0), RunState.FAILED, FailureClass.SETUP),
        (Markers(exit_code=0, trained=True), RunState.FAILED, FailureClass.CRASH),
        (Markers(exit_code=1, trained=True), RunState.FAILED, FailureClass.CRASH),
        (Markers(exit_code=1), RunState.FAILED, FailureClass.SETUP),
        (Markers(exit_code=75, trained=True), RunState.FAILED, FailureClass.PREEMPTED),
        (Markers(), RunState.FAILED, FailureClass.CRASH),
        (Markers(disk_full=True), RunState.FAILED, FailureClass.CRASH),
        (Markers(restarted=True), RunState.FAILED, FailureClass.NODE_FAILURE),
        (Markers(restarted=True, exit_code=1), RunState.FAILED, FailureClass.SETUP),
        (Markers(restarted=True, success=True), RunState.SUCCEEDED, None),
        (Markers(exit_code=1, failure=Failure(FailureClass.NAN, "loss")), RunState.FAILED, FailureClass.NAN),
        (Markers(exit_code=0, failure=Failure(FailureClass.STALLED, "x")), RunState.FAILED, FailureClass.STALLED),
    ],
)
def test_the_end_of_a_run_is_read_off_what_it_left(
    markers: Markers, state: RunState, failure_class: FailureClass | None
):
    observation = outcome(markers)
    assert (observation.state, observation.failure_class) == (state, failure_class)
    assert observation.message or state is RunState.SUCCEEDED


def test_exit_code_zero_without_success_is_never_believed(run_dir: Path):
    seen = end_of(run_dir, launch(run_dir, HEARTBEAT + "echo 0 >$LONGSHORE_RUN_DIR/attempts/1/exit_code"))
    assert (seen.state, seen.failure_class) == (RunState.FAILED, FailureClass.CRASH)
    assert "exit code 0 and without SUCCESS" in seen.message


def test_the_trainers_own_word_counts_before_the_exit_code(run_dir: Path):
    RunDir(run_dir).write_failure(Failure(FailureClass.OUT_OF_MEMORY, "no memory left", exit_code=1))
    seen = end_of(run_dir, launch(run_dir, "echo 1 >$LONGSHORE_RUN_DIR/attempts/1/exit_code"))
    assert seen == Observation(RunState.FAILED, FailureClass.OUT_OF_MEMORY, 1, "no memory left", attempt=1)


def test_the_failure_of_an_earlier_attempt_says_nothing_of_this_one(run_dir: Path):
    RunDir(run_dir).write_failure(Failure(FailureClass.NAN, "long ago"))
    (run_dir / "setup-and-run.sh").write_text("kill -9 $$")
    handle = BACKEND.launch(BACKEND.plan(request(run_dir, attempt=2)), {})
    assert end_of(run_dir, handle).failure_class is FailureClass.CRASH


def test_a_failure_file_that_cannot_be_read_is_a_crash_that_says_so(run_dir: Path):
    (run_dir / "failure.json").write_text('{"class": "bored"}')
    seen = end_of(run_dir, launch(run_dir, "exit 1"))
    assert seen.failure_class is FailureClass.CRASH
    assert "cannot be read" in seen.message


def test_a_killed_script_is_a_crash_that_names_the_kill(run_dir: Path):
    handle = launch(run_dir, FOREVER)
    os.kill(pid_of(run_dir), signal.SIGKILL)
    seen = end_of(run_dir, handle)
    assert (seen.state, seen.failure_class) == (RunState.FAILED, FailureClass.CRASH)
    assert "SIGKILL" in seen.message


def test_what_outlives_its_script_is_ended_wherever_it_hides_and_nobody_else(run_dir: Path):
    """A trainer whose script was killed would go on holding the GPU."""
    handle = launch(
        run_dir,
        "(trap '' TERM; while :; do sleep 0.05; done) &\n"
        "setsid bash -c 'echo $$ >$LONGSHORE_RUN_DIR/hidden; while :; do sleep 0.05; done' &\n"
        "env -i setsid --wait true; env -i sleep 60 &\n"
        "echo $! >$LONGSHORE_RUN_DIR/bare\n" + FOREVER,
    )
    own = {"LONGSHORE_RUN_ID": run_dir.name, "LONGSHORE_RUN_DIR": str(run_dir), "LONGSHORE_ATTEMPT": "1"}
    others = [
        own | {"LONGSHORE_RUN_ID": "another"},
        own | {"LONGSHORE_RUN_DIR": "/somewhere/else"},
        own | {"LONGSHORE_ATTEMPT": "2"},
        {},
    ]
    strangers = [subprocess.Popen(["sleep", "1000"], env={"PATH": os.environ["PATH"], **env}) for env in others]
    try:
        eventually(lambda: (run_dir / "hidden").exists() and (run_dir / "bare").exists())
        os.kill(pid_of(run_dir), signal.SIGKILL)
        assert end_of(run_dir, handle).failure_class is FailureClass.CRASH
        left = [int((run_dir / name).read_text()) for name in ("hidden", "bare")]
        eventually(lambda: not any(_runs(pid) for pid in left), seconds=2)
        assert all(stranger.poll() is None for stranger in strangers)
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()


def test_a_trainer_that_outlives_its_script_may_still_say_how_it_ended(run_dir: Path):
    handle = launch(
        run_dir,
        """setsid bash -c 'trap "echo {} >$LONGSHORE_RUN_DIR/SUCCESS; exit" TERM
        touch $LONGSHORE_RUN_DIR/ready; while :; do sleep 0.05; done' &\n"""
        + FOREVER,
    )
    eventually((run_dir / "ready").exists)
    os.kill(pid_of(run_dir), signal.SIGKILL)
    assert end_of(run_dir, handle).state is RunState.SUCCEEDED


def test_a_pid_that_came_back_as_another_process_is_not_the_run(run_dir: Path):
    me = Process.current()
    handle = str(replace(me, start=me.start - 1))
    (run_dir / "attempts" / "1").mkdir(parents=True)
    (run_dir / "attempts" / "1" / "pid").write_text(handle)
    assert poll(run_dir, handle).failure_class is FailureClass.CRASH


def test_a_restart_of_the_machine_is_a_node_failure(run_dir: Path):
    handle = str(replace(Process.current(), boot="00000000-0000-0000-0000-000000000000"))
    (run_dir / "attempts" / "1").mkdir(parents=True)
    (run_dir / "attempts" / "1" / "pid").write_text(handle)
    assert poll(run_dir, handle).failure_class is FailureClass.NODE_FAILURE


def test_of_a_run_on_another_machine_only_its_markers_are_believed(run_dir: Path):
    handle = str(replace(Process.current(), host="another"))
    (run_dir / "attempts" / "1").mkdir(parents=True)
    (run_dir / "attempts" / "1" / "pid").write_text(handle)
    assert BACKEND.poll({handle: run_dir}) == {}
    with pytest.raises(BackendError, match="another"):
        BACKEND.cancel({handle: run_dir}, SECONDS)
    (run_dir / "SUCCESS").touch()
    assert poll(run_dir, handle).state is RunState.SUCCEEDED


def test_a_run_whose_folder_is_gone_is_lost(run_dir: Path):
    handle = launch(run_dir, "true")
    eventually(lambda: not Process.parse(handle).is_alive)
    shutil.rmtree(run_dir)
    assert poll(run_dir, handle).failure_class is FailureClass.LOST


def test_many_runs_are_polled_at_once(run_dir: Path):
    folders = [run_dir.parent / f"many-{index}" for index in range(5)]
    for folder in folders:
        folder.mkdir()
    handles = {launch(folder, SUCCEED): folder for folder in folders}
    eventually(lambda: not any(Process.parse(handle).is_alive for handle in handles))
    assert {seen.state for seen in BACKEND.poll(handles).values()} == {RunState.SUCCEEDED}


# --- ending it ----------------------------------------------------------------------------------------------------


def test_cancel_asks_the_script_and_lets_it_save(run_dir: Path):
    script = (
        "save() { sleep 0.3; echo saved >$LONGSHORE_RUN_DIR/checkpoint; "
        "echo 75 >$LONGSHORE_RUN_DIR/attempts/1/exit_code; exit 75; }\n"
        "trap save TERM; echo ready; " + FOREVER
    )
    handle = launch(run_dir, script)
    eventually(lambda: "ready" in log(run_dir))
    BACKEND.cancel({handle: run_dir}, timedelta(seconds=20))
    assert (run_dir / "checkpoint").exists()
    assert poll(run_dir, handle).exit_code == 75


def test_cancel_ends_by_force_what_does_not_listen_and_all_that_it_started(run_dir: Path):
    handle = launch(
        run_dir,
        "trap '' TERM\nsetsid bash -c 'echo $$ >$LONGSHORE_RUN_DIR/hidden; while :; do sleep 0.05; done' &\n" + FOREVER,
    )
    eventually((run_dir / "hidden").exists)
    began = time.monotonic()
    BACKEND.cancel({handle: run_dir}, SECONDS)
    assert 1 <= time.monotonic() - began < 5
    assert not Process.parse(handle).is_alive
    assert not _runs(int((run_dir / "hidden").read_text()))


def test_cancelling_what_has_ended_already_does_nothing(run_dir: Path):
    handle = launch(run_dir, SUCCEED)
    assert end_of(run_dir, handle).state is RunState.SUCCEEDED
    BACKEND.cancel({handle: run_dir}, SECONDS)
    assert poll(run_dir, handle).state is RunState.SUCCEEDED


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
