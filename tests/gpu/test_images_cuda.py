"""Optimiser steps on images as CUDA graphs; mjlab's cameras on a GPU, with the frames per second that they give."""

from __future__ import annotations

import time

import pytest
import torch

from tests.trainer.agents import debug_config
from tests.trainer.test_images import SPACES, agent_on, filled_replay
from trainer.config import Config, compose
from trainer.learner import Learner
from trainer.simulators import make_simulator

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.timeout(900),
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"),
]
GPU = torch.device("cuda:0")


def learner_of(name: str) -> Learner:
    agent = agent_on(name, SPACES).to(GPU)
    replay = filled_replay(agent, SPACES, device=GPU)
    return Learner(agent, replay, debug_config(f"agent={name}"), 0, GPU)


@pytest.mark.parametrize("name", ["dreamer", "dreamer_v3"])
def test_a_captured_step_on_images_learns_what_an_eager_one_does(name: str):
    eager, captured = learner_of(name), learner_of(name)
    captured.prepare()
    for _ in range(3):
        eager.learn()
        captured.learn()
    assert dict(captured.pop_metrics()) == pytest.approx(dict(eager.pop_metrics()), rel=1e-2, abs=1e-3)


@pytest.mark.parametrize("environments", [256, 1024])
def test_mjlabs_cameras_render_on_a_gpu(environments: int, capsys: pytest.CaptureFixture[str]):
    pytest.importorskip("mjlab")
    words = ["env.name=Mjlab-Lift-Cube-Yam-Rgb", "env.from_pixels=true", f"env.num_envs={environments}"]
    simulator = make_simulator(Config.of(compose(words)).env, 0, GPU)
    simulator.reset()
    action = torch.zeros(environments, simulator.action, device=GPU)
    for _ in range(10):
        step = simulator.step(action)
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(100):
        step = simulator.step(action)
    torch.cuda.synchronize()
    rate = 100 * environments / (time.perf_counter() - started)
    pixels = step.observation["pixels"]
    assert (pixels.dtype, pixels.device, tuple(pixels.shape)) == (torch.uint8, GPU, (environments, 32, 32, 3))
    assert pixels.float().std() > 5
    simulator.close()
    with capsys.disabled():
        print(f"\n{environments} cameras of 32 x 32: {rate:,.0f} frames/s")
