"""The agents' optimisers, as operations on all tensors at once that ask the device nothing.

Counters live on the device too: a CUDA graph of a step counts on by itself.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor


class Optimizer(ABC):
    """Moments and counter of a list of parameters.

    Args:
        parameters: What to optimise, on one device.
    """

    def __init__(self, parameters: Iterable[Tensor]) -> None:
        self.parameters = list(parameters)
        self._momenta = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._squares = [torch.zeros_like(parameter) for parameter in self.parameters]
        self._count = torch.zeros((), dtype=torch.float64, device=self.parameters[0].device)

    @torch.no_grad()
    def step(self) -> None:
        """Apply the gradients; every parameter must have one."""
        gradients = [parameter.grad for parameter in self.parameters]
        self._count += 1
        self._apply([gradient for gradient in gradients if gradient is not None])

    @abstractmethod
    def _apply(self, gradients: Sequence[Tensor]) -> None: ...

    def _unbiased(self, beta: float) -> Tensor:
        """What a moment of that decay is to be divided by, after `_count` steps from zero; a float32 scalar."""
        return (1 - beta**self._count).float()

    def tensors(self) -> list[Tensor]:
        """All state, to be read or written in place."""
        return [*self._momenta, *self._squares, self._count]

    def state_dict(self) -> dict[str, Any]:
        return {"tensors": self.tensors()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take up where `state_dict` left off, in place."""
        for mine, theirs in zip(self.tensors(), saved["tensors"], strict=True):
            mine.copy_(theirs)


class LaProp(Optimizer):
    """Momentum over normalised gradients (Adam normalises the momentum instead), each tensor's gradient clipped first.

    Args:
        parameters: What to optimise.
        lr: Learning rate after the warm-up.
        warmup: Optimiser steps over which the rate rises linearly from 0.
        agc: A tensor's gradient norm is cut to this share of the tensor's own norm, which counts as at least 1e-3.
        beta1: Decay of the momentum.
        beta2: Decay of the squared gradients.
        eps: Added to the root of the squared gradients.

    Source: LaProp, Ziyin et al. 2020; AGC, Brock et al. 2021; both as in DreamerV3, p. 21, and
    danijar/dreamerv3, embodied/jax/opt.py (`clip_by_agc`, `scale_by_rms`, `scale_by_momentum`).
    """

    def __init__(
        self,
        parameters: Iterable[Tensor],
        *,
        lr: float,
        warmup: int,
        agc: float,
        beta1: float,
        beta2: float,
        eps: float,
    ) -> None:
        super().__init__(parameters)
        self._lr, self._warmup, self._agc, self._betas, self._eps = lr, warmup, agc, (beta1, beta2), eps

    def _apply(self, gradients: Sequence[Tensor]) -> None:
        beta1, beta2 = self._betas
        limits = torch._foreach_clamp_min(torch._foreach_norm(self.parameters), 1e-3)
        torch._foreach_mul_(limits, self._agc)
        excess = torch._foreach_div(torch._foreach_norm(gradients), limits)
        gradients = torch._foreach_div(gradients, torch._foreach_clamp_min(excess, 1.0))

        torch._foreach_mul_(self._squares, beta2)
        torch._foreach_addcmul_(self._squares, gradients, gradients, 1 - beta2)
        scales = torch._foreach_sqrt(torch._foreach_div(self._squares, self._unbiased(beta2)))
        torch._foreach_add_(scales, self._eps)
        torch._foreach_lerp_(self._momenta, torch._foreach_div(gradients, scales), 1 - beta1)

        warm = (self._count / self._warmup).clamp_max(1).float() if self._warmup else 1.0
        rate = self._lr * warm / self._unbiased(beta1)
        torch._foreach_sub_(self.parameters, torch._foreach_mul(self._momenta, rate))


class ClippedAdam(Optimizer):
    """Adam over several groups of parameters, each group's gradient norm clipped first.

    Args:
        groups: Parameters and learning rate of each group.
        clip: Largest gradient norm of a group.

    Source: Kingma and Ba 2015, algorithm 1, with the defaults of `torch.optim.Adam`.
    """

    BETAS, EPS = (0.9, 0.999), 1e-8

    def __init__(self, groups: Sequence[tuple[Sequence[Tensor], float]], clip: float) -> None:
        super().__init__(parameter for parameters, _ in groups for parameter in parameters)
        self._lengths = [len(parameters) for parameters, _ in groups]
        self._rates = [lr for parameters, lr in groups for _ in parameters]
        self._clip = clip

    def _apply(self, gradients: Sequence[Tensor]) -> None:
        beta1, beta2 = self.BETAS
        gradients = self._clipped(gradients)
        torch._foreach_lerp_(self._momenta, gradients, 1 - beta1)
        torch._foreach_mul_(self._squares, beta2)
        torch._foreach_addcmul_(self._squares, gradients, gradients, 1 - beta2)
        scales = torch._foreach_sqrt(torch._foreach_div(self._squares, self._unbiased(beta2)))
        torch._foreach_add_(scales, self.EPS)
        updates = torch._foreach_div(torch._foreach_div(self._momenta, self._unbiased(beta1)), scales)
        torch._foreach_mul_(updates, self._rates)
        torch._foreach_sub_(self.parameters, updates)

    def _clipped(self, gradients: Sequence[Tensor]) -> list[Tensor]:
        clipped: list[Tensor] = []
        for length in self._lengths:
            group = gradients[len(clipped) : len(clipped) + length]
            norm = torch.linalg.vector_norm(torch.stack(torch._foreach_norm(group)))
            # As torch.nn.utils.clip_grad_norm_ does.
            clipped += torch._foreach_mul(group, (self._clip / (norm + 1e-6)).clamp_max(1))
        return clipped


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Euclidean norm over all gradients, a scalar tensor; NaN or infinite where any gradient is."""
    norms = torch._foreach_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return torch.linalg.vector_norm(torch.stack(norms))
