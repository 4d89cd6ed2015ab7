"""The coordinator is asked to stop: by signals, by a file, by the time limit."""

from __future__ import annotations

import os
import signal
import time

import pytest

from tests.trainer.coordinated import STOPPABLE
from tests.waiting import PATIENCE, gone
from trainer.coordinator import Limits, Requests
from trainer.run_dir import FailureClass


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
