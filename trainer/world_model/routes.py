"""One pass through a network for two losses: one that is to reach its inputs, and one that is to reach its weights.

Dreamer's actor learns through the value network, and the value network from targets at the same states. Autograd would
take two passes, one through a twin without gradients and one on inputs without gradients. There and back one suffices:
what comes out is one number a row, so that both gradients are that number's, scaled differently in each row.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from trainer.world_model.elu import elu_slope, linear_elu, linear_elu_backward
from trainer.world_model.layers import MLP, computed_in, parameters_of


def two_routes(network: MLP, x: Tensor) -> tuple[Tensor, Tensor]:
    """The output of a network of ELU layers, twice.

    Args:
        network: `MLP(…, activation="elu", outputs=1)`.
        x: `[..., inputs]`.

    Returns:
        Outputs `[...]`, float32, whose gradient goes to `x` alone, and the same whose gradient goes to the network's
        weights alone.
    """
    *hidden, last = network.linears
    dtype = computed_in(x)
    assert last.bias is not None
    rows = hidden[0].pad(x).to(dtype).flatten(0, -2)
    output = last.weight[0], last.bias[0]  # the others are padding
    routes = _TwoRoutes.apply(rows, *parameters_of(hidden, dtype), *output)
    first, second = (route.unflatten(0, x.shape[:-1]) for route in routes)
    return first, second


class _TwoRoutes(torch.autograd.Function):
    """Arguments and gradients: rows `[N, i]`; weights `[o, i]` and biases `[o]` of hidden layers; `[i]` and `[]`."""

    @staticmethod
    def forward(ctx: Any, rows: Tensor, *parameters: Tensor) -> tuple[Tensor, Tensor]:
        *hidden, last, last_bias = parameters
        weights, biases = hidden[::2], hidden[1::2]
        inputs = [rows]  # of each layer
        for weight, bias in zip(weights, biases, strict=True):
            inputs.append(linear_elu(inputs[-1], weight, bias))
        output = (inputs[-1].float() * last).sum(-1) + last_bias
        ctx.save_for_backward(*inputs, *weights, last)
        return output, output.clone()

    @staticmethod
    def backward(ctx: Any, to_rows: Tensor, to_weights: Tensor) -> tuple[Tensor, ...]:  # type: ignore[override]
        *saved, last = ctx.saved_tensors
        inputs, weights = saved[: len(saved) // 2 + 1], saved[len(saved) // 2 + 1 :]
        dtype, row = inputs[0].dtype, to_weights.unsqueeze(-1)
        gradients: list[Tensor] = [(row * inputs[-1]).sum(0), to_weights.sum()]
        slope = last * elu_slope(inputs[-1].float())  # of the output over what went into each layer's ELU, `[N, o]`
        slope, gradient = slope.to(dtype), (row * slope).to(dtype)
        for layer in reversed(range(len(weights))):
            gradients = [gradient.T @ inputs[layer], gradient.sum(0), *gradients]
            if layer:
                slope, gradient = linear_elu_backward(slope, weights[layer], inputs[layer], to_weights)
        return (to_rows.unsqueeze(-1) * (slope @ weights[0])).to(dtype), *gradients
