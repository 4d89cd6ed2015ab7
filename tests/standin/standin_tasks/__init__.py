"""A task package such as a user of Isaac Lab has one: importing it needs neither torch nor a running app."""

from __future__ import annotations

import gymnasium

TASKS = {  # environments and their configurations
    "Standin-Reach-v0": (f"{__name__}.reach:ReachEnv", f"{__name__}.reach_cfg:ReachEnvCfg"),
    "Standin-Walk-v0": ("isaaclab.envs:ManagerBasedRLEnv", f"{__name__}.walk_cfg:WalkEnvCfg"),
    "Standin-Walk-Direct-v0": (f"{__name__}.walk:WalkDirectEnv", f"{__name__}.walk_cfg:WalkDirectEnvCfg"),
}


def register() -> None:
    """Add the tasks to gymnasium's registry, as `isaaclab_tasks` adds Isaac Lab's."""
    for task, (entry_point, configuration) in TASKS.items():
        if task not in gymnasium.registry:
            gymnasium.register(
                id=task,
                entry_point=entry_point,
                disable_env_checker=True,
                kwargs={"env_cfg_entry_point": configuration},
            )


register()
