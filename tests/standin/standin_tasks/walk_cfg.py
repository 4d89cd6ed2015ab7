"""Two tasks on Isaac Lab's own environments: one has its scene in its configuration, one builds it in code."""

from __future__ import annotations

from isaaclab.actuators import ImplicitActuatorCfg
from isaaclab.assets import ArticulationCfg
from isaaclab.envs import DirectRLEnvCfg, ManagerBasedRLEnvCfg, mdp
from isaaclab.managers import ObservationGroupCfg, ObservationTermCfg, RewardTermCfg, TerminationTermCfg
from isaaclab.scene import InteractiveSceneCfg
from isaaclab.sim import SimulationCfg
from isaaclab.utils import configclass

from . import walk

ROBOT = ArticulationCfg(
    class_type=walk.Walker,
    prim_path="/World/envs/env_.*/Robot",
    init_state=ArticulationCfg.InitialStateCfg(pos=(0.0, 0.0, 0.5)),
    actuators={"none": ImplicitActuatorCfg(joint_names_expr=[], stiffness=None, damping=None)},
)


@configclass
class SceneCfg(InteractiveSceneCfg):
    """A robot."""

    robot: ArticulationCfg = ROBOT


@configclass
class ObservationsCfg:
    """Where the robot is."""

    @configclass
    class PolicyCfg(ObservationGroupCfg):
        """The agent's."""

        place = ObservationTermCfg(func=walk.place)
        last = ObservationTermCfg(func=mdp.last_action)

    policy: PolicyCfg = PolicyCfg()


@configclass
class ActionsCfg:
    """Angles of the joints; the robot walks as it does."""

    angles = mdp.JointPositionActionCfg(asset_name="robot", joint_names=[".*"], scale=0.5)


@configclass
class RewardsCfg:
    """For being anywhere."""

    alive = RewardTermCfg(func=mdp.is_alive, weight=1.0)


@configclass
class TerminationsCfg:
    """After a while."""

    time_out = TerminationTermCfg(func=mdp.time_out, time_out=True)


@configclass
class EventsCfg:
    """None."""


@configclass
class WalkEnvCfg(ManagerBasedRLEnvCfg):
    """A robot that walks along x, its scene as Isaac Lab's own tasks of this kind have it."""

    decimation = 2
    episode_length_s = 0.2
    sim: SimulationCfg = SimulationCfg(dt=1 / 100, render_interval=2)
    scene: SceneCfg = SceneCfg(num_envs=4096, env_spacing=2.5, clone_in_fabric=True)
    observations: ObservationsCfg = ObservationsCfg()
    actions: ActionsCfg = ActionsCfg()
    events: EventsCfg = EventsCfg()
    rewards: RewardsCfg = RewardsCfg()
    terminations: TerminationsCfg = TerminationsCfg()


@configclass
class WalkDirectEnvCfg(DirectRLEnvCfg):
    """The same with a scene that is built in code."""

    decimation = 2
    episode_length_s = 0.2
    observation_space = 3
    action_space = 2
    state_space = 0
    sim: SimulationCfg = SimulationCfg(dt=1 / 100, render_interval=2)
    scene: InteractiveSceneCfg = InteractiveSceneCfg(num_envs=4096, env_spacing=2.5, clone_in_fabric=True)
    robot: ArticulationCfg = ROBOT
