"""Dreamer, the first: Gaussian latents, and an actor that learns by gradients through imagined dynamics.

Source: Hafner et al. 2020, arXiv 1912.01603; torchrl/objectives/dreamer.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from trainer.agents.actor_critic import SquashedActor
from trainer.agents.base import Agent, Frozen, Loss, Noise, trained
from trainer.agents.returns import lambda_returns
from trainer.compilation import region
from trainer.config import Config
from trainer.optimizer import ClippedAdam
from trainer.replay import Rows, Sequences
from trainer.simulators.base import Space
from trainer.world_model.layers import MLP, frozen_twin
from trainer.world_model.model import world_model_losses
from trainer.world_model.routes import two_routes
from trainer.world_model.rssm import Rollout, State, stacked


class Dreamer(Agent):
    """World model, actor and value network; arguments as in `Agent`.

    The three are trained by one loss whose parts reach disjoint parameters: the actor's gradient passes through a twin
    of the world model that shares its weights and takes no gradient for them, and through the value network on a route
    of its own.
    """

    def __init__(self, config: Config, observation: Mapping[str, Space], action: int) -> None:
        super().__init__(config, observation, action)
        behaviour, units, features = config.behaviour, config.world_model.units, self.world_model.features
        self.actor = SquashedActor(features, action, units, behaviour.layers)
        self.value = MLP(features, units, behaviour.layers, "elu", 1)
        self._frozen = self._freeze()

    def loss(self, sequences: Sequences, noise: Noise) -> Loss:
        rows = sequences.rows.window(1)
        embedding = self.world_model.encode(rows.observation)
        rollout = self.world_model.rssm.observe(
            sequences.context, rows.action, embedding, rows.is_first, noise.departure, noise.arrival
        )
        first = len(rows.reward) - self.imagined(len(rows.reward))
        departure = rollout.departure.detach()
        states, _ = self.imagine(departure.window(first).flatten(), noise)
        model, model_metrics = self._model_loss(rollout, rows)
        behaviour, behaviour_metrics = self._behaviour_loss(states)
        total = model + behaviour
        metrics = {"loss/total": total, **model_metrics, **behaviour_metrics}
        return Loss(total, {name: metric.detach() for name, metric in metrics.items()}, departure)

    def make_optimizer(self) -> ClippedAdam:
        settings = self.config.optimizer
        groups = [
            (trained(self.world_model), settings.world_model_lr),
            (trained(self.actor), settings.actor_lr),
            (trained(self.value), settings.value_lr),
        ]
        return ClippedAdam(groups, settings.clip)

    def after_step(self) -> None:
        pass

    def _freeze(self) -> Frozen:
        return Frozen(frozen_twin(self.world_model), None)

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
            discount=self.config.behaviour.discount,
            free_nats=self.config.free_nats,
        )
        # Dynamics and representation are one divergence, each with half of its gradient.
        total = losses.reconstruction + losses.reward + losses.dynamics + losses.representation
        return total - losses.representation.detach(), {
            "loss/reconstruction": losses.reconstruction,
            "loss/reward": losses.reward,
            "loss/divergence": losses.dynamics,
            "world_model/kl": losses.kl,
        }

    @region
    def _behaviour_loss(self, states: Sequence[State]) -> tuple[Tensor, dict[str, Tensor]]:
        """Of actor and value network, over imagined states, H + 1 of `[N, …]`."""
        behaviour = self.config.behaviour
        features = stacked(states).features()
        assert self._frozen is not None
        reward = self._frozen.world_model.reward(features[1:])
        value, predicted = two_routes(self.value, features)
        reward = torch.cat([torch.zeros_like(reward[:1]), reward])  # that of roots: not used
        discount = torch.full_like(reward, behaviour.discount)
        returns = lambda_returns(reward, discount, value, lam=behaviour.lambda_)
        weight = discount[0, 0] ** torch.arange(len(returns), device=returns.device).unsqueeze(-1)
        actor = -(weight * returns).sum(0).mean()
        critic = (weight * (predicted[:-1] - returns.detach()).square()).sum(0).mean()
        return actor + critic, {
            "loss/actor": actor,
            "loss/value": critic,
            "behaviour/imagined_return": returns.mean(),
            "behaviour/value": predicted[:-1].mean(),
        }
