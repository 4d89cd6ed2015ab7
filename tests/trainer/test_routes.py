"""One pass for two losses, against two passes."""

from __future__ import annotations

import torch

from trainer.world_model.layers import MLP
from trainer.world_model.routes import two_routes


def network_and_inputs() -> tuple[MLP, torch.Tensor]:
    torch.manual_seed(0)
    return MLP(11, 13, 2, "elu", 1), torch.randn(4, 5, 11, requires_grad=True)


def test_both_routes_give_the_networks_outputs():
    network, x = network_and_inputs()
    for output in two_routes(network, x):
        torch.testing.assert_close(output, network(x).squeeze(-1))


def test_each_loss_reaches_what_it_is_to_reach_and_nothing_else():
    network, x = network_and_inputs()
    first, second = torch.randn(2, 4, 5)
    through_inputs, through_weights = two_routes(network, x)
    ((first * through_inputs).sum() + (second * through_weights).sum()).backward()
    found = [x.grad, *(parameter.grad for parameter in network.parameters())]
    expected = [
        *torch.autograd.grad((first * network(x).squeeze(-1)).sum(), [x]),
        *torch.autograd.grad((second * network(x).squeeze(-1)).sum(), list(network.parameters())),
    ]
    for ours, theirs in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_weights_learn_where_inputs_have_no_gradient():
    network, x = network_and_inputs()
    _, through_weights = two_routes(network, x.detach())
    through_weights.sum().backward()
    assert all(parameter.grad.any() for parameter in network.parameters())


def test_padding_learns_nothing():
    network, x = network_and_inputs()
    through_inputs, through_weights = two_routes(network, x)
    (through_inputs.sum() + through_weights.square().sum()).backward()
    weight = network[-1].weight
    assert weight.grad[0].any()
    assert not weight.grad[1:].any()


def test_bfloat16_is_what_autocast_makes_of_the_network():
    network, x = network_and_inputs()
    weights = list(network.parameters())
    with torch.autocast("cpu", torch.bfloat16):
        through_inputs, through_weights = two_routes(network, x)
        expected = network(x).squeeze(-1).float()
    torch.testing.assert_close(through_inputs, expected, rtol=2e-2, atol=2e-2)
    ours = torch.autograd.grad((through_inputs + through_weights).square().sum(), [x, *weights])
    theirs = torch.autograd.grad((2 * expected).square().sum() / 2, [x, *weights])
    for mine, right in zip(ours, theirs, strict=True):
        assert (mine - right).norm() <= 2e-2 * right.norm()
