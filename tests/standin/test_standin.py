"""The stand-in for Isaac Sim behaves as Isaac does where the trainer has to care. Each case is a process of its own."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
pytestmark = pytest.mark.skipif(importlib.util.find_spec("isaaclab") is None, reason="isaaclab is not installed")

START = """
from tests.standin import install
assert install()
from isaaclab.app import AppLauncher
app = AppLauncher({arguments}).app
"""
MAKE = """
import gymnasium, torch
from tests.standin import standin_tasks
from tests.standin.standin_tasks.reach_cfg import ReachEnvCfg
cfg = ReachEnvCfg()
cfg.scene.num_envs, cfg.sim.device = 8, "cpu"
def make(cfg=cfg):
    return gymnasium.make("Standin-Reach-v0", cfg=cfg)
"""
END = "\nimport os, sys; sys.stdout.flush(); os._exit(0)\n"  # closing the app would do the same
VARIABLES = {"OMNI_KIT_ACCEPT_EULA": "yes", "OMNI_KIT_ALLOW_ROOT": "1"}


def python(code: str, timeout: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env=environment | VARIABLES | variables,
        capture_output=True,
        text=True,
        timeout=timeout,
    )


def started(code: str, arguments: str = "headless=True", **variables: str) -> str:
    """Output of what runs in a started app."""
    done = python(START.format(arguments=arguments) + code + END, **variables)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_isaac_labs_own_package_registers_its_tasks():
    counted = "import gymnasium, isaaclab_tasks; print(sum('Isaac-' in name for name in gymnasium.registry))"
    assert started(counted).splitlines()[-1] == "152"


def test_the_task_resets_itself_and_writes_where_it_wrote_before():
    code = """
env = make()
observation, _ = env.reset()
assert observation["policy"].shape == (8, 4)
action = torch.zeros(8, 2)
_, reward, terminated, truncated, _ = env.step(action)
assert (reward.shape, terminated.shape, truncated.shape) == ((8,), (8,), (8,))
for _ in range(49):
    observation, again, fell, over, _ = env.step(action)
assert over.all() and not fell.any()
assert (env.unwrapped.episode_length_buf == 0).all()
assert again is reward and fell is terminated and over is truncated
for _ in range(49):
    _, _, fell, _, _ = env.step(torch.ones(8, 2))
    if fell.any():
        break
assert fell.any()
"""
    started(MAKE + code)


def test_a_second_simulation_in_a_process_is_refused():
    refused = "make()\ntry:\n  make()\nexcept RuntimeError as error:\n  print(error)"
    assert "already exists" in started(MAKE + refused)


def test_a_camera_needs_an_app_that_renders():
    code = """
import isaaclab.sim as sim_utils
from isaaclab.sensors import TiledCameraCfg
cfg.scene.tiled_camera = TiledCameraCfg(
    prim_path="/World/Camera", data_types=["rgb"], spawn=sim_utils.PinholeCameraCfg(), width=64, height=48)
try:
    env = make()
    env.reset()
    rgb = env.unwrapped.scene["tiled_camera"].data.output["rgb"]
    print(tuple(rgb.shape), rgb.dtype, bool((rgb == 255).any()))
except RuntimeError as error:
    print(error)
"""
    assert "--enable_cameras" in started(MAKE + code)
    assert "(8, 48, 64, 3) torch.uint8 True" in started(MAKE + code, "headless=True, enable_cameras=True")


@pytest.mark.parametrize(
    ("before", "arguments", "variables", "reason"),
    [
        ("import torch", "headless=True", {}, "torch was imported before"),
        ("", "headless=True", {"OMNI_KIT_ACCEPT_EULA": ""}, "licence"),
        ("", "", {}, "no display"),
    ],
)
def test_the_app_does_not_start_wrongly(before, arguments, variables, reason):
    done = python(before + START.format(arguments=arguments), **variables)
    assert done.returncode == 1
    assert reason in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
def test_the_app_does_not_start_as_root_unless_told_to():
    done = python(START.format(arguments="headless=True"), OMNI_KIT_ALLOW_ROOT="")
    assert "does not run as root" in done.stderr


def test_closing_the_app_ends_the_process_with_status_zero_whatever_happened():
    code = START.format(arguments="headless=True") + "\ntry:\n  1 / 0\nfinally:\n  app.close()"
    assert python(code).returncode == 0


def test_closing_hangs_when_told_to():
    with pytest.raises(subprocess.TimeoutExpired):
        python(START.format(arguments="headless=True") + "app.close()", timeout=5, STANDIN_HANG_IN_CLOSE="1")
