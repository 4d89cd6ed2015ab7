"""Learning curves: runs side by side that go on where a budget ended, and what their files say."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks.learning import train
from benchmarks.learning.curves import Curve, curve_of, returns_between
from benchmarks.learning.experiments import EXPERIMENTS, FIXED
from trainer.config import compose
from trainer.run_dir import RunDir

needs_dm_control = pytest.mark.skipif(importlib.util.find_spec("dm_control") is None, reason="needs dm_control")
needs_mjlab = pytest.mark.skipif(importlib.util.find_spec("mjlab") is None, reason="needs mjlab")

SMALL = (
    "env.num_envs=2",
    "env.action_repeat=50",  # 20 frames are an episode
    "collector.frames_per_batch=20",
    "collector.init_random_frames=32",
    "collector.num_collectors=1",
    "replay_buffer.batch_size=16",
    "replay_buffer.batch_length=8",
    "optimization.optim_steps_per_batch=1",
    "optimization.total_optim_steps=8",
    "eval.episodes=2",
    "logger.interval=1",
    "agent.world_model.deter=16",
    "agent.world_model.blocks=2",
    "agent.behaviour.imagination_last=2",
)


def result(folder: Path, name: str = "dmc-cartpole-swingup") -> dict[str, Any]:
    (path,) = folder.glob(f"learning-{name}-*.json")
    return json.loads(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiments_collect_what_they_say(name: str):
    """Frames of the random policy, and of every round of optimiser steps, add up to the budget."""
    experiment = EXPERIMENTS[name]
    config = compose([*experiment.overrides, *FIXED])
    optimization, collector = config["optimization"], config["collector"]
    if ratio := optimization["replay_ratio"]:
        learnt_from = optimization["total_optim_steps"] * config["replay_buffer"]["batch_size"] / ratio
    else:
        rounds = optimization["total_optim_steps"] / optimization["optim_steps_per_batch"]
        learnt_from = rounds * collector["frames_per_batch"]
    collected = collector["init_random_frames"] + learnt_from
    assert experiment.actions <= collected < experiment.actions + collector["frames_per_batch"]
    assert config["replay_buffer"]["buffer_size"] >= collected


def test_the_published_train_ratio_is_kept():
    config = compose([*EXPERIMENTS["dmc-walker-walk"].overrides])
    trained = config["replay_buffer"]["batch_size"] * config["optimization"]["optim_steps_per_batch"]
    assert trained / config["collector"]["frames_per_batch"] == 512


@needs_dm_control
def test_seeds_train_side_by_side_and_go_on_after_a_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    arguments = ["dmc-cartpole-swingup", "--seeds", "3", "4", "--folder", str(tmp_path), "--out", str(tmp_path)]
    arguments += SMALL
    train.main([*arguments, "--budget", "0.1"])  # stopped while they evaluate random actions, or a little later
    assert not any(figure["finished"] for figure in result(tmp_path)["figures"])
    with pytest.raises(SystemExit, match="other overrides"):
        train.main([*arguments, "seed=9", "--budget", "60"])
    train.main([*arguments, "--budget", "60"])
    written = result(tmp_path)
    assert written["settings"]["action_repeat"] == EXPERIMENTS["dmc-cartpole-swingup"].repeat
    assert written["settings"]["overrides"][-len(SMALL) :] == list(SMALL)
    assert {"torch", "dm_control", "mujoco"} <= set(written["versions"])
    one, two = (Curve(**figure) for figure in written["figures"])
    assert (one.seed, two.seed, one.finished, two.finished) == (3, 4, True, True)
    assert one.optim_steps == 8
    assert list(one.frames) == list(two.frames)
    assert list(one.returns) != list(two.returns)
    assert one.trained_return is not None
    before = (tmp_path / "dmc-cartpole-swingup" / "seed-3" / "metrics.jsonl").read_bytes()
    train.main([*arguments, "--budget", "60"])  # nothing is left to do
    assert (tmp_path / "dmc-cartpole-swingup" / "seed-3" / "metrics.jsonl").read_bytes() == before


@needs_dm_control
def test_a_run_in_processes_of_its_own_is_stopped_by_its_budget_and_goes_on(tmp_path: Path):
    arguments = ["dmc-cartpole-swingup", "--folder", str(tmp_path), "--out", str(tmp_path), *SMALL]
    arguments += ["pipeline=async", "optimization.replay_ratio=1", "device=cpu"]
    train.main([*arguments, "--budget", "0.5"])
    assert not any(figure["finished"] for figure in result(tmp_path)["figures"])
    train.main([*arguments, "--budget", "200"])
    (figure,) = result(tmp_path)["figures"]
    assert (figure["finished"], figure["optim_steps"]) == (True, 8)
    wrong = tmp_path / "wrong"
    arguments = ["dmc-cartpole-swingup", "--folder", str(wrong), "--out", str(wrong), *SMALL]
    with pytest.raises(SystemExit):
        train.main([*arguments, "pipeline=async", "device=tpu"])
    log = wrong / "dmc-cartpole-swingup" / "seed-0" / "output.log"
    assert "tpu" in log.read_text(encoding="utf-8")


def test_unknown_experiments_name_what_there_is():
    with pytest.raises(SystemExit, match="atari: no such experiment; there are dmc-cartpole-swingup"):
        train.main(["atari"])


def test_curves_count_the_simulators_own_steps(tmp_path: Path):
    lines = [
        {"step": 1, "frames": 10, "elapsed": 1.0},
        {"step": 2, "frames": 20, "elapsed": 2.0, "episode/return": 5.0, "episode/count": 2.0},
        {"step": 3, "frames": 30, "elapsed": 3.004, "episode/return": 8.0, "episode/count": 1.0},
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    curve = curve_of(RunDir(tmp_path), 7, 2)
    assert curve == Curve(7, [40, 60], [2.0, 3.0], [5.0, 8.0], 3, False, None, None, [2, 1])
    assert returns_between([curve], 0, 100) == [6.0], "each episode counts once"
    assert returns_between([curve], 50, 100) == [8.0]
    assert returns_between([curve], 70, 100) == []


@needs_mjlab
def test_ppo_goes_on_after_a_budget(tmp_path: Path):
    from benchmarks.learning import ppo

    size, task = 64, "Mjlab-Cartpole-Balance"
    words = [task, "--environments", str(size), "--frames", str(size * 32 * 3), "--folder", str(tmp_path)]
    words += ["--out", str(tmp_path)]
    ppo.main([*words, "--budget", "0"])
    (path,) = tmp_path.glob("learning-ppo-mjlab-cartpole-balance*.json")
    (begun,) = json.loads(path.read_text())["figures"]
    assert (begun["optim_steps"], begun["finished"]) == (1, False)
    ppo.main([*words, "--budget", "100"])
    (ended,) = json.loads(path.read_text())["figures"]
    assert ended["optim_steps"] == 3
    assert ended["finished"]
    assert ended["frames"][-1] == size * 32 * 3
    assert 0 < ended["returns"][-1] < 50
