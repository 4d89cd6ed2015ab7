"""Processes in which the stand-in for Isaac Sim takes Isaac Sim's place, around the real isaaclab package."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parents[2]
VARIABLES = {"OMNI_KIT_ACCEPT_EULA": "yes", "OMNI_KIT_ALLOW_ROOT": "1"}
TASK = (
    "experiment=debug",
    "env.backend=isaaclab",
    "env.name=Standin-Reach-v0",
    "env.packages=[tests.standin.standin_tasks]",
    "env.allow_cpu=true",
)
WALKS = ("Standin-Walk-v0", "Standin-Walk-Direct-v0")  # on Isaac Lab's own two kinds of environments
SITE = "from tests.standin import install\ninstall()\n"

needs_isaaclab = pytest.mark.skipif(
    importlib.util.find_spec("isaaclab") is None, reason="isaaclab is not installed: make test-torch27 has it"
)

# What a role does that simulates, with its signal handlers in place.
START = """
import json, sys
from trainer.config import compose
from trainer.role import RoleConfig, RoleContext
config = compose({overrides!r})
context = RoleContext(RoleConfig("trainer", config, {folder!r}, 1, "", "", 0))
context.reinstall_signals()
from trainer.simulators.launch import start_before_torch
"""
SIMULATE = """
start_before_torch(context)
import torch
from trainer.config import Config
from trainer.simulators import make_simulator
from trainer.video import filmed
config = Config.of(config)
def make():
    return make_simulator(config.env, config.seed, torch.device("cpu"), filmed=filmed(config))
"""
END = "\nsys.stdout.flush(); __import__('os')._exit(0)\n"


def environment(folder: Path, **variables: str) -> dict[str, str]:
    """Variables of a process that finds the stand-in where Isaac Sim would be."""
    site = folder / "site"
    site.mkdir(exist_ok=True)
    (site / "sitecustomize.py").write_text(SITE)
    inherited = {name: value for name, value in os.environ.items() if name != "DISPLAY"}
    return inherited | VARIABLES | {"PYTHONPATH": f"{site}:{REPOSITORY}"} | variables


def train(folder: Path, *overrides: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """`python -m trainer` on the stand-in's task, in the run directory `folder / "run"`."""
    command = [sys.executable, "-m", "trainer", f"run_dir={folder / 'run'}", *TASK, *overrides]
    return subprocess.run(
        command, cwd=folder, env=environment(folder, **variables), capture_output=True, text=True, timeout=240
    )


def run_inside(
    folder: Path, code: str, *overrides: str, simulate: bool = True, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Code in a process that has `context`, `config` and, where it is to simulate, a started app and `make()`."""
    start = START.format(overrides=[*TASK, *overrides], folder=str(folder / "run"))
    code = start + (SIMULATE if simulate else "") + code + END
    return subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=environment(folder, **variables),
        capture_output=True,
        text=True,
        timeout=240,
    )


def answer_inside(folder: Path, code: str, *overrides: str, **variables: str) -> Any:
    """What the code assigns to `answer`."""
    done = run_inside(folder, code + "\nprint(json.dumps(answer))", *overrides, **variables)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])
