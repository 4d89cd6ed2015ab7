"""A simulator that costs nothing and saves its state: a point that is to reach the origin.

It has what real ones have and tests need: episodes that end by termination (the point left the arena), by a time limit,
rewards that depend on the action, and observations after the reset.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators.base import Control, Space, Step
from trainer.simulators.task_log import TaskLog

TASKS = ("Debug-Reach",)
KEY = "policy"
EPISODE_STEPS = 25
ARENA = 2.0  # distance from the origin at which an episode terminates
PICTURE = 32  # pixels of a side, for people
SPEED = 0.2  # distance a step at full action


class DebugSimulator:
    """Position and action in the plane; the reward is 1 at the origin and falls with the distance."""

    observation: Mapping[str, Space] = {KEY: Space((3,))}  # position and the share of the episode that has passed
    action = 2
    max_return: float | None = None
    control: Control | None = None

    def __init__(self, config: Config, seed: int, device: torch.device) -> None:
        if config.name not in TASKS:
            raise ConfigError(f"env.name: the debug simulator has {', '.join(TASKS)}, not {config.name!r}")
        self.environments = config.num_envs
        self._device = device
        self._generator = torch.Generator().manual_seed(seed)
        self._position = torch.zeros(self.environments, 2)
        self._age = torch.zeros(self.environments, dtype=torch.long)
        self._log = TaskLog()

    def reset(self) -> dict[str, Tensor]:
        self._restart(torch.ones(self.environments, dtype=torch.bool))
        return self._observe()

    def step(self, action: Tensor) -> Step:
        self._position += SPEED * action.cpu()
        self._age += 1
        distance = self._position.norm(dim=-1)
        terminal = distance > ARENA
        last = terminal | (self._age >= EPISODE_STEPS)
        reward = torch.exp(-distance)
        self._log.add({"log": {"Episode_Termination/left_arena": terminal.sum()}})
        self._restart(last)
        return Step(self._observe(), reward.to(self._device), last.to(self._device), terminal.to(self._device))

    def render(self, environments: int) -> NDArray[np.uint8]:
        """The point, white, and the origin, green, in the arena."""
        pictures = np.zeros((environments, PICTURE, PICTURE, 3), np.uint8)
        pictures[:, PICTURE // 2, PICTURE // 2] = (0, 255, 0)
        share = (self._position[:environments].clamp(-ARENA, ARENA) / ARENA + 1) / 2
        places = (share * (PICTURE - 1)).round().long().numpy()
        pictures[np.arange(environments), places[:, 1], places[:, 0]] = 255
        return pictures

    def pop_log(self) -> dict[str, list[float]]:
        return self._log.pop()

    def state_dict(self) -> dict[str, Any]:
        return {
            "position": self._position.clone(),
            "age": self._age.clone(),
            "generator": self._generator.get_state(),
        }

    def load_state_dict(self, saved: dict[str, Any]) -> dict[str, Tensor]:
        self._position, self._age = saved["position"].clone(), saved["age"].clone()
        self._generator.set_state(saved["generator"])
        return self._observe()

    def close(self) -> None:
        pass

    def _restart(self, which: Tensor) -> None:
        positions = 2 * torch.rand(self.environments, 2, generator=self._generator) - 1
        self._position = torch.where(which.unsqueeze(-1), positions, self._position)
        self._age = torch.where(which, 0, self._age)

    def _observe(self) -> dict[str, Tensor]:
        share = self._age.unsqueeze(-1) / EPISODE_STEPS
        return {KEY: torch.cat([self._position, share], -1).to(self._device)}
