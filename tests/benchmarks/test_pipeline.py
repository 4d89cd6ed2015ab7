"""Whole runs are started, measured from their own log lines, and stopped."""

from __future__ import annotations

import inspect
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.pipeline import CAPTURED, ENDLESS, SIZES, layouts, main, measure, measured, summarise
from trainer.config import Config, compose
from trainer.pipelines import parts


def line(step: int, frames: int, time: float, rate: float) -> dict[str, Any]:
    return {"step": step, "frames": frames, "time": time, "throughput/steps_per_s": rate}


# A run that starts at 1000, learns from 1010 on, and whose second line is slow.
LINES = (
    line(100, 64_000, 1020.0, 10.0),
    line(200, 80_000, 1040.0, 5.0),
    line(300, 80_000, 1045.0, 20.0),
    line(400, 112_000, 1050.0, 20.0),
    line(500, 128_000, 1060.0, 10.0),
)


def test_a_figure_leaves_the_warm_up_out():
    figure = summarise("sync", LINES, warm_up=2, begun=1000.0, captured=7.0, compiling=4.0)
    assert (figure.steps_per_s.slowest, figure.steps_per_s.median, figure.steps_per_s.fastest) == (10.0, 20.0, 20.0)
    assert figure.steps_per_s.steps == 300
    assert figure.frames_per_s == pytest.approx(48_000 / 20)
    assert figure.seconds == 20.0
    assert (figure.captured_s, figure.compiling_s) == (7.0, 4.0)
    assert figure.first_step_s == pytest.approx(10.0)


def test_a_run_is_measured_for_so_many_seconds_behind_the_warm_up():
    assert measured(LINES, seconds=20.0, warm_up=2)
    assert not measured(LINES, seconds=21.0, warm_up=2)
    assert not measured(LINES[:2], seconds=0.0, warm_up=2)
    assert not measured((), seconds=0.0, warm_up=1)


@pytest.mark.parametrize(("gpus", "names"), [(0, "sync async"), (1, "sync async"), (2, "sync async async-two-gpus")])
def test_the_layouts_are_those_that_the_gpus_allow(gpus: int, names: str):
    found = layouts(gpus)
    assert list(found) == names.split()
    for words in found.values():
        compose([*SIZES, *words, *ENDLESS, "logger.interval=100"])


def test_the_sizes_are_fit_to_be_trained():
    parts.check_sizes(Config.of(compose([*SIZES])))


def test_what_the_log_says_once_the_step_is_captured_is_known():
    assert CAPTURED in inspect.getsource(parts.make_learner)


def test_a_run_that_fails_is_said_with_its_last_words():
    with pytest.raises(SystemExit, match=r"sync: exited with 2\n(.|\n)*env\.num_envz"):
        measure("sync", ["env.num_envz=3"], seconds=1.0, warm_up=1)


def test_the_first_line_never_counts():
    with pytest.raises(SystemExit, match="--warm-up"):
        main(["--warm-up", "0"])


@pytest.mark.slow
@pytest.mark.parametrize("layout", ["sync", "async"])
def test_a_run_is_measured_and_stopped(layout: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "figures.json"
    times = ["--seconds", "0.5", "--warm-up", "1", "--interval", "4"]
    main(["experiment=debug", "device=cpu", "--layouts", layout, *times, "--json", str(path)])
    assert "optimiser steps/s" in capsys.readouterr().out
    (figure,) = json.loads(path.read_text())["figures"]
    assert figure["layout"] == layout
    assert figure["steps_per_s"]["steps"] >= 4
    assert figure["frames_per_s"] > 0
    assert 0 < figure["first_step_s"] < 300
    assert figure["captured_s"] is None
