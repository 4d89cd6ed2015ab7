"""Small agents and sequences for tests."""

from __future__ import annotations

import torch

from trainer.agents.dreamer_v3 import DreamerV3
from trainer.config import Config, compose
from trainer.replay import Rows, Sequences

OBSERVATION, ACTION = 3, 2


def debug_config(*overrides: str) -> Config:
    return Config.of(compose(["experiment=debug", *overrides]))


def small_agent(*overrides: str, seed: int = 0) -> DreamerV3:
    """An agent of the debug sizes whose heads are not zero, so that gradients reach everything."""
    torch.manual_seed(seed)
    agent = DreamerV3(debug_config(*overrides).agent, OBSERVATION, ACTION)
    with torch.no_grad():
        for parameter in agent.parameters():
            if not parameter.any():
                parameter.normal_(std=0.1)
    return agent


def random_rows(length: int, batch: int, seed: int = 0) -> Rows:
    """Rows without episode ends."""
    generator = torch.Generator().manual_seed(seed)
    no = torch.zeros(length, batch, dtype=torch.bool)
    return Rows(
        torch.randn(length, batch, OBSERVATION, generator=generator),
        2 * torch.rand(length, batch, ACTION, generator=generator) - 1,
        torch.randn(length, batch, generator=generator),
        no.clone(),
        no.clone(),
        no.clone(),
    )


def end_episode(rows: Rows, row: int, *, terminal: bool) -> Rows:
    """The same rows with an episode ending on `row` in every sequence."""
    for flag in (rows.is_first, rows.is_last, *([rows.is_terminal] if terminal else [])):
        flag[row] = True
    return rows


def sequences_of(agent: DreamerV3, rows: Rows) -> Sequences:
    """Sequences that begin from an arbitrary latent."""
    batch = rows.reward.shape[1]
    state = agent.initial(batch)
    context = state._replace(deter=torch.full_like(state.deter, 0.3))
    return Sequences(rows, context, torch.zeros(batch, dtype=torch.long), torch.arange(batch))
