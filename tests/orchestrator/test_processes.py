"""Who is alive, and who belongs to a run: decided on tables, and on processes that the tests start."""

import os
import signal
import subprocess
from dataclasses import replace

import pytest

from orchestrator.processes import Entry, Process, ancestors, end, members, parse_stat, read_entry, read_table

MARKS = {"LONGSHORE_RUN_ID": "demo", "LONGSHORE_ATTEMPT": "1"}
LEADER = Process(pid=900_000, start=50, boot="boot", host="host")


def entry(pid: int, *, session: int = 900_000, start: int = 60, marks: dict[str, str] | None = None) -> Entry:
    return Entry(pid, parent=1, session=session, state="S", start=start, environment=MARKS if marks is None else marks)


def pids(entries: list[Entry]) -> set[int]:
    return {found.pid for found in entries}


def test_a_stat_line_is_read_whatever_the_command_is_called():
    line = "4711 (a b) S (\n) R 17 4700 4699 0 -1 4194560 " + " ".join(["0"] * 12) + " 12345 1 2 3"
    assert parse_stat(line) == Entry(4711, parent=17, session=4699, state="R", start=12345)


def test_this_process_is_alive_and_its_text_names_it_again():
    me = Process.current()
    assert me.is_alive
    assert Process.parse(str(me) + "\n") == me


def test_a_reused_pid_another_boot_and_another_machine_are_not_the_same_process():
    me = Process.current()
    assert not replace(me, start=me.start - 1).is_alive
    assert not replace(me, boot="another").is_alive
    assert not replace(me, host="another").is_alive


def test_a_zombie_is_dead():
    child = subprocess.Popen(["true"])
    me = Process.current()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has collected it
    found = read_entry(child.pid)
    assert found is not None
    assert found.state == "Z"
    assert not replace(me, pid=child.pid, start=found.start).is_alive
    child.wait()


def test_a_process_belongs_to_the_run_whose_marks_it_carries_wherever_it_went():
    table = [entry(1001, session=77), entry(1002, session=77, marks={**MARKS, "LONGSHORE_ATTEMPT": "2"})]
    assert pids(members(table, MARKS, LEADER, leader_alive=False)) == {1001}


def test_what_shares_the_session_belongs_to_the_run_while_that_is_certainly_its_own():
    bare = entry(1002, marks={})
    assert pids(members([bare], MARKS, LEADER, leader_alive=True)) == {1002}
    assert pids(members([bare, entry(1001)], MARKS, LEADER, leader_alive=False)) == {1001, 1002}


def test_a_session_whose_number_came_back_is_somebody_elses():
    stranger, own = entry(1002, marks={}), entry(1001, session=77)
    assert pids(members([stranger, own], MARKS, LEADER, leader_alive=False)) == {1001}


def test_whoever_asks_is_never_a_member_nor_are_its_ancestors():
    own, parent = entry(os.getpid()), entry(os.getppid())
    own = replace(own, parent=parent.pid)
    assert members([own, parent, entry(1001)], MARKS, LEADER, leader_alive=True) == [entry(1001)]


def test_ancestors_end_at_the_first_process_and_at_a_loop():
    table = [replace(entry(3), parent=2), replace(entry(2), parent=1), replace(entry(1), parent=0)]
    assert ancestors(table, 3) == {3, 2, 1}
    assert ancestors([replace(entry(3), parent=2), replace(entry(2), parent=3)], 3) == {3, 2}


def test_the_table_shows_the_variables_that_a_process_started_with():
    child = subprocess.Popen(
        ["sleep", "30"], env={"LONGSHORE_RUN_ID": "a=b c", "OTHER": "x", "PATH": os.environ["PATH"]}
    )
    try:
        [found] = [found for found in read_table(["LONGSHORE_RUN_ID"]) if found.pid == child.pid]
        assert found.environment == {"LONGSHORE_RUN_ID": "a=b c"}
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(("trap", "number"), [("", signal.SIGTERM), ("trap '' TERM;", signal.SIGKILL)])
def test_processes_are_asked_first_and_killed_when_they_do_not_listen(trap: str, number: signal.Signals):
    child = subprocess.Popen(["bash", "-c", f"{trap} echo ready; while :; do sleep 0.05; done"], stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()
    end(lambda: [] if child.poll() is not None else [e for e in [read_entry(child.pid)] if e], grace=0.3)
    assert child.returncode == -number
    child.stdout.close()
