"""The synchronous pipeline end to end on the debug simulator: it learns, resumes bit for bit, and notices NaN."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from trainer.checkpoint import load_latest, save
from trainer.config import compose
from trainer.errors import ConfigError, NotFinite, Stopped
from trainer.learner import Learner
from trainer.pipelines.sync_loop import SyncPipeline
from trainer.role import RoleConfig, RoleContext
from trainer.run_dir import Phase, RunDir

# Of this attempt alone, where the others go on from the attempt before.
TIMES = ("time", "elapsed", "throughput/fps", "throughput/steps_per_s", "throughput/frames_per_version")


def make_context(folder: Path, *overrides: str, attempt: int = 1) -> RoleContext:
    config = compose(["experiment=debug", f"run_dir={folder}", *overrides])
    paths = {"outcome": str(folder / "outcome.json"), "reserve": str(folder / ".reserve")}
    return RoleContext(RoleConfig("trainer", config, str(folder), attempt, coordinator=0, **paths))


def run(context: RoleContext) -> None:
    SyncPipeline(context).run()


def run_until_step(context: RoleContext, step: int) -> None:
    """Ask for a stop as soon as `step` optimiser steps are done."""
    beat = context.beat

    def beat_and_stop(phase: Phase, **values: Any) -> None:
        beat(phase, **values)
        if phase is Phase.TRAINING and values["optim_step"] >= step:
            context._stop = True

    context.beat = beat_and_stop  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run(context)


def metrics_of(folder: Path) -> list[dict[str, Any]]:
    return [{k: v for k, v in line.items() if k not in TIMES} for line in RunDir(folder).read_metrics()]


def test_a_run_leaves_metrics_checkpoint_and_summary(tmp_path: Path):
    run(make_context(tmp_path))
    lines = metrics_of(tmp_path)
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20]
    assert {"loss/total", "world_model/kl", "optimizer/gradient_norm", "episode/return"} <= set().union(*lines)
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["optim_steps"] == 20
    assert summary["frames"] == 128 + 5 * 64
    assert summary["random_return"] > 0
    assert summary["trained_return"] > 0
    assert load_latest(RunDir(tmp_path)).step == 20


def test_a_run_without_evaluation_saves_its_end_too(tmp_path: Path):
    run(make_context(tmp_path, "eval.episodes=0"))
    assert load_latest(RunDir(tmp_path)).step == 20


def test_checkpoints_carry_the_return_since_the_one_before_and_the_best_stays(tmp_path: Path):
    context = make_context(tmp_path, "checkpoint.keep=50")
    context.config["checkpoint"]["interval"] = 0  # whenever the one before is written
    run(context)
    folders = sorted((tmp_path / "checkpoints").glob("step_*"))
    scores = [json.loads((folder / "manifest.json").read_text())["score"] for folder in folders]
    found = [score for score in scores if score is not None]
    assert len(folders) > 2
    assert found
    assert scores[folders.index((tmp_path / "checkpoints" / "best").resolve())] == max(found)


def test_the_same_seed_gives_the_same_metrics_and_another_seed_others(tmp_path: Path):
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        run(make_context(tmp_path / name, f"seed={seed}"))
    assert metrics_of(tmp_path / "one") == metrics_of(tmp_path / "two")
    assert metrics_of(tmp_path / "one") != metrics_of(tmp_path / "three")


@pytest.mark.parametrize(
    ("agent", "stop_at"), [("dreamer_v3", 1), ("dreamer_v3", 6), ("dreamer_v3", 8), ("dreamer_v3", 15), ("dreamer", 6)]
)
def test_a_resumed_run_is_bit_identical_to_an_uninterrupted_one(tmp_path: Path, agent: str, stop_at: int):
    run(make_context(tmp_path / "whole", f"agent={agent}"))
    run_until_step(make_context(tmp_path / "parts", f"agent={agent}"), stop_at)
    run(make_context(tmp_path / "parts", f"agent={agent}", attempt=2))
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")
    for part in ("learner", "collector", "replay"):
        one, two = (load_latest(RunDir(tmp_path / name)).parts[part] for name in ("whole", "parts"))
        assert flat(one) == flat(two)


def test_lines_behind_the_checkpoint_are_cut_back_before_the_run_goes_on(tmp_path: Path):
    """Killed at step 13 with its last checkpoint at step 6: steps 8 and 12 are in the file, and come again."""
    run(make_context(tmp_path / "whole"))
    run_until_step(make_context(tmp_path / "parts"), 6)
    with RunDir(tmp_path / "parts").metrics.open("a") as file:
        file.write('{"step": 8, "loss/total": 0.0}\n{"step": 12, "loss/total": 0.0}\n{"step": 1')
    run(make_context(tmp_path / "parts", attempt=2))
    assert metrics_of(tmp_path / "parts") == metrics_of(tmp_path / "whole")


def test_without_the_replay_in_the_checkpoint_it_is_filled_again_and_the_counts_go_on(tmp_path: Path):
    run_until_step(make_context(tmp_path, "checkpoint.replay=false"), 10)
    before = load_latest(RunDir(tmp_path))
    assert "replay" not in before.parts
    run(make_context(tmp_path, "checkpoint.replay=false", attempt=2))
    lines = metrics_of(tmp_path)
    assert [line["step"] for line in lines] == [4, 8, 12, 16, 20]
    assert lines[2]["frames"] == before.parts["progress"]["frames"] + 128


def test_what_a_simulator_has_spoilt_before_it_was_noticed_spoils_no_further_attempt(tmp_path: Path):
    run_until_step(make_context(tmp_path, "eval.episodes=0"), 8)
    checkpoint = load_latest(RunDir(tmp_path))
    parts = dict(checkpoint.parts)
    for ring in parts["replay"]["rings"]:
        if ring.is_floating_point():
            ring[0, 0] = float("nan")
    save(RunDir(tmp_path), checkpoint.step, parts, 3)
    run(make_context(tmp_path, "eval.episodes=0", attempt=2))
    assert [line["step"] for line in metrics_of(tmp_path)] == [4, 8, 12, 16, 20]
    assert load_latest(RunDir(tmp_path)).step == 20


def test_a_stop_during_the_evaluation_costs_the_evaluation_alone(tmp_path: Path):
    context = make_context(tmp_path)
    beat = context.beat

    def stop_when_evaluating(phase: Phase, **values: Any) -> None:
        beat(phase, **values)
        if phase is Phase.EVALUATING and values["optim_step"] == 20:
            context._stop = True

    context.beat = stop_when_evaluating  # type: ignore[method-assign]
    with pytest.raises(Stopped):
        run(context)
    assert load_latest(RunDir(tmp_path)).step == 20
    run(make_context(tmp_path, attempt=2))
    assert json.loads((tmp_path / "summary.json").read_text())["optim_steps"] == 20


def test_nan_ends_the_run_and_spoils_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learn = Learner.learn

    def learn_with_a_nan(self: Learner) -> None:
        if self.step == 9:
            with torch.no_grad():
                next(self.agent.parameters()).fill_(torch.nan)
        learn(self)

    run_until_step(make_context(tmp_path), 5)
    monkeypatch.setattr(Learner, "learn", learn_with_a_nan)
    with pytest.raises(NotFinite, match="up to 12"):
        run(make_context(tmp_path, attempt=2))
    checkpoint = load_latest(RunDir(tmp_path))
    assert checkpoint.step == 5
    assert all(torch.isfinite(tensor).all() for tensor in checkpoint.parts["learner"]["agent"].values())


def test_a_nan_found_when_a_checkpoint_is_due_is_not_saved(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    learn = Learner.learn

    def learn_with_a_nan(self: Learner) -> None:
        learn(self)
        if self.step == 6:
            self._sums[self._names.index("loss/total")] = torch.nan

    monkeypatch.setattr(Learner, "learn", learn_with_a_nan)
    context = make_context(tmp_path)
    beat = context.beat

    def stop_at_six(phase: Phase, **values: Any) -> None:
        beat(phase, **values)
        context._stop = values.get("optim_step") == 6

    context.beat = stop_at_six  # type: ignore[method-assign]
    with pytest.raises(NotFinite):
        run(context)
    assert load_latest(RunDir(tmp_path)) is None


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("collector.init_random_frames=20", r"collector\.init_random_frames: 20 .* 8 \* 4 = 32"),
        ("replay_buffer.buffer_size=35", r"replay_buffer\.buffer_size: 35 .* 36"),
        ("replay_buffer.batch_size=30", r"replay_buffer\.batch_size: 30 .*batch_length 8"),
        ("optimization.autocast=float8", "neither null nor bfloat16"),
        ("env.name=Debug-Fly", "Debug-Reach"),
        ("env.backend=gazebo", "none of mjlab, isaaclab, dm_control, debug"),
        ("agent.world_model.recurrence=lstm", r"agent\.world_model\.recurrence: 'lstm' is neither block_gru nor gru"),
        ("agent.world_model.activation=relu", r"agent\.world_model\.activation: 'relu' is none of rms_silu, elu"),
        ("agent.world_model.blocks=3", "3 blocks do not divide"),
        ("optimization.replay_ratio=4", "set optimization.optim_steps_per_batch"),
    ],
)
def test_sizes_and_names_that_cannot_work_are_refused_before_training(tmp_path: Path, override: str, words: str):
    with pytest.raises(ConfigError, match=words):
        run(make_context(tmp_path, override))


def flat(part: Any) -> list[Any]:
    """A part of a checkpoint as comparable values."""
    match part:
        case torch.Tensor():
            return [part.tolist()]
        case dict():
            return [value for key in part for value in flat(part[key])]
        case list() | tuple():
            return [value for item in part for value in flat(item)]
        case _:
            return [part]
