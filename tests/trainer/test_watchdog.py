"""When roles count as stalled, by a clock that the test turns."""

from __future__ import annotations

import pytest

from trainer.run_dir import FailureClass, Heartbeat, Phase, RunDir
from trainer.watchdog import Watchdog


class Roles:
    """A simulator and a learner whose heartbeats the test writes."""

    def __init__(self, run_dir: RunDir) -> None:
        self._run_dir = run_dir
        self._watchdog = Watchdog(run_dir, 1, ["simulator", "learner"], start=10, stall=3, now=0)
        self._written = 0

    def beat(self, role: str, *, alive: bool = True, worked: bool = True) -> None:
        """A heartbeat with new times; unix times that have nothing to do with the watchdog's clock."""
        self._written += 1
        last = self._run_dir.read_heartbeat(1, role) or Heartbeat(Phase.STARTING)
        times = (self._written if alive else last.alive, self._written if worked else last.worked)
        self._run_dir.write_heartbeat(1, role, Heartbeat(Phase.TRAINING, 7, 0, *times))

    def overdue(self, now: float, *roles: str) -> str | None:
        stop = self._watchdog.overdue(now, roles or ("simulator", "learner"))
        assert stop is None or stop.failure_class is FailureClass.STALLED
        return stop.message if stop else None


@pytest.fixture
def roles(run_dir: RunDir) -> Roles:
    return Roles(run_dir)


def test_the_start_limit_counts_until_the_first_work_whatever_was_said_before(roles: Roles):
    for now in range(10):
        roles.beat("simulator", alive=False, worked=False)
        roles.beat("learner", alive=False, worked=False)
        assert roles.overdue(now) is None
    assert roles.overdue(10.1) == "role simulator: no heartbeat within 10 s of the start (watchdog.start)"


def test_after_the_first_work_the_stall_limit_counts(roles: Roles):
    roles.beat("simulator")
    roles.beat("learner")
    assert roles.overdue(9) is None
    roles.beat("simulator")
    assert roles.overdue(11.9) is None
    roles.beat("simulator")
    assert roles.overdue(12.1) == "role learner: no heartbeat for 3 s after optimiser step 7 (watchdog.stall)"


def test_a_role_that_waits_is_fine_as_long_as_the_other_works(roles: Roles):
    for now in range(100):
        roles.beat("simulator")
        roles.beat("learner", worked=False)
        assert roles.overdue(now) is None


def test_a_role_may_wait_for_the_others_long_start_and_then_take_as_long_itself(roles: Roles):
    for now in range(10):
        roles.beat("learner", worked=False)
        assert roles.overdue(now) is None
    roles.beat("simulator")
    for now in range(10, 19):
        roles.beat("simulator")
        assert roles.overdue(now) is None
    assert "role learner: no heartbeat within 10 s" in roles.overdue(19.1)


def test_roles_that_wait_for_each_other_are_stalled(roles: Roles):
    roles.beat("simulator")
    for now in range(4):
        assert roles.overdue(now) is None
        roles.beat("simulator", worked=False)
        roles.beat("learner", worked=False)
    assert roles.overdue(3.1) == "simulator and learner have only waited for each other for 3 s (watchdog.stall)"


def test_a_role_that_has_given_its_last_word_is_not_waited_for(roles: Roles):
    roles.beat("simulator")
    roles.beat("learner")
    assert roles.overdue(0) is None
    roles.beat("learner")
    assert roles.overdue(3.1, "learner") is None
    assert roles.overdue(3.1, "simulator") is not None
    assert roles.overdue(1000.0) is not None
