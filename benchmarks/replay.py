"""How fast the replay writes and samples, beside a plain copy on its device: `python benchmarks/replay.py [--json]`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results import save_result
from benchmarks.timing import measure_rate
from benchmarks.trainer_parts import learner_config, noise_agent, noise_replay, noise_rows, noise_states
from trainer.capture import CapturedFunction

OBSERVATION, ACTION = 48, 12  # of the Unitree Go1 on flat ground


@dataclass(frozen=True)
class Figure:
    """One operation.

    Attributes:
        name: What was done.
        ms: Median milliseconds.
        megabytes: Moved: what was read or written once, in 1e6 bytes.
        gigabytes_per_s: The quotient, read and written bytes counted once each.
    """

    name: str
    ms: float
    megabytes: float
    gigabytes_per_s: float


def measure(
    device: torch.device, *, batch: int, length: int, environments: int, frames: int, chunk: int, repeats: int
) -> list[Figure]:
    """Write chunks of `chunk` rows and sample batches, with the latents of `agent=dreamer`.

    Args:
        device: Of the replay.
        batch: Frames of a batch.
        length: Of which this many are consecutive.
        environments: Of the replay, which is full.
        frames: Its capacity.
        chunk: Rows that are written at once.
        repeats: Of each operation.
    """
    agent = noise_agent(learner_config("dreamer", batch, length), OBSERVATION, ACTION, device)
    replay = noise_replay(agent, environments, frames, OBSERVATION, ACTION, device)
    generator = torch.Generator(device).manual_seed(0)
    rows = noise_rows(chunk, environments, OBSERVATION, ACTION, generator)
    states = noise_states(agent, rows)
    sequences = batch // length
    sampled = replay.sample(sequences, length, generator)
    refreshed = noise_states(agent, sampled.rows.window(1))
    sample_bytes = sum(tensor.nbytes for tensor in (*sampled.rows.tensors(), *sampled.context))
    source = torch.empty(256 * 2**20 if device.type == "cuda" else 2**24, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)

    def copy() -> None:
        target.copy_(source)

    def sample() -> None:
        replay.sample(sequences, length, generator)

    chunk_bytes = chunk * replay.nbytes // replay.capacity
    operations: list[tuple[str, Callable[[], None], int]] = [
        (f"copy of {source.nbytes / 1e6:.0f} MB", copy, source.nbytes),
        (
            f"write {chunk} × {environments:,} rows",
            lambda: replay.extend(rows, states),
            chunk_bytes,
        ),
        (f"sample {batch:,} frames", sample, sample_bytes),
        (
            f"write back {batch:,} latents",
            lambda: replay.refresh(sampled, refreshed),
            sum(field.nbytes for field in refreshed),
        ),
    ]
    if device.type == "cuda":
        captured = CapturedFunction(sample, [generator])
        captured.warm_up()
        captured.capture()
        operations.append((f"sample {batch:,} frames, captured", captured.replay, sample_bytes))
    figures = []
    for name, operation, moved in operations:
        operation()
        rate = measure_rate(operation, device, block=10, steps=repeats)
        seconds = 1 / rate.median
        figures.append(Figure(name, 1000 * seconds, moved / 1e6, 2 * moved / 1e9 / seconds))
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    first = "cuda:0" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch.device, default=torch.device(first))
    parser.add_argument("--batch", type=int, default=50_000)
    parser.add_argument("--length", type=int, default=50)
    parser.add_argument("--environments", type=int, default=4096)
    parser.add_argument("--frames", type=int, default=1_000_000)
    parser.add_argument("--chunk", type=int, default=10, help="rows")
    parser.add_argument("--repeats", type=int, default=100)
    parser.add_argument("--json", type=Path, nargs="?", const=Path(), metavar="FILE")
    options = parser.parse_args(arguments)
    given = {key: value for key, value in vars(options).items() if key not in ("device", "json")}
    figures = measure(options.device, **given)
    table = Table("operation", "ms", "MB", "GB/s, read and written", title=f"Replay of {options.frames:,} frames")
    for figure in figures:
        table.add_row(figure.name, f"{figure.ms:.3f}", f"{figure.megabytes:.1f}", f"{figure.gigabytes_per_s:,.0f}")
    Console().print(table)
    save_result(options.json, "replay", figures, ("torch",), given)


if __name__ == "__main__":
    main()
