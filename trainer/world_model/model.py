"""The world model as a whole, and the losses that train it."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.config import Config
from trainer.world_model.functional import balanced_kl, symexp_bins, symlog, two_hot_loss, two_hot_mean
from trainer.world_model.layers import MLP
from trainer.world_model.rssm import RSSM, Rollout


class WorldModel(nn.Module):
    """Encoder, RSSM, decoder, reward head and continuation head for one vector observation.

    Args:
        config: `agent.world_model` of the trainer's config.
        observation: Width of the observation.
        action: Width of the action.
    """

    bins: Tensor

    def __init__(self, config: Config, observation: int, action: int) -> None:
        super().__init__()
        units = config.units
        self.encoder = MLP(observation, units, config.encoder_layers)
        self.rssm = RSSM(
            action=action,
            embedding=units,
            recurrence=config.recurrence,
            deter=config.deter,
            blocks=config.blocks,
            stochastic=config.stochastic,
            classes=config.classes,
            hidden=config.hidden,
            unimix=config.unimix,
        )
        self.features = config.deter + config.stochastic * config.classes
        self.decoder = MLP(self.features, units, config.decoder_layers, observation)
        self.reward_head = MLP(self.features, units, config.head_layers, config.bins, scale=0.0)
        self.continuation_head = MLP(self.features, units, config.head_layers, 1)
        self.register_buffer("bins", symexp_bins(config.bins), persistent=False)

    def encode(self, observation: Tensor) -> Tensor:
        """Observations `[..., O]` to embeddings `[..., E]`."""
        return self.encoder(symlog(observation))

    def decode(self, features: Tensor) -> Tensor:
        """Features `[..., F]` to observations in symlog space, `[..., O]`."""
        return self.decoder(features)

    def reward(self, features: Tensor) -> Tensor:
        """Expected reward on arriving at a state, `[...]`."""
        return two_hot_mean(self.reward_head(features), self.bins)

    def continuation(self, features: Tensor) -> Tensor:
        """Logit of the discounted probability that an episode goes on from a state, `[...]`."""
        return self.continuation_head(features).squeeze(-1).float()


class WorldModelLosses(NamedTuple):
    """Scalars, each the mean over `[T, B]`; `kl` is the divergence before free nats, for the log."""

    reconstruction: Tensor
    reward: Tensor
    continuation: Tensor
    dynamics: Tensor
    representation: Tensor
    kl: Tensor


def world_model_losses(
    model: WorldModel,
    rollout: Rollout,
    observation: Tensor,
    reward: Tensor,
    is_first: Tensor,
    is_last: Tensor,
    is_terminal: Tensor,
    *,
    discount: float,
    free_nats: float,
) -> WorldModelLosses:
    """Losses of a sequence's rows.

    What a row observed is held against its departure; its reward and termination, which belong to the step that led to
    it, against its arrival. A row that begins the run (first without anything having ended) was arrived at by no step.

    Args:
        model: Whose heads are trained.
        rollout: `model.rssm.observe` of the same rows.
        observation: After any reset, `[T, B, O]`.
        reward: Of the step that led to the row, `[T, B]`.
        is_first: The row begins an episode, `[T, B]`, bool.
        is_last: The step ended an episode, by termination or truncation, `[T, B]`, bool.
        is_terminal: It ended by termination: nothing follows, `[T, B]`, bool.
        discount: Folded into the continuation's target, so that it appears nowhere else in imagination.
        free_nats: See `balanced_kl`.

    Source: DreamerV3, eq. 5; danijar/dreamerv3, dreamerv3/agent.py::Agent.loss (`contdisc`).
    """
    departure, arrival = rollout.departure.features(), rollout.arrival.features()
    arrived = (is_last | ~is_first).float()
    reconstruction = (model.decode(departure).float() - symlog(observation)).square().sum(-1)
    reward_loss = two_hot_loss(model.reward_head(arrival), reward, model.bins)
    continuation_loss = F.binary_cross_entropy_with_logits(
        model.continuation(arrival), (~is_terminal).float() * discount, reduction="none"
    )
    dynamics, representation = balanced_kl(rollout.posterior, rollout.prior, free_nats)
    with torch.no_grad():
        kl = balanced_kl(rollout.posterior, rollout.prior, 0.0)[0].mean()
    return WorldModelLosses(
        reconstruction.mean(),
        (reward_loss * arrived).mean(),
        (continuation_loss * arrived).mean(),
        dynamics.mean(),
        representation.mean(),
        kl,
    )
