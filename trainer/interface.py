"""What a policy of a run is given and gives: known to the simulator alone, and needed where none is started.

It lies in the run directory as interface.json, written by whichever process has the simulator, and in the user's cache
for later runs of the same task: a learner that is to compile for it need not wait for the simulator to come up.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from trainer.config import Config
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
    write_atomically(run_dir.interface, _text(simulator))


def read_interface(run_dir: RunDir) -> Interface | None:
    """What `write_interface` left; None where the run began before there was such a file."""
    content = read_json(run_dir.interface)
    return None if content is None else _interface(content)


def remember_interface(env: Config, simulator: Simulator) -> None:
    """Keep it for later runs of this user's with the same settings; where it cannot be kept, they do without.

    Args:
        env: `env` of the trainer's config.
        simulator: That these settings made.
    """
    with suppress(OSError):
        write_atomically(_memory(env), _text(simulator), durable=False)


def recall_interface(env: Config) -> Interface | None:
    """What `remember_interface` kept; the task may have changed since. None where nothing, or nothing legible, is."""
    with suppress(OSError, LookupError, TypeError, ValueError, AttributeError):
        content = read_json(_memory(env))
        return None if content is None else _interface(content)
    return None


def _memory(env: Config) -> Path:
    settings = json.dumps(env, default=vars, sort_keys=True)
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache, "longshore", "interfaces", f"{hashlib.sha256(settings.encode()).hexdigest()[:32]}.json")


def _text(simulator: Simulator) -> str:
    content = {
        "observation": {key: describe(space) for key, space in simulator.observation.items()},
        "action": simulator.action,
        "control": None if simulator.control is None else simulator.control._asdict(),
    }
    return json.dumps(content, indent=2)


def _interface(content: Mapping[str, Any]) -> Interface:
    observation = {
        key: Space(tuple(space["shape"]), getattr(torch, space["dtype"]), tuple(map(tuple, space.get("terms", ()))))
        for key, space in content["observation"].items()
    }
    control = content["control"]
    return Interface(observation, content["action"], None if control is None else _control(**control))


def describe(space: Space) -> dict[str, Any]:
    """A key of the observations in JSON's terms."""
    described: dict[str, Any] = {"shape": list(space.shape), "dtype": dtype_name(space.dtype)}
    return {**described, "terms": [list(term) for term in space.terms]} if space.terms else described


def dtype_name(dtype: torch.dtype) -> str:
    """As numpy calls it: `float32`, `uint8`."""
    return str(dtype).removeprefix("torch.")


def _control(period: float, **axes: list[Any] | None) -> Control:
    return Control(period, **{name: None if values is None else tuple(values) for name, values in axes.items()})  # type: ignore[arg-type]
