"""The coordinator with roles that hang, and with several of them: one crashes, hangs, or loses another one."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.trainer.coordinated import HANGING, STOPPABLE
from trainer.run_dir import FailureClass, Heartbeat, Phase


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


def test_the_heartbeat_of_an_earlier_start_of_the_attempt_counts_for_nothing(coordinator):
    coordinator.run_dir.write_heartbeat(1, "trainer", Heartbeat(Phase.TRAINING, alive=1.0, worked=1.0))
    coordinator.start("time.sleep(600)", start=0.3, grace=0.3)
    assert coordinator.wait() == 1
    assert "watchdog.start" in coordinator.failure().message


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


@pytest.mark.parametrize("learner", ["run_role(ready)", "time.sleep(600)", STOPPABLE])
def test_a_role_that_lost_another_one_without_a_reason_is_a_crash(coordinator, learner):
    """Whether that one is done, dies of being asked to stop, or stops in order because it was asked to."""
    coordinator.add_role("simulator", LOSING.format(until_asked=""))
    coordinator.start(learner, name="learner")
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
