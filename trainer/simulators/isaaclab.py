"""Isaac Lab: PhysX on a GPU. Isaac Sim must have been started before torch.

Isaac Lab resets environments itself: what an episode ended with is never seen, but its reward and whether it was a
termination are. TorchRL's IsaacLabWrapper is not gone through: it puts NaN where the last observation was and a
TensorDict around everything, the host is what a step waits for, and it does not find the observations of tasks that
build their scene in code.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators import isaaclab_app
from trainer.simulators.base import Control, Space, Step
from trainer.simulators.isaaclab_camera import add_camera, make_env, read_camera
from trainer.simulators.isaaclab_config import configure, task_config
from trainer.simulators.isaaclab_film import Film, add_film_camera
from trainer.simulators.managers import axes_of, terms_of
from trainer.simulators.observations import PIXELS, check_groups, chosen_groups, own, picked, spaces_of
from trainer.simulators.task_log import TaskLog
from trainer.simulators.task_packages import import_packages

GROUP = "policy"  # of observations, in all of Isaac Lab's tasks

_simulation: Any = None  # kept: a collected environment would close itself, and closing may hang


class IsaacLabSimulator:
    """One Isaac Lab task; there can be one in a process.

    Args:
        config: `env` of the trainer's config.
        seed: Of resets, commands and observation noise.
        device: The first GPU.
        filmed: How many environments are to be filmed that no agent sees.

    Raises:
        ConfigError: The task, its settings or the device are not what Isaac Lab has, or an agent cannot act in it.
        RuntimeError: Isaac Sim was not started, or this process has a simulation already.
    """

    max_return: float | None = None

    def __init__(self, config: Config, seed: int, device: torch.device, filmed: int = 0) -> None:
        global _simulation
        if not isaaclab_app.is_running():
            raise RuntimeError(
                "Isaac Sim does not run: trainer.simulators.launch must start it before torch is imported"
            )
        if _simulation is not None:
            raise RuntimeError(
                "this process has a simulation already, and Isaac Sim holds only one: a second needs another process"
            )
        _check_device(device, config)
        import_packages(config.packages)
        task = task_config(config.name)
        groups = chosen_groups(config, GROUP)
        configure(task, config, seed, str(device))
        renders = isaaclab_app.renders(config)
        if config.from_pixels:
            add_camera(task, config.camera)
        elif filmed and not renders:
            add_film_camera(task, config.camera, filmed)
        env = _simulation = make_env(config.name, task)
        self._raw: Any = env.unwrapped
        self._film = Film(self._raw, config.camera) if filmed and not renders else None
        self._shift, self._scale = _action_bounds(config, self._raw.single_action_space, device)
        check_groups(groups, list(self._raw.single_observation_space), config.name)
        self._groups, self._pixels = groups, bool(config.from_pixels)
        self._log = TaskLog()
        self.environments = config.num_envs
        spaces = spaces_of(self.reset())  # what Isaac Lab calls a space does not tell bytes from floats
        terms = getattr(self._raw, "observation_manager", None)
        self.observation: Mapping[str, Space] = {
            key: space._replace(terms=terms_of(terms, key)) for key, space in spaces.items()
        }
        if self._film is not None:
            self._film.begin()
        self.action = len(self._scale)
        low, high = self._shift - self._scale, self._shift + self._scale
        axes = axes_of(getattr(self._raw, "action_manager", None), _described)
        self.control: Control | None = Control(self._raw.step_dt, tuple(low.tolist()), tuple(high.tolist()), *axes)

    def reset(self) -> dict[str, Tensor]:
        observation, _ = self._raw.reset()
        return self._observe(observation)

    def step(self, action: Tensor) -> Step:
        observation, reward, terminated, truncated, extras = self._raw.step(self._shift + self._scale * action)
        self._log.add(extras)
        # Isaac Lab reuses its buffers.
        return Step(self._observe(observation), own(reward), terminated | truncated, terminated.clone())

    def render(self, environments: int) -> NDArray[np.uint8]:
        if self._film is not None:
            return self._film.pictures()
        return read_camera(self._raw.scene)[:environments].cpu().numpy()

    def pop_log(self) -> dict[str, list[float]]:
        return self._log.pop()

    def state_dict(self) -> None:
        return None  # the scene's state could be saved, the managers' (events, commands, curricula) cannot

    def load_state_dict(self, saved: dict[str, object]) -> dict[str, Tensor]:
        raise NotImplementedError("Isaac Lab's state cannot be saved, so that there is none to load")

    def close(self) -> None:
        """Nothing: closing may hang, and the end of the process frees what there is (`RoleContext.exits_at_once`)."""

    def _observe(self, observation: Mapping[str, Any]) -> dict[str, Tensor]:
        seen = picked(observation, self._groups)
        if self._pixels:
            seen[PIXELS] = own(read_camera(self._raw.scene))
        return seen


def _check_device(device: torch.device, config: Config) -> None:
    if device.type == "cuda" and (device.index or 0) == 0:
        return
    if device.type == "cpu" and config.allow_cpu:
        return
    raise ConfigError(
        f"device: Isaac Lab runs on cuda:0, not on {device}"
        + ("; no GPU can be seen" if not torch.cuda.is_available() else "")
    )


def _described(term: Any) -> tuple[Any, Any, Any]:
    """Names of the joints that a term of the action moves; its scale and offset where that is all that it does."""
    told = term.IO_descriptor
    affine = getattr(told, "action_type", None) == "JointAction"
    numbers = (getattr(told, name, None) if affine else None for name in ("scale", "offset"))
    return (getattr(told, "joint_names", None), *numbers)  # type: ignore[return-value]


def _action_bounds(config: Config, space: Any, device: torch.device) -> tuple[Tensor, Tensor]:
    """Shift and scale `[A]` that make actions within [-1, 1] the task's own.

    Raises:
        ConfigError: Actions are no vector of numbers.
    """
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ConfigError(f"env.name: actions of {config.name} are {space}; agents act with a vector of numbers")
    bounded = np.isfinite(space.low) & np.isfinite(space.high)
    low = np.where(bounded, space.low, -config.action_limit)
    high = np.where(bounded, space.high, config.action_limit)

    def vector(values: Any) -> Tensor:
        return torch.as_tensor(values, dtype=torch.float32, device=device)

    return vector((low + high) / 2), vector((high - low) / 2)
