"""Configuration of the stand-in's task, on Isaac Lab's own class."""

from __future__ import annotations

from isaaclab.envs import DirectRLEnvCfg
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.sim import SimulationCfg
from isaaclab.utils import configclass


@configclass
class ReachEnvCfg(DirectRLEnvCfg):
    """Points that are to reach their targets."""

    decimation = 2
    episode_length_s = 1.0
    observation_space = 4
    action_space = 2
    state_space = 0
    sim: SimulationCfg = SimulationCfg(dt=1 / 100, render_interval=2)
    scene: InteractiveSceneCfg = InteractiveSceneCfg(num_envs=4096, env_spacing=2.5, replicate_physics=True)

    speed: float = 0.1  # units that an action of 1 moves a point by
    room: float = 2.0  # a point that is further out than this has fallen
