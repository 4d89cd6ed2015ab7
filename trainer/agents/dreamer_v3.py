"""DreamerV3: a world model with categorical latents, and a behaviour learnt in its imagination.

Source: Hafner et al. 2023, arXiv 2301.04104v2; danijar/dreamerv3, dreamerv3/agent.py.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from trainer.agents.actor_critic import Actor, Critic, actor_loss, critic_loss, update_slowly
from trainer.agents.returns import ReturnScale, lambda_returns
from trainer.config import Config
from trainer.replay import Rows, Sequences
from trainer.world_model.model import WorldModel, world_model_losses
from trainer.world_model.rssm import State, bound_action


class Noise(NamedTuple):
    """All randomness of one loss, drawn beforehand so that the loss itself is a function."""

    departure: Tensor  # [T, B, S], uniform in [0, 1)
    arrival: Tensor  # [T, B, S], uniform in [0, 1)
    imagined: Tensor  # [H, K * B, S], uniform in [0, 1), K as in `imagination_last`
    action: Tensor  # [H, K * B, A], standard normal


@dataclass(frozen=True)
class Loss:
    """What one optimiser step needs: the scalar to minimise, scalars for the log, refreshed latents `[T, B, …]`."""

    total: Tensor
    metrics: Mapping[str, Tensor]
    departure: State


class Imagination(NamedTuple):
    """Rollouts of the actor inside the world model; nothing in it carries a gradient."""

    features: Tensor  # [H + 1, N, F]
    action: Tensor  # [H, N, A]
    reward: Tensor  # on arriving at each state, [H + 1, N]
    discount: Tensor  # discount times probability that the episode goes on from each state, [H + 1, N]
    weight: Tensor  # probability that the episode got as far as each state, [H + 1, N]


class DreamerV3(nn.Module):
    """World model, actor, critic and slow critic.

    Args:
        config: `agent` of the trainer's config.
        observation: Width of the observation.
        action: Width of the action, each axis within [-1, 1].
    """

    def __init__(self, config: Config, observation: int, action: int) -> None:
        super().__init__()
        self.config = config
        self.action_width = action
        behaviour, units, bins = config.behaviour, config.world_model.units, config.world_model.bins
        self.discount = 1 - 1 / behaviour.return_horizon
        self.world_model = WorldModel(config.world_model, observation, action)
        features = self.world_model.features
        self.actor = Actor(features, action, units, behaviour.layers, behaviour.min_std, behaviour.max_std)
        self.critic = Critic(features, units, behaviour.layers, bins)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        scale = behaviour.return_scale
        self.return_scale = ReturnScale(scale.decay, scale.low, scale.high, scale.limit)

    def initial(self, batch: int) -> State:
        """Latent state before an environment's first observation."""
        return self.world_model.rssm.initial(batch)

    @torch.no_grad()
    def advance(self, state: State, action: Tensor, observation: Tensor, is_first: Tensor, uniform: Tensor) -> State:
        """Take in a row while acting; arguments as in `RSSM.advance`, the observation raw `[B, O]`."""
        return self.world_model.rssm.advance(state, action, self.world_model.encode(observation), is_first, uniform)

    @torch.no_grad()
    def act(self, state: State, noise: Tensor | None) -> Tensor:
        """Action `[B, A]` within [-1, 1]; sampled with standard normal `noise` `[B, A]`, or the mean without."""
        policy = self.actor(state.features())
        return bound_action(policy.mean if noise is None else policy.sample(noise))

    def draw_noise(self, length: int, batch: int, generator: torch.Generator) -> Noise:
        """Randomness of one loss over `length` rows of `batch` sequences; the generator decides the device."""
        horizon, latents = self.config.behaviour.imagination_horizon, self.config.world_model.stochastic
        states, device = self._imagined(length) * batch, generator.device
        return Noise(
            torch.rand(length, batch, latents, generator=generator, device=device),
            torch.rand(length, batch, latents, generator=generator, device=device),
            torch.rand(horizon, states, latents, generator=generator, device=device),
            torch.randn(horizon, states, self.action_width, generator=generator, device=device),
        )

    def loss(self, sequences: Sequences, noise: Noise) -> Loss:
        """Everything that one optimiser step minimises.

        Args:
            sequences: `[T + 1, B, …]`: the first row only says where the sequence starts from.
            noise: From `draw_noise(T, B, …)`.
        """
        rows, context = sequences.rows.window(1), sequences.context
        rollout = self.world_model.rssm.observe(
            context,
            rows.action,
            self.world_model.encode(rows.observation),
            rows.is_first,
            noise.departure,
            noise.arrival,
        )
        model = world_model_losses(
            self.world_model,
            rollout,
            rows.observation,
            rows.reward,
            rows.is_first,
            rows.is_last,
            rows.is_terminal,
            discount=self.discount,
            free_nats=self.config.free_nats,
        )
        first = len(rows.reward) - self._imagined(len(rows.reward))
        start = rollout.departure.window(first)
        imagination = self.imagine(start, noise)
        with torch.no_grad():
            value = self.critic.value(imagination.features)
            returns = lambda_returns(imagination.reward, imagination.discount, value, lam=self.config.behaviour.lambda_)
            scale = self.return_scale.update(returns)
        actor, entropy = actor_loss(
            self.actor(imagination.features[:-1]),
            imagination.action,
            (returns - value[:-1]) / scale,
            imagination.weight[:-1],
            self.config.behaviour.entropy_scale,
        )
        critic = self._critic_loss(imagination.features[:-1], returns, imagination.weight[:-1])
        replay_critic = self._replay_critic_loss(start, rollout.arrival.window(first), rows.window(first), returns[0])

        share = self.config.loss_scale
        total = (
            share.reconstruction * model.reconstruction
            + share.reward * model.reward
            + share.continuation * model.continuation
            + share.dynamics * model.dynamics
            + share.representation * model.representation
            + share.actor * actor
            + share.critic * critic
            + share.replay_critic * replay_critic
        )
        metrics = {
            "loss/total": total,
            "loss/reconstruction": model.reconstruction,
            "loss/reward": model.reward,
            "loss/continuation": model.continuation,
            "loss/dynamics": model.dynamics,
            "loss/representation": model.representation,
            "loss/actor": actor,
            "loss/critic": critic,
            "loss/replay_critic": replay_critic,
            "world_model/kl": model.kl,
            "behaviour/entropy": entropy,
            "behaviour/imagined_return": returns.mean(),
            "behaviour/return_scale": scale,
            "behaviour/value": value.mean(),
        }
        departure = State(rollout.departure.deter.detach(), rollout.departure.stoch.detach())
        return Loss(total, {name: metric.detach() for name, metric in metrics.items()}, departure)

    @torch.no_grad()
    def imagine(self, start: State, noise: Noise) -> Imagination:
        """Let the actor act in the world model for the horizon, from every state of `start` `[T, B, …]`.

        A departure is never terminal (the simulator has reset by then), so the weight of every root is 1.
        """
        state = State(start.deter.flatten(0, 1), start.stoch.flatten(0, 1))
        features, actions = [state.features()], []
        for uniform, normal in zip(noise.imagined.unbind(0), noise.action.unbind(0), strict=True):
            action = self.actor(features[-1]).sample(normal)
            state = self.world_model.rssm.imagine(state, action, uniform)
            actions.append(action)
            features.append(state.features())
        stacked = torch.stack(features)
        discount = torch.sigmoid(self.world_model.continuation(stacked))
        weight = torch.cat([torch.ones_like(discount[:1]), discount[1:]]).cumprod(0)
        return Imagination(stacked, torch.stack(actions), self.world_model.reward(stacked), discount, weight)

    def update_slow_critic(self) -> None:
        """To be called after each optimiser step."""
        update_slowly(self.slow_critic, self.critic, self.config.behaviour.slow_critic.rate)

    def _critic_loss(self, features: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad():
            slow_value = self.slow_critic.value(features)
        scale = self.config.behaviour.slow_critic.scale
        return critic_loss(self.critic(features), returns, slow_value, weight, self.critic.bins, scale)

    def _replay_critic_loss(self, departure: State, arrival: State, rows: Rows, imagined_return: Tensor) -> Tensor:
        """The critic on replayed rows: rewards as they came, imagined returns as the bootstrap.

        Where a row ended an episode by truncation, the bootstrap is the value of its arrival; its departure belongs to
        the next episode. Source: danijar/dreamerv3, dreamerv3/agent.py::repl_loss.

        Args:
            departure: Of the rows that imagination started from, `[K, B, …]`.
            arrival: Of the same rows.
            rows: Those rows.
            imagined_return: λ-returns imagined from each departure, `[K * B]`.
        """
        with torch.no_grad():
            arrival_value = self.critic.value(arrival.features())
            bootstrap = torch.where(rows.is_last, arrival_value, imagined_return.view_as(arrival_value))
            discount = self.discount * (~rows.is_terminal).float()
            returns = lambda_returns(rows.reward, discount, bootstrap, rows.is_last, self.config.behaviour.lambda_)
        # What follows a row is unknown where the next one begins the run anew.
        followed = (rows.is_last | ~rows.is_first)[1:].float()
        return self._critic_loss(departure.features()[:-1], returns, followed)

    def _imagined(self, length: int) -> int:
        """Rows of a sequence that imagination starts from."""
        return min(self.config.behaviour.imagination_last or length, length)
