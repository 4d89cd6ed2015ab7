"""A vectorised task that behaves as Isaac Lab's do: it resets itself, and writes where it wrote before."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar

import gymnasium
import numpy as np
import torch
from gymnasium.vector.utils import batch_space
from torch import Tensor

from ..kit_stubs import SimulationApp
from ..kit_stubs.simulation_app import HANG

if TYPE_CHECKING:
    from .reach_cfg import ReachEnvCfg


class ReachEnv(gymnasium.Env[dict[str, Tensor], Tensor]):
    """Points on a plane that are rewarded for being near their targets, and fall where the room ends.

    As with Isaac Lab: observations are `{"policy": [N, 4]}`, rewards `[N]`; what ended is reset within the step that
    ended it, so that its last observation is lost; rewards, `terminated` and `truncated` are the same tensors each
    time, written in place; `extras["log"]` holds the books of the last reset until the next one; the space of actions
    is unbounded; a process has one simulation at most.

    Attributes:
        cfg: What it was made with.
        num_envs: N.
        device: Where its tensors are.
        episode_length_buf: Steps since the last reset, `[N]`.
        scene: Sensors by name; `tiled_camera` where the configuration has one.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [None, "human", "rgb_array"]}
    is_vector_env: ClassVar[bool] = True
    simulations: ClassVar[int] = 0

    def __init__(self, cfg: ReachEnvCfg, render_mode: str | None = None, **_: object) -> None:
        """Build the scene.

        Raises:
            RuntimeError: No app runs, the process has a simulation already, or a camera needs an app that renders.
        """
        if SimulationApp.instance is None:
            raise RuntimeError("no SimulationApp runs: start AppLauncher first")
        if ReachEnv.simulations:
            raise RuntimeError("Simulation context already exists. Cannot create a new one.")
        cfg.validate()
        self.cfg, self.render_mode = cfg, render_mode
        self.num_envs, self.device = cfg.scene.num_envs, torch.device(cfg.sim.device)
        self.single_observation_space = gymnasium.spaces.Dict(
            {"policy": gymnasium.spaces.Box(-np.inf, np.inf, (cfg.observation_space,), np.float32)}
        )
        self.single_action_space = gymnasium.spaces.Box(-np.inf, np.inf, (cfg.action_space,), np.float32)
        self.observation_space = batch_space(self.single_observation_space, self.num_envs)
        self.action_space = batch_space(self.single_action_space, self.num_envs)
        self.max_episode_length = round(cfg.episode_length_s / (cfg.sim.dt * cfg.decimation))
        self.scene = _scene(cfg, self.num_envs, self.device)
        self._generator = torch.Generator(device=self.device)
        self._generator.manual_seed(cfg.seed if cfg.seed is not None else 0)
        self._position = torch.zeros(self.num_envs, 2, device=self.device)
        self._target = torch.zeros(self.num_envs, 2, device=self.device)
        self.episode_length_buf = torch.zeros(self.num_envs, dtype=torch.long, device=self.device)
        self.reward_buf = torch.zeros(self.num_envs, device=self.device)
        self.reset_terminated = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self.reset_time_outs = torch.zeros(self.num_envs, dtype=torch.bool, device=self.device)
        self._sums = torch.zeros(self.num_envs, device=self.device)  # of the reward's one term, over the episode
        self.extras: dict[str, Any] = {}
        ReachEnv.simulations += 1

    @property
    def step_dt(self) -> float:
        """Seconds that a step simulates."""
        return float(self.cfg.sim.dt * self.cfg.decimation)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Tensor], dict[str, Any]]:
        if seed is not None:
            self._generator.manual_seed(seed)
        self._reset(torch.arange(self.num_envs, device=self.device))
        return self._observe(), self.extras

    def step(self, action: Tensor) -> tuple[dict[str, Tensor], Tensor, Tensor, Tensor, dict[str, Any]]:
        if action.shape != (self.num_envs, self.cfg.action_space):
            raise ValueError(f"actions are {tuple(action.shape)}, not {(self.num_envs, self.cfg.action_space)}")
        self._position += self.cfg.speed * action.to(self.device).clamp(-1.0, 1.0)
        self.episode_length_buf += 1
        self.reward_buf[:] = 1.0 - (self._position - self._target).norm(dim=-1)
        self.reset_terminated[:] = self._position.abs().amax(dim=-1) > self.cfg.room
        self._sums += self.reward_buf
        self.reward_buf[self.reset_terminated] -= 10.0
        self.reset_time_outs[:] = self.episode_length_buf >= self.max_episode_length
        ended = (self.reset_terminated | self.reset_time_outs).nonzero().squeeze(-1)
        if len(ended):
            self._reset(ended)
        return self._observe(), self.reward_buf, self.reset_terminated, self.reset_time_outs, self.extras

    def seed(self, seed: int = -1) -> int:
        self._generator.manual_seed(seed)
        return seed

    def close(self) -> None:
        while os.environ.get(HANG):
            time.sleep(1)
        ReachEnv.simulations = 0

    def _reset(self, which: Tensor) -> None:
        self.extras["log"] = {
            "Episode_Reward/near": self._sums[which].mean() / self.cfg.episode_length_s,
            "Episode_Termination/fell": int(self.reset_terminated[which].sum()),
        }
        self._sums[which] = 0.0
        self._position[which] = 2 * torch.rand(len(which), 2, generator=self._generator, device=self.device) - 1
        self._target[which] = 2 * torch.rand(len(which), 2, generator=self._generator, device=self.device) - 1
        self.episode_length_buf[which] = 0

    def _observe(self) -> dict[str, Tensor]:
        camera = self.scene.get("tiled_camera")
        if camera is not None:
            _draw(camera.data.output["rgb"], self._position / self.cfg.room)
        return {"policy": torch.cat([self._position, self._target - self._position], dim=-1)}


def _scene(cfg: ReachEnvCfg, num_envs: int, device: torch.device) -> dict[str, Any]:
    """The sensors of a scene, where it has any."""
    camera = getattr(cfg.scene, "tiled_camera", None)
    if camera is None:
        return {}
    if SimulationApp.instance is None or not SimulationApp.instance.enable_cameras:
        raise RuntimeError("A camera was spawned without the --enable_cameras flag. Please use --enable_cameras.")
    rgb = torch.zeros(num_envs, camera.height, camera.width, 3, dtype=torch.uint8, device=device)
    return {"tiled_camera": SimpleNamespace(cfg=camera, data=SimpleNamespace(output={"rgb": rgb}))}


def _draw(images: Tensor, position: Tensor) -> None:
    """Draw a white square where each point is, into the same tensor as before; `position` is within [-1, 1]."""
    count, height, width, _ = images.shape
    size = max(1, height // 16)
    images.zero_()
    rows = ((position[:, 1] + 1) / 2 * (height - size)).long().clamp(0, height - size)
    columns = ((position[:, 0] + 1) / 2 * (width - size)).long().clamp(0, width - size)
    each = torch.arange(count, device=images.device)
    for down in range(size):
        for right in range(size):
            images[each, rows + down, columns + right] = 255
