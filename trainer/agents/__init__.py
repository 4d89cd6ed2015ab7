"""Agents: world model, behaviour and the losses that train them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from trainer.errors import ConfigError

if TYPE_CHECKING:
    from trainer.agents.base import Agent
    from trainer.config import Config
    from trainer.simulators.base import Space

AGENTS = ("dreamer", "dreamer_v3")


def make_agent(config: Config, observation: Mapping[str, Space], action: int) -> Agent:
    """The agent that `agent.name` of the trainer's config names, on the CPU.

    Args:
        config: `agent` of the trainer's config.
        observation: What the simulator shows.
        action: Width of the action.

    Raises:
        ConfigError: There is no such agent, or it cannot see such observations.
    """
    if config.name == "dreamer":
        from trainer.agents.dreamer import Dreamer

        return Dreamer(config, observation, action)
    if config.name == "dreamer_v3":
        from trainer.agents.dreamer_v3 import DreamerV3

        return DreamerV3(config, observation, action)
    raise ConfigError(f"agent.name: {config.name!r} is none of {', '.join(AGENTS)}")
