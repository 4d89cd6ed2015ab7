"""Pure functions of the world model: squashing, two-hot targets, categorical latents and their divergence."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor


def symlog(x: Tensor) -> Tensor:
    """`sign(x) log(1 + |x|)`, elementwise. Source: DreamerV3, eq. 9."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """Inverse of `symlog`, elementwise."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


def symexp_bins(count: int) -> Tensor:
    """Centres of two-hot distributions, `[count]`, exactly symmetric around 0.

    Source: DreamerV3, eq. 10: `symexp(linspace(-20, 20, count))`. Mirroring one half keeps the mean of a uniform
    distribution at exactly 0, which zero-initialised heads rely on.
    """
    if count % 2 == 0:
        raise ValueError(f"two-hot distributions need an odd number of bins for one at zero, not {count}")
    half = symexp(torch.linspace(-20.0, 0.0, count // 2 + 1))
    return torch.cat([half, -half[:-1].flip(0)])


def two_hot(x: Tensor, bins: Tensor) -> Tensor:
    """Weights on the two bins next to `x` whose mean is `x`; outside the range all weight is on the last bin.

    Args:
        x: Any shape `[...]`.
        bins: Ascending centres, `[K]`.

    Returns:
        `[..., K]`, non-negative, summing to 1.
    """
    x = x.float().clamp(bins[0], bins[-1])
    above = torch.searchsorted(bins, x.contiguous(), right=True).clamp(1, len(bins) - 1)
    below = above - 1
    weight = ((x - bins[below]) / (bins[above] - bins[below])).unsqueeze(-1)
    # Compared, not scattered: a compiler turns this into a part of whatever reads it, and no target is written out.
    index = torch.arange(len(bins), device=x.device)
    lower, upper = index == below.unsqueeze(-1), index == above.unsqueeze(-1)
    return torch.where(lower, 1 - weight, 0.0) + torch.where(upper, weight, 0.0)


def two_hot_loss(logits: Tensor, x: Tensor, bins: Tensor) -> Tensor:
    """Cross-entropy of `logits` `[..., K]` under the two-hot target of `x` `[...]`; returns `[...]`, float32."""
    return cross_entropy(logits, two_hot(x, bins))


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Of `logits` `[..., K]` under the weights `target` `[..., K]`, linear in them; returns `[...]`, float32."""
    return -(target * F.log_softmax(logits.float(), -1)).sum(-1)


def two_hot_mean(logits: Tensor, bins: Tensor) -> Tensor:
    """Mean of the distribution over bins, `[..., K]` to `[...]`, float32.

    The bins reach 4.8e8 on both sides, where rounding alone moves the mean of a flat distribution. So each mirrored
    pair of bins is weighed by the difference of its likelihoods, which is 0 for a flat one whatever a compiler
    contracts. Differences of quotients or products, as in the reference (danijar/dreamerv3,
    embodied/jax/outs.py::TwoHot.pred), no longer cancel where one product is fused into the addition of the other.

    The gradient is not that of the sum, in which a likelihood of 1e-9 of an outermost bin weighs as much as all bins
    that matter: it is that of the mean of the bins' symlogs, times the slope of symexp where the sum is.

    Args:
        logits: Any shape `[..., K]`.
        bins: From `symexp_bins`: mirrored around 0 in the middle.
    """
    logits = logits.float()
    likelihood = torch.exp(logits - logits.detach().amax(-1, keepdim=True))  # not normalised
    middle = len(bins) // 2
    surplus = likelihood[..., middle + 1 :] - likelihood[..., :middle].flip(-1)
    mean = (surplus * bins[middle + 1 :]).sum(-1) / likelihood.sum(-1)
    if not mean.requires_grad:
        return mean
    squashed = (torch.softmax(logits, -1) * symlog(bins)).sum(-1)
    mean = mean.detach()
    return mean + (1 + mean.abs()) * (squashed - squashed.detach())


def unimix(logits: Tensor, share: float) -> Tensor:
    """Log-probabilities of the softmax of `logits` `[..., C]` mixed with a uniform one. Source: DreamerV3, p. 4."""
    probabilities = torch.softmax(logits.float(), -1)
    return torch.log((1 - share) * probabilities + share / logits.shape[-1])


def sample_categorical(log_probabilities: Tensor, uniform: Tensor) -> Tensor:
    """One-hot samples with straight-through gradients, `[..., S, C]`, by inverting the cumulative distribution.

    Args:
        log_probabilities: Normalised, `[..., S, C]`.
        uniform: One number in [0, 1) a latent, `[..., S]`: a C-th of the noise that the Gumbel trick needs.
    """
    probabilities = log_probabilities.exp()
    cumulative = probabilities.detach()[..., :-1].cumsum(-1)
    index = (uniform.unsqueeze(-1) >= cumulative).sum(-1)
    sample = F.one_hot(index, log_probabilities.shape[-1]).to(log_probabilities.dtype)
    if not log_probabilities.requires_grad:
        return sample
    return sample + (probabilities - probabilities.detach())


def categorical_kl(left: Tensor, right: Tensor) -> Tensor:
    """KL(left || right) of independent categoricals given as log-probabilities `[..., S, C]`, summed to `[...]`."""
    return (left.exp() * (left - right)).sum((-2, -1))


def gaussian_kl(left_mean: Tensor, left_std: Tensor, right_mean: Tensor, right_std: Tensor) -> Tensor:
    """KL(left || right) of independent normals `[..., Z]`, summed to `[...]`."""
    ratio = left_std / right_std
    return (0.5 * (ratio.square() + ((left_mean - right_mean) / right_std).square() - 1) - ratio.log()).sum(-1)


def balanced_kl(
    divergence: Callable[[Tensor, Tensor], Tensor], posterior: Tensor, prior: Tensor, free_nats: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Dynamics and representation losses, and the divergence that both are.

    Free nats bound the divergence summed over the latents of a state: neither each latent nor the batch average.

    Args:
        divergence: Of two distributions, in nats, summed over the latents of a state.
        posterior: A distribution `[..., P]`.
        prior: A distribution `[..., P]`.
        free_nats: Divergence below which there is nothing to gain, in nats a state.

    Returns:
        Dynamics loss (trains the prior alone), representation loss (trains the posterior alone), and the divergence
        before free nats, without a gradient; `[...]` each.

    Source: DreamerV3, eq. 5.
    """
    dynamics = divergence(posterior.detach(), prior)
    representation = divergence(posterior, prior.detach())
    return dynamics.clamp_min(free_nats), representation.clamp_min(free_nats), dynamics.detach()
