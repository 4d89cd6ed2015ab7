"""Robots that walk one metre a second, and the environment that has them in a scene of its own making."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import torch
from isaaclab.assets import Articulation
from isaaclab.envs import DirectRLEnv
from isaaclab.sim import SimulationContext
from torch import Tensor

MANY = 4096  # more than there are environments
JOINTS = {"left": 0.3, "right": -0.3}  # and their angles when the robot stands, in radians


class Walker(Articulation):
    """A robot in each environment: what of Isaac Lab's articulations cameras and actions ask for."""

    def __init__(self, cfg: Any) -> None:
        self.cfg = cfg
        SimulationContext.instance().stage.DefinePrim(cfg.prim_path.replace(".*", "0"))
        self._places = torch.zeros(MANY, 3)
        stance = torch.tensor([list(JOINTS.values())])  # the same in all environments
        self._data = SimpleNamespace(root_pos_w=self._places, default_joint_pos=stance)

    def __del__(self) -> None: ...

    @property
    def data(self) -> Any:
        return self._data

    @property
    def num_joints(self) -> int:
        return len(JOINTS)

    def find_joints(self, names: Any, *_: Any, **__: Any) -> tuple[list[int], list[str]]:
        return list(range(len(JOINTS))), list(JOINTS)

    def set_joint_position_target(self, *_: Any, **__: Any) -> None: ...

    def reset(self, env_ids: Sequence[int] | None = None) -> None:
        self._places[slice(None) if env_ids is None else env_ids] = torch.tensor(self.cfg.init_state.pos)

    def update(self, dt: float) -> None:
        self._places[:, 0] += dt

    def write_data_to_sim(self) -> None: ...


def place(env: Any) -> Tensor:
    return env.scene["robot"].data.root_pos_w[: env.num_envs]


class WalkDirectEnv(DirectRLEnv):
    """Builds its scene as Isaac Lab's own tasks of this kind do."""

    def _setup_scene(self) -> None:
        robot = self.cfg.robot.class_type(self.cfg.robot)
        self.scene.clone_environments(copy_from_source=False)
        self.scene.articulations["robot"] = robot

    def _pre_physics_step(self, actions: Tensor) -> None: ...

    def _apply_action(self) -> None: ...

    def _get_observations(self) -> dict[str, Tensor]:
        return {"policy": place(self)}

    def _get_rewards(self) -> Tensor:
        return torch.ones(self.num_envs)

    def _get_dones(self) -> tuple[Tensor, Tensor]:
        over = self.episode_length_buf >= self.max_episode_length
        return torch.zeros_like(over), over
