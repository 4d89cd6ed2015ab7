"""The coordinator with one real process: roles that end well, crash, hang in the end, or fill the disk."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from tests.trainer.coordinated import HANGING, ROOT, Coordinator
from tests.waiting import eventually, gone
from trainer.run_dir import Failure, FailureClass, Phase, RunDir


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
        ("ModuleNotFoundError('No module named mjlab')", FailureClass.SETUP),
        ("SystemExit(0)", FailureClass.CRASH),
    ],
)
def test_the_kind_of_the_exception_is_the_failure_class(coordinator, error, failure_class):
    coordinator.start(f"def main(context):\n    raise {error}\nrun_role(main)")
    assert coordinator.wait() == 1
    assert coordinator.failure().failure_class is failure_class


def test_a_role_killed_by_a_signal_is_a_crash_that_names_the_signal(coordinator):
    coordinator.start(HANGING)
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
    coordinator.start(HANGING)
    role = coordinator.ready()
    coordinator.signal(signal.SIGKILL)
    eventually(lambda: gone(role))


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
    eventually(lambda: gone(helper))


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


def test_a_run_directory_given_to_the_role_is_the_one_of_the_environment(coordinator):
    coordinator.start("""
        def main(context):
            (context.run_dir.root / "seen").write_text(f"{context.run_dir.root} {context.attempt} {context.config}")
            assert sys.argv == [sys.argv[0]]
        run_role(main)
    """)
    assert coordinator.wait() == 0
    assert (coordinator.run_dir.root / "seen").read_text() == f"{coordinator.run_dir.root} 1 {{'seed': 0}}"


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
