"""Small agents and sequences for tests."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.agents import make_agent
from trainer.agents.base import Agent, Noise
from trainer.config import Config, compose
from trainer.replay import Replay, Rows, Sequences
from trainer.simulators.base import Space
from trainer.simulators.debug import KEY
from trainer.world_model.layers import Linear
from trainer.world_model.rssm import Rollout, State

OBSERVATION: Mapping[str, Space] = {KEY: Space((3,))}
ACTION = 2
CPU = torch.device("cpu")


@functools.cache
def _composed(overrides: tuple[str, ...]) -> dict[str, Any]:
    return compose(["experiment=debug", *overrides])


def debug_config(*overrides: str) -> Config:
    return Config.of(_composed(overrides))


def small_agent(*overrides: str, seed: int = 0) -> Agent:
    """An agent of the debug sizes whose heads and biases are not zero, so that gradients reach everything."""
    torch.manual_seed(seed)
    agent = make_agent(debug_config(*overrides).agent, OBSERVATION, ACTION)
    with torch.no_grad():
        for module in agent.modules():
            for parameter in real_parameters(module):
                if not parameter.any():
                    parameter.normal_(std=0.1)
    return agent


def real_parameters(module: torch.nn.Module) -> list[Tensor]:
    """The module's own parameters without their padding, as views."""
    if isinstance(module, Linear):
        return [module.weight[: module.outputs, : module.inputs]] + (
            [] if module.bias is None else [module.bias[: module.outputs]]
        )
    return list(module.parameters(recurse=False))


def random_rows(length: int, batch: int, seed: int = 0) -> Rows:
    """Rows without episode ends."""
    generator = torch.Generator().manual_seed(seed)
    no = torch.zeros(length, batch, dtype=torch.bool)
    return Rows(
        {key: torch.randn(length, batch, *space.shape, generator=generator) for key, space in OBSERVATION.items()},
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


def state_of(agent: Agent, *batch: int, fill: float) -> State:
    """A latent state whose recurrent half is one number; its other half is a sample that the kind of latents can be."""
    latent = agent.world_model.rssm.latent
    width, dtype = latent.stored
    return State(
        torch.full((*batch, agent.world_model.rssm.deter), fill),
        latent.unpack(torch.zeros(*batch, width, dtype=dtype)),
    )


def sequences_of(agent: Agent, rows: Rows) -> Sequences:
    """Sequences that begin from an arbitrary latent."""
    batch = rows.reward.shape[1]
    context = agent.initial(batch)
    context = context._replace(deter=torch.full_like(context.deter, 0.3))
    return Sequences(rows, context, torch.zeros(batch, dtype=torch.long), torch.arange(batch))


def noise_of(agent: Agent, length: int, batch: int) -> Noise:
    return agent.draw_noise(length, batch, torch.Generator().manual_seed(7))


def observe(agent: Agent, rows: Rows, context: State) -> Rollout:
    """Latents of the rows, with the same noise every time."""
    noise = noise_of(agent, *rows.reward.shape)
    embedding = agent.world_model.encode(rows.observation)
    return agent.world_model.rssm.observe(
        context, rows.action, embedding, rows.is_first, noise.departure, noise.arrival
    )


def make_replay(agent: Agent, rows: int, environments: int) -> Replay:
    return Replay(
        frames=rows * environments,
        environments=environments,
        observation=OBSERVATION,
        action=ACTION,
        latent=agent.world_model.rssm.latent,
        deter=agent.world_model.rssm.deter,
        device=CPU,
    )


def assert_equal_to_rounding(found: Tensor, expected: Tensor, what: str, share: float = 4e-6) -> None:
    """For gradients: sums over all rows, whose rounding goes by the largest numbers, not by each one's own size.

    Args:
        found: Has an error.
        expected: Its largest number counts.
        what: For the message.
        share: Of the largest number that the error may be.
    """
    torch.testing.assert_close(
        found, expected, rtol=0, atol=share * float(expected.abs().max()), msg=lambda text: f"{what}: {text}"
    )
