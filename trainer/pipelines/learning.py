"""The learner's process of `pipeline=async`.

Run by the coordinator as `python -m trainer.pipelines.learning`.
"""

from __future__ import annotations

import logging

from trainer.pipelines.meeting import meet
from trainer.role import RoleContext, run_role
from trainer.run_dir import Phase


def main(context: RoleContext) -> None:
    """Entry point of the role."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    context.beat(Phase.STARTING)
    channel = meet(context, "simulator", listening=True)  # before seconds go by with importing torch
    from trainer.pipelines.learning_loop import LearningLoop

    LearningLoop(context, channel).run()


if __name__ == "__main__":
    run_role(main)
