"""DreamerV3: a world model with categorical latents, and a behaviour learnt in its imagination.

Source: Hafner et al. 2023, arXiv 2301.04104v2; danijar/dreamerv3, dreamerv3/agent.py.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainer.agents.actor_critic import Actor, Critic, actor_loss, critic_loss, update_slowly
from trainer.agents.base import Agent, Frozen, Loss, Noise, trained
from trainer.agents.returns import ReturnScale, lambda_returns
from trainer.compilation import region
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.optimizer import LaProp
from trainer.replay import Rows, Sequences
from trainer.simulators.base import Space
from trainer.world_model.functional import two_hot_mean
from trainer.world_model.layers import frozen_twin
from trainer.world_model.model import world_model_losses
from trainer.world_model.rssm import Rollout, State, stacked


class DreamerV3(Agent):
    """World model, actor, critic and slow critic; arguments as in `Agent`.

    Where the actor's gradient passes through the imagined dynamics, it does so through twins of world model and critic,
    and not through what the actor itself was given: of a later action's state it takes only what that is worth. Source:
    danijar/dreamerv3 of January 2023, dreamerv3/agent.py::ImagActorCritic (`actor_grad_cont: backprop`).

    Raises:
        ConfigError: `behaviour.actor_gradient` is unknown.
    """

    def __init__(self, config: Config, observation: Mapping[str, Space], action: int) -> None:
        super().__init__(config, observation, action)
        behaviour, units, features = config.behaviour, config.world_model.units, self.world_model.features
        if behaviour.actor_gradient not in ("reinforce", "dynamics"):
            raise ConfigError(
                f"agent.behaviour.actor_gradient: {behaviour.actor_gradient!r} is neither reinforce nor dynamics"
            )
        self.discount = 1 - 1 / behaviour.return_horizon
        self.actor = Actor(features, action, units, behaviour.layers, behaviour.min_std, behaviour.max_std)
        self.critic = Critic(features, units, behaviour.layers, config.world_model.bins)
        self.slow_critic = copy.deepcopy(self.critic).requires_grad_(False)
        scale = behaviour.return_scale
        self.return_scale = ReturnScale(scale.decay, scale.low, scale.high, scale.limit)
        self._frozen = self._freeze()

    def loss(self, sequences: Sequences, noise: Noise) -> Loss:
        rows, context = sequences.rows.window(1), sequences.context
        embedding = self.world_model.encode(rows.observation)
        rollout = self.world_model.rssm.observe(
            context, rows.action, embedding, rows.is_first, noise.departure, noise.arrival
        )
        first = len(rows.reward) - self.imagined(len(rows.reward))
        with torch.set_grad_enabled(self._frozen is not None):
            states, actions = self.imagine(rollout.departure.window(first).flatten().detach(), noise)
        model, model_metrics = self._model_loss(rollout, rows)
        behaviour, behaviour_metrics = self._behaviour_loss(
            states, actions, rollout.departure.window(first), rollout.arrival.window(first), rows.window(first)
        )
        total = model + behaviour
        metrics = {"loss/total": total, **model_metrics, **behaviour_metrics}
        return Loss(total, {name: metric.detach() for name, metric in metrics.items()}, rollout.departure.detach())

    def _freeze(self) -> Frozen | None:
        if self.config.behaviour.actor_gradient == "reinforce":
            return None
        return Frozen(frozen_twin(self.world_model), frozen_twin(self.critic))

    def seen(self, state: State) -> Tensor:
        return super().seen(state).detach()

    def make_optimizer(self) -> LaProp:
        return LaProp(trained(self), **vars(self.config.optimizer))

    @torch.no_grad()
    def after_step(self) -> None:
        update_slowly(self.slow_critic, self.critic, self.config.behaviour.slow_critic.rate)

    @region
    def _model_loss(self, rollout: Rollout, rows: Rows) -> tuple[Tensor, dict[str, Tensor]]:
        losses = world_model_losses(
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
        share = self.config.loss_scale
        total = (
            share.reconstruction * losses.reconstruction
            + share.reward * losses.reward
            + share.continuation * losses.continuation
            + share.dynamics * losses.dynamics
            + share.representation * losses.representation
        )
        return total, {
            "loss/reconstruction": losses.reconstruction,
            "loss/reward": losses.reward,
            "loss/continuation": losses.continuation,
            "loss/dynamics": losses.dynamics,
            "loss/representation": losses.representation,
            "world_model/kl": losses.kl,
        }

    @region
    def _behaviour_loss(
        self, states: Sequence[State], actions: Sequence[Tensor], departure: State, arrival: State, rows: Rows
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Of actor and critic.

        A departure is never terminal (the simulator has reset by then), so the weight of every root is 1.

        Args:
            states: Imagined from each departure, H + 1 of `[K * B, …]`.
            actions: H of `[K * B, A]`.
            departure: Of the rows that imagination started from, `[K, B, …]`.
            arrival: Of the same rows.
            rows: Those rows.
        """
        features, action = stacked(states).features(), torch.stack(list(actions))
        constant = features.detach()
        logits = self.critic(constant)
        frozen = self._frozen
        world_model = self.world_model if frozen is None else frozen.world_model
        with torch.set_grad_enabled(frozen is not None):
            reward = world_model.reward(features)
            # The discount is in the continuation head's target, and nowhere else.
            discount = torch.sigmoid(world_model.continuation(features))
            weight = torch.cat([torch.ones_like(discount[:1]), discount[1:]]).cumprod(0)[:-1]
            if frozen is None:
                value = two_hot_mean(logits, self.critic.bins)
            else:
                assert frozen.critic is not None
                value = frozen.critic.value(features)
            returns = lambda_returns(reward, discount, value, lam=self.config.behaviour.lambda_)
            scale = self.return_scale.update(returns)
        actor, entropy = actor_loss(
            self.actor(constant[:-1]),
            action if frozen is None else None,
            (returns - value[:-1]) / scale,
            weight,
            self.config.behaviour.entropy_scale,
        )
        critic = self._critic_loss(logits[:-1], constant[:-1], returns, weight)
        replay_critic = self._replay_critic_loss(departure, arrival, rows, returns[0])
        share = self.config.loss_scale
        total = share.actor * actor + share.critic * critic + share.replay_critic * replay_critic
        return total, {
            "loss/actor": actor,
            "loss/critic": critic,
            "loss/replay_critic": replay_critic,
            "behaviour/entropy": entropy,
            "behaviour/imagined_return": returns.mean(),
            "behaviour/return_scale": scale,
            "behaviour/value": value.mean(),
        }

    def _critic_loss(self, logits: Tensor, features: Tensor, returns: Tensor, weight: Tensor) -> Tensor:
        with torch.no_grad():
            slow_value = self.slow_critic.value(features)
        scale = self.config.behaviour.slow_critic.scale
        return critic_loss(logits, returns, slow_value, weight, self.critic.bins, scale)

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
        features = departure.features()[:-1]
        return self._critic_loss(self.critic(features), features, returns, followed)
