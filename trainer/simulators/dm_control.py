"""dm_control: MuJoCo on CPUs, in processes of its own; states, or pixels by EGL or OSMesa.

Each process steps a set of environments, and all of them write to one block of shared memory: a step costs two short
messages a process. An environment whose episode ends is reset at once, as simulators on GPUs do it.
"""

from __future__ import annotations

import os
from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators.base import Control, Space, Step
from trainer.simulators.dm_control_suite import load, task_names
from trainer.simulators.dm_control_workers import Field, Workers, worker_plan
from trainer.simulators.observations import PIXELS, check_groups, chosen_groups

UNBOUNDED_REWARDS = ("lqr",)  # all other rewards of the suite lie in [0, 1]
EPISODE_STEPS = 1000  # of those other domains


class DmControlSimulator:
    """Environments of one task of the control suite.

    Args:
        config: `env` of the trainer's config.
        seed: Of the starts of episodes, different in each environment.
        device: Where observations are wanted.
        workers: Processes; None for one a core, and no more than there are environments.

    Raises:
        ConfigError: There is no such task, it has no such observation, or there is no OpenGL to see with.
    """

    def __init__(self, config: Config, seed: int, device: torch.device, workers: int | None) -> None:
        os.environ.setdefault("MUJOCO_GL", "egl" if config.from_pixels else "disable")
        names = task_names()
        if config.name not in names:
            raise ConfigError(f"env.name: dm_control has no task {config.name!r}; it has {', '.join(sorted(names))}")
        domain, task = names[config.name]
        env = load(domain, task, seed)
        known = env.observation_spec()
        all_seen = config.observation_key is None and not config.from_pixels
        groups = list(known) if all_seen else chosen_groups(config, "")
        check_groups(groups, list(known), config.name)
        bounds = env.action_spec()
        self.environments, self.action = config.num_envs, int(bounds.shape[0])
        self.observation: Mapping[str, Space] = {key: Space(tuple(known[key].shape) or (1,)) for key in groups}
        size = None
        if config.from_pixels:
            size = (config.camera.height, config.camera.width)
            self.observation = {**self.observation, PIXELS: Space((*size, 3), torch.uint8)}
        joints = tuple(env.physics.model.id2name(axis, "actuator") for axis in range(self.action))
        low, high = (tuple(float(bound) for bound in side) for side in (bounds.minimum, bounds.maximum))
        self.control: Control | None = Control(env.control_timestep() * config.action_repeat, low, high, joints)
        self.max_return: float | None = None if domain in UNBOUNDED_REWARDS else float(EPISODE_STEPS)
        self._device = device
        count = min(workers or os.cpu_count() or 1, self.environments)
        fields = {"action": Field((self.action,), "float32"), "reward": Field((), "float32")}
        fields |= {"is_last": Field((), "bool"), "is_terminal": Field((), "bool")}
        fields |= {
            f"observation.{key}": Field(space.shape, "uint8" if space.dtype == torch.uint8 else "float32")
            for key, space in self.observation.items()
        }
        plan = worker_plan(domain, task, seed, self.environments, count, config.action_repeat, size)
        self._workers = Workers(plan, fields)

    def reset(self) -> dict[str, Tensor]:
        self._workers.run("reset")
        return self._observe()

    def step(self, action: Tensor) -> Step:
        arrays = self._workers.arrays
        arrays["action"][:] = action.cpu().numpy()
        self._workers.run("step")
        reward, is_last, is_terminal = (self._own(arrays[name]) for name in ("reward", "is_last", "is_terminal"))
        return Step(self._observe(), reward, is_last, is_terminal)

    def render(self, environments: int) -> NDArray[np.uint8]:
        raise RuntimeError("with dm_control, what an agent sees can be filmed (env.from_pixels), and nothing else")

    def pop_log(self) -> dict[str, list[float]]:
        return {}  # the suite's tasks tell nothing but the reward

    def state_dict(self) -> None:
        return None  # MuJoCo's state could be saved, a task's own (targets, generators) cannot

    def load_state_dict(self, saved: dict[str, object]) -> dict[str, Tensor]:
        raise NotImplementedError("dm_control's state cannot be saved, so that there is none to load")

    def close(self) -> None:
        self._workers.close()

    def _observe(self) -> dict[str, Tensor]:
        return {key: self._own(self._workers.arrays[f"observation.{key}"]) for key in self.observation}

    def _own(self, array: np.ndarray) -> Tensor:
        """A copy: the processes write the next step's values to the same memory."""
        return torch.from_numpy(array.copy()).to(self._device)
