"""Tables of runs: what stands in them, what a narrow terminal leaves out, and how a return has gone."""

from __future__ import annotations

import io
import re
import sys
from xml.etree import ElementTree

import pexpect
import pytest

from orchestrator.follow import live_view
from orchestrator.states import RunState
from orchestrator.tables import Table, drawn, fitted, heartbeat, runs_table, show, status_table
from orchestrator.trend import BLOCKS, ENDED, eta, recent_returns, sparkline, trends
from tests.orchestrator.command_line import REPOSITORY, Project
from tests.orchestrator.report_runs import START, make_runs, write_record
from trainer.run_dir import Phase, RunDir, Status

NOW = START + 3600


@pytest.fixture
def records(tmp_path):
    return make_runs(tmp_path / "runs").list()


def rows_of(records):
    table = runs_table(records, {record.run_id: heartbeat(record) for record in records}, NOW, trends(records))
    return [dict(zip(table.header, row, strict=True)) for row in table.rows]


def text_of(renderable, width):
    from rich.console import Console

    console = Console(width=width, color_system=None)
    with console.capture() as capture:
        console.print(renderable)
    return capture.get()


def test_a_running_run_has_rates_and_the_time_that_is_left(records):
    running = rows_of(records)[-1]
    assert (running["STATE"], running["STEPS"], running["ATTEMPT"]) == ("running", "3,000/6,000", "1")
    assert (running["RETURN"], running["FRAMES/S"], running["STEPS/S"]) == ("42.0", "164", "8.0")
    assert running["ETA"] == "6m 15s"  # 3000 steps at 8 a second
    assert set(running["TREND"]) <= set(BLOCKS)
    assert running["TREND"][0] == BLOCKS[0]


def test_a_run_that_has_ended_has_no_rates_and_no_time_left(records):
    failed = rows_of(records)[-2]
    assert (failed["STATE"], failed["WHY"]) == ("failed", "nan")
    assert (failed["FRAMES/S"], failed["STEPS/S"], failed["ETA"]) == ("", "", "")


def test_the_time_left_needs_a_rate():
    assert eta(Status(Phase.TRAINING, 100, 300, steps_per_s=4.0)) == 50
    assert eta(Status(Phase.PREFILL, 0, 300)) is None


def test_status_says_how_the_return_has_gone(records):
    facts = dict(status_table(records[-1], heartbeat(records[-1]), NOW, "▁▂▃").rows)
    assert facts["episode return"] == "42.0 ▁▂▃"
    assert facts["time left"] == "6m 15s"
    assert facts["attempt"] == "1"


# ---- narrow terminals

WIDE = Table(("RUN", "WHY", "BACKEND", "AGE"), (("a" * 10, "", "local", "1s"),), frozenset({3}), ("BACKEND", "AGE"))


def test_a_terminal_shows_no_column_in_which_nothing_stands():
    assert fitted(WIDE, 80).header == ("RUN", "BACKEND", "AGE")


@pytest.mark.parametrize(
    ("width", "header"), [(24, ("RUN", "BACKEND", "AGE")), (23, ("RUN", "AGE")), (14, ("RUN",)), (3, ("RUN",))]
)
def test_a_narrow_terminal_leaves_out_what_it_can_do_without(width, header):
    table = fitted(WIDE, width)
    assert table.header == header
    assert [len(row) for row in table.rows] == [len(header)]
    assert {table.header[index] for index in table.right} == {"AGE"} & set(header)


def test_pairs_of_label_and_value_stay_as_they_are():
    pairs = Table((), (("state", "running"),))
    assert fitted(pairs, 5) == pairs


# ---- the return


def test_a_sparkline_rises_with_its_values_and_averages_what_does_not_fit():
    assert sparkline(range(8)) == BLOCKS
    assert sparkline(range(64), width=8) == BLOCKS
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([1.0]) == ""


def test_returns_are_read_from_the_end_of_a_long_file(tmp_path):
    for line in range(1, 3001):
        write_record(tmp_path, line, **{"episode/return": float(line)})
    write_record(tmp_path, 3001, **{"loss/total": 1.0})
    with RunDir(tmp_path).metrics.open("a") as file:
        file.write('{"step": 1, "episode/ret')
    read = recent_returns(RunDir(tmp_path))
    assert read[-1] == 3000
    assert 100 < len(read) < 1000
    assert read == [float(line) for line in range(3001 - len(read), 3001)]
    assert recent_returns(RunDir(tmp_path / "nothing")) == []


def test_only_the_newest_of_many_ended_runs_are_looked_at(tmp_path):
    records = make_runs(tmp_path / "runs", seeds=20, lines=2).list()
    looked_at = trends(records)
    ended = [record.run_id for record in records[:-1]]
    assert [run_id for run_id in ended if run_id in looked_at] == ended[-ENDED:]
    assert records[-1].run_id in looked_at


# ---- the live view


def test_the_live_view_shows_what_goes_on_and_counts_the_rest(records):
    text = text_of(live_view(records, NOW, 120, 10), 120)
    [header, row, others] = [line for line in text.splitlines() if line.strip()]
    assert header.split()[:2] == ["RUN", "STATE"]
    assert row.split()[:2] == [records[-1].run_id, "running"]
    assert others == "and 4 succeeded, 1 failed"


def test_the_live_view_never_grows_beyond_the_terminal(tmp_path):
    records = make_runs(tmp_path / "runs", seeds=4).list()
    for width in (40, 80, 120, 200):
        lines = text_of(live_view(records * 3, NOW, width, 2), width).splitlines()
        assert len(lines) <= 4
        assert all(len(line) <= width for line in lines)


def terminal(project, *arguments):
    [program, *words] = project.command(*arguments)
    variables = project.variables()
    return pexpect.spawn(program, words, cwd=str(project.folder), env=variables, encoding="utf-8", dimensions=(40, 140))


def test_following_on_a_terminal_shows_state_attempt_rates_and_time_left(tmp_path):
    project = Project.make(tmp_path)
    child = terminal(project, "submit", project.job("hang"), "--follow")
    try:
        child.expect("ATTEMPT.*FRAMES/S.*STEPS/S")
        child.expect("running")
        child.expect("800 +6.0")
    finally:
        child.close(force=True)
        project.run("cancel", "last")


def test_a_trend_is_shown_on_a_terminal_and_plain_text_elsewhere(tmp_path):
    make_runs(tmp_path / "runs", last=RunState.SUCCEEDED).close()
    project = Project(tmp_path)
    child = terminal(project, "status", "reach-260921-100000-abcd-000")
    child.expect("episode return +42.0 [▁▂▃▄▅▆▇█]{16}")
    child.expect(pexpect.EOF)
    child.close()
    piped = project.run("status", "reach-260921-100000-abcd-000").stdout
    assert "\x1b" not in piped
    assert not set(piped) & set(BLOCKS)
    assert "42.0" in piped


class Terminal(io.StringIO):
    def isatty(self):
        return True


def shown(table, monkeypatch, width=200, **variables):
    """What a terminal of so many columns gets."""
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"COLUMNS": str(width), "TERM": "xterm", **variables}.items():
        monkeypatch.setenv(name, value)
    terminal = Terminal()
    show(table, terminal)
    return terminal.getvalue()


def test_what_fits_a_terminal_looks_as_rich_draws_it(records, monkeypatch):
    table = runs_table(records, {record.run_id: heartbeat(record) for record in records}, NOW, trends(records))
    text = shown(table, monkeypatch)
    assert "\x1b[31mfailed\x1b[0m" in text
    assert text.startswith("\x1b[1mRUN\x1b[0m")
    plain = shown(table, monkeypatch, NO_COLOR="1")
    assert plain == re.sub(r"\x1b\[\d+m", "", text)
    drawn_by_rich = text_of(drawn(fitted(table, 200)), 200)
    assert plain.splitlines() == [line.rstrip() for line in drawn_by_rich.splitlines()]


def test_what_does_not_fit_goes_on_in_the_next_line(monkeypatch):
    table = Table((), (("message", "too long " * 20), ("other", "x")))
    lines = shown(table, monkeypatch, width=40).splitlines()
    assert len(lines) > 4
    assert max(len(re.sub(r"\x1b\[\d+m", "", line)) for line in lines) <= 40


def test_a_thousand_runs_are_shown_on_a_terminal_without_rich(records, monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    table = runs_table(records * 500, {}, NOW, {})
    assert len(shown(table, monkeypatch, width=132).splitlines()) == 1 + len(records) * 500


def test_the_pictures_of_the_docs_show_the_terminal_as_it_is(records, pytestconfig):
    """Drawn here, and `--pictures` puts it in its place: `make pictures`."""
    text = picture(records)
    kept = REPOSITORY / "docs" / "runs.svg"
    if pytestconfig.getoption("--pictures"):
        kept.write_text(text, encoding="utf-8")
    assert kept.read_text(encoding="utf-8") == text, "what is shown has changed: make pictures"
    words = "".join(ElementTree.fromstring(text).itertext()).replace("\xa0", " ")
    assert "$ python orchestrate.py runs" in words
    assert "6m 15s" in words
    assert set(words) & set(BLOCKS)
    assert "@font-face" not in text, "a picture fetches nothing from elsewhere"


def picture(records):
    """SVG of what `runs` shows, and of the live view under the log of a run that goes on."""
    from rich.console import Console

    table = runs_table(records, {record.run_id: heartbeat(record) for record in records}, NOW, trends(records))
    console = Console(record=True, width=132, file=io.StringIO(), highlight=False, force_terminal=True)
    console.print("$ python orchestrate.py runs", style="bold")
    console.print(drawn(fitted(table, console.width)))
    console.print("\n$ python orchestrate.py logs last -f", style="bold")
    console.print("".join(RunDir(records[-1].run_dir).log(1).read_text().splitlines(keepends=True)[-4:]), end="")
    console.print(live_view(records[-1:], NOW, console.width, 4))
    return re.sub(
        r"@font-face \{.*?\}\s*", "", console.export_svg(title="longshore", unique_id="runs"), flags=re.DOTALL
    )
