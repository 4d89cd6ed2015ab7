"""Actor and critic networks, and the losses that train them inside imagined and replayed rollouts."""

from __future__ import annotations

import math
from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.world_model.functional import cross_entropy, symexp_bins, two_hot, two_hot_mean
from trainer.world_model.layers import MLP


class Policy(Protocol):
    """A distribution over actions `[..., A]`."""

    def mode(self) -> Tensor:
        """The action without noise."""
        ...

    def sample(self, noise: Tensor) -> Tensor:
        """Action for standard normal `noise` `[..., A]`."""
        ...


class Normal(NamedTuple):
    """Independent normals over the action's axes, `[..., A]` each; a sample can lie outside [-1, 1]."""

    mean: Tensor
    deviation: Tensor

    def mode(self) -> Tensor:
        return self.mean

    def sample(self, noise: Tensor) -> Tensor:
        return self.mean + self.deviation * noise

    def log_probability(self, action: Tensor) -> Tensor:
        """Of the whole action, `[...]`."""
        standardised = (action - self.mean) / self.deviation
        return (-0.5 * standardised.square() - self.deviation.log() - 0.5 * math.log(2 * math.pi)).sum(-1)

    def entropy(self) -> Tensor:
        """Of the whole action in nats, `[...]`."""
        return (self.deviation.log() + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)


class SquashedNormal(NamedTuple):
    """Hyperbolic tangents of independent normals, `[..., A]` each, so that samples lie within (-1, 1)."""

    mean: Tensor  # before squashing
    deviation: Tensor

    def mode(self) -> Tensor:
        return torch.tanh(self.mean)

    def sample(self, noise: Tensor) -> Tensor:
        return torch.tanh(self.mean + self.deviation * noise)


class Actor(nn.Module):
    """Latent features to a normal over actions, its mean within [-1, 1].

    Source: danijar/dreamerv3, embodied/jax/heads.py::Head.bounded_normal, output scale 0.01.
    """

    def __init__(self, features: int, action: int, units: int, layers: int, min_std: float, max_std: float) -> None:
        super().__init__()
        self.network = MLP(features, units, layers, "rms_silu", 2 * action, scale=0.01)
        self.min_std, self.max_std = min_std, max_std

    def forward(self, features: Tensor) -> Normal:
        mean, raw = self.network(features).float().chunk(2, -1)
        deviation = self.min_std + (self.max_std - self.min_std) * torch.sigmoid(raw + 2.0)
        return Normal(torch.tanh(mean), deviation)


class SquashedActor(nn.Module):
    """Latent features to a squashed normal, whose deviation starts out at `INITIAL_STD`.

    Source: Dreamer, Hafner et al. 2020, appendix A; torchrl/modules/models/model_based.py::DreamerActor with
    `TanhNormal(tanh_loc=True)`.
    """

    LARGEST_MEAN = 5.0
    INITIAL_STD, MIN_STD = 5.0, 1e-4

    def __init__(self, features: int, action: int, units: int, layers: int) -> None:
        super().__init__()
        self.network = MLP(features, units, layers, "elu", 2 * action)

    def forward(self, features: Tensor) -> SquashedNormal:
        mean, raw = self.network(features).float().chunk(2, -1)
        offset = math.log(math.expm1(self.INITIAL_STD - self.MIN_STD))  # softplus(offset) + MIN_STD = INITIAL_STD
        deviation = F.softplus(raw + offset) + self.MIN_STD
        return SquashedNormal(self.LARGEST_MEAN * torch.tanh(mean / self.LARGEST_MEAN), deviation)


class Critic(nn.Module):
    """Latent features to a two-hot distribution over returns; starts out at exactly zero."""

    bins: Tensor

    def __init__(self, features: int, units: int, layers: int, bins: int) -> None:
        super().__init__()
        self.network = MLP(features, units, layers, "rms_silu", bins, scale=0.0)
        self.register_buffer("bins", symexp_bins(bins), persistent=False)

    def forward(self, features: Tensor) -> Tensor:
        """Logits, `[..., K]`."""
        return self.network(features)

    def value(self, features: Tensor) -> Tensor:
        """Expected return, `[...]`, float32."""
        return two_hot_mean(self(features), self.bins)


def actor_loss(
    policy: Normal, action: Tensor | None, advantage: Tensor, weight: Tensor, entropy_scale: float
) -> tuple[Tensor, Tensor]:
    """Advantage with an entropy bonus; returns the loss (a scalar) and the mean entropy.

    Args:
        policy: The actor at imagined states, `[H, B, A]`.
        action: What was done there, to be reinforced, `[H, B, A]`; None where the advantage has a gradient of its own,
            through the action and what followed from it.
        advantage: Of that action, already scaled, `[H, B]`.
        weight: Probability that imagination got that far, `[H, B]`.
        entropy_scale: Worth of a nat of entropy.

    Source: DreamerV3, eq. 11 of arXiv 2301.04104v2; without an action, its first version's, for continuous actions.
    """
    entropy = policy.entropy()
    if action is not None:
        advantage = policy.log_probability(action.detach()) * advantage.detach()
    return -(weight.detach() * (advantage + entropy_scale * entropy)).mean(), entropy.mean()


def critic_loss(
    logits: Tensor, returns: Tensor, slow_value: Tensor, weight: Tensor, bins: Tensor, scale: float
) -> Tensor:
    """Cross-entropy to the returns, regularised towards the slow critic's own prediction; a scalar.

    Args:
        logits: The critic's, `[T, B, K]`.
        returns: λ-returns, `[T, B]`.
        slow_value: The slow critic's expectation: it regularises, and is not the target, `[T, B]`.
        weight: Of each state, `[T, B]`.
        bins: Centres, `[K]`.
        scale: Weight of the regulariser.

    Source: DreamerV3, eq. 8 and p. 6.
    """
    target = two_hot(returns.detach(), bins) + scale * two_hot(slow_value.detach(), bins)
    return (weight.detach() * cross_entropy(logits, target)).mean()


@torch.no_grad()
def update_slowly(slow: nn.Module, fast: nn.Module, rate: float) -> None:
    """Move every parameter of `slow` by `rate` towards that of `fast`."""
    torch._foreach_lerp_(list(slow.parameters()), list(fast.parameters()), rate)
