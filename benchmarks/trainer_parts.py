"""Parts of the trainer, built for a measurement: agents of a config, and replays full of noise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from trainer.agents import make_agent
from trainer.agents.base import Agent
from trainer.config import Config, compose
from trainer.learner import Learner
from trainer.replay import Replay, Rows
from trainer.simulators.base import Space
from trainer.world_model.rssm import State

KEY = "policy"
EPISODE_STEPS = 100  # mean length of the noise's episodes


def learner_config(agent: str, batch: int, length: int, overrides: Sequence[str] = ()) -> Config:
    """The trainer's config of an agent at a batch of `batch` frames in sequences of `length`."""
    words = [f"agent={agent}", f"replay_buffer.batch_size={batch}", f"replay_buffer.batch_length={length}"]
    return Config.of(compose([*words, *overrides]))


def noise_agent(config: Config, observation: int, action: int, device: torch.device) -> Agent:
    """An agent for vectors of `observation` and `action` numbers, always with the same weights."""
    torch.manual_seed(0)
    return make_agent(config.agent, {KEY: Space((observation,))}, action).to(device)


def noise_rows(steps: int, environments: int, observation: int, action: int, generator: torch.Generator) -> Rows:
    """Rows `[T, N, …]` of noise on the generator's device, with episodes that end half by termination."""

    def uniform(*shape: int) -> torch.Tensor:
        return torch.rand(steps, environments, *shape, generator=generator, device=generator.device)

    last = uniform() < 1 / EPISODE_STEPS
    terminal = last & (uniform() < 0.5)
    return Rows({KEY: 2 * uniform(observation) - 1}, 2 * uniform(action) - 1, uniform(), last, last, terminal)


def noise_states(agent: Agent, rows: Rows) -> State:
    """Latents of nothing, in the shape of rows."""
    steps, environments = rows.reward.shape
    state = agent.initial(environments)
    return State(*(field.expand(steps, *field.shape) for field in state))


def noise_replay(
    agent: Agent, environments: int, frames: int, observation: int, action: int, device: torch.device
) -> Replay:
    """A replay full of noise."""
    rssm = agent.world_model.rssm
    replay = Replay(
        frames=frames,
        environments=environments,
        observation={KEY: Space((observation,))},
        action=action,
        latent=rssm.latent,
        deter=rssm.deter,
        device=device,
    )
    generator = torch.Generator(device).manual_seed(0)
    while len(replay) < replay.capacity:
        rows = noise_rows(min(32, replay.capacity - len(replay)), environments, observation, action, generator)
        replay.extend(rows, noise_states(agent, rows))
    return replay


def noise_learner(
    config: Config, environments: int, frames: int, observation: int, action: int, device: torch.device
) -> Learner:
    """A learner that trains on noise."""
    agent = noise_agent(config, observation, action, device)
    return Learner(agent, noise_replay(agent, environments, frames, observation, action, device), config, 0, device)
