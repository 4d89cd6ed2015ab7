"""What fusing ELU into matrix products would buy Dreamer's layers: `python benchmarks/fused_layers.py [--json]`.

Compares cuBLAS followed by a kernel of its own for the activation with one Triton kernel that does both, forward and
backward, for the products that a step at batch 50,000 consists of, over a few tile sizes. Needs a GPU and Triton.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.results import save_result
from benchmarks.timing import measure_rate

# Rows, outputs, inputs: heads over 15 imagined steps of 50,000 states, one imagined step, the recurrence's gates.
SHAPES = ((750_000, 400, 400), (750_000, 400, 232), (50_000, 400, 400), (50_000, 200, 200), (10_000, 400, 400))
# Rows, outputs and inputs of a tile, warps, stages.
TILES = (
    (128, 128, 64, 8, 4),
    (128, 128, 64, 4, 4),
    (128, 128, 32, 8, 5),
    (128, 256, 64, 8, 3),
    (64, 256, 64, 4, 4),
    (64, 256, 64, 8, 4),
    (256, 128, 64, 8, 3),
    (256, 128, 32, 8, 4),
    (128, 64, 64, 4, 4),
    (256, 64, 64, 8, 4),
)
REPEATS = 30
LARGEST_ERROR = 1e-2  # relative, of bfloat16 operands


@dataclass(frozen=True)
class Figure:
    """One product.

    Attributes:
        direction: `forward`: elu(x Wᵀ + b); `backward`: (dz W) elu'(y), with y the outputs of the layer before.
        rows: Of the inputs.
        outputs: Width of the result.
        inputs: Width that is summed over.
        cublas_us: Microseconds of cuBLAS's product alone.
        activation_us: Of the activation's kernel behind it.
        fused_us: Of the best tile.
        tile: Which one that is.
    """

    direction: str
    rows: int
    outputs: int
    inputs: int
    cublas_us: float
    activation_us: float
    fused_us: float
    tile: tuple[int, ...]


@triton.jit
def product(
    a,
    b,
    bias,
    y,
    c,
    M,
    N: tl.constexpr,
    K: tl.constexpr,
    b_row: tl.constexpr,
    b_column: tl.constexpr,
    BACKWARD: tl.constexpr,
    BM: tl.constexpr,
    BN: tl.constexpr,
    BK: tl.constexpr,
    REST: tl.constexpr,
):
    """Computes c [M, N] = elu(a [M, K] b [K, N] + bias), or (a b) elu'(y) where BACKWARD."""
    tiles: tl.constexpr = (N + BN - 1) // BN
    number = tl.program_id(0)
    rows = (number // tiles) * BM + tl.arange(0, BM)
    columns = (number % tiles) * BN + tl.arange(0, BN)
    # Beyond the edges the first row and column are computed again and not stored: no masks in the loop.
    row = tl.where(rows < M, rows, 0)
    column = tl.where(columns < N, columns, 0)
    depth = tl.arange(0, BK)
    a_tile = a + row[:, None] * K + depth[None, :]
    b_tile = b + depth[:, None] * b_row + column[None, :] * b_column
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for _ in range(0, K // BK):
        total = tl.dot(tl.load(a_tile), tl.load(b_tile), total)
        a_tile += BK
        b_tile += BK * b_row
    if REST > 0:
        deep: tl.constexpr = (K // BK) * BK
        rest = deep + tl.arange(0, REST)
        left = tl.load(a + row[:, None] * K + rest[None, :], mask=rest[None, :] < K, other=0.0)
        right = tl.load(b + rest[:, None] * b_row + column[None, :] * b_column, mask=rest[:, None] < K, other=0.0)
        total = tl.dot(left, right, total)
    if BACKWARD:
        before = tl.load(y + row[:, None] * N + column[None, :]).to(tl.float32)
        total = total * tl.where(before > 0, 1.0, before + 1.0)
    else:
        total += tl.load(bias + column).to(tl.float32)[None, :]
        total = tl.where(total > 0, total, tl.exp(tl.minimum(total, 0.0)) - 1.0)
    inside = (rows < M)[:, None] & (columns < N)[None, :]
    tl.store(c + rows[:, None] * N + columns[None, :], total.to(c.dtype.element_ty), mask=inside)


def fused(a: Tensor, weight: Tensor, bias: Tensor, y: Tensor, c: Tensor, backward: bool, tile: Sequence[int]) -> None:
    """Launch `product`; `weight` is a layer's, `[outputs, inputs]`, in both directions."""
    rows, columns, depth, warps, stages = tile
    inputs, outputs = weight.shape if backward else weight.shape[::-1]
    strides = (weight.shape[1], 1) if backward else (1, weight.shape[1])
    rest = inputs % depth
    grid = (triton.cdiv(len(a), rows) * triton.cdiv(outputs, columns),)
    product[grid](
        a,
        weight,
        bias,
        y,
        c,
        len(a),
        outputs,
        inputs,
        *strides,
        backward,
        rows,
        columns,
        depth,
        max(16, triton.next_power_of_2(rest)) if rest else 0,
        num_warps=warps,
        num_stages=stages,
    )


def measure(rows: int, outputs: int, inputs: int, backward: bool, device: torch.device) -> Figure:
    """Check every tile against float32, and time the correct ones."""
    torch.manual_seed(0)
    weight = (torch.randn(outputs, inputs, device=device) / inputs**0.5).bfloat16()
    bias = torch.randn(outputs, device=device).bfloat16()
    width, into = (inputs, outputs) if backward else (outputs, inputs)
    a = torch.randn(rows, into, device=device).bfloat16()
    y = F.elu(torch.randn(rows, width, device=device)).bfloat16()
    c = torch.empty(rows, width, device=device, dtype=torch.bfloat16)
    some = slice(0, 4096)
    if backward:
        factor = torch.where(y[some] > 0, 1.0, y[some].float() + 1)
        right = (a[some].float() @ weight.float()) * factor
        cublas, activation = (
            lambda: torch.mm(a, weight, out=c),
            lambda: torch.ops.aten.elu_backward(c, 1.0, 1.0, 1.0, True, y),
        )
    else:
        right = F.elu(F.linear(a[some].float(), weight.float(), bias.float()))
        cublas, activation = lambda: F.linear(a, weight, bias), lambda: F.elu(c)
    best: tuple[float, tuple[int, ...]] = (float("inf"), ())
    for tile in TILES:
        c.fill_(float("nan"))
        try:
            fused(a, weight, bias, y, c, backward, tile)
        except triton.runtime.errors.OutOfResources:
            continue
        if not (c[some].float() - right).norm() <= LARGEST_ERROR * right.norm():
            raise AssertionError(f"tile {tile} computes something else")
        found = _microseconds(lambda tile=tile: fused(a, weight, bias, y, c, backward, tile), device)
        best = min(best, (found, tile))
    direction = "backward" if backward else "forward"
    times = _microseconds(cublas, device), _microseconds(activation, device)
    return Figure(direction, rows, width, into, *times, *best)


def _microseconds(operation: Callable[[], Any], device: torch.device) -> float:
    operation()
    return 1e6 / measure_rate(operation, device, block=10, steps=REPEATS).median


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, nargs="?", const=Path(), metavar="FILE")
    options = parser.parse_args(arguments)
    device = torch.device("cuda:0")
    figures = [measure(*shape, backward, device) for shape in SHAPES for backward in (False, True)]
    table = Table("", "rows", "outputs", "inputs", "cuBLAS µs", "activation µs", "fused µs", "tile")
    for figure in figures:
        times = (f"{value:.0f}" for value in (figure.cublas_us, figure.activation_us, figure.fused_us))
        sizes = (f"{size:,}" for size in (figure.rows, figure.outputs, figure.inputs))
        table.add_row(figure.direction, *sizes, *times, " ".join(map(str, figure.tile)))
    Console().print(table)
    save_result(options.json, "fused-layers", figures, ("torch", "triton"))


if __name__ == "__main__":
    main()
