"""Layers that every network of the agents is made of."""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from trainer.errors import ConfigError
from trainer.world_model.elu import elu, elu_layers, is_half

_Module = TypeVar("_Module", bound=nn.Module)

ALIGNMENT = 8  # widths of matrices in elements; with others, tensor cores fall back to kernels several times slower


def aligned(width: int) -> int:
    """The next multiple of `ALIGNMENT`."""
    return -(-width // ALIGNMENT) * ALIGNMENT


def initialise(weight: Tensor, fan_in: int, scale: float = 1.0) -> None:
    """Truncated normal of variance `scale² / fan_in`, cut at two standard deviations.

    Source: danijar/dreamerv3, embodied/jax/nets.py::Initializer (trunc_normal, fan in).
    """
    if scale == 0:
        nn.init.zeros_(weight)
        return
    deviation = 1.1368 * scale / math.sqrt(fan_in)  # 1.1368 undoes what the cut takes from the variance
    nn.init.trunc_normal_(weight, std=deviation, a=-2 * deviation, b=2 * deviation)


# Name in the config -> function, and whether what it gets is normalised first.
ACTIVATIONS: dict[str, tuple[Callable[[Tensor], Tensor], bool]] = {
    "rms_silu": (F.silu, True),
    "elu": (elu, False),
}


class RMSNorm(nn.Module):
    """Root-mean-square normalisation over the last axis, with a learnt scale and no offset."""

    def __init__(self, width: int, eps: float = 1e-4) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        return F.rms_norm(x, self.scale.shape, self.scale.to(x.dtype), self.eps)


class Linear(nn.Module):
    """A linear layer, `[..., inputs]` to `[..., outputs]`, its weight padded to aligned widths.

    The padding is zero and stays so: padded inputs are zeros, padded outputs are cut off. Inputs may come padded.

    Args:
        inputs: Width.
        outputs: Width.
        bias: Whether it has one.
        scale: Of the initial weights.
        beside: Inputs of another layer whose output is added to this one's: both are one layer, cut in two.

    Attributes:
        weight: `[aligned(outputs), aligned(inputs)]`.
        bias: `[aligned(outputs)]`.
    """

    bias: nn.Parameter | None

    def __init__(self, inputs: int, outputs: int, *, bias: bool = True, scale: float = 1.0, beside: int = 0) -> None:
        super().__init__()
        self.inputs, self.outputs = inputs, outputs
        self.weight = nn.Parameter(torch.zeros(aligned(outputs), aligned(inputs)))
        self.bias = nn.Parameter(torch.zeros(aligned(outputs))) if bias else None
        with torch.no_grad():
            initialise(self.weight[:outputs, :inputs], inputs + beside, scale)

    def forward(self, x: Tensor) -> Tensor:
        output = F.linear(self.pad(x), self.weight, self.bias)
        return output if self.outputs == output.shape[-1] else output[..., : self.outputs]

    def pad(self, x: Tensor) -> Tensor:
        """Inputs at their aligned width."""
        missing = self.weight.shape[1] - x.shape[-1]
        return F.pad(x, (0, missing)) if missing else x

    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        """`pad`ded inputs `[B, i]` times a weight like this layer's own, before the bias, `[B, aligned(outputs)]`."""
        return F.linear(x, weight)

    def weight_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of the weight, of `pad`ded inputs `[T, B, i]` and of the gradient of `multiply`'s output."""
        return gradient.flatten(0, 1).T @ x.flatten(0, 1)


class BlockLinear(nn.Module):
    """A linear layer whose weight is block-diagonal: `[B, blocks * i]` to `[B, blocks * o]`.

    Attributes:
        weight: `[blocks, i, o]`.
        bias: `[blocks * o]`.

    Source: danijar/dreamerv3, embodied/jax/nets.py::BlockLinear, whose initial weights are as small as those of a dense
    layer (`Initializer.compute_fans` counts the inputs of all blocks).
    """

    def __init__(self, inputs: int, outputs: int, blocks: int) -> None:
        super().__init__()
        if inputs % blocks or outputs % blocks:
            raise ConfigError(f"agent.world_model.blocks: {blocks} blocks do not divide widths {inputs} and {outputs}")
        self.outputs, self.blocks = outputs, blocks
        self.weight = nn.Parameter(torch.empty(blocks, inputs // blocks, outputs // blocks))
        self.bias = nn.Parameter(torch.zeros(outputs))
        initialise(self.weight, inputs)  # of all blocks, as if the weight were dense

    def forward(self, x: Tensor) -> Tensor:
        output = self.multiply(x, self.weight)
        return output + self.bias.to(output.dtype)

    def pad(self, x: Tensor) -> Tensor:
        """Blocks are taken as wide as they are."""
        return x

    def multiply(self, x: Tensor, weight: Tensor) -> Tensor:
        """Inputs `[B, blocks * i]` times a weight like this layer's own, before the bias."""
        blocked = x.view(len(x), self.blocks, -1).transpose(0, 1)  # [blocks, B, i]
        return torch.bmm(blocked, weight).transpose(0, 1).reshape(len(x), -1)  # [B, blocks * o]

    def weight_gradient(self, x: Tensor, gradient: Tensor) -> Tensor:
        """Gradient of the weight, of inputs `[T, B, blocks * i]` and of the gradient of `multiply`'s output."""
        inputs, gradients = (a.flatten(0, 1).unflatten(-1, (self.blocks, -1)).transpose(0, 1) for a in (x, gradient))
        return torch.bmm(inputs.transpose(1, 2), gradients)


class Activation(nn.Module):
    """What stands behind a linear layer: `rms_silu` (normalise, SiLU) as in DreamerV3, or `elu` as in Dreamer.

    Raises:
        ConfigError: There is no activation of that name.
    """

    def __init__(self, name: str, width: int) -> None:
        super().__init__()
        if name not in ACTIVATIONS:
            raise ConfigError(f"agent.world_model.activation: {name!r} is none of {', '.join(ACTIVATIONS)}")
        self.function, normalises = ACTIVATIONS[name]
        self.norm = RMSNorm(width) if normalises else None

    def forward(self, x: Tensor) -> Tensor:
        return self.function(x if self.norm is None else self.norm(x))


class Dense(nn.Sequential):
    """Linear layer and activation: the layer between layers."""

    def __init__(self, inputs: int, outputs: int, activation: str) -> None:
        super().__init__(Linear(inputs, outputs), Activation(activation, outputs))


class MLP(nn.Sequential):
    """`layers` dense layers and, where `outputs` is given, a linear one behind them.

    In half precision layers with ELU run as one function, which on a GPU spares ELU's own passes over memory.
    """

    def __init__(
        self, inputs: int, units: int, layers: int, activation: str, outputs: int | None = None, scale: float = 1.0
    ) -> None:
        widths = [inputs] + [units] * layers
        modules: list[nn.Module] = [Dense(i, o, activation) for i, o in itertools.pairwise(widths)]
        if outputs is not None:
            modules.append(Linear(widths[-1], outputs, scale=scale))
        super().__init__(*modules)
        self._as_one = activation == "elu" and outputs is not None

    @property
    def linears(self) -> list[Linear]:
        """The linear layers in order."""
        return [layer for layer in self.modules() if isinstance(layer, Linear)]

    def forward(self, x: Tensor) -> Tensor:
        dtype = computed_in(x)
        if not (self._as_one and is_half(dtype)):
            return super().forward(x)
        linears = self.linears
        rows = linears[0].pad(x).to(dtype).flatten(0, -2)
        output = elu_layers(rows, *parameters_of(linears, dtype)).unflatten(0, x.shape[:-1])
        return output[..., : linears[-1].outputs]


def computed_in(x: Tensor) -> torch.dtype:
    """Type that linear layers compute in."""
    device = x.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype


def parameters_of(linears: Iterable[Linear], dtype: torch.dtype) -> list[Tensor]:
    """Weight and bias of each layer in turn."""
    found: list[Tensor] = []
    for linear in linears:
        assert linear.bias is not None
        found += [linear.weight.to(dtype), linear.bias.to(dtype)]
    return found


def frozen_twin(module: _Module) -> _Module:
    """A module of the same structure on the very same weights, through which gradients flow to inputs alone.

    The twin's parameters share storage with the original's: what an optimiser writes there, both see. Moving either to
    another device or type ends that.
    """
    twin = copy.deepcopy(module).requires_grad_(False)
    for mine, theirs in zip(twin.parameters(), module.parameters(), strict=True):
        mine.data = theirs.data
    for mine, theirs in zip(twin.buffers(), module.buffers(), strict=True):
        mine.data = theirs.data
    return twin
