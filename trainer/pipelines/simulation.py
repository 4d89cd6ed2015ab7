"""The simulator's process of `pipeline=async`.

Run by the coordinator as `python -m trainer.pipelines.simulation`. Imports no torch before `main` says so: Isaac Sim
must start first.
"""

from __future__ import annotations

import logging

from trainer.pipelines.meeting import meet
from trainer.role import RoleContext, run_role
from trainer.run_dir import Phase
from trainer.simulators.launch import start_before_torch


def main(context: RoleContext) -> None:
    """Entry point of the role."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    context.beat(Phase.STARTING)
    channel = meet(context, "learner", listening=False)
    start_before_torch(context)
    from trainer.pipelines.simulation_loop import SimulationLoop

    SimulationLoop(context, channel).run()


if __name__ == "__main__":
    run_role(main)
