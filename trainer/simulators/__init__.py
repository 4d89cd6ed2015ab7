"""Simulators: many environments stepped at once behind one small interface."""

from __future__ import annotations

from typing import TYPE_CHECKING

from trainer.errors import ConfigError

if TYPE_CHECKING:
    import torch

    from trainer.config import Config
    from trainer.simulators.base import Simulator

BACKENDS = ("mjlab", "isaaclab", "debug")


def make_simulator(config: Config, seed: int, device: torch.device) -> Simulator:
    """Start the simulator that `env` of the trainer's config names.

    Raises:
        ConfigError: There is no such backend or task.
    """
    if config.backend == "mjlab":
        from trainer.simulators.mjlab import MjlabSimulator

        return MjlabSimulator(config, seed, device)
    if config.backend == "isaaclab":
        from trainer.simulators.isaaclab import IsaacLabSimulator

        return IsaacLabSimulator(config, seed, device)
    if config.backend == "debug":
        from trainer.simulators.debug import DebugSimulator

        return DebugSimulator(config, seed, device)
    raise ConfigError(f"env.backend: {config.backend!r} is none of {', '.join(BACKENDS)}")
