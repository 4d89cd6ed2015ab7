"""mjlab: MuJoCo-Warp physics on a GPU or a CPU, through TorchRL's MJLabWrapper.

The wrapper keeps mjlab's own auto-reset, as Isaac Lab's does: an episode's last observation is never seen.
"""

from __future__ import annotations

import os

import torch
from tensordict import TensorDict
from torch import Tensor

from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators.base import Step

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
        os.environ.setdefault("MUJOCO_GL", "disable")  # nothing is rendered; GL libraries need not be there
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
        groups = self._env.observation_spec
        self._key = config.observation_key
        if self._key not in list(groups):
            raise ConfigError(f"env.observation_key: {config.name} has {', '.join(groups)}, not {self._key!r}")
        self.environments = config.num_envs
        self.observation = groups[self._key].shape[-1]
        self.action = self._env.action_spec.shape[-1]
        self._limit = config.action_limit
        cfg = self._env._env.cfg
        bounded = config.name in BOUNDED_REWARDS
        self.max_return: float | None = cfg.episode_length_s if bounded else None
        self._current = TensorDict(batch_size=[config.num_envs], device=device)

    def reset(self) -> Tensor:
        self._current = self._env.reset()
        return self._observe()

    def step(self, action: Tensor) -> Step:
        self._current["action"] = action * self._limit
        stepped, self._current = self._env.step_and_maybe_reset(self._current)
        after = stepped["next"]
        return Step(
            self._observe(),
            after["reward"].squeeze(-1).clone(),
            after["done"].squeeze(-1).clone(),  # mjlab reuses its buffers
            after["terminated"].squeeze(-1).clone(),
        )

    def state_dict(self) -> None:
        return None  # MuJoCo's state could be saved, the managers' (events, commands, delays) cannot

    def load_state_dict(self, saved: dict[str, object]) -> Tensor:
        raise NotImplementedError("mjlab's state cannot be saved, so that there is none to load")

    def close(self) -> None:
        self._env.close(raise_if_closed=False)

    def _observe(self) -> Tensor:
        return self._current[self._key].float().clone()
