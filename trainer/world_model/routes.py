"""One pass through a network for two losses: one that is to reach its inputs, and one that is to reach its weights.

Dreamer's actor learns through the value network, and the value network from targets at the same states. Autograd would
take two passes, one through a twin without gradients and one on inputs without gradients.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from trainer.world_model.layers import MLP, Linear


def two_routes(network: MLP, x: Tensor) -> tuple[Tensor, Tensor]:
    """The outputs of a network of ELU layers, twice.

    Args:
        network: `MLP(…, activation="elu", outputs=…)`.
        x: `[..., inputs]`.

    Returns:
        Outputs `[..., outputs]` whose gradient goes to `x` alone, and the same whose gradient goes to the network's
        weights alone.
    """
    linears = [layer for layer in network.modules() if isinstance(layer, Linear)]
    dtype = torch.get_autocast_dtype(x.device.type) if torch.is_autocast_enabled(x.device.type) else x.dtype
    parameters = []
    for linear in linears:
        assert linear.bias is not None
        parameters += [linear.weight.to(dtype), linear.bias.to(dtype)]
    rows = linears[0].pad(x).to(dtype).flatten(0, -2)
    routes = _TwoRoutes.apply(rows, *parameters)
    first, second = (output[:, : linears[-1].outputs].unflatten(0, x.shape[:-1]) for output in routes)
    return first, second


class _TwoRoutes(torch.autograd.Function):
    """Arguments and gradients: rows `[N, i]`, then weight `[o, i]` and bias `[o]` of each layer."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        weights, biases = parameters[::2], parameters[1::2]
        inputs = [rows]  # of each layer
        for weight, bias in zip(weights[:-1], biases[:-1], strict=True):
            inputs.append(F.elu(torch.addmm(bias, inputs[-1], weight.T)))
        output = torch.addmm(biases[-1], inputs[-1], weights[-1].T)
        ctx.save_for_backward(*inputs, *weights)
        return output, output.clone()

    @staticmethod
    def backward(ctx: Any, to_rows: Tensor, to_weights: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        layers = len(ctx.saved_tensors) // 2
        inputs, weights = ctx.saved_tensors[:layers], ctx.saved_tensors[layers:]
        gradients: list[Tensor] = []
        for layer in reversed(range(layers)):
            gradients = [to_weights.T @ inputs[layer], to_weights.sum(0), *gradients]
            to_rows = to_rows @ weights[layer]
            if layer:
                slope = torch.where(inputs[layer] > 0, 1.0, inputs[layer] + 1)  # of ELU, from what came out of it
                to_rows, to_weights = to_rows * slope, (to_weights @ weights[layer]) * slope
        return to_rows, *gradients
