"""Products with ELU in one kernel, against the same in single precision."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from trainer.world_model.elu import elu_slope, linear_elu, linear_elu_backward

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")]
GPU = torch.device("cuda:0")
# Rows, inputs, outputs: those of Dreamer's networks, and what fills no block of a kernel.
SHAPES = [(1000, 48, 400), (999, 232, 400), (1001, 400, 400), (500, 400, 24), (129, 200, 200), (77, 400, 8), (1, 8, 8)]
HALF = {"rtol": 1e-2, "atol": 1e-2}


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, device=GPU).bfloat16()


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_a_layer_and_the_elu_behind_it(rows: int, inputs: int, outputs: int):
    torch.manual_seed(0)
    x, weight, bias = normal(rows, inputs), normal(outputs, inputs) / inputs**0.5, normal(outputs)
    expected = F.elu(F.linear(x.float(), weight.float(), bias.float()))
    torch.testing.assert_close(linear_elu(x, weight, bias).float(), expected, **HALF)


@pytest.mark.parametrize(("rows", "inputs", "outputs"), SHAPES)
def test_back_through_a_layer_and_the_elu_before_it(rows: int, inputs: int, outputs: int):
    torch.manual_seed(0)
    gradient, weight, y = normal(rows, outputs), normal(outputs, inputs) / outputs**0.5, F.elu(normal(rows, inputs))
    scale = torch.randn(rows, device=GPU)
    expected = (gradient.float() @ weight.float()) * elu_slope(y.float())
    found, scaled = linear_elu_backward(gradient, weight, y, scale)
    torch.testing.assert_close(found.float(), expected, **HALF)
    torch.testing.assert_close(scaled.float(), expected * scale.unsqueeze(-1), **HALF)
    found, same = linear_elu_backward(gradient, weight, y)
    assert found is same
    torch.testing.assert_close(found.float(), expected, **HALF)


def test_compiled_they_give_the_same():
    torch.manual_seed(0)
    x, weight, bias = normal(300, 400), normal(400, 400) / 20, normal(400)

    def there_and_back(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        y = linear_elu(x * 2, weight, bias)
        return y, linear_elu_backward(y * 3, weight, x, bias[:300].float())[1]

    found = torch.compile(there_and_back, fullgraph=True, dynamic=False)(x)
    torch.testing.assert_close(found, there_and_back(x))
