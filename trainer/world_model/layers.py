"""Layers that every network of the agent is made of."""

from __future__ import annotations

import itertools
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import ConfigError


def initialise(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Truncated normal of variance `scale² / fan_in`, cut at two standard deviations.

    Source: danijar/dreamerv3, embodied/jax/nets.py::Initializer (trunc_normal, fan in).
    """
    if scale == 0:
        nn.init.zeros_(weight)
        return
    deviation = 1.1368 * scale / math.sqrt(fan_in)  # 1.1368 undoes what the cut takes from the variance
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, with a learnt scale and no offset."""

    def __init__(self, width: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale.shape, self.scale, self.eps)


class Linear(nn.Linear):
    """A linear layer with the initialisation of the field's reference."""

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, scale: float = 1.0) -> None:
        super().__init__(inputs, outputs, bias=bias)
        initialise(self.weight, inputs, scale)
        if bias:
            nn.init.zeros_(self.bias)


class BlockLinear(nn.Module):
    """A linear layer whose weight is block-diagonal: `[..., blocks * i]` to `[..., blocks * o]`."""

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ConfigError(f"agent.world_model.blocks: {blocks} blocks do not divide widths {inputs} and {outputs}")
        self.blocks = blocks
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        initialise(self.weight, inputs // blocks)

    def forward(self, x: Tensor) -> Tensor:
        blocked = x.reshape(-1, self.blocks, x.shape[-1] // self.blocks).transpose(0, 1)  # [blocks, B, i]
        output = torch.bmm(blocked, self.weight).transpose(0, 1)  # [B, blocks, o]
        return output.reshape(*x.shape[:-1], -1) + self.bias


class Dense(nn.Sequential):
    """Linear, normalise, SiLU: the layer between layers."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(Linear(inputs, outputs), RMSNorm(outputs), nn.SiLU())


class MLP(nn.Sequential):
    """`layers` dense layers and, where `outputs` is given, a linear one behind them."""

    def __init__(self, inputs: int, units: int, layers: int, outputs: int | None = None, scale: float = 1.0) -> None:
        widths = [inputs] + [units] * layers
        modules: list[nn.Module] = [Dense(i, o) for i, o in itertools.pairwise(widths)]
        if outputs is not None:
            modules.append(Linear(widths[-1], outputs, scale=scale))
        super().__init__(*modules)
