"""What the ends of all roles make of an attempt."""

from __future__ import annotations

import signal

import pytest

from trainer.outcome import Outcome, OutcomeKind, RoleEnd, Stop, judge, memory_kills
from trainer.run_dir import FailureClass

LOST = RoleEnd("learner", 1, Outcome(OutcomeKind.PEER_LOST, message="the simulator is gone"))
STOPPED = RoleEnd("learner", 75, Outcome(OutcomeKind.STOPPED))
OTHER_STOPPED = RoleEnd("simulator", 75, Outcome(OutcomeKind.STOPPED))
DONE = RoleEnd("simulator", 0, Outcome(OutcomeKind.DONE))
KILLED = RoleEnd("simulator", -signal.SIGKILL, None)
STOPPED_BY_US = RoleEnd("simulator", 75, Outcome(OutcomeKind.STOPPED), ended_by_us=True)
DIED_OF_US = RoleEnd("simulator", -signal.SIGTERM, None, ended_by_us=True)
KILLED_BY_US = RoleEnd("simulator", -signal.SIGKILL, None, ended_by_us=True)
NAN = RoleEnd("simulator", 1, Outcome(OutcomeKind.FAILED, FailureClass.NAN, "loss is nan"))
SPEC = RoleEnd("simulator", 2, Outcome(OutcomeKind.FAILED, FailureClass.SPEC, "env.name: no task"))
SIGTERM = Stop(FailureClass.PREEMPTED, "asked to stop by signal 15 (SIGTERM)")


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


@pytest.mark.parametrize("ended", [STOPPED_BY_US, DIED_OF_US, KILLED_BY_US])
@pytest.mark.parametrize(
    ("first", "failure_class", "words"),
    [
        (LOST, FailureClass.CRASH, "role learner: the simulator is gone"),
        (STOPPED, FailureClass.PREEMPTED, "role learner was asked to stop"),
        (RoleEnd("learner", 1, Outcome(OutcomeKind.FAILED, FailureClass.NAN, "loss is nan")), FailureClass.NAN, "nan"),
    ],
)
def test_what_the_coordinator_has_ended_because_of_another_role_is_no_reason(first, failure_class, words, ended):
    verdict = judge([first, ended], None)
    assert (verdict.failure_class, words in verdict.message) == (failure_class, True)


@pytest.mark.parametrize("ended", [STOPPED_BY_US, DIED_OF_US, KILLED_BY_US])
def test_roles_that_are_all_to_stop_do_not_lose_each_other(ended):
    assert judge([LOST, ended], SIGTERM).failure_class is FailureClass.PREEMPTED


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
