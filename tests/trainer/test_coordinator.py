"""The coordinator with real processes: small roles that end well, crash, hang, fill the disk or will not stop."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from trainer.coordinator import Limits, Requests, role_commands
from trainer.errors import ConfigError
from trainer.outcome import Outcome, OutcomeKind, RoleEnd, Stop, judge, memory_kills
from trainer.run_dir import Failure, FailureClass, Heartbeat, Phase, RunDir

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0  # seconds that a loaded machine may take for what takes none

# Coordinates one role, whose source is in role.py; a real coordinator in all but which command it starts.
DRIVER = """
import json, sys
from pathlib import Path
from trainer.coordinator import Limits, launch_roles
from trainer.run_dir import RunDir
folder, limits, deadline = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
files = sorted((folder / "roles").iterdir())  # not called trainer.py: that would hide the package
commands = {path.stem.removesuffix("_role"): [sys.executable, str(path)] for path in files}
sys.exit(launch_roles(commands, {"seed": 0}, RunDir(Path(sys.argv[4])), 1, Limits(**limits), deadline=deadline))
"""

PREAMBLE = """
import os, signal, sys, time
from pathlib import Path
from trainer.errors import NotFinite, Stopped
from trainer.role import run_role
from trainer.run_dir import Phase

def ready(context):
    context.beat(Phase.TRAINING, optim_step=7)
    (context.run_dir.root / f"ready-{context.role}").write_text(str(os.getpid()))

def work(context):
    while not context.should_stop:
        context.beat(Phase.TRAINING)
        time.sleep(0.01)
"""


LOST = RoleEnd("learner", 1, Outcome(OutcomeKind.PEER_LOST, message="the simulator is gone"))
STOPPED = RoleEnd("learner", 75, Outcome(OutcomeKind.STOPPED))
OTHER_STOPPED = RoleEnd("simulator", 75, Outcome(OutcomeKind.STOPPED))
DONE = RoleEnd("simulator", 0, Outcome(OutcomeKind.DONE))
KILLED = RoleEnd("simulator", -signal.SIGKILL, None)
NAN = RoleEnd("simulator", 1, Outcome(OutcomeKind.FAILED, FailureClass.NAN, "loss is nan"))
SPEC = RoleEnd("simulator", 2, Outcome(OutcomeKind.FAILED, FailureClass.SPEC, "env.name: no task"))
SIGTERM = Stop(FailureClass.PREEMPTED, "asked to stop by signal 15 (SIGTERM)")


class Coordinator:
    """A coordinator in a process of its own, and what it leaves."""

    def __init__(self, folder: Path, root: Path) -> None:
        self.folder, self.run_dir = folder, RunDir(root)
        (folder / "roles").mkdir()
        self.process: subprocess.Popen[str] | None = None
        self.stderr = ""

    def start(self, source: str, *, deadline: float | None = None, name: str = "trainer", **limits: float) -> None:
        self.add_role(name, source)
        all_limits = {"start": PATIENCE, "stall": PATIENCE, "grace": PATIENCE, "margin": 120, "poll": 0.02} | limits
        arguments = [str(self.folder), json.dumps(all_limits), json.dumps(deadline), str(self.run_dir.root)]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        self.process = subprocess.Popen(
            [sys.executable, "-c", DRIVER, *arguments], env=environment, stderr=subprocess.PIPE, text=True
        )

    def add_role(self, name: str, source: str) -> None:
        (self.folder / "roles" / f"{name}_role.py").write_text(PREAMBLE + textwrap.dedent(source))

    def ready(self, name: str = "trainer") -> int:
        """Wait until the role works; its process id."""
        file = self.run_dir.root / f"ready-{name}"
        wait_until(lambda: self.process.poll() is not None or (file.exists() and file.read_text() != ""))
        return int(file.read_text())

    def signal(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self) -> int:
        assert self.process is not None
        _, self.stderr = self.process.communicate(timeout=PATIENCE)
        return self.process.returncode

    def failure(self) -> Failure:
        assert not self.run_dir.success.exists()
        failure = self.run_dir.read_failure()
        assert failure is not None
        return failure


@pytest.fixture
def coordinator(tmp_path: Path) -> Iterator[Coordinator]:
    one = Coordinator(tmp_path, tmp_path / "run")
    yield one
    if one.process is not None and one.process.poll() is None:
        one.process.kill()
        one.process.communicate()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)


def gone(pid: int) -> bool:
    """Ended, or waiting for whoever is its parent now to collect it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def test_a_role_that_returns_is_a_success(coordinator):
    coordinator.start("run_role(lambda context: ready(context))")
    assert coordinator.wait() == 0
    assert coordinator.run_dir.success.exists()
    assert not coordinator.run_dir.failure.exists()
    status = coordinator.run_dir.read_status()
    assert (status.phase, status.optim_step) == (Phase.DONE, 7)


def test_the_config_and_nothing_of_the_reserve_is_left_in_the_run_directory(coordinator):
    coordinator.start("run_role(ready)")
    coordinator.wait()
    assert coordinator.run_dir.config.read_text() == "seed: 0\n"
    assert not list(coordinator.run_dir.root.rglob(".*"))


def test_a_finished_run_is_not_started_again(coordinator):
    coordinator.run_dir.write_success(1)
    coordinator.start("run_role(ready)")
    assert coordinator.wait() == 0
    assert "already done" in coordinator.stderr
    assert not coordinator.run_dir.status.exists()


def test_the_failure_of_an_earlier_attempt_is_history(coordinator):
    coordinator.run_dir.write_failure(Failure(FailureClass.CRASH, "long ago"))
    coordinator.start("run_role(lambda context: (ready(context), work(context)))")
    coordinator.ready()
    assert not coordinator.run_dir.failure.exists()


def test_an_exception_is_a_crash_with_its_traceback(coordinator):
    coordinator.start("""
        def main(context):
            raise RuntimeError("no such joint")
        run_role(main)
    """)
    assert coordinator.wait() == 1
    failure = coordinator.failure()
    assert (failure.failure_class, failure.message) == (FailureClass.CRASH, "RuntimeError: no such joint")
    assert "in main" in failure.traceback
    assert "no such joint" in coordinator.stderr


@pytest.mark.parametrize(
    ("error", "failure_class"),
    [
        ("NotFinite('loss is nan at step 3')", FailureClass.NAN),
        ("MemoryError()", FailureClass.OUT_OF_MEMORY),
        ("RuntimeError('DefaultCPUAllocator: can\\'t allocate memory')", FailureClass.OUT_OF_MEMORY),
        ("SystemExit(0)", FailureClass.CRASH),
    ],
)
def test_the_kind_of_the_exception_is_the_failure_class(coordinator, error, failure_class):
    coordinator.start(f"def main(context):\n    raise {error}\nrun_role(main)")
    assert coordinator.wait() == 1
    assert coordinator.failure().failure_class is failure_class


def test_a_role_killed_by_a_signal_is_a_crash_that_names_the_signal(coordinator):
    coordinator.start("run_role(lambda context: (ready(context), time.sleep(600)))")
    os.kill(coordinator.ready(), signal.SIGKILL)
    assert coordinator.wait() == 1
    failure = coordinator.failure()
    assert failure.failure_class is FailureClass.CRASH
    assert "signal 9 (SIGKILL)" in failure.message


def test_status_zero_without_a_last_word_is_a_crash(coordinator):
    coordinator.start("os._exit(0)")
    assert coordinator.wait() == 1
    assert coordinator.failure().failure_class is FailureClass.CRASH
    assert "status 0" in coordinator.failure().message


def test_the_last_word_of_an_earlier_start_of_the_attempt_counts_for_nothing(coordinator):
    stale = coordinator.run_dir.attempt(1) / "outcome-trainer.json"
    stale.parent.mkdir(parents=True)
    stale.write_text('{"kind": "done", "failure_class": null, "message": "", "traceback": ""}')
    coordinator.start("os._exit(0)")
    assert coordinator.wait() == 1


def test_a_killed_coordinator_takes_the_role_with_it(coordinator):
    coordinator.start("run_role(lambda context: (ready(context), time.sleep(600)))")
    role = coordinator.ready()
    coordinator.signal(signal.SIGKILL)
    wait_until(lambda: gone(role))


def test_what_a_role_leaves_in_its_process_group_is_ended_with_it(coordinator):
    coordinator.start("""
        import subprocess
        def main(context):
            helper = subprocess.Popen(["sleep", "600"])
            (context.run_dir.root / "helper").write_text(str(helper.pid))
        run_role(main)
    """)
    assert coordinator.wait() == 0
    helper = int((coordinator.run_dir.root / "helper").read_text())
    wait_until(lambda: gone(helper))


STOPPABLE = """
def main(context):
    ready(context)
    work(context)
    (context.run_dir.root / "saved").touch()
    raise Stopped
run_role(main)
"""


def test_a_file_in_the_run_directory_has_the_run_save_and_end(coordinator):
    coordinator.start(STOPPABLE)
    coordinator.ready()
    coordinator.run_dir.stop.write_text("not among the best 2\n")
    assert coordinator.wait() == 75
    assert (coordinator.run_dir.root / "saved").exists()
    failure = coordinator.failure()
    assert (failure.failure_class, failure.message) == (FailureClass.STOPPED, "not among the best 2")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_signal_has_the_role_save_and_is_resumable(coordinator, number):
    coordinator.start(STOPPABLE)
    coordinator.ready()
    coordinator.signal(number)
    assert coordinator.wait() == 75
    assert (coordinator.run_dir.root / "saved").exists()
    failure = coordinator.failure()
    assert (failure.failure_class, failure.exit_code) == (FailureClass.PREEMPTED, 75)


def test_a_signal_to_the_role_itself_is_resumable_too(coordinator):
    """Slurm may send its signals to every process of a step."""
    coordinator.start(STOPPABLE)
    os.kill(coordinator.ready(), signal.SIGTERM)
    assert coordinator.wait() == 75
    assert coordinator.failure().failure_class is FailureClass.PREEMPTED


def test_a_crash_while_saving_is_a_crash(coordinator):
    coordinator.start("""
        def main(context):
            ready(context)
            work(context)
            raise RuntimeError("cannot save")
        run_role(main)
    """)
    coordinator.ready()
    coordinator.signal(signal.SIGTERM)
    assert coordinator.wait() == 1
    assert coordinator.failure().message == "RuntimeError: cannot save"


DEAF = """
def main(context):
    ready(context)
    while True:
        context.beat(Phase.TRAINING)
        time.sleep(0.01)
run_role(main)
"""


def test_a_role_that_does_not_stop_is_killed_after_the_grace(coordinator):
    coordinator.start(DEAF, grace=0.3)
    role = coordinator.ready()
    coordinator.signal(signal.SIGTERM)
    assert coordinator.wait() == 75
    assert gone(role)
    failure = coordinator.failure()
    assert failure.failure_class is FailureClass.PREEMPTED
    assert "before it saved" in failure.message


def test_a_second_interrupt_kills_at_once(coordinator):
    coordinator.start(DEAF, repeat=0.1)
    coordinator.ready()
    coordinator.signal(signal.SIGINT)
    time.sleep(0.3)
    coordinator.signal(signal.SIGINT)
    assert coordinator.wait() == 75  # and not after the grace of a minute
    assert coordinator.failure().failure_class is FailureClass.PREEMPTED


@pytest.mark.parametrize(
    ("arrived", "impatient"),
    [
        ([(signal.SIGINT, 0.0), (signal.SIGINT, 2.0)], True),
        ([(signal.SIGINT, 0.0), (signal.SIGTERM, 2.0)], True),
        ([(signal.SIGTERM, 0.0), (signal.SIGINT, 2.0)], True),
        ([(signal.SIGINT, 0.0)], False),
        ([(signal.SIGINT, 0.0), (signal.SIGTERM, 0.1)], False),  # Ctrl-C, and the shell's word that it has seen it too
        ([(signal.SIGUSR1, 0.0), (signal.SIGTERM, 30.0)], False),  # Slurm before the end, and at the end
        ([(signal.SIGTERM, 0.0), (signal.SIGTERM, 2.0)], False),
    ],
)
def test_only_somebody_at_a_terminal_can_be_impatient(arrived, impatient):
    assert Requests([(int(number), when) for number, when in arrived]).impatient(1.0) is impatient


def test_no_work_within_the_start_limit_is_stalled(coordinator):
    coordinator.start("run_role(lambda context: time.sleep(600))", start=0.3, grace=0.3)
    assert coordinator.wait() == 1
    failure = coordinator.failure()
    assert failure.failure_class is FailureClass.STALLED
    assert "watchdog.start" in failure.message


def test_no_heartbeat_after_a_while_is_stalled_and_shows_where_it_hangs(coordinator):
    coordinator.start(
        """
        def hanging(context):
            ready(context)
            while True:
                time.sleep(600)
        run_role(hanging)
        """,
        stall=0.4,
        grace=0.4,
    )
    assert coordinator.wait() == 1
    failure = coordinator.failure()
    assert failure.failure_class is FailureClass.STALLED
    assert "after optimiser step 7" in failure.message
    assert "in hanging" in coordinator.stderr


def test_heartbeats_hold_off_the_stall_limit(coordinator):
    coordinator.start(
        """
        def main(context):
            until = time.monotonic() + 3
            while time.monotonic() < until:
                context.beat(Phase.TRAINING)
                time.sleep(0.01)
        run_role(main)
        """,
        stall=2,
    )
    assert coordinator.wait() == 0


def test_the_deadline_stops_the_role_in_time_to_save(coordinator):
    started = time.time()
    coordinator.start(STOPPABLE, deadline=started + 8 + PATIENCE, margin=PATIENCE)
    assert coordinator.wait() == 75
    assert 8 <= time.time() - started < 8 + PATIENCE
    assert coordinator.failure().failure_class is FailureClass.TIMEOUT
    assert (coordinator.run_dir.root / "saved").exists()


@pytest.mark.parametrize(("left", "margin"), [(86400.0, 120.0), (600.0, 60.0), (-5.0, 0.0), (float("inf"), 120.0)])
def test_the_margin_before_the_deadline_is_at_most_a_tenth_of_the_time_left(left, margin):
    config = {"watchdog": {"start": 1800, "stall": 900, "grace": 60, "margin": 120, "idle_gpu": 600}}
    assert Limits.of(config, left).margin == margin


def test_a_role_that_ignores_the_deadline_is_killed_at_it(coordinator):
    coordinator.start(DEAF, deadline=time.time() + 2.0, margin=0.2)
    assert coordinator.wait() == 75
    assert coordinator.failure().failure_class is FailureClass.TIMEOUT


def test_a_role_that_hangs_after_it_was_done_is_a_success(coordinator):
    """Isaac's close() is known to hang."""
    coordinator.start(
        """
        import atexit
        atexit.register(time.sleep, 600)
        run_role(ready)
        """,
        grace=0.3,
    )
    assert coordinator.wait() == 0
    assert coordinator.run_dir.success.exists()


def test_a_role_that_crashes_after_it_was_done_is_a_success(coordinator):
    coordinator.start("import atexit\natexit.register(os.abort)\nrun_role(ready)")
    assert coordinator.wait() == 0


def test_one_role_that_crashes_stops_the_others(coordinator):
    coordinator.add_role("simulator", "run_role(lambda context: 1 / 0)")
    coordinator.start(STOPPABLE, name="learner")
    assert coordinator.wait() == 1
    assert coordinator.failure().message == "ZeroDivisionError: division by zero"


BEATING = """
def main(context):
    ready(context)
    while not context.should_stop:
        context.beat(Phase.TRAINING, waiting={waiting})
        time.sleep(0.01)
    raise Stopped
run_role(main)
"""
HANGING = "run_role(lambda context: (ready(context), time.sleep(600)))"


@pytest.mark.parametrize("hanging", ["simulator", "learner"])
def test_a_role_that_goes_on_does_not_hide_one_that_hangs(coordinator, hanging):
    other = {"simulator": "learner", "learner": "simulator"}[hanging]
    coordinator.add_role(hanging, HANGING)
    coordinator.start(BEATING.format(waiting=False), name=other, stall=3, grace=0.4)
    assert coordinator.wait() == 1
    failure = coordinator.failure()
    assert failure.failure_class is FailureClass.STALLED
    assert failure.message.startswith(f"role {hanging}: no heartbeat for 3 s")


def test_roles_that_only_wait_for_each_other_are_stalled(coordinator):
    coordinator.add_role("simulator", BEATING.format(waiting=True))
    coordinator.start(BEATING.format(waiting=True), name="learner", stall=3)
    assert coordinator.wait() == 1
    failure = coordinator.failure()
    assert failure.failure_class is FailureClass.STALLED
    assert failure.message == "learner and simulator have only waited for each other for 3 s (watchdog.stall)"


def test_the_heartbeat_of_an_earlier_start_of_the_attempt_counts_for_nothing(coordinator):
    coordinator.run_dir.write_heartbeat(1, "trainer", Heartbeat(Phase.TRAINING, alive=1.0, worked=1.0))
    coordinator.start("time.sleep(600)", start=0.3, grace=0.3)
    assert coordinator.wait() == 1
    assert "watchdog.start" in coordinator.failure().message


def test_what_the_reporting_role_says_is_what_people_see(coordinator):
    """The simulator's phase and counts are its own affair."""
    coordinator.add_role("a_simulator", "run_role(lambda context: context.beat(Phase.EVALUATING, frames=3))")
    coordinator.start("run_role(lambda context: context.beat(Phase.TRAINING, optim_step=5))", name="learner")
    assert coordinator.wait() == 0
    status = coordinator.run_dir.read_status()
    assert (status.phase, status.optim_step, status.frames) == (Phase.DONE, 5, 0)
    assert coordinator.run_dir.read_heartbeat(1, "a_simulator").frames == 3


LOSING = """
from trainer.errors import PeerLost
def main(context):
    ready(context)
    {until_asked}
    raise PeerLost("the learner is gone")
run_role(main)
"""


def test_a_role_that_lost_another_one_without_a_reason_is_a_crash(coordinator):
    coordinator.add_role("simulator", LOSING.format(until_asked=""))
    coordinator.start("run_role(ready)", name="learner")
    assert coordinator.wait() == 1
    failure = coordinator.failure()
    assert failure.failure_class is FailureClass.CRASH
    assert failure.message == "role simulator: the learner is gone"


def test_a_role_that_loses_another_one_while_both_are_to_stop_has_stopped(coordinator):
    coordinator.add_role("simulator", LOSING.format(until_asked="work(context)"))
    coordinator.start(STOPPABLE, name="learner")
    coordinator.ready("simulator")
    coordinator.ready("learner")
    coordinator.signal(signal.SIGTERM)
    assert coordinator.wait() == 75
    assert coordinator.failure().failure_class is FailureClass.PREEMPTED


MEETING = """
from trainer.exchange.channel import Channel
def main(context):
    def wait():
        if context.should_stop:
            raise Stopped
    connection = context.rendezvous.{verb}(wait)
    (context.run_dir.root / "folder").write_text(context.rendezvous.folder)
    ready(context)
    Channel(connection, "other").wait(600)
run_role(main)
"""


def test_roles_meet_through_their_config_and_leave_no_key_and_no_folder_behind(coordinator):
    coordinator.add_role("a_simulator", MEETING.format(verb="connect"))
    coordinator.start(MEETING.format(verb="listen"), name="learner")
    coordinator.ready("a_simulator")
    os.kill(coordinator.ready("learner"), signal.SIGKILL)
    coordinator.wait()
    assert not Path((coordinator.run_dir.root / "folder").read_text()).exists()
    files = sorted(coordinator.run_dir.attempt(1).glob("role-*.json"))
    assert [file.stat().st_mode & 0o777 for file in files] == [0o600, 0o600]
    key = json.loads(files[0].read_text())["rendezvous"]["key"]
    assert len(key) == 64
    assert key not in coordinator.stderr


def test_a_role_that_dies_before_it_connects_does_not_hang_the_other(coordinator):
    coordinator.add_role("a_simulator", "os.kill(os.getpid(), signal.SIGKILL)")
    coordinator.start(MEETING.format(verb="listen"), name="learner")
    assert coordinator.wait() == 1
    assert "role a_simulator was ended by signal 9" in coordinator.failure().message


@pytest.mark.parametrize(
    ("ends", "stop", "failure_class", "words"),
    [
        ([LOST, KILLED], None, FailureClass.CRASH, "simulator was ended by signal 9"),
        ([LOST, NAN], None, FailureClass.NAN, "loss is nan"),
        ([LOST, SPEC], None, FailureClass.SPEC, "no task"),
        ([STOPPED, KILLED], None, FailureClass.CRASH, "simulator was ended by signal 9"),
        ([LOST, DONE], None, FailureClass.CRASH, "role learner: the simulator is gone"),
        ([LOST, OTHER_STOPPED], None, FailureClass.PREEMPTED, "asked to stop"),
        ([STOPPED, OTHER_STOPPED], SIGTERM, FailureClass.PREEMPTED, "signal 15"),
    ],
)
def test_a_lost_connection_never_outranks_what_became_of_the_other_role(ends, stop, failure_class, words):
    verdict = judge(ends, stop)
    assert verdict.failure_class is failure_class
    assert verdict.exit_code == {FailureClass.SPEC: 2, FailureClass.PREEMPTED: 75}.get(failure_class, 1)
    assert words in verdict.message


def test_a_command_that_does_not_exist_is_a_crash(tmp_path):
    code = (
        "import sys; from pathlib import Path; from trainer.coordinator import *;"
        "commands, run_dir = {'trainer': ['/no/such/command']}, RunDir(Path(sys.argv[1]));"
        "sys.exit(launch_roles(commands, {}, run_dir, 1, Limits(1, 1, 1, 1)))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=ROOT, check=False)
    assert done.returncode == 1
    assert "/no/such/command" in RunDir(tmp_path).read_failure().message


FILLING = """
def main(context):
    ready(context)
    with (context.run_dir.root / "filler").open("wb", buffering=0) as file:
        for size in (65536, 4096, 1):
            try:
                while True:
                    file.write(b"x" * size)
            except OSError as full:
                pass
    {then}
run_role(main)
"""


@pytest.mark.parametrize(
    "then",
    [
        "(context.run_dir.root / 'more').write_text('more')",
        "time.sleep(1.1); context.beat(Phase.TRAINING)",
    ],
)
def test_a_full_disk_is_reported_all_the_same(tmp_path, small_disk, then):
    coordinator = Coordinator(tmp_path, small_disk / "run")
    coordinator.start(FILLING.format(then=then))
    assert coordinator.wait() == 1
    failure = coordinator.failure()
    assert failure.failure_class is FailureClass.CRASH
    assert failure.message.startswith("disk full: ")
    assert str(small_disk) in failure.message


def test_a_success_is_reported_on_a_full_disk_too(tmp_path, small_disk):
    coordinator = Coordinator(tmp_path, small_disk / "run")
    coordinator.start(FILLING.format(then="pass"))
    assert coordinator.wait() == 0
    assert coordinator.run_dir.success.exists()


def test_a_kill_while_the_kernel_reports_one_for_memory_is_out_of_memory():
    end = RoleEnd("trainer", -signal.SIGKILL, None, memory_kill=True)
    assert judge([end], None).failure_class is FailureClass.OUT_OF_MEMORY


def test_a_kill_of_our_own_is_not_out_of_memory():
    end = RoleEnd("trainer", -signal.SIGKILL, None, ended_by_us=True, memory_kill=True)
    stop = Stop(FailureClass.PREEMPTED, "asked to stop by signal 15 (SIGTERM)")
    assert judge([end], stop).failure_class is FailureClass.PREEMPTED


def test_work_that_got_done_despite_a_stop_is_a_success():
    end = RoleEnd("trainer", 0, Outcome(OutcomeKind.DONE))
    assert judge([end], Stop(FailureClass.TIMEOUT, "the time limit is reached")).failure_class is None


@pytest.mark.parametrize(
    ("own", "file"),
    [
        ("0::/slurm/job_7\n", "slurm/job_7/memory.events"),
        ("0::/\n", "memory.events"),
        ("9:cpu:/x\n4:memory:/docker/ab\n0::/\n", "memory/docker/ab/memory.oom_control"),
        ("4:cpu,memory:/docker/ab\n", "memory/memory.oom_control"),
    ],
)
def test_kills_for_memory_are_read_from_either_version_of_cgroups(tmp_path, own, file):
    (tmp_path / "own").write_text(own)
    counter = tmp_path / "cgroup" / file
    counter.parent.mkdir(parents=True)
    counter.write_text("low 0\noom 5\noom_kill 3\n")
    assert memory_kills(tmp_path / "cgroup", tmp_path / "own") == 3


def test_where_cgroups_say_nothing_there_were_no_kills(tmp_path):
    assert memory_kills(tmp_path, tmp_path / "nothing") == 0


def test_the_roles_of_a_pipeline_have_a_bare_argv():
    assert role_commands("sync") == {"trainer": [sys.executable, "-m", "trainer.pipelines.sync"]}
    with pytest.raises(ConfigError, match=r"pipeline\.name: 'synch' is not one of sync"):
        role_commands("synch")


def trainer(*arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "trainer", *arguments],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_wrong_override_is_one_line_and_a_failure_of_class_spec(tmp_path):
    done = trainer("env.nmae=Ant", folder=tmp_path, LONGSHORE_RUN_DIR=str(tmp_path / "run"))
    assert done.returncode == 2
    assert done.stderr == "trainer: env.nmae: unknown key; did you mean env.name?\n"
    assert RunDir(tmp_path / "run").read_failure().failure_class is FailureClass.SPEC


def test_a_wrong_override_writes_nothing_where_no_run_directory_is_named(tmp_path):
    assert trainer("seed=x", folder=tmp_path).returncode == 2
    assert not list(tmp_path.iterdir())


def test_a_deadline_that_is_no_number_is_an_error(tmp_path):
    done = trainer(folder=tmp_path, LONGSHORE_DEADLINE="tomorrow")
    assert (done.returncode, done.stderr) == (2, "trainer: LONGSHORE_DEADLINE: 'tomorrow' is no number\n")


def test_help_shows_the_defaults(tmp_path):
    done = trainer("--help", folder=tmp_path)
    assert done.returncode == 0
    assert "total_optim_steps" in done.stdout


def test_the_coordinator_imports_neither_torch_nor_numpy():
    """Importing torch before Isaac's AppLauncher breaks it, and costs seconds and a gigabyte of memory."""
    code = (
        "import sys, trainer.coordinator as c; from trainer.config import compose; compose(['seed=1']);"
        "print(sorted(name for name in ('torch', 'numpy', 'tensordict') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_directory_given_to_the_role_is_the_one_of_the_environment(coordinator: Any):
    coordinator.start("""
        def main(context):
            (context.run_dir.root / "seen").write_text(f"{context.run_dir.root} {context.attempt} {context.config}")
            assert sys.argv == [sys.argv[0]]
        run_role(main)
    """)
    assert coordinator.wait() == 0
    assert (coordinator.run_dir.root / "seen").read_text() == f"{coordinator.run_dir.root} 1 {{'seed': 0}}"
