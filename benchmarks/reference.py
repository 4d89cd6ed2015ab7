"""The seed's two-GPU Dreamer pipeline out of TorchRL's own parts: the baseline of every comparison.

    python benchmarks/reference.py learner --batch 50000 --length 50 --steps 20
    python benchmarks/reference.py pipeline --task Mjlab-Velocity-Flat-Unitree-Go1 --environments 4096 --seconds 60 \
        --sim-device cuda:0 --train-device cuda:1

`learner` trains on noise out of a filled replay, `pipeline` on what a simulator gives meanwhile. Both print a table;
with --json they write the figures as well.

Sizes, losses, collector, replay and weight updates are those of TorchRL's Dreamer as the seed configures it. It differs
where that would learn something else than Dreamer: returns of imagination run over all steps, rewards and values are
means and not draws, reconstructions are summed over features alone, exploration does not depend on what another thread
is doing. And where it costs nothing: no gradient scaler, and the replay keeps what training reads.
tests/benchmarks/test_reference_traps.py shows each.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.reference_learner import ReferenceLearner, StepLosses, random_batch
from benchmarks.reference_networks import (
    ReferenceLosses,
    ReferenceNetworks,
    Sizes,
    make_losses,
    make_networks,
)
from benchmarks.reference_pipeline import ReferencePipeline, ReferenceReplay, Settings, make_mjlab_environment
from benchmarks.results import save_result
from benchmarks.timing import Rate, measure_rate

__all__ = [
    "Figure",
    "ReferenceLearner",
    "ReferenceLosses",
    "ReferenceNetworks",
    "ReferencePipeline",
    "ReferenceReplay",
    "Settings",
    "Sizes",
    "StepLosses",
    "make_losses",
    "make_mjlab_environment",
    "make_networks",
    "measure_learner",
    "measure_pipeline",
    "random_batch",
]

PACKAGES = ("torch", "torchrl", "tensordict")
WARM_UP = 5  # steps: compilers, allocators and cuBLAS do once what they do once


@dataclass(frozen=True)
class Figure:
    """What a run of the reference measured.

    Attributes:
        name: `learner` or `pipeline`.
        steps_per_s: Optimiser steps a second.
        parts_ms: Median milliseconds of the parts of a step.
        frames_per_step: Mean frames of a batch; below what was asked for where samples are ragged.
        peak_memory_gib: Most memory that tensors held at once on the training GPU, None on a CPU.
        collected_per_s: Frames a second out of the simulator, None without one.
        episode_return: Mean return of the episodes that ended last, None without any.
    """

    name: str
    steps_per_s: Rate
    parts_ms: dict[str, float]
    frames_per_step: float
    peak_memory_gib: float | None = None
    collected_per_s: float | None = None
    episode_return: float | None = None


def measure_learner(
    device: torch.device,
    settings: Settings,
    *,
    steps: int,
    environments: int,
    observation: int = 48,
    action: int = 12,
    sizes: Sizes | None = None,
    block: int = 5,
) -> Figure:
    """Train on noise: sampling, losses and optimisers, without a simulator.

    Args:
        device: Where everything is.
        settings: Sizes of replay and batch, precision, compilation.
        steps: Optimiser steps that are timed, after a warm-up.
        environments: Second dimension of the replay, which is filled.
        observation: Numbers of an observation.
        action: Numbers of an action.
        sizes: Of the networks.
        block: Steps between two looks at the clock.
    """
    networks = make_networks(observation, action, device=device, sizes=sizes)
    learner = ReferenceLearner(networks, device, autocast=settings.autocast, compile=settings.compile)
    replay = ReferenceReplay(settings, device)
    identities = torch.arange(environments, device=device)[:, None].expand(-1, settings.steps_per_chunk)
    for _ in range(-(-settings.capacity // (environments * settings.steps_per_chunk))):
        chunk = random_batch(environments, settings.steps_per_chunk, observation, action, device, sizes=sizes)
        replay.extend(chunk.set(("collector", "traj_ids"), identities))
    frames: list[int] = []

    def step() -> None:
        with learner.watch.part("sample"):
            batch = replay.sample()
        frames.append(batch.numel())
        learner.step(batch)

    for _ in range(WARM_UP):
        step()
    frames.clear()
    learner.watch.clear()
    _forget_peak(device)
    rate = measure_rate(step, device, block=min(block, steps), steps=steps)
    return Figure("learner", rate, learner.watch.medians(), sum(frames) / len(frames), _peak(device))


def measure_pipeline(pipeline: ReferencePipeline, *, seconds: float, block: int = 5) -> Figure:
    """Train for some seconds, after a warm-up, while the collector's thread runs; the pipeline has been entered."""
    device = pipeline.learner.device
    for _ in range(WARM_UP):
        pipeline.step()
    pipeline.learner.watch.clear()
    _forget_peak(device)
    learnt, started = pipeline.frames_learnt, time.perf_counter()
    rate = measure_rate(pipeline.step, device, block=block, seconds=seconds)
    return Figure(
        "pipeline",
        rate,
        pipeline.learner.watch.medians(),
        (pipeline.frames_learnt - learnt) / rate.steps,
        _peak(device),
        pipeline.collection_rate(started),
        pipeline.returns[-1] if pipeline.returns else None,
    )


def show(figure: Figure) -> None:
    """Print a figure as a table."""
    rate = figure.steps_per_s
    rows = [("optimiser steps/s", f"{rate.median:.2f}  ({rate.slowest:.2f} to {rate.fastest:.2f}, {rate.steps} steps)")]
    rows += [(f"  {name}", f"{milliseconds:.1f} ms") for name, milliseconds in figure.parts_ms.items()]
    rows += [("frames in a batch", f"{figure.frames_per_step:,.0f}")]
    if figure.peak_memory_gib is not None:
        rows += [("peak memory", f"{figure.peak_memory_gib:.1f} GiB")]
    if figure.collected_per_s is not None:
        rows += [("frames collected/s", f"{figure.collected_per_s:,.0f}")]
    if figure.episode_return is not None:
        rows += [("episode return", f"{figure.episode_return:.2f}")]
    table = Table(figure.name, "", title="TorchRL's Dreamer")
    for row in rows:
        table.add_row(*row)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    options = _parser().parse_args(arguments)
    if torch.cuda.is_available():
        torch.set_float32_matmul_precision("high")  # TF32, as TorchRL's script has it
    settings = Settings(
        batch_size=options.batch,
        batch_length=options.length,
        capacity=options.capacity,
        steps_per_chunk=options.chunk or options.length,
        strict_length=options.strict_length,
        autocast=options.autocast,
        compile=options.compile,
    )
    figure = _learner(options, settings) if options.what == "learner" else _pipeline(options, settings)
    show(figure)
    given = {key: str(value) if isinstance(value, torch.device) else value for key, value in vars(options).items()}
    del given["json"]
    save_result(options.json, f"reference-{options.what}", [figure], PACKAGES, given)


def _learner(options: argparse.Namespace, settings: Settings) -> Figure:
    return measure_learner(
        options.device,
        settings,
        steps=options.steps,
        environments=options.environments,
        observation=options.observation,
        action=options.action,
    )


def _pipeline(options: argparse.Namespace, settings: Settings) -> Figure:
    environment = make_mjlab_environment(
        options.task, options.environments, options.sim_device, native_autoreset=options.native_autoreset
    )
    with ReferencePipeline(environment, options.train_device, settings) as pipeline:
        return measure_pipeline(pipeline, seconds=options.seconds)


def _parser() -> argparse.ArgumentParser:
    gpus = torch.cuda.device_count()
    first = "cuda:0" if gpus else "cpu"
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="what", required=True)

    defaults = Settings()
    both = argparse.ArgumentParser(add_help=False)
    both.add_argument("--batch", type=int, default=defaults.batch_size, help="frames of a batch")
    both.add_argument("--length", type=int, default=defaults.batch_length, help="frames of a sequence")
    both.add_argument("--capacity", type=int, default=defaults.capacity, help="frames of the replay")
    both.add_argument("--chunk", type=int, help="steps of each environment collected at a time, --length by default")
    both.add_argument("--environments", type=int, default=4096)
    both.add_argument("--strict-length", action="store_true", help="sample no trajectory that is shorter than --length")
    both.add_argument("--compile", action=argparse.BooleanOptionalAction, default=True)
    both.add_argument("--autocast", action=argparse.BooleanOptionalAction, default=True, help="bfloat16")
    both.add_argument(
        "--json",
        type=Path,
        nargs="?",
        const=Path(),
        help="write the figures, to benchmarks/results/reference-<command>-<GPU>.json without a FILE",
        metavar="FILE",
    )

    learner = commands.add_parser("learner", parents=[both], help="train on noise")
    learner.add_argument("--steps", type=int, default=20)
    learner.add_argument("--device", type=torch.device, default=torch.device(first))
    learner.add_argument("--observation", type=int, default=48)
    learner.add_argument("--action", type=int, default=12)

    pipeline = commands.add_parser("pipeline", parents=[both], help="train beside a simulator")
    pipeline.add_argument("--task", default="Mjlab-Velocity-Flat-Unitree-Go1")
    pipeline.add_argument("--seconds", type=float, default=60.0)
    pipeline.add_argument("--sim-device", type=torch.device, default=torch.device(first))
    pipeline.add_argument("--train-device", type=torch.device, default=torch.device("cuda:1" if gpus > 1 else first))
    pipeline.add_argument("--native-autoreset", action="store_true", help="mjlab resets by itself, as Isaac Lab does")
    return parser


def _forget_peak(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def _peak(device: torch.device) -> float | None:
    return torch.cuda.max_memory_allocated(device) / 2**30 if device.type == "cuda" else None


if __name__ == "__main__":
    main()
