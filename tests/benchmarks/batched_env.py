"""Points that are pushed about: batched environments that cost nothing, in place of a simulator's."""

from __future__ import annotations

import torch
from tensordict import TensorDict, TensorDictBase
from torchrl.data import Bounded, Categorical, Composite, Unbounded
from torchrl.envs import EnvBase

OBSERVATION = 3
ACTION = 2


class PointEnv(EnvBase):
    """Two coordinates and the time, pushed by two forces; the reward is minus the distance from the origin.

    Args:
        environments: How many; the specs carry them as their first dimension, as those of Isaac Lab and mjlab do.
        episode: Steps until truncation; every second environment needs one more.
    """

    def __init__(self, environments: int, episode: int = 1000) -> None:
        super().__init__(device="cpu", batch_size=[environments])
        self.observation_spec = Composite(
            policy=Unbounded((environments, OBSERVATION)), critic=Unbounded((environments, 1)), shape=[environments]
        )
        self.action_spec = Bounded(-1.0, 1.0, (environments, ACTION))
        self.reward_spec = Unbounded((environments, 1))
        flag = Categorical(2, shape=(environments, 1), dtype=torch.bool)
        self.done_spec = Composite(
            done=flag.clone(), terminated=flag.clone(), truncated=flag.clone(), shape=[environments]
        )
        self._episodes = episode + torch.arange(environments)[:, None] % 2
        self._position = torch.zeros(environments, 2)
        self._time = torch.zeros(environments, 1, dtype=torch.long)

    def _reset(self, tensordict: TensorDictBase | None = None, **_: object) -> TensorDict:
        which = None if tensordict is None else tensordict.get("_reset", None)
        which = torch.ones_like(self._time, dtype=torch.bool) if which is None else which.view_as(self._time)
        self._position = torch.where(which, torch.randn_like(self._position), self._position)
        self._time = self._time.masked_fill(which, 0)
        return TensorDict(self._observe(), batch_size=self.batch_size)

    def _step(self, tensordict: TensorDictBase) -> TensorDict:
        self._position = self._position + 0.1 * tensordict["action"]
        self._time = self._time + 1
        truncated = self._time >= self._episodes
        flags = {"done": truncated, "truncated": truncated.clone(), "terminated": torch.zeros_like(truncated)}
        reward = -self._position.norm(dim=-1, keepdim=True)
        return TensorDict({**self._observe(), "reward": reward, **flags}, batch_size=self.batch_size)

    def _set_seed(self, seed: int | None) -> None:
        if seed is not None:
            torch.manual_seed(seed)

    def _observe(self) -> dict[str, torch.Tensor]:
        return {
            "policy": torch.cat([self._position, self._time / 10], -1),
            "critic": self._position.norm(dim=-1, keepdim=True),
        }
