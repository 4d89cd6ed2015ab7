"""What a policy of a run is given and gives: known to the simulator alone, and needed where none is started.

It lies in the run directory as interface.json, written by whichever process has the simulator.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from trainer.run_dir import RunDir, read_json, write_atomically
from trainer.simulators.base import Control, Simulator, Space


@dataclass(frozen=True)
class Interface:
    """Observations, the width of the action, and what the action is to the task; as in `Simulator`."""

    observation: Mapping[str, Space]
    action: int
    control: Control | None


def write_interface(run_dir: RunDir, simulator: Simulator) -> None:
    """Leave interface.json."""
    content = {
        "observation": {
            key: {"shape": list(space.shape), "dtype": dtype_name(space.dtype)}
            for key, space in simulator.observation.items()
        },
        "action": simulator.action,
        "control": None if simulator.control is None else simulator.control._asdict(),
    }
    write_atomically(run_dir.interface, json.dumps(content, indent=2))


def read_interface(run_dir: RunDir) -> Interface | None:
    """What `write_interface` left; None where the run began before there was such a file."""
    content = read_json(run_dir.interface)
    if content is None:
        return None
    observation = {
        key: Space(tuple(space["shape"]), getattr(torch, space["dtype"]))
        for key, space in content["observation"].items()
    }
    control = content["control"]
    return Interface(observation, content["action"], None if control is None else _control(**control))


def dtype_name(dtype: torch.dtype) -> str:
    """As numpy calls it: `float32`, `uint8`."""
    return str(dtype).removeprefix("torch.")


def _control(period: float, low: list[float], high: list[float], joints: list[str] | None) -> Control:
    return Control(period, tuple(low), tuple(high), None if joints is None else tuple(joints))
