"""Following runs: their log, their states, the live view, and what Ctrl-C asks."""

from __future__ import annotations

import io
import subprocess
import time

import pexpect
import pytest

from orchestrator.follow import LogTail, Screen, cancel_on_interrupt
from orchestrator.tables import age, number
from tests.orchestrator.command_line import Project
from trainer.run_dir import RunDir

CTRL_C = "\x03"
QUESTION = r"Detach \(the run goes on\) or cancel it\? \[D/c\]"


@pytest.fixture
def project(tmp_path):
    return Project.make(tmp_path)


def terminal(project, *arguments, **variables):
    """The command on a terminal of 120 columns."""
    [program, *words] = project.command(*arguments)
    environment = project.variables() | variables
    return pexpect.spawn(
        program, words, cwd=str(project.folder), env=environment, encoding="utf-8", timeout=60, dimensions=(40, 120)
    )


def ended(child):
    child.expect(pexpect.EOF)
    child.close()
    return child.exitstatus


def log_file(tmp_path, attempt, text):
    log = RunDir(tmp_path).log(attempt)
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a", encoding="utf-8") as file:
        file.write(text)


# ---- the log


def test_a_line_is_shown_once_and_whole(tmp_path):
    tail = LogTail(tmp_path)
    assert list(tail.read()) == []
    log_file(tmp_path, 1, "one\ntw")
    assert list(tail.read()) == ["one\n"]
    log_file(tmp_path, 1, "o\n")
    assert list(tail.read()) == ["two\n"]
    assert list(tail.read()) == []


def test_the_last_line_is_shown_even_where_a_crash_cut_it_short(tmp_path):
    tail = LogTail(tmp_path)
    log_file(tmp_path, 1, "one\nTrace")
    assert list(tail.read()) == ["one\n"]
    assert list(tail.read(final=True)) == ["Trace\n"]


def test_attempts_follow_each_other_and_one_can_be_chosen(tmp_path):
    log_file(tmp_path, 1, "first\n")
    log_file(tmp_path, 2, "second\n")
    log_file(tmp_path, 10, "tenth\n")
    assert list(LogTail(tmp_path).read()) == ["first\n", "second\n", "tenth\n"]
    assert list(LogTail(tmp_path, attempt=2).read()) == ["second\n"]


def test_bytes_that_are_no_text_do_not_stop_the_log(tmp_path):
    log_file(tmp_path, 1, "")
    RunDir(tmp_path).log(1).write_bytes(b"\xff\xfe\nnext\n")
    assert list(LogTail(tmp_path).read()) == ["\ufffd\ufffd\n", "next\n"]


def test_with_several_runs_each_line_says_whose_it_is():
    out = io.StringIO()
    with Screen(2, out, io.StringIO()) as screen:
        screen.log("tiny-000", "step 1\n")
    assert out.getvalue() == "tiny-000 | step 1\n"


def test_numbers_and_times_are_as_short_as_they_can_be():
    assert [number(value) for value in (None, 0.0, 0.0123, 6.14, 46.25, 812.4, 38_400)] == [
        *("-", "0.0", "0.012", "6.1", "46.2", "812", "38,400"),
    ]
    assert [age(seconds) for seconds in (-1, 12.4, 185, 7_800, 356_400)] == ["0s", "12s", "3m 05s", "2h 10m", "4d 3h"]


# ---- following to the end


def test_without_a_terminal_the_log_and_the_summary_are_plain_lines_on_stdout(project):
    done = project.run("submit", project.job(), "--follow")
    assert "\x1b" not in done.stdout + done.stderr
    lines = done.stdout.splitlines()
    assert lines[0].startswith("tiny-")
    assert [line for line in lines if line.startswith("step")] == ["step 1", "step 2", "step 3"]
    table = {line[:24].strip(): line[24:].strip() for line in lines[-7:]}
    assert table == {
        "return, random policy": "10.9 of 50.0",
        "return, trained policy": "46.2 of 50.0",
        "frames": "38,400",
        "frames/s": "812",
        "optimiser steps": "1,500",
        "optimiser steps/s": "6.1",
        "wall time": "4m 11s",
    }
    assert f"{lines[0]}: succeeded" in done.stderr


def test_a_run_that_is_done_is_not_shown_again_only_its_summary(project):
    job = project.job()
    project.run("submit", job, "--follow")
    done = project.run("submit", job, "--follow")
    assert "step 1" not in done.stdout
    assert "38,400" in done.stdout


def test_following_a_sweep_shows_all_logs_and_a_line_a_run_at_the_end(project):
    done = project.run("submit", project.job(more="sweep:\n  seed: [0, 1]\n"), "--follow")
    lines = done.stdout.splitlines()
    members = lines[:2]
    for member in members:
        assert f"{member} | step 3" in lines
    assert [line.split()[0] for line in lines[-2:]] == members


def test_a_terminal_shows_a_live_view_below_the_log(project):
    child = terminal(project, "submit", project.job(), "--follow")
    child.expect("step 1")
    child.expect("step 3")
    child.expect("return, trained policy")
    assert ended(child) == 0


def test_no_color_is_respected_on_a_terminal(project):
    project.run("submit", project.job(), "--follow")
    coloured, plain = terminal(project, "runs"), terminal(project, "runs", NO_COLOR="1")
    for child in (coloured, plain):
        child.expect(pexpect.EOF)
    assert "\x1b[32m" in coloured.before
    assert "\x1b[32m" not in plain.before


def test_logs_f_goes_on_until_the_run_has_ended(project):
    [run_id] = project.run("submit", project.job("hang")).stdout.splitlines()
    reader = subprocess.Popen(
        project.command("logs", "-f", run_id),
        cwd=project.folder,
        env=project.variables(),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    for line in reader.stdout:
        if line == "step 3\n":
            break
    project.run("cancel", run_id)
    assert "checkpoint saved\n" in reader.stdout.read()
    assert reader.wait(timeout=20) == 0


# ---- Ctrl-C


def test_ctrl_c_asks_and_return_detaches(project):
    child = terminal(project, "submit", project.job("hang"), "--follow")
    child.expect("step 2")
    child.send(CTRL_C)
    child.expect(QUESTION)
    child.sendline("")
    child.expect("detached")
    assert ended(child) == 130
    assert_goes_on(project)


def test_a_second_ctrl_c_detaches(project):
    child = terminal(project, "submit", project.job("hang"), "--follow")
    child.expect("step 2")
    child.send(CTRL_C)
    child.expect(QUESTION)
    child.send(CTRL_C)
    child.expect("detached")
    assert ended(child) == 130
    assert_goes_on(project)


def test_ctrl_c_and_c_cancels_the_run(project):
    child = terminal(project, "submit", project.job("hang"), "--follow")
    child.expect("step 2")
    child.send(CTRL_C)
    child.expect(QUESTION)
    child.sendline("c")
    child.expect("cancelled")
    assert ended(child) == 130
    assert "cancelled" in project.run("status", "last").stdout


def test_ctrl_c_in_logs_asks_nothing(project):
    project.run("submit", project.job("hang"))
    child = terminal(project, "logs", "-f", "last")
    child.expect("step 2")
    child.send(CTRL_C)
    assert ended(child) == 130
    assert "Detach" not in child.before
    assert_goes_on(project)


def test_an_interrupt_without_a_terminal_detaches():
    err = io.StringIO()
    assert not cancel_on_interrupt(io.StringIO("c\n"), err)
    assert err.getvalue() == ""


def assert_goes_on(project):
    written = project.run("logs", "last").stdout
    time.sleep(0.5)
    assert len(project.run("logs", "last").stdout) > len(written)
    assert "running" in project.run("status", "last").stdout
    project.run("cancel", "last")


# ---- questions before much is started or ended


def test_a_large_sweep_is_submitted_from_a_terminal_only_after_a_yes(project):
    seeds = ", ".join(map(str, range(12)))
    job = project.job(more=f"sweep:\n  seed: [{seeds}]\n")
    child = terminal(project, "submit", job)
    child.expect(r"Submit 12 runs to local\? \[y/N\]")
    child.sendline("")
    child.expect("nothing submitted")
    assert ended(child) == 1
    assert not project.home.exists()
    child = terminal(project, "submit", job, "--yes")
    assert ended(child) == 0
    child = terminal(project, "cancel", "last")
    child.expect(r"Cancel 1\d runs\? \[y/N\]")
    child.sendline("y")
    assert ended(child) == 0
