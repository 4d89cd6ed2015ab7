"""A task package such as a user of Isaac Lab has one: importing it needs neither torch nor a running app."""

from __future__ import annotations

import gymnasium

TASK = "Standin-Reach-v0"


def register() -> None:
    """Add the task to gymnasium's registry, as `isaaclab_tasks` adds Isaac Lab's."""
    if TASK not in gymnasium.registry:
        gymnasium.register(
            id=TASK,
            entry_point=f"{__name__}.reach:ReachEnv",
            disable_env_checker=True,
            kwargs={"env_cfg_entry_point": f"{__name__}.reach_cfg:ReachEnvCfg"},
        )


register()
