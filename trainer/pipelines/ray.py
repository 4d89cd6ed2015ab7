"""The one role of `pipeline=ray`: the learner, which starts the simulators as actors of a Ray cluster.

Run by the coordinator as `python -m trainer.pipelines.ray`.
"""

from __future__ import annotations

import logging

from trainer.errors import ConfigError
from trainer.role import RoleContext, run_role
from trainer.run_dir import Phase


def main(context: RoleContext) -> None:
    """Entry point of the role."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    context.beat(Phase.STARTING)
    try:
        import ray
    except ModuleNotFoundError:
        raise ConfigError("pipeline: ray is not installed; pip install 'ray>=2.40'") from None
    import torch

    from trainer.pipelines.ray_fleet import Fleet, choose_fleet, connect
    from trainer.pipelines.ray_learning import RayLearningLoop

    try:
        choose_fleet(context.config, connect(context.config), torch.cuda.device_count())
        RayLearningLoop(context, Fleet(context.config, context.run_dir)).run()
    finally:
        ray.shutdown()


if __name__ == "__main__":
    run_role(main)
