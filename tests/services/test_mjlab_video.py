"""mjlab filmed by MuJoCo's own renderer, which needs EGL: on Debian libegl1 and libgl1-mesa-dri, or a GPU's driver."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.services, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
MJLAB = """
import sys
from pathlib import Path
import torch
from trainer.config import Config, compose
from trainer.pipelines.parts import prepare
from trainer.simulators import make_simulator
config = Config.of(compose(["env.num_envs=3", "video.enabled=true"]))
prepare(config)
simulator = make_simulator(config.env, 0, torch.device("cpu"))
simulator.reset()
first = simulator.render(2)
for _ in range(10):
    simulator.step(torch.ones(3, 1))
then = simulator.render(2)
print(first.shape, first.std() > 5, (first[0] != then[0]).mean() > 0.01, (then[0] != then[1]).any())
"""


@pytest.mark.skipif(
    ctypes.util.find_library("EGL") is None, reason="needs EGL: apt-get install libegl1 libgl1-mesa-dri"
)
def test_mjlab_is_filmed_by_mujocos_renderer():
    variables = {name: value for name, value in os.environ.items() if name != "MUJOCO_GL"}
    done = subprocess.run(
        [sys.executable, "-c", MJLAB],
        env=variables | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "(2, 240, 320, 3) True True True"
