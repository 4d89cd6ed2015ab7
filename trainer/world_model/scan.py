"""Recurrences whose weights get their gradients once, not once a step.

Autograd multiplies and adds up a weight's gradient at each of the T steps: T small products and T additions a layer. It
is one large product instead if the steps only yield the gradient at each layer's output. A layer within the scan thus
runs on a weight without gradient, and on a bias of its own for every step; the gradients that arrive at those biases
are what is left to multiply with the inputs that the layer had.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.world_model.layers import BlockLinear, Linear


class Apply(Protocol):
    """How a recurrence runs its layers."""

    def __call__(self, layer: Linear | BlockLinear, x: Tensor) -> Tensor:
        """The layer's output for `x` `[B, i]`."""
        ...


def directly(layer: Linear | BlockLinear, x: Tensor) -> Tensor:
    """The plain way, for a single step."""
    return layer(x)


class Tapped:
    """The layers of one step within a scan, in the order in which the step calls them.

    Args:
        weights: Of each layer, in the type to compute in, without gradient.
        biases: Of each layer at this step, `[B, aligned(o)]`.
    """

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        self.inputs: list[Tensor] = []
        self._weights, self._biases = weights, biases

    def __call__(self, layer: Linear | BlockLinear, x: Tensor) -> Tensor:
        number = len(self.inputs)
        weight = self._weights[number]
        x = layer.pad(x).to(weight.dtype)
        self.inputs.append(x.detach())
        output = layer.multiply(x, weight) + self._biases[number]
        return output if output.shape[-1] == layer.outputs else output[..., : layer.outputs]


class Scan:
    """Weights and biases of the layers of a recurrence, for `steps` steps of a batch.

    Args:
        layers: In the order in which a step calls them.
        steps: T.
        batch: B.
        dtype: To compute in.
    """

    def __init__(self, layers: Sequence[Linear | BlockLinear], steps: int, batch: int, dtype: torch.dtype) -> None:
        self.weights = [layer.weight.detach().to(dtype) for layer in layers]
        self._inputs: list[list[Tensor]] = [[] for _ in layers]
        biases = [
            _Biases.apply(layer.weight, layer.bias, layer, inputs, steps, batch, dtype).unbind(0)
            for layer, inputs in zip(layers, self._inputs, strict=True)
        ]
        self.biases = list(zip(*biases, strict=True))  # of each step

    def keep(self, inputs: Sequence[Tensor]) -> None:
        """Take in what the layers of a step were given, step by step."""
        for kept, x in zip(self._inputs, inputs, strict=True):
            kept.append(x)


class _Biases(torch.autograd.Function):
    """A layer's bias for each step; on the way back, the gradients of weight and bias."""

    @staticmethod
    def forward(
        ctx: Any,
        weight: Tensor,
        bias: Tensor | None,
        layer: Linear | BlockLinear,
        inputs: list[Tensor],
        steps: int,
        batch: int,
        dtype: torch.dtype,
    ) -> Tensor:
        ctx.layer, ctx.inputs, ctx.weight_dtype = layer, inputs, weight.dtype
        ctx.bias_dtype = None if bias is None else bias.dtype
        width = weight.shape[0] if isinstance(layer, Linear) else layer.outputs
        row = torch.zeros(width, dtype=dtype, device=weight.device) if bias is None else bias.to(dtype)
        return row.expand(steps, batch, width)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        weight = ctx.layer.weight_gradient(torch.stack(ctx.inputs), gradient)
        bias = None if ctx.bias_dtype is None else gradient.sum((0, 1), dtype=ctx.bias_dtype)
        return weight.to(ctx.weight_dtype), bias, None, None, None, None, None
