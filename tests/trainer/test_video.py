"""Videos: files that can be read again, of what happened and of what the world model expects; within their share."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.trainer.agents import CPU, debug_config
from tests.trainer.test_metrics_page import ImageSimulator
from tests.trainer.test_sync_pipeline import make_context
from trainer.agents import make_agent
from trainer.compilation import compile_regions
from trainer.config import Config, compose
from trainer.pipelines import sync_loop
from trainer.simulators import make_simulator
from trainer.simulators.base import Simulator
from trainer.video import SHARE, Recorder, make_recorder

imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg")

LENGTH = 60


def frames_of(path: Path) -> np.ndarray:
    """`[T, H, W, 3]`."""
    reader = imageio_ffmpeg.read_frames(str(path))
    width, height = next(reader)["size"]
    return np.stack([np.frombuffer(frame, np.uint8).reshape(height, width, 3) for frame in reader])


class Clock:
    """Seconds that pass when something says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class SlowPictures:
    """The debug simulator's, each of which takes a while."""

    def __init__(self, simulator: Simulator, clock: Clock, seconds: float) -> None:
        self.control, self._simulator, self._clock, self._seconds = None, simulator, clock, seconds

    def render(self, environments: int) -> np.ndarray:
        self._clock.now += self._seconds
        return self._simulator.render(environments)


def parts() -> tuple[Simulator, Recorder]:
    simulator = make_simulator(debug_config().env, 0, CPU)
    agent = make_agent(debug_config().agent, simulator.observation, simulator.action)
    simulator.reset()
    return simulator, agent


def step(simulator: Simulator, recorder: Recorder) -> None:
    action = torch.ones(4, 2) / 4
    done = simulator.step(action)
    recorder.step(done.observation, action, done.is_last)


def test_a_clip_shows_the_first_environments_side_by_side(tmp_path: Path):
    simulator, agent = parts()
    recorder = Recorder(simulator, agent, tmp_path, 2, LENGTH, 0)
    recorder.frames = 128
    recorder.begin("evaluation")
    for _ in range(2 * LENGTH):  # no second clip
        step(simulator, recorder)
    recorder.close()
    assert [path.name for path in tmp_path.iterdir()] == ["evaluation-0000000128.mp4"]
    film = frames_of(tmp_path / "evaluation-0000000128.mp4")
    assert film.shape == (LENGTH, 128, 256, 3)  # 32 pixels, enlarged four times
    for half in (film[:, :, :128], film[:, :, 128:]):
        white = (half.min(-1) > 150).sum((1, 2))
        assert white.min() > 0, "the point is in every frame"
    assert np.abs(film[0].astype(int) - film[10]).max() > 100, "and it moves"


def test_clips_take_their_share_of_the_time_and_no_more(tmp_path: Path):
    """Each waits until it is paid for; a picture takes as long as a step."""
    simulator, agent = parts()
    clock = Clock()
    recorder = Recorder(SlowPictures(simulator, clock, 0.1), agent, tmp_path, 1, LENGTH, 0, clock)
    worst = 0.0
    for number in range(150_000):
        recorder.frames = number
        clock.now += 0.1
        if number % 100 and recorder._clip is None:
            continue  # a look at the clock, and no more
        step(simulator, recorder)
        if clock.now > 100:  # the first picture says what one costs
            worst = max(worst, recorder.spent / clock.now)
    recorder.close()
    clips = len(list(tmp_path.glob("training-*.mp4")))
    assert clips == pytest.approx(SHARE * clock.now / (0.1 * LENGTH), abs=3)
    assert clips > 10
    assert worst <= SHARE + 1e-6


def test_a_simulator_that_cannot_be_filmed_is_said_once_and_steps_on(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    simulator, agent = parts()

    class Blind:
        control = None

        def render(self, environments: int) -> np.ndarray:
            raise RuntimeError("no OpenGL here")

    recorder = Recorder(Blind(), agent, tmp_path, 1, LENGTH, 0)
    for _ in range(5):
        step(simulator, recorder)
    recorder.close()
    assert caplog.text.count("no videos from here on: RuntimeError: no OpenGL here") == 1
    assert list(tmp_path.iterdir()) == []


def enabled(*overrides: str) -> bool:
    simulator, agent = parts()
    config = Config.of(compose(["experiment=debug", *overrides]))
    return make_recorder(config, simulator, agent, Path("videos"), 0) is not None


def test_runs_on_states_are_filmed_only_on_demand():
    assert not enabled()
    assert enabled("video.enabled=true")


def test_a_pixel_run_leaves_what_the_agent_saw_and_what_its_world_model_expected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sync_loop, "make_simulator", lambda config, seed, *_: ImageSimulator(config, seed, CPU))
    context = make_context(tmp_path, "env.observation_key=pixels", f"video.length={LENGTH}", "video.environments=3")
    sync_loop.SyncPipeline(context).run()
    name = "evaluation-0000000448"
    seen, told = (frames_of(tmp_path / "videos" / f"{name}{end}.mp4") for end in ("", "-open-loop"))
    side = 128
    assert seen.shape[1:] == (side, 3 * side, 3)
    assert told.shape == (len(seen), 3 * side, 3 * side, 3)
    assert len(seen) > 10, "the longest of the episodes"
    truth, model, difference = (told[:, row * side : (row + 1) * side].astype(int) for row in range(3))
    assert np.abs(truth - seen[: len(truth)]).mean() < 3, "the first row is what happened"
    assert np.abs(np.abs(truth - model) - difference).mean() < 6, "and the last what the model has missed"


def test_nothing_is_compiled_for_a_few_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """The learner of `pipeline=sync` has the same agent, and compiles it for batches."""
    simulator = ImageSimulator(debug_config().env, 0, CPU)
    agent = make_agent(debug_config().agent, simulator.observation, simulator.action)
    compile_regions(agent)
    monkeypatch.setattr(torch, "compile", pytest.fail)
    recorder = Recorder(simulator, agent, tmp_path, 2, 20, 0)
    recorder.begin("evaluation")
    simulator.reset()
    for _ in range(20):
        step(simulator, recorder)
    recorder.close()
    assert len(list(tmp_path.glob("*-open-loop.mp4"))) == 1
    assert agent.world_model.compiled


def test_the_world_model_is_told_the_first_rows_and_actions_alone_afterwards(tmp_path: Path):
    """What the later rows show makes no difference to what it expects."""
    simulator = ImageSimulator(debug_config().env, 0, CPU)
    agent = make_agent(debug_config().agent, simulator.observation, simulator.action)
    simulator.reset()
    expected = []
    for changed in (False, True):
        simulator._age[:] = 0
        simulator._position[:] = 0.5
        recorder = Recorder(simulator, agent, tmp_path, 2, 20, 0)
        recorder.begin("evaluation")
        for number in range(20):
            action = torch.zeros(4, 2)
            done = simulator.step(action)
            observation: Mapping[str, Tensor] = done.observation
            if changed and number >= 5:
                observation = {"pixels": 255 - observation["pixels"]}
            recorder.step(observation, action, done.is_last)
            if recorder._clip is not None:
                clip = recorder._clip
        expected.append(recorder._open_loop(clip.rows, clip.ends)[1])
        recorder.close()
    same = [np.array_equal(one, two) for one, two in zip(*expected, strict=True)]
    assert all(same)
