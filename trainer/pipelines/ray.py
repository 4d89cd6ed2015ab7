"""The one role of `pipeline=ray`: the learner, which starts the simulators as actors of a Ray cluster.

Run by the coordinator as `python -m trainer.pipelines.ray`.
"""

from __future__ import annotations

import importlib.util
import logging
import os
import secrets

from trainer.errors import ConfigError
from trainer.pipelines.ray_cluster import tasks_of
from trainer.role import RoleContext, run_role
from trainer.run_dir import Phase


def main(context: RoleContext) -> None:
    """Entry point of the role."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    context.beat(Phase.STARTING)
    if importlib.util.find_spec("ray") is None:
        raise ConfigError("pipeline: ray is not installed; pip install 'ray>=2.40'")
    if not (address := context.config["pipeline"]["address"] or os.environ.get("RAY_ADDRESS")):
        # Of the cluster that will be made: who has it may run anything there. Ray reads it when it is imported.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex(32))
    tasks = None if address else tasks_of(os.environ)
    if tasks is not None:
        os.environ["RAY_AUTH_MODE"] = "token"
    import torch

    from trainer.pipelines.ray_fleet import Fleet, choose_fleet, connected, over_tasks
    from trainer.pipelines.ray_learning import RayLearningLoop

    with over_tasks(context, tasks) if tasks is not None else connected(address) as resources:
        context.reinstall_signals()  # Ray has put its own in their place, which end the process without saving
        choose_fleet(context.config, resources, torch.cuda.device_count())
        RayLearningLoop(context, Fleet(context.config, context.run_dir)).run()


if __name__ == "__main__":
    run_role(main)
