"""Metrics: the record in metrics.jsonl, its copies, and what people see."""

from __future__ import annotations

import io
import json
import math
import sys
from typing import Any

import pytest

from tests.trainer.conftest import fill
from trainer import wandb_run
from trainer.metrics import MetricsLogger
from trainer.progress import Progress, Reading, line
from trainer.run_dir import RunDir


def config(*, tensorboard: bool = False, wandb: str = "disabled") -> dict[str, Any]:
    return {
        "optimization": {"total_optim_steps": 1000},
        "logger": {"tensorboard": tensorboard, "wandb": {"mode": wandb, "project": "longshore", "group": None}},
    }


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def run_dir(run_dir: RunDir) -> RunDir:
    run_dir.root.mkdir()
    return run_dir


def steps(run_dir: RunDir) -> list[int]:
    return [record["step"] for record in run_dir.read_metrics()]


def test_a_line_holds_step_frames_time_and_the_values(run_dir, clock):
    logger = MetricsLogger(run_dir, config(), 1, clock)
    clock.now += 2.5
    logger.log(100, 6400, {"loss/total": 1})
    (record,) = run_dir.read_metrics()
    assert record == {"step": 100, "frames": 6400, "time": 1002.5, "elapsed": 2.5, "loss/total": 1.0}


def test_a_line_is_on_disk_as_soon_as_it_is_logged(run_dir):
    logger = MetricsLogger(run_dir, config(), 1)
    for step in (1, 2):
        logger.log(step, 0, {})
        assert steps(run_dir)[-1] == step  # without close(): a crash may come any time


def test_numbers_of_any_library_become_floats(run_dir):
    import numpy as np
    import torch

    logger = MetricsLogger(run_dir, config(), 1)
    logger.log(1, 1, {"tensor": torch.tensor(2.0), "numpy": np.float32(3)})
    (record,) = run_dir.read_metrics()
    assert (record["tensor"], record["numpy"]) == (2.0, 3.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_what_is_not_finite_is_null_because_json_has_no_nan(run_dir, value):
    MetricsLogger(run_dir, config(), 1).log(1, 1, {"loss": value})
    text = run_dir.metrics.read_text()
    assert json.loads(text, parse_constant=pytest.fail)["loss"] is None


def test_a_resumed_run_cuts_the_lines_after_its_checkpoint(run_dir, clock):
    logger = MetricsLogger(run_dir, config(), 1, clock)
    for step in (10, 20, 30):
        clock.now += 5
        logger.log(step, step, {})
    clock.now += 1000  # in a queue
    resumed = MetricsLogger(run_dir, config(), 2, clock)
    resumed.truncate(20)
    assert steps(run_dir) == [10, 20]
    clock.now += 3
    resumed.log(30, 30, {})
    assert steps(run_dir) == [10, 20, 30]
    assert list(run_dir.read_metrics())[-1]["elapsed"] == 13.0  # 10 s up to the checkpoint, 3 s since


def test_a_line_that_a_crash_cut_short_is_not_glued_to_the_next(run_dir):
    run_dir.metrics.write_text('{"step": 1}\n{"step": 2, "fra')
    MetricsLogger(run_dir, config(), 2).log(2, 2, {})
    assert [json.loads(text)["step"] for text in run_dir.metrics.read_text().splitlines()] == [1, 2]


def test_a_full_disk_ends_the_run(small_disk):
    run_dir = RunDir(small_disk)
    logger = MetricsLogger(run_dir, config(), 1)
    logger.log(1, 1, {})
    fill(small_disk)
    with pytest.raises(OSError, match="No space left"):
        logger.log(2, 1, {str(number): 1.0 for number in range(1000)})
    MetricsLogger(run_dir, config(), 2)  # what was cut short is cut off, on the full disk too
    assert steps(run_dir) == [1]
    assert run_dir.metrics.read_bytes().endswith(b"\n")


def events(run_dir: RunDir) -> list[tuple[int, float]]:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    accumulator = EventAccumulator(str(run_dir.root / "tensorboard"))
    accumulator.Reload()
    return [(event.step, event.value) for event in accumulator.Scalars("loss")]


def test_tensorboard_shows_the_figures_and_forgets_what_a_resumed_run_does_again(run_dir):
    logger = MetricsLogger(run_dir, config(tensorboard=True), 1)
    for step in (10, 20, 30):
        logger.log(step, step, {"loss": 1.0})
    logger.close()
    resumed = MetricsLogger(run_dir, config(tensorboard=True), 2)
    resumed.truncate(20)
    resumed.log(30, 30, {"loss": 2.0})
    resumed.close()
    assert events(run_dir) == [(10, 1.0), (20, 1.0), (30, 2.0)]


def test_without_tensorboard_training_goes_on(run_dir, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    logger = MetricsLogger(run_dir, config(tensorboard=True), 1)
    logger.log(1, 1, {})
    logger.log(2, 2, {})
    assert steps(run_dir) == [1, 2]
    assert caplog.text.count("TensorBoard is left out") == 1


def test_without_wandb_training_goes_on(run_dir, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "wandb", None)
    logger = MetricsLogger(run_dir, config(wandb="online"), 1)
    logger.log(1, 1, {})
    logger.close()
    assert steps(run_dir) == [1]
    assert "the package wandb is not installed" in caplog.text


def test_wandb_offline_keeps_one_run_across_attempts(run_dir):
    """With the real package; its own process writes the files."""
    pytest.importorskip("wandb")
    for attempt in (1, 2):
        logger = MetricsLogger(run_dir, config(wandb="offline"), attempt)
        logger.log(attempt, 1, {"loss": 1.0})
        logger.close()
    run_id = (run_dir.root / "wandb" / "run_id").read_text()
    files = list((run_dir.root / "wandb").glob(f"offline-run-*/run-{run_id}.wandb"))
    assert len(files) >= 1
    assert steps(run_dir) == [1, 2]


class FakeWandB:
    """Stands in for the package where the network is gone: online fails, offline works, finish hangs."""

    Settings = dict

    def __init__(self) -> None:
        self.starts: list[dict[str, Any]] = []
        self.logged: list[dict[str, Any]] = []
        self.broken = False

    def init(self, **arguments: Any) -> FakeWandB:
        self.starts.append(arguments)
        if arguments["mode"] == "online":
            raise ConnectionError("no route to host")
        return self

    def define_metric(self, *_: Any, **__: Any) -> None: ...

    def log(self, values: dict[str, Any]) -> None:
        if self.broken:
            raise BrokenPipeError
        self.logged.append(values)

    def finish(self) -> None:
        import time

        time.sleep(60)


@pytest.fixture
def fake_wandb(monkeypatch) -> FakeWandB:
    fake = FakeWandB()
    monkeypatch.setitem(sys.modules, "wandb", fake)
    return fake


def test_wandb_that_cannot_be_reached_is_kept_offline(run_dir, fake_wandb, caplog):
    MetricsLogger(run_dir, config(wandb="online"), 1).log(5, 7, {"loss": 1.0})
    assert [start["mode"] for start in fake_wandb.starts] == ["online", "offline"]
    assert fake_wandb.logged == [{"step": 5, "frames": 7.0, "loss": 1.0}]
    assert "no route to host" in caplog.text


def test_wandb_that_breaks_later_is_left_out_with_one_warning(run_dir, fake_wandb, caplog):
    logger = MetricsLogger(run_dir, config(wandb="offline"), 1)
    fake_wandb.broken = True
    for step in (1, 2):
        logger.log(step, 1, {})
    assert steps(run_dir) == [1, 2]
    assert caplog.text.count("W&B is left out") == 1


@pytest.mark.usefixtures("fake_wandb")
def test_a_last_upload_that_hangs_does_not_hold_the_end_up(run_dir, monkeypatch, caplog):
    monkeypatch.setattr(wandb_run, "FINISH_SECONDS", 0)
    MetricsLogger(run_dir, config(wandb="offline"), 1).close()
    assert "is left to `wandb sync --include-online" in caplog.text


def test_wandb_is_told_the_run_id_of_the_run(run_dir, fake_wandb, monkeypatch):
    monkeypatch.setenv("LONGSHORE_RUN_ID", "ant-250101-000000-abcd")
    MetricsLogger(run_dir, config(wandb="online"), 1)
    assert fake_wandb.starts[0]["id"] == "ant-250101-000000-abcd"
    assert fake_wandb.starts[0]["resume"] == "allow"
    assert fake_wandb.starts[0]["dir"] == str(run_dir.root)


READING = Reading(step=200, total=1000, frames=12800, fps=950.4, steps_per_s=12.34, episode_return=31.23456, elapsed=16)


def test_a_line_for_people_says_how_far_how_fast_how_good_and_how_long():
    words = "step 200/1000 · 12,800 frames · 950 fps · 12.3 steps/s · return 31.23 · ETA 0:01:05 after 0:00:16"
    assert line(READING) == words


def test_before_the_first_episode_has_ended_there_is_no_return():
    reading = Reading(1, 10, 5, 1.0, 0.0, None, 3)
    assert "return" not in line(reading)
    assert line(reading).endswith("ETA unknown after 0:00:03")


def test_elsewhere_than_on_a_terminal_progress_is_plain_lines():
    stream = io.StringIO()
    progress = Progress(stream)
    progress.show(READING)
    progress.close()
    assert stream.getvalue() == line(READING) + "\n"


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_on_a_terminal_progress_is_a_bar(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    stream = Terminal()
    progress = Progress(stream)
    progress.show(READING)
    progress.close()
    assert "200/1000" in stream.getvalue()
    assert "ETA 0:01:05" in stream.getvalue()  # nothing of it cut off at 80 characters
    assert "\x1b[" in stream.getvalue()


def test_a_terminal_without_rich_gets_lines(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.progress", None)
    stream = Terminal()
    Progress(stream).show(READING)
    assert stream.getvalue() == line(READING) + "\n"


def test_a_terminal_that_is_gone_does_not_end_the_training():
    stream = io.StringIO()
    progress = Progress(stream)
    stream.close()
    progress.show(READING)


def test_the_line_of_the_last_return_stays_until_another_episode_ends(run_dir, capsys):
    logger = MetricsLogger(run_dir, config(), 1)
    logger.log(100, 1, {"episode/return": 31.0, "throughput/fps": 10.0, "throughput/steps_per_s": 2.0})
    logger.log(200, 2, {})
    first, second = capsys.readouterr().err.splitlines()
    assert "return 31" in first
    assert "return 31" in second
    assert "10 fps" in first
