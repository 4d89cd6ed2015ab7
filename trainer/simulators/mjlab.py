"""mjlab: MuJoCo-Warp physics on a GPU or a CPU, built by TorchRL's MJLabEnv.

mjlab resets environments itself, as Isaac Lab does: an episode's last observation is never seen. Steps go to mjlab's
own environment: the host is what a step waits for, and TensorDicts would cost it a hundredth of a Go1's step.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators.base import Control, Space, Step
from trainer.simulators.managers import axes_of, terms_of
from trainer.simulators.observations import PIXELS, check_groups, chosen_groups, own, picked
from trainer.simulators.task_log import TaskLog

GROUP = "actor"  # of observations, in all of mjlab's tasks

# dm_control's rewards lie in [0, 1]; mjlab multiplies them by the control step and adds them up over an episode.
BOUNDED_REWARDS = ("Mjlab-Cartpole-Balance", "Mjlab-Cartpole-Swingup")


class MjlabSimulator:
    """One mjlab task.

    Args:
        config: `env` of the trainer's config.
        seed: Of resets and observation noise.
        device: Where physics and observations are.

    Raises:
        ConfigError: mjlab has no such task, or the task no such group of observations.
    """

    def __init__(self, config: Config, seed: int, device: torch.device) -> None:
        os.environ.setdefault("MUJOCO_GL", "disable")  # cameras are Warp's own; GL libraries need not be there
        os.environ.setdefault("MJLAB_WARP_QUIET", "1")  # no line for each of a hundred kernels
        from torchrl.envs.libs.mjlab import MJLabEnv

        tasks = MJLabEnv.available_envs
        if config.name not in tasks:
            raise ConfigError(f"env.name: mjlab has no task {config.name!r}; it has {', '.join(sorted(tasks))}")
        self._env = MJLabEnv(
            config.name,
            num_envs=config.num_envs,
            device=device,
            native_autoreset=True,
            allow_done_after_reset=True,
        )
        self._env.set_seed(seed)
        self._groups = chosen_groups(config, GROUP)
        specs = self._env.observation_spec
        check_groups(self._groups, list(specs), config.name)
        self._raw: Any = self._env._env
        self.environments = config.num_envs
        self.observation = {
            group: Space(tuple(specs[group].shape[1:]), terms=terms_of(self._raw.observation_manager, group))
            for group in self._groups
        }
        self._camera: str | None = None
        if config.from_pixels:
            camera = _camera(self._raw.cfg.scene.sensors, config.name)
            self._camera = camera.name
            self.observation[PIXELS] = Space((camera.height, camera.width, 3), torch.uint8)
        self.action = self._env.action_spec.shape[-1]
        self._limit = config.action_limit
        bound = (float(self._limit),) * self.action
        axes = axes_of(self._raw.action_manager, _described)
        self.control: Control | None = Control(self._raw.step_dt, tuple(-limit for limit in bound), bound, *axes)
        self._log = TaskLog()
        self._renderers: list[Any] = []  # one for each environment that is filmed
        bounded = config.name in BOUNDED_REWARDS
        self.max_return: float | None = self._raw.cfg.episode_length_s if bounded else None

    def reset(self) -> dict[str, Tensor]:
        observation, _ = self._raw.reset()
        return self._observe(observation)

    def step(self, action: Tensor) -> Step:
        observation, reward, terminated, truncated, extras = self._raw.step(action * self._limit)
        self._log.add(extras)
        # mjlab reuses its buffers.
        return Step(self._observe(observation), own(reward), terminated | truncated, terminated.clone())

    def render(self, environments: int) -> NDArray[np.uint8]:
        """By MuJoCo's own renderer and the task's camera, without shadows; on a CPU's rasteriser it takes its time."""
        if not self._renderers:
            self._renderers = [_renderer(self._raw, number) for number in range(environments)]
        pictures = []
        for renderer in self._renderers:
            renderer.update(self._raw.sim.data)
            pictures.append(renderer.render())
        return np.stack(pictures)

    def pop_log(self) -> dict[str, list[float]]:
        return self._log.pop()

    def state_dict(self) -> None:
        return None  # MuJoCo's state could be saved, the managers' (events, commands, delays) cannot

    def load_state_dict(self, saved: dict[str, object]) -> dict[str, Tensor]:
        raise NotImplementedError("mjlab's state cannot be saved, so that there is none to load")

    def close(self) -> None:
        self._env.close(raise_if_closed=False)

    def _observe(self, observation: Mapping[str, Tensor]) -> dict[str, Tensor]:
        seen = picked(observation, self._groups)
        if self._camera is not None:
            seen[PIXELS] = own(self._raw.scene[self._camera].data.rgb)  # its group has it as floats, [N, C, H, W]
        return seen


def _renderer(env: Any, number: int) -> Any:
    """Draws one environment; OpenGL is loaded here."""
    from mjlab.viewer.offscreen_renderer import OffscreenRenderer

    viewer = replace(env.cfg.viewer, env_idx=number, max_extra_envs=0, enable_shadows=False, enable_reflections=False)
    model, shared = env.sim.mj_model, {"sim_model": env.sim.model, "expanded_fields": env.sim.expanded_fields}
    renderer = OffscreenRenderer(model=model, cfg=viewer, scene=env.scene, **shared)
    renderer.initialize()
    return renderer


def _described(term: Any) -> tuple[Any, Any, Any]:
    """Names of the joints, tendons or sites that a term of the action moves, its scale and its offset."""
    return getattr(term, "target_names", None), getattr(term, "scale", None), getattr(term, "offset", None)


def _camera(sensors: Sequence[Any], task: str) -> Any:
    """Configuration of the one sensor that gives colours.

    Raises:
        ConfigError: There is none, or there are several.
    """
    cameras = [sensor for sensor in sensors if "rgb" in getattr(sensor, "data_types", ())]
    if len(cameras) != 1:
        names = ", ".join(camera.name for camera in cameras)
        raise ConfigError(
            f"env.from_pixels: {task} has {names or 'no camera'}; one camera with colours is needed, as "
            "Mjlab-Lift-Cube-Yam-Rgb has"
        )
    return cameras[0]
