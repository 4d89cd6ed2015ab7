"""The world model as a whole, and the losses that train it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.compilation import Compilable, region
from trainer.config import Config
from trainer.errors import ConfigError
from trainer.simulators.base import Space
from trainer.world_model.functional import balanced_kl, symexp_bins, symlog, two_hot_loss, two_hot_mean
from trainer.world_model.images import ImageNetworks
from trainer.world_model.latents import Categorical, Gaussian, Latent
from trainer.world_model.layers import MLP, aligned
from trainer.world_model.rssm import RSSM, Rollout


class WorldModel(Compilable):
    """Encoder, RSSM, decoder, reward head and, where `config.continuation` is set, continuation head.

    Args:
        config: `agent.world_model` of the trainer's config.
        observation: What the simulator shows: vectors `[o]`, which are put side by side, and images `[H, W, C]`.
        action: Width of the action.

    Attributes:
        encoder: Of all vectors; None where there are none.
        decoder: Likewise.
        images: Encoder and decoder of each image, in the order of `image_keys`.

    Raises:
        ConfigError: An observation is neither, or a value of the config is unknown.
    """

    bins: Tensor
    encoder: nn.Module | None
    decoder: nn.Module | None

    def __init__(self, config: Config, observation: Mapping[str, Space], action: int) -> None:
        super().__init__()
        self.vector_keys, self.image_keys = _by_kind(observation)
        units, activation = config.units, config.activation
        self._squash = config.symlog
        latent = make_latent(config)
        self.features = aligned(config.deter + latent.width)
        self.observation = sum(observation[key].shape[0] for key in self.vector_keys)
        self.encoder = (
            MLP(self.observation, units, config.encoder_layers, activation, config.embedding)
            if self.vector_keys
            else None
        )
        self.images = nn.ModuleList(
            ImageNetworks(observation[key], self.features, config.image_depth, activation) for key in self.image_keys
        )
        widths = [config.embedding or units] if self.vector_keys else []
        self.rssm = RSSM(
            latent,
            action=action,
            embedding=sum(widths + [networks.embedding for networks in self.images]),
            recurrence=config.recurrence,
            deter=config.deter,
            blocks=config.blocks,
            hidden=config.hidden,
            prior_layers=config.prior_layers,
            activation=activation,
        )
        self.decoder = (
            MLP(self.features, units, config.decoder_layers, activation, self.observation) if self.vector_keys else None
        )
        self._two_hot = config.bins is not None
        self.reward_head = MLP(
            self.features, units, config.head_layers, activation, config.bins or 1, 0.0 if self._two_hot else 1.0
        )
        self.continuation_head = (
            MLP(self.features, units, config.head_layers, activation, 1) if config.continuation else None
        )
        bins = symexp_bins(config.bins) if self._two_hot else torch.empty(0)
        self.register_buffer("bins", bins, persistent=False)

    def flatten(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Vectors `[..., o]` of each key as one, `[..., O]`, squashed where the config says so."""
        vectors = [observation[key] for key in self.vector_keys]
        vector = vectors[0] if len(vectors) == 1 else torch.cat(vectors, -1)
        return symlog(vector) if self._squash else vector

    @region
    def encode(self, observation: Mapping[str, Tensor]) -> Tensor:
        """Observations `[..., o]` and `[..., H, W, C]` to embeddings `[..., E]`."""
        parts = [] if self.encoder is None else [self.encoder(self.flatten(observation))]
        for key, networks in zip(self.image_keys, self.images, strict=True):
            parts.append(networks.encode(observation[key]))
        return parts[0] if len(parts) == 1 else torch.cat(parts, -1)

    def reconstruction_loss(self, features: Tensor, observation: Mapping[str, Tensor]) -> Tensor:
        """Squared error of what can be told of the observations from features `[..., F]`, `[...]`, float32."""
        parts = []
        if self.decoder is not None:
            parts.append((self.decoder(features).float() - self.flatten(observation)).square().sum(-1))
        for key, networks in zip(self.image_keys, self.images, strict=True):
            parts.append(networks.loss(features, observation[key]))
        return parts[0] if len(parts) == 1 else torch.stack(parts).sum(0)

    def reward(self, features: Tensor) -> Tensor:
        """Expected reward on arriving at a state, `[...]`, float32."""
        output = self.reward_head(features)
        return two_hot_mean(output, self.bins) if self._two_hot else output.squeeze(-1).float()

    def reward_loss(self, features: Tensor, reward: Tensor) -> Tensor:
        """Of each arrival, `[...]`, float32: cross-entropy of a two-hot distribution, else the squared error."""
        output = self.reward_head(features)
        if self._two_hot:
            return two_hot_loss(output, reward, self.bins)
        return (output.squeeze(-1).float() - reward).square()

    def continuation(self, features: Tensor) -> Tensor:
        """Logit of the discounted probability that an episode goes on from a state, `[...]`."""
        assert self.continuation_head is not None
        return self.continuation_head(features).squeeze(-1).float()


def _by_kind(observation: Mapping[str, Space]) -> tuple[list[str], list[str]]:
    """Keys of vectors and of images, sorted each.

    Raises:
        ConfigError: An observation is neither, or there is none.
    """
    keys = sorted(observation)
    for key in keys:
        if len(observation[key].shape) not in (1, 3):
            raise ConfigError(
                f"env.observation_key: {key!r} has shape {observation[key].shape}; agents take vectors [O] and images "
                "[H, W, C]"
            )
    if not keys:
        raise ConfigError("env.observation_key: names no observation")
    return (
        [key for key in keys if len(observation[key].shape) == 1],
        [key for key in keys if len(observation[key].shape) == 3],
    )


def make_latent(config: Config) -> Latent:
    """The kind of latents that `agent.world_model` names: Gaussians where `classes` is null."""
    if config.classes is None:
        return Gaussian(config.stochastic)
    return Categorical(config.stochastic, config.classes, config.unimix)


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
    observation: Mapping[str, Tensor],
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
        observation: After any reset, `[T, B, …]` each.
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
    reconstruction = model.reconstruction_loss(departure, observation)
    reward_loss = model.reward_loss(arrival, reward)
    if model.continuation_head is None:
        continuation_loss = torch.zeros_like(reward)
    else:
        continuation_loss = F.binary_cross_entropy_with_logits(
            model.continuation(arrival), (~is_terminal).float() * discount, reduction="none"
        )
    dynamics, representation, kl = balanced_kl(model.rssm.latent.kl, rollout.posterior, rollout.prior, free_nats)
    return WorldModelLosses(
        reconstruction.mean(),
        (reward_loss * arrived).mean(),
        (continuation_loss * arrived).mean(),
        dynamics.mean(),
        representation.mean(),
        kl.mean(),
    )
