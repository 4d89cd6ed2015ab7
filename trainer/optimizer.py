"""The optimiser of DreamerV3: adaptive gradient clipping, then LaProp with a linear warm-up."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor


class LaProp(torch.optim.Optimizer):
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
        super().__init__(parameters, {"lr": lr, "warmup": warmup, "agc": agc, "betas": (beta1, beta2), "eps": eps})
        for group in self.param_groups:
            group["step"] = 0
            for parameter in group["params"]:
                self.state[parameter] = {
                    "momentum": torch.zeros_like(parameter),
                    "square": torch.zeros_like(parameter),
                }

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Apply the gradients; every parameter must have one."""
        for group in self.param_groups:
            parameters = group["params"]
            gradients = [parameter.grad for parameter in parameters]
            momenta = [self.state[parameter]["momentum"] for parameter in parameters]
            squares = [self.state[parameter]["square"] for parameter in parameters]
            beta1, beta2 = group["betas"]
            group["step"] += 1
            step = group["step"]

            limits = torch._foreach_clamp_min(torch._foreach_norm(parameters), 1e-3)
            torch._foreach_mul_(limits, group["agc"])
            excess = torch._foreach_div(torch._foreach_norm(gradients), limits)
            gradients = torch._foreach_div(gradients, torch._foreach_clamp_min(excess, 1.0))

            torch._foreach_mul_(squares, beta2)
            torch._foreach_addcmul_(squares, gradients, gradients, 1 - beta2)
            scales = torch._foreach_sqrt(torch._foreach_div(squares, 1 - beta2**step))
            torch._foreach_add_(scales, group["eps"])
            torch._foreach_lerp_(momenta, torch._foreach_div(gradients, scales), 1 - beta1)

            rate = group["lr"] * min(1.0, step / group["warmup"] if group["warmup"] else 1.0)
            torch._foreach_add_(parameters, momenta, alpha=-rate / (1 - beta1**step))


def gradient_norm(parameters: Iterable[Tensor]) -> Tensor:
    """Euclidean norm over all gradients, a scalar tensor; NaN or infinite where any gradient is."""
    norms = torch._foreach_norm([parameter.grad for parameter in parameters if parameter.grad is not None])
    return torch.linalg.vector_norm(torch.stack(norms))
