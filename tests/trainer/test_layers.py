"""Layers padded to widths that GPUs like, and twins of modules that pass gradients on without taking any."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from tests.trainer.agents import noise_of, random_rows, sequences_of, small_agent
from trainer.agents.base import Agent
from trainer.errors import ConfigError
from trainer.optimizer import ClippedAdam, LaProp, Optimizer
from trainer.replay import Sequences
from trainer.world_model.layers import ALIGNMENT, MLP, Activation, BlockLinear, Linear, RMSNorm, aligned, frozen_twin

ADAM: Callable[[list[Tensor]], Optimizer] = lambda weights: ClippedAdam([(weights, 0.1)], clip=100.0)  # noqa: E731
LAPROP: Callable[[list[Tensor]], Optimizer] = lambda weights: LaProp(  # noqa: E731
    weights, lr=0.1, warmup=0, agc=0.3, beta1=0.9, beta2=0.999, eps=1e-20
)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def plain(layer: Linear) -> nn.Linear:
    """PyTorch's layer with the same weights."""
    linear = nn.Linear(layer.inputs, layer.outputs, bias=layer.bias is not None)
    with torch.no_grad():
        linear.weight.copy_(layer.weight[: layer.outputs, : layer.inputs])
        if layer.bias is not None:
            linear.bias.copy_(layer.bias[: layer.outputs])
    return linear


def padding(layer: Linear) -> Tensor:
    """All that is no weight of the layer it stands for."""
    parts = [layer.weight[layer.outputs :].flatten(), layer.weight[: layer.outputs, layer.inputs :].flatten()]
    if layer.bias is not None:
        parts.append(layer.bias[layer.outputs :])
    return torch.cat(parts)


@pytest.mark.parametrize(("inputs", "outputs"), [(3, 5), (8, 16), (13, 8), (8, 255), (1, 1)])
@pytest.mark.parametrize("bias", [True, False])
def test_a_padded_layer_is_pytorchs_layer_on_any_width(inputs: int, outputs: int, bias: bool):
    layer = Linear(inputs, outputs, bias=bias)
    if bias:
        nn.init.normal_(layer.bias[:outputs])
    assert all(width % ALIGNMENT == 0 for width in layer.weight.shape)
    reference = plain(layer)
    x = torch.randn(7, 4, inputs, requires_grad=True)
    weight = torch.randn(7, 4, outputs)
    ours, theirs = layer(x), reference(x)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours, theirs)
    parameters = [layer.weight, *([layer.bias] if bias else [])]
    mine = torch.autograd.grad((weight * ours).sum(), [x, *parameters])
    his = torch.autograd.grad((weight * theirs).sum(), [x, *reference.parameters()])
    torch.testing.assert_close(mine[0], his[0])
    torch.testing.assert_close(mine[1][:outputs, :inputs], his[1])
    if bias:
        torch.testing.assert_close(mine[2][:outputs], his[2])


def test_inputs_may_come_padded():
    layer, x = Linear(5, 3), torch.randn(4, 5)
    torch.testing.assert_close(layer(nn.functional.pad(x, (0, 3))), layer(x))


def test_real_widths_decide_how_weights_begin():
    """Not the padded ones: a layer of one input begins eight times as large otherwise, in variance."""
    weight = Linear(1, 4096).weight.detach()[:, :1]
    assert weight.std() == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("make", [ADAM, LAPROP], ids=["adam", "laprop"])
def test_padding_stays_zero_while_everything_else_is_trained(make: Callable[[list[Tensor]], Optimizer]):
    network = nn.Sequential(Linear(3, 5), nn.SiLU(), Linear(5, 11))
    before = [parameter.clone() for parameter in network.parameters()]
    optimizer = make(list(network.parameters()))
    for _ in range(5):
        for parameter in network.parameters():
            parameter.grad = None
        (network(torch.randn(32, 3)) - torch.randn(32, 11)).square().mean().backward()
        optimizer.step()
    for layer in (network[0], network[2]):
        assert not padding(layer).any()
        assert not any(padding(layer).isnan())
    assert all(not torch.equal(now, then) for now, then in zip(network.parameters(), before, strict=True))


@pytest.mark.parametrize("agent", ["dreamer_v3", "dreamer"])
def test_padding_of_a_whole_agent_stays_zero(agent: str):
    trained = small_agent(f"agent={agent}", "agent.world_model.units=9", "agent.world_model.hidden=11")
    optimizer = trained.make_optimizer()
    for _ in range(2):
        for parameter in optimizer.parameters:
            parameter.grad = None
        trained.loss(sequences_of(trained, random_rows(5, 3)), noise_of(trained, 4, 3)).total.backward()
        optimizer.step()
        trained.after_step()
    layers = [module for module in trained.modules() if isinstance(module, Linear)]
    assert sum(padding(layer).numel() for layer in layers) > 0
    assert not any(padding(layer).any() for layer in layers)


def test_a_block_layer_is_a_linear_layer_whose_weight_is_block_diagonal():
    layer = BlockLinear(6, 9, blocks=3)
    nn.init.normal_(layer.bias)
    x = torch.randn(4, 6)
    expected = x @ torch.block_diag(*layer.weight) + layer.bias
    torch.testing.assert_close(layer(x), expected)


@pytest.mark.parametrize(("layer", "width"), [(Linear(5, 11), 11), (BlockLinear(6, 9, blocks=3), 9)])
def test_the_gradient_of_a_weight_can_be_had_from_inputs_and_output_gradients(layer: Linear | BlockLinear, width: int):
    inputs = 5 if isinstance(layer, Linear) else 6
    x, upstream = torch.randn(4, 7, inputs), torch.randn(4, 7, width)
    outputs = torch.stack([layer(step) for step in x])
    (expected,) = torch.autograd.grad((outputs * upstream).sum(), layer.weight)
    padded = nn.functional.pad(upstream, (0, aligned(width) - width)) if isinstance(layer, Linear) else upstream
    torch.testing.assert_close(layer.weight_gradient(layer.pad(x), padded), expected)


def test_blocks_that_do_not_divide_a_width_are_refused():
    with pytest.raises(ConfigError, match=r"agent\.world_model\.blocks: 4 blocks do not divide widths 6 and 8"):
        BlockLinear(6, 8, blocks=4)


def test_rms_norm_divides_by_the_root_mean_square():
    norm, x = RMSNorm(6), torch.randn(4, 6)
    nn.init.normal_(norm.scale)
    torch.testing.assert_close(norm(x), norm.scale * x / (x.square().mean(-1, keepdim=True) + 1e-4).sqrt())


def test_unknown_activations_name_the_key_and_what_there_is():
    with pytest.raises(ConfigError, match=r"agent\.world_model\.activation: 'relu' is none of rms_silu, elu"):
        Activation("relu", 4)


def test_through_a_twin_gradients_reach_inputs_and_no_weight():
    module = MLP(3, 8, 2, "rms_silu", 1)
    twin, x = frozen_twin(module), torch.randn(5, 3, requires_grad=True)
    twin(x).sum().backward()
    (expected,) = torch.autograd.grad(module(x).sum(), x)
    torch.testing.assert_close(x.grad, expected)
    assert expected.any()
    assert all(parameter.grad is None for parameter in (*module.parameters(), *twin.parameters()))
    assert all(parameter.requires_grad for parameter in module.parameters()), "the original is as it was"


@pytest.mark.parametrize("make", [ADAM, LAPROP], ids=["adam", "laprop"])
def test_a_twin_follows_what_an_optimiser_writes(make: Callable[[list[Tensor]], Optimizer]):
    module, x = MLP(3, 8, 2, "elu", 1), torch.randn(5, 3)
    twin, optimizer = frozen_twin(module), make(list(module.parameters()))
    before = twin(x)
    module(x).sum().backward()
    optimizer.step()
    assert not torch.equal(twin(x), before)
    assert torch.equal(twin(x), module(x))


@pytest.mark.parametrize(
    "moved",
    [
        lambda agent: agent,
        lambda agent: agent.to(torch.float64),
        copy.deepcopy,
        lambda agent: copy.deepcopy(agent).to(torch.float64),
    ],
    ids=["as made", "to another type", "copied", "copied and to another type"],
)
@pytest.mark.parametrize("words", ["agent=dreamer", "agent.behaviour.actor_gradient=dynamics"])
def test_an_agents_twins_are_its_own_wherever_it_was_moved(moved: Callable[[Agent], Agent], words: str):
    agent = moved(small_agent(words))
    for part, twin in agent._frozen._asdict().items():
        if twin is None:
            continue
        names = dict(getattr(agent, part).named_parameters())
        for name, parameter in twin.named_parameters():
            assert parameter.data_ptr() == names[name].data_ptr(), name
            assert parameter.dtype == names[name].dtype
            assert not parameter.requires_grad


def test_dreamers_twins_take_up_loaded_weights():
    one, two = (small_agent("agent=dreamer", seed=seed) for seed in (0, 1))
    two.load_state_dict(one.state_dict())
    sequences = sequences_of(one, random_rows(5, 3))
    ours, theirs = (agent.loss(sequences, noise_of(agent, 4, 3)).total for agent in (one, two))
    assert torch.equal(ours, theirs)


def test_a_copy_of_dreamer_and_the_original_go_separate_ways():
    original = small_agent("agent=dreamer")
    sequences: Sequences = sequences_of(original, random_rows(5, 3))
    copied = copy.deepcopy(original)
    noise = noise_of(original, 4, 3)
    before = original.loss(sequences, noise).metrics["loss/actor"]
    with torch.no_grad():
        for parameter in copied.parameters():
            parameter.mul_(1.5)
    assert original.loss(sequences, noise).metrics["loss/actor"] == before
    assert copied.loss(sequences, noise).metrics["loss/actor"] != before
    assert not set(map(id, original.parameters())) & set(map(id, copied.parameters()))


def test_dreamers_twins_count_neither_among_its_parameters_nor_in_its_state():
    agent = small_agent("agent=dreamer")
    assert all(parameter.requires_grad for parameter in agent.parameters())
    assert not [name for name in agent.state_dict() if "frozen" in name]


def test_blocks_start_out_as_small_as_a_dense_layer_of_all_their_inputs():
    """Weights of one block's inputs alone would be larger by the root of the number of blocks."""
    torch.manual_seed(0)
    assert BlockLinear(512, 512, blocks=8).weight.detach().std() == pytest.approx(512**-0.5, rel=0.03)


def test_a_layer_cut_in_two_starts_out_as_the_whole_one_would():
    torch.manual_seed(0)
    halves = Linear(448, 512, beside=64), Linear(64, 512, bias=False, beside=448)
    for half in halves:
        assert half.weight.detach().std() == pytest.approx(512**-0.5, rel=0.03)
