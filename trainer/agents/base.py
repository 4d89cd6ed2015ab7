"""What all agents have: a world model, an actor, and imagination of the one inside the other."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

from trainer.agents.actor_critic import Actor, Critic, SquashedActor
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


class Frozen(NamedTuple):
    """Twins of an agent's parts, through which its actor's gradient passes; in a tuple: they are no modules of its."""

    world_model: WorldModel
    critic: Critic | None


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
        self._frozen: Frozen | None = None

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

    def _freeze(self) -> Frozen | None:
        """Make `_frozen`; None where the actor's gradient passes through nothing but the actor."""
        return None

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """What `to` and its like do; twins then share the new weights."""
        super()._apply(fn, recurse)
        self._frozen = self._freeze()
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        """What copying and unpickling do; twins then share the copy's weights."""
        super().__setstate__(state)
        self._frozen = self._freeze()

    @property
    def dynamics(self) -> RSSM:
        """What imagination runs in."""
        return (self.world_model if self._frozen is None else self._frozen.world_model).rssm

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

    def seen(self, state: State) -> Tensor:
        """What the actor is given while it imagines, `[B, F]`."""
        return state.features()

    @region
    def _imagine_step(self, state: State, noise: Tensor, action_noise: Tensor) -> tuple[State, Tensor]:
        action = self.actor(self.seen(state)).sample(action_noise)
        return self.dynamics.imagine(state, action, noise), action


def trained(module: nn.Module) -> Sequence[nn.Parameter]:
    """Parameters of a module that are trained, in a fixed order."""
    return [parameter for parameter in module.parameters() if parameter.requires_grad]
