"""What all agents have: a world model, an actor, and imagination of the one inside the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.agents.actor_critic import Actor, SquashedActor
from trainer.compilation import Compilable, region
from trainer.config import Config
from trainer.optimizer import Optimizer
from trainer.replay import Sequences
from trainer.simulators.base import Space
from trainer.world_model.model import WorldModel
from trainer.world_model.rssm import RSSM, State, bound_action


class Noise(NamedTuple):
    """All randomness of one loss, drawn beforehand so that the loss itself is a function."""

    departure: Tensor  # of the latents, `latent.draw(T, B)`
    arrival: Tensor  # likewise
    imagined: Tensor  # `latent.draw(H, K * B)`, K as in `imagination_last`
    action: Tensor  # standard normal, [H, K * B, A]


@dataclass(frozen=True)
class Loss:
    """What one optimiser step needs: the scalar to minimise, scalars for the log, refreshed latents `[T, B, …]`."""

    total: Tensor
    metrics: Mapping[str, Tensor]
    departure: State


class Agent(Compilable, ABC):
    """World model and actor, and the loss that trains them and whatever else an agent has.

    Args:
        config: `agent` of the trainer's config.
        observation: What the simulator shows.
        action: Width of the action, each axis within [-1, 1].
    """

    actor: Actor | SquashedActor

    def __init__(self, config: Config, observation: Mapping[str, Space], action: int) -> None:
        super().__init__()
        self.config = config
        self.action_width = action
        self.world_model = WorldModel(config.world_model, observation, action)

    @abstractmethod
    def loss(self, sequences: Sequences, noise: Noise) -> Loss:
        """Everything that one optimiser step minimises.

        Args:
            sequences: `[T + 1, B, …]`: the first row only says where the sequence starts from.
            noise: From `draw_noise(T, B, …)`.
        """

    @abstractmethod
    def make_optimizer(self) -> Optimizer:
        """Of all parameters that `loss` trains."""

    @abstractmethod
    def after_step(self) -> None:
        """To be called after each optimiser step."""

    @property
    def dynamics(self) -> RSSM:
        """What imagination runs in."""
        return self.world_model.rssm

    def initial(self, batch: int) -> State:
        """Latent state before an environment's first observation."""
        return self.world_model.rssm.initial(batch)

    @torch.no_grad()
    def advance(
        self, state: State, action: Tensor, observation: Mapping[str, Tensor], is_first: Tensor, noise: Tensor
    ) -> State:
        """Take in a row while acting; arguments as in `RSSM.advance`, the observation raw, `[B, o]` each."""
        return self.world_model.rssm.advance(state, action, self.world_model.encode(observation), is_first, noise)

    @torch.no_grad()
    def act(self, state: State, noise: Tensor | None) -> Tensor:
        """Action `[B, A]` within [-1, 1].

        Args:
            state: `[B, …]`.
            noise: Standard normal, `[B, A]`; None, or zeros in some rows, for the policy's most likely action.
        """
        policy = self.actor(state.features())
        return bound_action(policy.mode() if noise is None else policy.sample(noise))

    def draw_noise(self, length: int, batch: int, generator: torch.Generator) -> Noise:
        """Randomness of one loss over `length` rows of `batch` sequences; the generator decides the device."""
        latent, horizon = self.world_model.rssm.latent, self.config.behaviour.imagination_horizon
        states = self.imagined(length) * batch
        return Noise(
            latent.draw(length, batch, generator=generator),
            latent.draw(length, batch, generator=generator),
            latent.draw(horizon, states, generator=generator),
            torch.randn(horizon, states, self.action_width, generator=generator, device=generator.device),
        )

    def imagined(self, length: int) -> int:
        """Rows of a sequence that imagination starts from."""
        return min(self.config.behaviour.imagination_last or length, length)

    def imagine(self, start: State, noise: Noise) -> tuple[list[State], list[Tensor]]:
        """Let the actor act in the world model for the horizon, from states `[N, …]`.

        Returns:
            H + 1 states `[N, …]` and H actions `[N, A]`.
        """
        states, actions = [start.root()], []
        for latent_noise, action_noise in zip(noise.imagined.unbind(0), noise.action.unbind(0), strict=True):
            state, action = self._imagine_step(states[-1], latent_noise, action_noise)
            states.append(state)
            actions.append(action)
        return states, actions

    @region
    def _imagine_step(self, state: State, noise: Tensor, action_noise: Tensor) -> tuple[State, Tensor]:
        action = self.actor(state.features()).sample(action_noise)
        return self.dynamics.imagine(state, action, noise), action


def trained(module: nn.Module) -> Sequence[nn.Parameter]:
    """Parameters of a module that are trained, in a fixed order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
