"""The DreamerV3 learner that TorchRL ships, and the trainer's own beside it, at the same sizes and in the same run.

    python benchmarks/reference_v3.py --batch 1024 --length 64 --steps 50 --json

TorchRL's is `DreamerV3OptimizationStepper`: forward and backward with a compiled scan of the recurrence, captured as
one CUDA graph; `DreamerV3Optimizer` and the slow critic's update follow eagerly. Its recipe samples outside of the
stepper, and the figure that it publishes (17.83 ms on a GB200) leaves sampling out. So does the comparison: both get
random batches that lie on the device, another one at every step (`fixed`). The trainer's own step is measured a second
time as it really is, with sampling and writing latents back inside of it (`replay`).

Where a mode of TorchRL's raises, the next simpler one is measured, and a line on stderr says so. On a GPU a failed
capture may spoil what follows in the same process: ask for the simpler mode then (--no-capture).
"""

from __future__ import annotations

import argparse
import copy
import gc
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from benchmarks.reference_v3_learner import BATCHES, SCOPES, Mode, V3Learner, make_v3_learner
from benchmarks.results import save_result
from benchmarks.timing import Rate, measure_rate, synchronize
from benchmarks.trainer_parts import learner_config, noise_learner
from trainer.replay import Sequences
from trainer.world_model.rssm import State

__all__ = ["Figure", "FixedBatches", "Mode", "V3Learner", "make_v3_learner", "measure", "measure_own"]

PACKAGES = ("torch", "torchrl", "tensordict", "hoptorch")
LEARNERS = ("torchrl", "longshore")
WARM_UP = 5  # steps in front of what is timed
OBSERVATION, ACTION = 48, 12  # of the Unitree Go1 on flat ground


@dataclass(frozen=True)
class Batch:
    """What both learners train on; `overrides` of the trainer's config give sizes other than the published ones."""

    sequences: int
    length: int
    overrides: tuple[str, ...] = ()


@dataclass(frozen=True)
class Figure:
    """What one learner measured.

    Attributes:
        learner: One of `LEARNERS`.
        data: `fixed`: given batches on the device; `replay`: the step samples and writes latents back.
        mode: How it really ran.
        parameters: That are trained. The trainer's are a few more: it pads widths to multiples of eight.
        steps_per_s: Optimiser steps a second.
        prepare_s: Seconds that compiling and capturing took.
        peak_memory_gib: Most memory that tensors held at once, preparation and replay included; None on a CPU.
    """

    learner: str
    data: str
    mode: str
    parameters: int
    steps_per_s: Rate
    prepare_s: float
    peak_memory_gib: float | None


class FixedBatches:
    """In place of a replay: the trainer's step gets random batches that lie on its device, and writes none back.

    Args:
        drawn: Batches to go round and round.
    """

    def __init__(self, drawn: Sequence[Sequences]) -> None:
        self._drawn, self._next = drawn, 0
        self._batch = copy.deepcopy(drawn[0])  # where a captured step reads

    def before_step(self) -> None:
        source = self._drawn[self._next % len(self._drawn)]
        self._next += 1
        for mine, given in zip(_tensors(self._batch), _tensors(source), strict=True):
            mine.copy_(given)

    def sample(self) -> Sequences:
        return self._batch

    def refresh(self, sequences: Sequences, states: State) -> None:
        pass

    def after_step(self) -> None:
        pass


def measure(device: torch.device, batch: Batch, mode: Mode, *, steps: int, block: int = 5) -> Figure:
    """TorchRL's learner on fixed batches, in the mode asked for or the next simpler one that works.

    Args:
        device: Where everything is.
        batch: To train on.
        mode: How the step should run.
        steps: Optimiser steps that are timed, after a warm-up.
        block: Steps between two looks at the clock.
    """
    *modes, last = mode.simpler()
    for tried in modes:
        try:
            return _measure(device, batch, tried, steps, block)
        except Exception as error:
            reason = (str(error).strip() or "no message").splitlines()[0]
            print(f"TorchRL {tried}: {type(error).__name__}: {reason}; trying a simpler mode", file=sys.stderr)
        _forget_learner(device)
    return _measure(device, batch, last, steps, block)


def _measure(device: torch.device, batch: Batch, mode: Mode, steps: int, block: int) -> Figure:
    _forget_peak(device)
    learner = make_v3_learner(
        OBSERVATION,
        ACTION,
        device,
        sequences=batch.sequences,
        length=batch.length,
        compile=mode.scope is not None,
        capture=mode.captured,
        scope=mode.scope or SCOPES[0],
        overrides=batch.overrides,
    )
    prepared = _timed(learner.prepare, device)
    rate = _rate(learner.step, device, steps, block)
    return Figure("torchrl", "fixed", str(mode), learner.parameters, rate, prepared, _peak(device))


def measure_own(
    device: torch.device,
    batch: Batch,
    *,
    data: str,
    compile: bool,
    capture: bool,
    environments: int,
    frames: int,
    steps: int,
    block: int = 5,
) -> Figure:
    """The trainer's own learner, on given batches or as it really learns.

    Args:
        device: Where everything is.
        batch: To train on.
        data: `fixed` or `replay`, see `Figure`.
        compile: Compile the agent's regions.
        capture: Make the whole step one CUDA graph, where the device is a GPU.
        environments: Of the replay.
        frames: Capacity of the replay, which is full.
        steps: Optimiser steps that are timed, after a warm-up.
        block: Steps between two looks at the clock.
    """
    captured = capture and device.type == "cuda"
    precision = ("optimization.autocast=bfloat16",) if device.type == "cuda" else ()
    overrides = (*precision, *batch.overrides)
    config = learner_config("dreamer_v3", batch.sequences * batch.length, batch.length, overrides)
    _forget_peak(device)
    learner = noise_learner(config, environments, frames, OBSERVATION, ACTION, device)
    if data == "fixed":
        learner._batches = FixedBatches([learner._batches.sample() for _ in range(BATCHES)])
    prepared = 0.0
    if compile or captured:
        prepared = _timed(lambda: learner.prepare(compiled=compile, captured=captured), device)
    rate = _rate(learner.learn, device, steps, block)
    parameters = sum(parameter.numel() for parameter in learner.agent.parameters() if parameter.requires_grad)
    mode = Mode("step" if compile else None, captured)
    return Figure("longshore", data, str(mode), parameters, rate, prepared, _peak(device))


def show(figures: Sequence[Figure], device: torch.device, batch: Batch) -> None:
    """Print figures side by side; the last row is the speed as a multiple of TorchRL's, where that was measured."""
    table = Table("", title=f"DreamerV3, {batch.sequences} sequences of {batch.length}, on {device}")
    for figure in figures:
        table.add_column(f"{figure.learner}, {figure.data}", justify="right")
    rates = [figure.steps_per_s for figure in figures]
    table.add_row("mode", *(figure.mode for figure in figures))
    table.add_row("parameters", *(f"{figure.parameters:,}" for figure in figures))
    table.add_row("steps/s", *(f"{rate.median:.2f}" for rate in rates))
    table.add_row("slowest, fastest", *(f"{rate.slowest:.2f}, {rate.fastest:.2f}" for rate in rates))
    table.add_row("ms", *(f"{1000 / rate.median:.2f}" for rate in rates))
    table.add_row("prepared in", *(f"{figure.prepare_s:.0f} s" for figure in figures))
    if device.type == "cuda":
        table.add_row("peak memory", *(f"{figure.peak_memory_gib:.2f} GiB" for figure in figures))
    theirs = next((figure.steps_per_s.median for figure in figures if figure.learner == "torchrl"), None)
    if theirs is not None:
        table.add_row("times TorchRL's", *(f"{rate.median / theirs:.2f}" for rate in rates))
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    options = _parser().parse_args(arguments)
    device = options.device
    if options.batch % options.length:
        raise SystemExit(f"--batch: {options.batch} frames are no whole number of sequences of --length")
    compile = device.type == "cuda" if options.compile is None else options.compile
    capture = device.type == "cuda" if options.capture is None else options.capture
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")  # for what autocast leaves in float32; as TorchRL's recipe has it
    batch = Batch(options.batch // options.length, options.length, tuple(options.overrides))
    given = {**vars(options), "device": str(device), "compile": compile, "capture": capture}
    del given["json"]
    figures: list[Figure] = []

    def add(figure: Figure) -> None:
        figures.append(figure)
        save_result(options.json, "reference-v3", figures, PACKAGES, given)
        _forget_learner(device)

    if "longshore" in options.learners:  # first: TorchRL's compiles for minutes
        for data, environments, frames in (
            ("fixed", batch.sequences, BATCHES * options.batch),
            ("replay", options.environments, options.frames),
        ):
            add(
                measure_own(
                    device,
                    batch,
                    data=data,
                    compile=compile,
                    capture=capture,
                    environments=environments,
                    frames=frames,
                    steps=options.steps,
                    block=min(5, options.steps),
                )
            )
    if "torchrl" in options.learners:
        mode = Mode(options.scope if compile else None, capture)
        add(measure(device, batch, mode, steps=options.steps, block=min(5, options.steps)))
    show(figures, device, batch)


def _parser() -> argparse.ArgumentParser:
    first = "cuda:0" if torch.cuda.is_available() else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", help="of the trainer's config, for both: agent.world_model.units=256")
    parser.add_argument("--batch", type=int, default=1024, help="frames of a batch")
    parser.add_argument("--length", type=int, default=64, help="frames of a sequence")
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--device", type=torch.device, default=torch.device(first))
    parser.add_argument("--learners", nargs="+", choices=LEARNERS, default=list(LEARNERS))
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, help="on a GPU by default")
    parser.add_argument("--capture", action=argparse.BooleanOptionalAction, help="on a GPU by default")
    parser.add_argument(
        "--scope",
        choices=SCOPES,
        default="scan",
        help="of TorchRL's compiler; `scan` is how its figure was published, `step` compiles for more than 200 s",
    )
    parser.add_argument("--environments", type=int, default=4096, help="of the trainer's replay")
    parser.add_argument("--frames", type=int, default=1_000_000, help="of the trainer's replay")
    parser.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=Path(),
        help="write the figures, to benchmarks/results/reference-v3-<GPU>.json without a FILE",
        metavar="FILE",
    )
    return parser


def _timed(function: Callable[[], object], device: torch.device) -> float:
    started = time.perf_counter()
    function()
    synchronize(device)
    return time.perf_counter() - started


def _rate(step: Callable[[], object], device: torch.device, steps: int, block: int) -> Rate:
    for _ in range(WARM_UP):
        step()
    return measure_rate(step, device, block=block, steps=steps)


def _forget_learner(device: torch.device) -> None:
    """Let the last learner go, now: a CUDA graph that is collected during a later capture aborts it."""
    torch.compiler.reset()
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.init()
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


def _tensors(sequences: Sequences) -> list[Tensor]:
    return [*sequences.rows.tensors(), *sequences.context]


if __name__ == "__main__":
    main()
