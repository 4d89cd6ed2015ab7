"""Layers with ELU as one function, against the same layers one by one."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from trainer.world_model.elu import linear_elu, linear_elu_backward
from trainer.world_model.layers import MLP, frozen_twin


def network_and_inputs(outputs: int = 5) -> tuple[MLP, torch.Tensor]:
    torch.manual_seed(0)
    return MLP(11, 13, 2, "elu", outputs), torch.randn(4, 6, 11, requires_grad=True)


def gradients(output: torch.Tensor, weight: torch.Tensor, inputs: list[torch.Tensor]) -> tuple[torch.Tensor, ...]:
    return torch.autograd.grad((weight * output.float()).sum(), inputs)


def test_in_half_precision_the_network_is_what_its_layers_are():
    network, x = network_and_inputs()
    wanted, weight = [x, *network.parameters()], torch.randn(4, 6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        as_one, one_by_one = network(x), nn.Sequential.forward(network, x)
    assert as_one.grad_fn is not None
    assert (as_one.dtype, as_one.shape) == (torch.bfloat16, (4, 6, 5))
    torch.testing.assert_close(as_one, one_by_one)
    pairs = zip(gradients(as_one, weight, wanted), gradients(one_by_one, weight, wanted), strict=True)
    for ours, theirs in pairs:
        torch.testing.assert_close(ours, theirs)


def test_half_precision_stays_close_to_single():
    network, x = network_and_inputs()
    wanted, weight = [x, *network.parameters()], torch.randn(4, 6, 5)
    with torch.autocast("cpu", torch.bfloat16):
        half = network(x)
    for ours, theirs in zip(gradients(half, weight, wanted), gradients(network(x), weight, wanted), strict=True):
        assert (ours - theirs).norm() <= 2e-2 * theirs.norm()


def test_through_a_twin_the_inputs_learn_and_the_weights_do_not():
    network, x = network_and_inputs()
    with torch.autocast("cpu", torch.bfloat16):
        output = frozen_twin(network)(x)
        expected = network(x)
    weight = torch.randn(4, 6, 5)
    (found,) = torch.autograd.grad((weight * output.float()).sum(), [x], retain_graph=True)
    torch.testing.assert_close((found,), gradients(expected, weight, [x]))
    output.sum().backward()
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_back_through_a_layer_and_the_elu_before_it(dtype: torch.dtype):
    torch.manual_seed(0)
    before = torch.randn(7, 4, dtype=dtype, requires_grad=True)
    weight, scale = torch.randn(3, 4, dtype=dtype), torch.randn(7)
    gradient = torch.randn(7, 3, dtype=dtype)
    y = F.elu(before)
    (expected,) = torch.autograd.grad(y @ weight.T, [before], gradient)
    found, scaled = linear_elu_backward(gradient, weight, y.detach(), scale)
    close = {"rtol": 2e-2, "atol": 2e-2} if dtype == torch.bfloat16 else {}
    torch.testing.assert_close(found, expected, **close)
    torch.testing.assert_close(scaled, (expected * scale.unsqueeze(-1)).to(dtype), **close)
    assert found.dtype == scaled.dtype == dtype


def test_a_layer_and_the_elu_behind_it():
    x, weight, bias = torch.randn(7, 4), torch.randn(3, 4), torch.randn(3)
    torch.testing.assert_close(linear_elu(x, weight, bias), F.elu(F.linear(x, weight, bias)))
