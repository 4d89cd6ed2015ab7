"""What a report says of runs: their curves, groups, differences, verdict and time line, as data and as a page."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import pytest

from orchestrator.backends.base import Observation
from orchestrator.report.collect import collect
from orchestrator.report.curves import METRICS, band, points_for, read_curve
from orchestrator.report.data import Curve
from orchestrator.report.page import render, sparkline
from orchestrator.report.timeline import timeline
from orchestrator.report.verdict import compact, spread, verdict
from orchestrator.states import FailureClass, RunState
from tests.orchestrator.command_line import REPOSITORY
from tests.orchestrator.report_runs import SECONDS, START, make_runs

NOW = START + 2000


@pytest.fixture
def store(tmp_path):
    return make_runs(tmp_path / "runs")


@pytest.fixture
def report(store):
    return collect(store, store.list(), "reach", NOW)


def write_lines(path, *records):
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def record(line, **values):
    return {"step": line, "frames": 10 * line, "elapsed": 2.0 * line, **values}


def page_of(report):
    return render(report, lambda run, artefact: f"{run.run_id}/{artefact}")


# ---- curves


def test_a_curve_has_the_places_and_values_of_its_lines(tmp_path):
    lines = [
        record(1, **{"episode/return": 5.0}),
        record(2, **{"episode/return": None}),
        record(3, **{"loss/total": 1.0}),
    ]
    curve = read_curve(write_lines(tmp_path / "metrics.jsonl", *lines), 10)
    assert curve.frames == (10, 20, 30)
    assert curve.seconds == (2, 4, 6)
    assert curve.values["episode/return"] == (5.0, None, None)
    assert curve.values["loss/total"] == (None, None, 1.0)
    assert "eval/return" not in curve.values


def test_a_long_curve_is_thinned_to_means(tmp_path):
    lines = [record(line, **{"episode/return": float(line % 2)}) for line in range(1, 101)]
    curve = read_curve(write_lines(tmp_path / "metrics.jsonl", *lines), 10)
    assert len(curve.frames) == 10
    assert curve.values["episode/return"] == (0.5,) * 10
    assert curve.frames[0] == 55


def test_a_throughput_is_what_was_counted_over_the_time_that_it_took(tmp_path):
    lines = [record(line, **{"throughput/fps": 10.0 * (line % 2)}) for line in range(1, 101)]
    curve = read_curve(write_lines(tmp_path / "metrics.jsonl", *lines), 100)
    known = [value for value in curve.values["throughput/fps"] if value is not None]
    assert known == pytest.approx([5.0] * 20)


@pytest.mark.parametrize("text", ["", "{", "[1]\n", '{"step": 1}\n', "\xff\n"])
def test_a_file_without_a_whole_line_gives_no_curve(tmp_path, text):
    (tmp_path / "metrics.jsonl").write_text(text, encoding="latin-1")
    assert read_curve(tmp_path / "metrics.jsonl", 10) == Curve()
    assert read_curve(tmp_path / "missing.jsonl", 10) == Curve()


def test_a_line_cut_short_by_a_crash_is_left_out(tmp_path):
    path = write_lines(tmp_path / "metrics.jsonl", record(1, **{"loss/total": 3.0}))
    path.write_text(path.read_text() + '{"step": 2, "frames"')
    assert read_curve(path, 10).frames == (10,)


def test_many_runs_share_the_points_of_the_page():
    assert [points_for(runs) for runs in (1, 60, 100, 200, 1000)] == [200, 200, 120, 60, 60]


def flat(value, length):
    ends = tuple(float(frame) for frame in range(length))
    return Curve(ends, ends, {"episode/return": (value,) * length})


def test_a_band_is_median_and_quartiles_over_runs():
    known = band([flat(value, 11) for value in (0.0, 10.0, 20.0, 30.0, 40.0)], "episode/return", "frames")
    assert set(known.low) == {10.0}
    assert set(known.middle) == {20.0}
    assert set(known.high) == {30.0}
    assert (known.x[0], known.x[-1]) == (0.0, 10.0)


def test_a_band_goes_as_far_as_half_of_the_runs():
    known = band([flat(0.0, 11), flat(10.0, 21), flat(20.0, 101)], "episode/return", "frames")
    assert known.x[-1] == pytest.approx(20, abs=100 / 79)
    assert known.middle[-1] == 15.0


def test_a_band_reaches_over_points_where_nothing_was_logged():
    gap = Curve((0.0, 1.0, 2.0), (0.0, 1.0, 2.0), {"episode/return": (0.0, None, 2.0)})
    assert band([gap, gap], "episode/return", "seconds").middle[40] == pytest.approx(1.0, abs=0.05)
    assert band([Curve(), gap], "loss/total", "seconds") is None


# ---- groups and differences


def test_runs_that_differ_only_in_their_seed_are_a_group(report):
    assert [(group.label, group.members) for group in report.groups] == [
        ("agent.optimizer.lr=0.03", (0, 1, 2)),
        ("agent.optimizer.lr=0.08", (3, 4, 5)),
    ]
    assert ("episode/return", "frames") in report.groups[0].bands


def test_differences_say_who_has_which_value(report):
    assert {difference.key: dict(difference.values) for difference in report.differences} == {
        "train.agent.optimizer.lr": {"0.03": (0, 1, 2), "0.08": (3, 4, 5)},
        "train.seed": {"0": (0, 3), "1": (1, 4), "2": (2, 5)},
    }
    assert report.runs[4].differs == {"train.agent.optimizer.lr": "0.08", "train.seed": "1"}


def test_one_run_has_neither_band_nor_differences(store):
    report = collect(store, store.list()[:1], "one", NOW)
    assert report.differences == ()
    assert [group.bands for group in report.groups] == [{}]


def test_runs_whose_job_cannot_be_read_are_not_taken_for_alike(store):
    for run in store.list():
        (run.run_dir / "job.yaml").unlink()
    assert len(collect(store, store.list(), "reach", NOW).groups) == 6


# ---- verdict


def test_the_verdict_counts_how_runs_ended_and_what_they_reached(report):
    made = verdict(report)
    assert made.level == "bad"
    assert made.headline == "4 of 6 runs succeeded, 1 failed (1 nan), 1 not ended yet"
    facts = dict(made.facts)
    assert facts["Better than random"] == "4 of 4"
    assert facts["Random policy"] == "10.0"
    assert facts["Frames"] == "614k"


def test_the_verdict_on_all_is_good_and_one_run_says_its_own_state(store):
    assert verdict(collect(store, store.list()[:4], "four", NOW)).headline == "All 4 runs succeeded"
    assert verdict(collect(store, store.list()[:4], "four", NOW)).level == "good"
    assert verdict(collect(store, store.list()[4:5], "one", NOW)).headline == "Failed (nan): loss/total is nan"
    assert verdict(collect(store, store.list()[5:], "one", NOW)).headline == "Running"
    assert verdict(collect(store, store.list()[5:], "one", NOW)).level == "open"


def test_runs_that_the_sweep_has_stopped_are_neither_failures_nor_still_going(tmp_path):
    store = make_runs(tmp_path / "runs")
    store.observe({store.list()[5].run_id: ("handle 5", Observation(RunState.FAILED, FailureClass.STOPPED, 75, "why"))})
    made = verdict(collect(store, [store.list()[0], store.list()[5]], "two", NOW))
    assert (made.headline, made.level) == ("1 of 2 runs succeeded, 1 stopped by the sweep", "good")


def test_figures_are_as_short_as_they_can_be():
    assert spread([21.94]) == "21.9"
    assert spread([1.0, 2.0, 3.0, 4.0, 5.0]) == "3.0 (2.0–4.0)"
    assert [compact(value) for value in (12, 1234, 5_600_000, 7.8e9)] == ["12", "1.23k", "5.6M", "7.8G"]
    assert sparkline((1.0, None, 3.0)) == "0.0,21.0 96.0,1.0"
    assert sparkline((1.0, None)) == ""


# ---- time line


def test_the_time_line_has_each_state_and_attempt_at_its_time(report):
    first = timeline(report).lines[0]
    assert [bar.kind for bar in first.bars] == ["submitting", "queued", "setting-up", "running"]
    assert [mark.kind for mark in first.marks] == ["attempt", "succeeded"]
    running = first.bars[-1]
    assert running.left == pytest.approx(100 * 15 / 2000, abs=0.001)
    assert running.width == pytest.approx(100 * 60 * SECONDS / 2000, abs=0.001)
    last = timeline(report).lines[-1]
    assert [mark.kind for mark in last.marks] == ["attempt"]
    assert last.bars[-1].left + last.bars[-1].width == pytest.approx(100, abs=0.001)
    assert [left for left, _ in timeline(report).ticks] == [0, 25, 50, 75, 100]


# ---- the page


class Addresses(HTMLParser):
    """Collects what a page refers to, and which elements it has."""

    def __init__(self, text):
        super().__init__()
        self.found, self.scripts = [], 0
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.scripts += tag == "script"
        self.found += [value for name, value in attributes if name in {"src", "href", "action", "data"}]


def test_the_page_refers_to_nothing_but_itself_and_the_runs(report):
    text = page_of(report)
    page = Addresses(text)
    assert page.found
    assert all(address.startswith(("#", "reach-260921-100000-abcd-")) for address in page.found)
    assert "default-src 'none'" in text
    assert "connect-src 'none'" in text


def test_what_runs_say_stays_text(store):
    evil = "</script><script>alert(1)</script><img src=x>"
    run = store.list()[4]
    (run.run_dir / "failure.json").write_text(json.dumps({"class": "crash", "message": evil, "traceback": evil}))
    (run.run_dir / "job.yaml").write_text(f"name: reach\ntrain: {{env.name: '{evil}'}}\n")
    store.note(run.run_id, evil)
    text = page_of(collect(store, store.list(), evil, NOW))
    clean = page_of(collect(store, store.list()[:4], "clean", NOW))
    assert Addresses(text).scripts == Addresses(clean).scripts
    assert "<img" not in text
    assert evil not in text


def test_a_failure_shows_the_end_of_its_traceback_or_else_of_its_log(store):
    run = store.list()[4]
    assert collect(store, [run], "one", NOW).runs[0].excerpt.endswith("NotFinite: loss/total is <nan>")
    (run.run_dir / "failure.json").unlink()
    excerpt = collect(store, [run], "one", NOW).runs[0].excerpt.splitlines()
    assert len(excerpt) == 30
    assert excerpt[-1] == "step 3000"


def test_only_files_that_are_there_are_linked(report):
    assert report.runs[0].artefacts == ("summary.json", "metrics.jsonl", "job.yaml", "attempts/1/log.txt")
    assert report.runs[4].artefacts == ("metrics.jsonl", "job.yaml", "failure.json", "attempts/1/log.txt")


def test_the_newest_films_can_be_played_and_all_are_linked(store):
    run = store.list()[0]
    folder = run.run_dir / "videos"
    folder.mkdir()
    films = [
        f"{name}-{frames:010}{end}.mp4"
        for name, frames in (("training", 900), ("evaluation", 2000))
        for end in ("", "-open-loop")
    ]
    for film in films:
        (folder / film).touch()
    page = page_of(collect(store, [run], "one", NOW))
    played = re.findall(r'<video [^>]*src="([^"]+)"', page)
    assert played == [f"{run.run_id}/videos/{name}" for name in sorted(films) if name.startswith("evaluation")]
    assert all(f'href="{run.run_id}/videos/{name}"' in page for name in films)


@pytest.mark.parametrize("name", ["summary.json", "failure.json", "status.json", "metrics.jsonl", "job.yaml"])
def test_a_damaged_file_costs_only_what_stood_in_it(store, name):
    for run in store.list():
        (run.run_dir / name).write_text("{ damaged")
    text = page_of(collect(store, store.list(), "reach", NOW))
    assert len(re.findall(r"<tr data-run", text)) == 6


def test_runs_that_have_left_nothing_yet_make_a_page(store):
    for run in store.list():
        for path in run.run_dir.iterdir():
            if path.is_file():
                path.unlink()
    text = page_of(collect(store, store.list(), "reach", NOW))
    assert "4 of 6 runs succeeded" in text


def test_the_page_knows_metrics_that_are_logged_and_no_others():
    names = set(re.findall(r"^\| `([\w/]+)`", (REPOSITORY / "docs" / "metrics.md").read_text(), re.MULTILINE))
    assert set(METRICS) <= names
