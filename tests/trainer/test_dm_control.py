"""dm_control's own environments, in processes of their own."""

from __future__ import annotations

import ctypes.util
import importlib.util
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.trainer.agents import CPU, debug_config
from tests.trainer.test_sync_pipeline import make_context, run
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.run_dir import RunDir
from trainer.simulators import make_simulator
from trainer.simulators.base import Space
from trainer.simulators.dm_control import DmControlSimulator

pytestmark = pytest.mark.skipif(importlib.util.find_spec("dm_control") is None, reason="dm_control is not installed")


def env(**changes: object) -> Config:
    defaults = {"backend": "dm_control", "name": "walker_walk", "observation_key": None, "num_envs": 3}
    return Config(**{**vars(debug_config().env), **defaults, **changes})


def make(seed: int = 0, processes: int | None = 2, **changes: object) -> DmControlSimulator:
    simulator = make_simulator(env(**changes), seed, CPU, processes)
    assert isinstance(simulator, DmControlSimulator)
    return simulator


@pytest.fixture(scope="module")
def walker() -> Iterator[DmControlSimulator]:
    simulator = make()
    yield simulator
    simulator.close()


def test_all_observations_of_a_task_are_seen_and_actions_are_named(walker: DmControlSimulator):
    shapes = {"orientations": (14,), "height": (1,), "velocity": (9,)}
    assert walker.observation == {key: Space(shape) for key, shape in shapes.items()}
    assert (walker.environments, walker.action, walker.max_return) == (3, 6, 1000)
    assert walker.control is not None
    assert (walker.control.period, walker.control.joints[0]) == (0.025, "right_hip")
    first = walker.reset()
    assert {key: tuple(value.shape) for key, value in first.items()} == {key: (3, *s) for key, s in shapes.items()}
    kept = {key: value.clone() for key, value in first.items()}
    step = walker.step(torch.ones(3, 6))
    assert [(field.dtype, tuple(field.shape)) for field in step[1:]] == [
        (torch.float32, (3,)),
        (torch.bool, (3,)),
        (torch.bool, (3,)),
    ]
    assert all(torch.equal(first[key], kept[key]) for key in first), "observations are the caller's own"
    assert not torch.equal(step.observation["velocity"], kept["velocity"])


def test_environments_do_as_the_suite_does_itself_however_many_processes_there_are():
    """Rewards and observations of every environment are those of the suite's own under the same seeds."""
    from trainer.simulators.dm_control_suite import load
    from trainer.simulators.dm_control_workers import worker_plan

    seeds = [seed for task in worker_plan("cartpole", "swingup", 5, 3, 2, 1, None) for seed in task.seeds]
    assert len(set(seeds)) == 3
    theirs = [load("cartpole", "swingup", seed) for seed in seeds]
    starts = np.array([env.reset().observation["position"] for env in theirs])
    for processes in (1, 3):
        ours = make(5, processes, name="cartpole_swingup")
        assert torch.allclose(ours.reset()["position"], torch.tensor(starts, dtype=torch.float32))
        step = ours.step(torch.tensor([[0.5], [-1.0], [1.0]]))
        ours.close()
    moments = [env.step(action) for env, action in zip(theirs, (0.5, -1.0, 1.0), strict=True)]
    assert torch.allclose(step.reward, torch.tensor([moment.reward for moment in moments], dtype=torch.float32))
    velocities = torch.tensor(np.array([moment.observation["velocity"] for moment in moments]), dtype=torch.float32)
    assert torch.allclose(step.observation["velocity"], velocities)


def test_episodes_end_by_their_time_limit_after_a_thousand_steps_and_begin_anew():
    """A limit is no termination, and what is shown is the next episode's first observation."""
    simulator = make(num_envs=1, name="cartpole_balance", action_repeat=4)
    simulator.reset()
    still = torch.zeros(1, 1)
    steps = [simulator.step(still) for _ in range(500)]
    simulator.close()
    assert [index + 1 for index, step in enumerate(steps) if step.is_last.any()] == [250, 500]
    assert not any(step.is_terminal.any() for step in steps)
    assert simulator.control.period == pytest.approx(0.04)
    assert steps[0].reward > 3.9, "rewards of the four steps are added up"
    begin, before = (steps[index].observation["velocity"].abs().max() for index in (249, 248))
    assert begin < 0.05 < before


def test_a_termination_is_told_from_a_limit():
    """By dm_control's discount, which is 0 there."""
    from trainer.simulators.dm_control_workers import WorkerTask, _Environment

    row = {name: np.zeros(1, dtype) for name, dtype in (("reward", "f4"), ("is_last", "?"), ("is_terminal", "?"))}
    environment = _Environment(WorkerTask("cartpole", "balance", (0,), 0, 2, None), 0, {**row, "action": np.zeros(1)})
    environment.reset()
    environment._env.task.get_termination = lambda physics: 0.0
    environment.step()
    assert (row["is_last"], row["is_terminal"]) == (True, True)
    assert 0 < row["reward"] <= 1, "nothing more is added up behind the end"


@pytest.mark.skipif(ctypes.util.find_library("EGL") is None, reason="this machine has no libEGL")
def test_pixels_are_the_cameras_bytes(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MUJOCO_GL", "egl")
    camera = Config(**{**vars(debug_config().env.camera), "width": 32, "height": 24})
    simulator = make(name="cheetah_run", from_pixels=True, camera=camera, num_envs=2)
    assert simulator.observation == {"pixels": Space((24, 32, 3), torch.uint8)}
    before = simulator.reset()["pixels"]
    after = simulator.step(torch.ones(2, 6)).observation["pixels"]
    simulator.close()
    assert before.float().std() > 5, "there is something to see"
    assert not torch.equal(before, after)


def test_pixels_without_opengl_are_refused_with_what_to_install(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MUJOCO_GL", "disable")
    with pytest.raises(RuntimeError, match="No OpenGL rendering backend"):
        make(from_pixels=True, num_envs=1).reset()


def test_a_process_that_is_killed_is_told_with_its_signal():
    simulator = make(num_envs=2)
    simulator.reset()
    victim = simulator._workers._processes[1]
    os.kill(victim.pid, signal.SIGKILL)
    victim.join()
    with pytest.raises(RuntimeError, match="process 1 is gone, with exit status -9"):
        simulator.step(torch.zeros(2, 6))
    simulator.close()
    assert not any(process.is_alive() for process in simulator._workers._processes)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "walker_fly"}, "no task 'walker_fly'; it has acrobot_swingup"),
        ({"observation_key": "actor"}, "walker_walk has orientations, height, velocity, not 'actor'"),
    ],
)
def test_unknown_tasks_and_observations_name_what_there_is(changes: dict[str, object], words: str):
    with pytest.raises(ConfigError, match=words):
        make(**changes)


def test_other_simulators_repeat_no_actions():
    with pytest.raises(ConfigError, match=r"env.action_repeat: debug .* env.cfg.decimation"):
        make(backend="debug", name="Debug-Reach", action_repeat=2)


def test_a_run_trains_on_it(tmp_path: Path):
    task = ("env.backend=dm_control", "env.name=cartpole_swingup", "env.observation_key=velocity")
    run(
        make_context(
            tmp_path, *task, "env.action_repeat=8", "collector.num_collectors=2", "optimization.total_optim_steps=8"
        )
    )
    summary = json.loads(RunDir(tmp_path).summary.read_text())
    assert summary["max_return"] == 1000
    assert 0 <= summary["random_return"] < 1000
