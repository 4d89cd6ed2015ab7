"""One kernel for a matrix product and the ELU behind it, or, on the way back, the one in front of it.

ELU's own kernels read and write every activation once more, which costs about as much as the product: the products of
these networks are bound by memory. cuBLAS fuses ReLU and GELU alone. All tensors are on the current GPU, as Triton
wants it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

# Of one program. In a step of Dreamer on an H100 (50,000 and 800,000 rows of 200 and 400) the kernel takes half a per
# cent longer than with the best of 15 choices, 128 × 256 × 64, whose buffers only GPUs of data centres have room for.
BLOCK_ROWS, BLOCK_OUTPUTS, BLOCK_INPUTS = 128, 128, 32
WARPS, STAGES = 4, 4


@triton.jit
def _linear_elu(
    x,
    weight,
    bias,  # None on the way back
    activation,  # None on the way there
    scale,  # None without `scaled`
    out,
    scaled,
    rows,
    INPUTS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUT_STRIDE: tl.constexpr,  # of `weight`, as OUTPUT_STRIDE
    OUTPUT_STRIDE: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_OUTPUTS: tl.constexpr,
    BLOCK_INPUTS: tl.constexpr,
) -> None:
    columns: tl.constexpr = (OUTPUTS + BLOCK_OUTPUTS - 1) // BLOCK_OUTPUTS
    first = tl.program_id(0) // columns * BLOCK_ROWS  # programs that share rows run side by side
    m = tl.arange(0, BLOCK_ROWS)
    n = tl.program_id(0) % columns * BLOCK_OUTPUTS + tl.arange(0, BLOCK_OUTPUTS)
    x += first.to(tl.int64) * INPUTS
    here = (first + m < rows)[:, None]
    total = tl.zeros((BLOCK_ROWS, BLOCK_OUTPUTS), tl.float32)
    for start in range(0, INPUTS, BLOCK_INPUTS):
        k = start + tl.arange(0, BLOCK_INPUTS)
        left = tl.load(x + m[:, None] * INPUTS + k[None, :], mask=here & (k < INPUTS)[None, :], other=0.0)
        right = tl.load(
            weight + k[:, None] * INPUT_STRIDE + n[None, :] * OUTPUT_STRIDE,
            mask=(k < INPUTS)[:, None] & (n < OUTPUTS)[None, :],
            other=0.0,
        )
        total = tl.dot(left, right, total)
    written = first.to(tl.int64) * OUTPUTS + m[:, None] * OUTPUTS + n[None, :]
    mask = here & (n < OUTPUTS)[None, :]
    if bias is not None:
        total += tl.load(bias + n, mask=n < OUTPUTS, other=0.0).to(tl.float32)[None, :]
        total = tl.where(total > 0, total, tl.exp(tl.minimum(total, 0.0)) - 1)
    if activation is not None:
        y = tl.load(activation + written, mask=mask, other=0.0).to(tl.float32)
        total *= tl.where(y > 0, 1.0, y + 1)
    tl.store(out + written, total.to(out.dtype.element_ty), mask=mask)
    if scaled is not None:
        by = tl.load(scale + first + m, mask=first + m < rows, other=0.0).to(tl.float32)
        tl.store(scaled + written, (total * by[:, None]).to(scaled.dtype.element_ty), mask=mask)


def linear_elu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """`elu(x @ weight.T + bias)` of half-precision `[N, i]`, `[o, i]` and `[o]`, all contiguous."""
    out = x.new_empty(len(x), len(weight))
    _launch(x, weight, bias, None, None, out, None, (1, weight.shape[1]))
    return out


def linear_elu_backward(gradient: Tensor, weight: Tensor, y: Tensor, scale: Tensor | None) -> tuple[Tensor, Tensor]:
    """`gradient @ weight` times the slope of the ELU that gave `y`, and the same with each row times its `scale`.

    Args:
        gradient: At the output of a linear layer, `[N, o]`, in half precision like the others.
        weight: Of that layer, `[o, i]`.
        y: What it was given, `[N, i]`.
        scale: `[N]`; without it, both results are one.
    """
    out = torch.empty_like(y)
    scaled = None if scale is None else torch.empty_like(y)
    _launch(gradient, weight, None, y, None if scale is None else scale.contiguous(), out, scaled, (weight.shape[1], 1))
    return out, out if scaled is None else scaled


def _launch(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    activation: Tensor | None,
    scale: Tensor | None,
    out: Tensor,
    scaled: Tensor | None,
    strides: tuple[int, int],
) -> None:
    rows, inputs = x.shape
    outputs = out.shape[1]
    block_inputs = min(BLOCK_INPUTS, max(16, triton.next_power_of_2(inputs)))
    _linear_elu[(triton.cdiv(rows, BLOCK_ROWS) * triton.cdiv(outputs, BLOCK_OUTPUTS),)](
        x,
        weight,
        bias,
        activation,
        scale,
        out,
        scaled,
        rows,
        inputs,
        outputs,
        *strides,
        BLOCK_ROWS,
        BLOCK_OUTPUTS,
        block_inputs,
        num_warps=WARPS,
        num_stages=STAGES,
    )
