"""How fast the learner is alone: `python benchmarks/learner.py [--json]`, on the first GPU or the CPU.

Both agents, at the batches that the reference is measured at; each step runs eagerly, with compiled regions, and as one
CUDA graph.
"""

from __future__ import annotations

import argparse
import functools
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

import torch
from rich.console import Console
from rich.table import Table
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from benchmarks.results import save_result
from benchmarks.timing import Rate, Stopwatch, measure_rate, synchronize
from benchmarks.trainer_parts import learner_config, noise_learner
from trainer.learner import Learner

PACKAGES = ("torch", "triton") if torch.cuda.is_available() else ("torch",)
MODES = ("eager", "compiled", "captured")
WARM_UP = 3  # steps
SMALL = 8  # microseconds: most of such a kernel is latency
OBSERVATION, ACTION = 48, 12  # of the Unitree Go1 on flat ground


@dataclass(frozen=True)
class Case:
    """What is measured: an agent at a batch of `batch` frames in sequences of `length`."""

    agent: str
    batch: int
    length: int
    overrides: tuple[str, ...] = ()


# Widths with which DreamerV3 has about as many parameters as Dreamer (2.7 M and 2.5 M), and as many operations.
V3_OF_DREAMERS_SIZE = ("agent.world_model.units=256", "agent.world_model.hidden=256")
CASES = (
    Case("dreamer", 50_000, 50),
    Case("dreamer", 10_000, 50),
    Case("dreamer_v3", 50_000, 50, V3_OF_DREAMERS_SIZE),
    Case("dreamer_v3", 10_000, 50, V3_OF_DREAMERS_SIZE),
    Case("dreamer_v3", 1_024, 64),
)


@dataclass(frozen=True)
class Figure:
    """What a case measured in one mode.

    Attributes:
        case: What was measured.
        mode: `eager`, `compiled` or `captured`.
        parameters: That are trained.
        steps_per_s: Optimiser steps a second.
        parts_ms: Median milliseconds of the parts of a step; of a captured one, which is one launch, those of kinds of
            kernels.
        prepare_s: Seconds that compiling and capturing took.
        peak_memory_gib: Most memory that tensors held at once, replay included; None on a CPU.
        tflop: Floating-point operations of a step's matrix products, in 1e12.
        floor_ms: Their time at the rate that this machine reaches on one large product.
    """

    case: Case
    mode: str
    parameters: int
    steps_per_s: Rate
    parts_ms: dict[str, float]
    prepare_s: float
    peak_memory_gib: float | None
    tflop: float
    floor_ms: float


def measure(
    case: Case, mode: str, device: torch.device, *, steps: int, environments: int, frames: int, tflops: float
) -> Figure:
    """Train on noise.

    Args:
        case: Agent and batch.
        mode: One of `MODES`.
        device: Where everything is.
        steps: Optimiser steps that are timed, after a warm-up.
        environments: Of the replay, which is full.
        frames: Capacity of the replay.
        tflops: Rate of one large product here, in 1e12 operations a second.
    """
    autocast = ["optimization.autocast=bfloat16"] if device.type == "cuda" else []
    config = learner_config(case.agent, case.batch, case.length, [*autocast, *case.overrides])
    torch.compiler.reset()  # what was compiled for other sizes counts towards a limit
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    learner = noise_learner(config, environments, frames, OBSERVATION, ACTION, device)
    parameters = sum(parameter.numel() for parameter in learner.agent.parameters() if parameter.requires_grad)
    watch = Stopwatch(device)
    started = time.perf_counter()
    if mode != "eager":
        learner.prepare(captured=mode == "captured")
        synchronize(device)
    prepared = time.perf_counter() - started
    if mode != "captured":
        time_parts(learner, watch)
    for _ in range(WARM_UP):
        learner.learn()
    watch.clear()
    rate = measure_rate(learner.learn, device, block=min(5, steps), steps=steps)
    parts = kernel_times(learner) if mode == "captured" and device.type == "cuda" else watch.medians()
    peak = torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None
    tflop = count_tflop(case)
    return Figure(case, mode, parameters, rate, parts, prepared, peak, tflop, tflop / tflops * 1000 if tflops else 0.0)


def time_parts(learner: Learner, watch: Stopwatch) -> None:
    """Have `watch` time the parts of an optimiser step; what is left over is the backward pass."""
    agent = learner.agent
    parts: Sequence[tuple[Any, str, str]] = (
        (learner._batches, "sample", "sample"),
        (agent.world_model, "encode", "encoder"),
        (agent.world_model.rssm, "observe", "recurrence"),
        (agent, "imagine", "imagination"),
        (agent, "_model_loss", "world model's losses"),
        (agent, "_behaviour_loss", "behaviour's losses"),
        (learner._optimizer, "step", "optimiser"),
        (learner._batches, "refresh", "write back"),
        (learner, "_step", "whole step"),
    )
    for owner, name, part in parts:
        setattr(owner, name, _timed(getattr(owner, name), watch, part))


def kernel_times(learner: Learner) -> dict[str, float]:
    """Milliseconds of an optimiser step's kernels, by who made them."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        learner.learn()
        torch.cuda.synchronize()
    times: dict[str, float] = defaultdict(float)
    for event in profile.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            times[_kind(event.name, event.device_time)] += event.device_time / 1000
    return dict(times)


def _kind(name: str, microseconds: float) -> str:
    if microseconds < SMALL:
        return f"kernels under {SMALL} µs"
    if "linear_elu" in name:
        return "matrix products with ELU"
    if "nvjet" in name or "gemm" in name or "cublas" in name:
        return "matrix products"
    return "compiled kernels" if name.startswith("triton") else "PyTorch's own kernels"


def _timed(function: Callable[..., Any], watch: Stopwatch, part: str) -> Callable[..., Any]:
    def timed(*arguments: Any, **keywords: Any) -> Any:
        with watch.part(part):
            return function(*arguments, **keywords)

    return timed


@functools.cache
def count_tflop(case: Case) -> float:
    """Operations of a step's matrix products, counted on a few sequences: they grow with the batch."""
    sequences = 8
    config = learner_config(case.agent, sequences * case.length, case.length, case.overrides)
    learner = noise_learner(config, sequences, 4 * sequences * case.length, OBSERVATION, ACTION, torch.device("cpu"))
    with _Operations() as operations:
        learner.learn()
    return operations.total * case.batch / (sequences * case.length) / 1e12


class _Operations(TorchDispatchMode):
    """Counts the operations of matrix products. PyTorch's own FlopCounterMode fails on modules under `no_grad`."""

    def __init__(self) -> None:
        super().__init__()
        self.total = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        count = flop_registry.get(func._overloadpacket)
        if count is not None:
            self.total += count(*args, **(kwargs or {}), out_val=result)
        return result


def matrix_tflops(device: torch.device) -> float:
    """Rate of one large product of random bfloat16 matrices, in 1e12 operations a second."""
    width = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(width, width, device=device, dtype=torch.bfloat16) for _ in range(2))
    torch.mm(left, right)
    rate = measure_rate(lambda: torch.mm(left, right), device, block=10, steps=50)
    return 2 * width**3 * rate.median / 1e12


def show(figures: Sequence[Figure], tflops: float) -> None:
    """Print figures as a table."""
    table = Table(title=f"Learner alone; a large matrix product here: {tflops:.1f} TFLOP/s")
    for name in ("agent", "batch", "parameters", "mode", "steps/s", "ms", "floor ms", "prepared in", "memory"):
        table.add_column(name, justify="left" if name in ("agent", "mode") else "right")
    for figure in figures:
        memory = "" if figure.peak_memory_gib is None else f"{figure.peak_memory_gib:.1f} GiB"
        table.add_row(
            figure.case.agent,
            f"{figure.case.batch:,} = {figure.case.batch // figure.case.length} × {figure.case.length}",
            f"{figure.parameters / 1e6:.2f} M",
            figure.mode,
            f"{figure.steps_per_s.median:.2f}",
            f"{1000 / figure.steps_per_s.median:.1f}",
            f"{figure.floor_ms:.1f}",
            f"{figure.prepare_s:.0f} s",
            memory,
        )
    Console().print(table)
    for figure in figures:
        if figure.parts_ms:
            parts = ", ".join(f"{name} {milliseconds:.1f}" for name, milliseconds in figure.parts_ms.items())
            print(f"{figure.case.agent} {figure.case.batch:,} {figure.mode}, ms: {parts}")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    first = "cuda:0" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=torch.device(first))
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--cases", nargs="+", type=int, default=range(len(CASES)), help="numbers of the cases")
    parser.add_argument("--scale", type=int, default=1, help="divide batches and replay by this, for slow machines")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--environments", type=int, default=4096)
    parser.add_argument("--frames", type=int, default=1_000_000, help="of the replay")
    parser.add_argument("--json", type=Path, nargs="?", const=Path(), metavar="FILE")
    options = parser.parse_args(arguments)
    tflops = matrix_tflops(options.device)
    figures = []
    for number in options.cases:
        case = CASES[number]
        sequences = max(1, case.batch // case.length // options.scale)
        case = Case(case.agent, sequences * case.length, case.length, case.overrides)
        for mode in options.modes:
            figures.append(
                measure(
                    case,
                    mode,
                    options.device,
                    steps=options.steps,
                    environments=options.environments // options.scale,
                    frames=options.frames // options.scale,
                    tflops=tflops,
                )
            )
            if options.device.type == "cuda":
                torch.cuda.empty_cache()
    show(figures, tflops)
    save_result(options.json, "learner", figures, PACKAGES, {"steps": options.steps, "matrix_tflops": tflops})


if __name__ == "__main__":
    main()
