"""The optimisers: LaProp against its formulas written out, Adam against PyTorch's."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from trainer.optimizer import ClippedAdam, LaProp, Optimizer, gradient_norm

SETTINGS = {"lr": 0.01, "warmup": 4, "agc": 0.3, "beta1": 0.9, "beta2": 0.999, "eps": 1e-20}


def test_steps_follow_the_published_update():
    torch.manual_seed(0)
    weight = torch.randn(5, 3, requires_grad=True)
    optimizer = LaProp([weight], **SETTINGS)
    expected, momentum, square = weight.detach().double(), torch.zeros(5, 3).double(), torch.zeros(5, 3).double()
    for step in range(1, 9):
        weight.grad = torch.randn(5, 3) * 10**step
        gradient = weight.grad.double()
        limit = 0.3 * max(expected.norm().item(), 1e-3)
        gradient = gradient / max(1.0, gradient.norm().item() / limit)
        square = 0.999 * square + 0.001 * gradient**2
        normalised = gradient / (square / (1 - 0.999**step)).sqrt()
        momentum = 0.9 * momentum + 0.1 * normalised
        expected = expected - 0.01 * min(1.0, step / 4) * momentum / (1 - 0.9**step)
        optimizer.step()
        torch.testing.assert_close(weight.detach().double(), expected, rtol=1e-4, atol=1e-6)


def test_an_exploding_gradient_moves_a_weight_no_further_than_the_rate():
    weight = torch.ones(4, requires_grad=True)
    optimizer = LaProp([weight], **SETTINGS)
    weight.grad = torch.full((4,), 1e12)
    optimizer.step()
    torch.testing.assert_close(weight.detach(), torch.full((4,), 1 - 0.01 / 4))


MAKE: dict[str, Callable[[list[Tensor]], Optimizer]] = {
    "LaProp": lambda weights: LaProp(weights, **SETTINGS),
    "Adam": lambda weights: ClippedAdam([(weights, 0.01)], clip=1.0),
}


@pytest.mark.parametrize("name", MAKE)
def test_a_restored_optimiser_makes_the_same_step(name: str):
    torch.manual_seed(0)
    weights = [torch.ones(3, requires_grad=True) for _ in range(2)]
    optimizers = [MAKE[name]([weight]) for weight in weights]
    for _ in range(3):
        weights[0].grad = torch.randn(3)
        optimizers[0].step()
    with torch.no_grad():
        weights[1].copy_(weights[0])
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))  # as if read from a file
    for weight, optimizer in zip(weights, optimizers, strict=True):
        weight.grad = torch.arange(3.0)
        optimizer.step()
    assert torch.equal(*weights)


@pytest.mark.parametrize("name", MAKE)
def test_a_state_is_restored_into_the_tensors_that_are_there(name: str):
    """A CUDA graph of the step goes on working on them."""
    one, two = (MAKE[name]([torch.ones(3, requires_grad=True)]) for _ in range(2))
    one.parameters[0].grad = torch.ones(3)
    one.step()
    before = [tensor.data_ptr() for tensor in two.tensors()]
    two.load_state_dict(one.state_dict())
    assert [tensor.data_ptr() for tensor in two.tensors()] == before
    assert all(torch.equal(a, b) for a, b in zip(one.tensors(), two.tensors(), strict=True))


def test_gradient_norm_is_not_finite_where_any_gradient_is():
    weights = [torch.ones(2, requires_grad=True) for _ in range(2)]
    weights[0].grad, weights[1].grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert gradient_norm(weights) == 5
    weights[1].grad[0] = math.nan
    assert gradient_norm(weights).isnan()


def test_clipped_adam_equals_torchs_adam_behind_a_clip_of_each_groups_norm():
    torch.manual_seed(0)
    groups = [[torch.randn(5, 3), torch.randn(4)], [torch.randn(2, 2)]]
    ours, theirs = ([[weight.clone().requires_grad_() for weight in group] for group in groups] for _ in range(2))
    rates = (1e-2, 1e-3)
    optimizer = ClippedAdam(list(zip(ours, rates, strict=True)), clip=1.0)
    references = [torch.optim.Adam(group, lr=rate) for group, rate in zip(theirs, rates, strict=True)]
    for step in range(8):
        for group, reference in zip(ours, theirs, strict=True):
            for weight, other in zip(group, reference, strict=True):
                # Far below the clip at first, far above it later.
                weight.grad = torch.randn_like(weight) * 10.0 ** (step - 4)
                other.grad = weight.grad.clone()
            torch.nn.utils.clip_grad_norm_(reference, 1.0)
        optimizer.step()
        for reference in references:
            reference.step()
        torch.testing.assert_close(ours, theirs)
