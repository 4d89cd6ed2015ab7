"""Simulators: many environments stepped at once behind one small interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from trainer.config import Config
    from trainer.simulators.base import Simulator

BACKENDS = ("mjlab", "isaaclab", "dm_control", "debug")


def make_simulator(
    config: Config, seed: int, device: torch.device, processes: int | None = None, filmed: int = 0
) -> Simulator:
    """Start the simulator that `env` of the trainer's config names.

    Args:
        config: `env` of the trainer's config.
        seed: Of all that is random in it.
        device: Where observations are wanted.
        processes: `collector.num_collectors`, for simulators that step their environments in processes of their own.
        filmed: How many environments are to be filmed that no agent sees, for simulators that have to know beforehand.

    Raises:
        ConfigError: There is no such backend or task.
    """
    if config.backend == "dm_control":
        from trainer.simulators.dm_control import DmControlSimulator

        return DmControlSimulator(config, seed, device, processes)
    if config.action_repeat != 1:
        raise ConfigError(
            f"env.action_repeat: {config.backend} holds an action for as long as the task says; "
            "with Isaac Lab set env.cfg.decimation"
        )
    if config.backend == "mjlab":
        from trainer.simulators.mjlab import MjlabSimulator

        return MjlabSimulator(config, seed, device)
    if config.backend == "isaaclab":
        from trainer.simulators.isaaclab import IsaacLabSimulator

        return IsaacLabSimulator(config, seed, device, filmed)
    if config.backend == "debug":
        from trainer.simulators.debug import DebugSimulator

        return DebugSimulator(config, seed, device)
    raise ConfigError(f"env.backend: {config.backend!r} is none of {', '.join(BACKENDS)}")
