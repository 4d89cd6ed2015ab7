"""Exponential linear units, and layers that end in one."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor


def elu(x: Tensor) -> Tensor:
    """Exponential linear unit, of the type of `x`.

    In half precision `exp(x) - 1` is exact enough, and cheaper than `expm1`; its gradient is taken from what came out,
    which the next layer keeps anyway.
    """
    return _HalfELU.apply(x) if is_half(x.dtype) else F.elu(x)


def elu_slope(y: Tensor) -> Tensor:
    """Derivative of ELU where it gave `y`."""
    return torch.where(y > 0, 1.0, y + 1)


def is_half(dtype: torch.dtype) -> bool:
    """Whether numbers of that type have 16 bits."""
    return dtype in (torch.bfloat16, torch.float16)


def linear_elu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`elu(x @ weight.T + bias)` of `[N, i]`, `[o, i]` and `[o]`, without gradients."""
    if x.is_cuda and is_half(x.dtype):
        from trainer.world_model import kernels  # Triton is there where CUDA is

        return kernels.linear_elu(x.contiguous(), weight, bias)
    return elu(torch.addmm(bias, x, weight.T))


def linear_elu_backward(
    gradient: Tensor, weight: Tensor, y: Tensor, scale: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """From the output of one linear layer to that of the layer before, through the ELU between them.

    Args:
        gradient: At the layer's output, `[N, o]`.
        weight: The layer's, `[o, i]`.
        y: What ELU gave, `[N, i]`.
        scale: What to multiply the rows of the second result with, `[N]`; without it, both are one.

    Returns:
        `gradient @ weight` times ELU's slope, and the same with its rows scaled, `[N, i]` each.
    """
    if gradient.is_cuda and is_half(y.dtype):
        from trainer.world_model import kernels

        return kernels.linear_elu_backward(gradient.contiguous(), weight, y, scale)
    before = (gradient @ weight).float() * elu_slope(y.float())
    return before.to(y.dtype), (before if scale is None else before * scale.unsqueeze(-1)).to(y.dtype)


def elu_layers(rows: Tensor, *parameters: Tensor) -> Tensor:
    """Outputs `[N, o]` of layers with ELU between them, for `[N, i]`.

    Args:
        rows: Inputs.
        parameters: Weight `[o, i]` and bias `[o]` of each layer in turn, all of the type of `rows`.
    """
    return _Layers.apply(rows, *parameters)


class _HalfELU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        wide = x.float()
        y = torch.where(wide > 0, wide, torch.exp(wide.clamp_max(0)) - 1).to(x.dtype)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        [y] = ctx.saved_tensors
        return (gradient.float() * elu_slope(y.float())).to(y.dtype)


class _Layers(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[::2], parameters[1::2]
        inputs = [rows]  # of each layer
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(linear_elu(inputs[-1], weight, bias))
        ctx.save_for_backward(*inputs, *weights)
        return torch.addmm(biases[-1], inputs[-1], weights[-1].T)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        layers = len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:layers], ctx.saved_tensors[layers:]
        trained = ctx.needs_input_grad[1]
        gradients: list[Tensor | None] = []
        for layer in reversed(range(layers)):
            learnt = [gradient.T @ inputs[layer], gradient.sum(0)] if trained else [None, None]
            gradients = [*learnt, *gradients]
            if layer:
                gradient, _ = linear_elu_backward(gradient, weights[layer], inputs[layer])
        return gradient @ weights[0] if ctx.needs_input_grad[0] else None, *gradients
