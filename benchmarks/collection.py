"""How much of the bare simulator's speed collecting keeps: `python benchmarks/collection.py [--json]`.

Blocks of steps are interleaved in one process: the simulator alone under random actions, with the policy, and with the
policy while a learner trains on noise, in another process on the second GPU, or on the same one.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing.synchronize import Event
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results import save_result
from benchmarks.timing import synchronize
from benchmarks.trainer_parts import learner_config, noise_learner
from trainer.agents import make_agent
from trainer.collection import Collector
from trainer.simulators import make_simulator

PACKAGES = ("torch", "mjlab", "mujoco-warp", "warp-lang")
MODES = ("bare", "with policy", "with policy, learner running")
CHUNK = 10  # steps of one `collect`
LEARNER_SHAPE = {"environments": 4096, "frames": 1_000_000, "observation": 48, "action": 12}


@dataclass(frozen=True)
class Figure:
    """One way of stepping.

    Attributes:
        mode: One of `MODES`.
        frames_per_s: Median over the blocks.
        slowest: Of the blocks.
        fastest: Of the blocks.
        share: Median over the rounds of this mode's speed over the bare simulator's in the same round.
    """

    mode: str
    frames_per_s: float
    slowest: float
    fastest: float
    share: float


def measure(
    task: str,
    environments: int,
    agent: str,
    device: torch.device,
    learner_device: torch.device,
    *,
    blocks: int,
    steps: int,
    batch: int,
) -> list[Figure]:
    """Step in rounds of one block of each mode.

    Args:
        task: Of mjlab.
        environments: N.
        agent: `dreamer` or `dreamer_v3`.
        device: Of simulator and policy.
        learner_device: Of the learner that runs beside them.
        blocks: Rounds, after one to warm up.
        steps: Of each environment in a block.
        batch: Frames of the learner's batch, in sequences of 50.
    """
    config = learner_config(agent, batch, 50, [f"env.name={task}", f"env.num_envs={environments}"])
    with background_learner(agent, batch, learner_device) as running:
        simulator = make_simulator(config.env, 0, device)
        network = make_agent(config.agent, simulator.observation, simulator.action).to(device)
        collector = Collector(simulator, network, 0, device)
        if device.type == "cuda":
            collector.policy.capture()
        rates: dict[str, list[float]] = {mode: [] for mode in MODES}
        for number in range(blocks + 1):
            for mode in MODES:
                if mode == MODES[2]:
                    running.set()
                rate = environments * _block(collector, simulator_step(collector), mode, steps, device)
                running.clear()
                if number > 0:
                    rates[mode].append(rate)
    return [
        Figure(
            mode,
            statistics.median(found),
            min(found),
            max(found),
            statistics.median(rate / bare for rate, bare in zip(found, rates[MODES[0]], strict=True)),
        )
        for mode, found in rates.items()
    ]


def _block(collector: Collector, bare_step: Iterator[None], mode: str, steps: int, device: torch.device) -> float:
    """Steps a second of one block."""
    synchronize(device)
    started = time.perf_counter()
    if mode == MODES[0]:
        for _ in range(steps):
            next(bare_step)
    else:
        for _ in range(steps // CHUNK):
            collector.collect(CHUNK)
    synchronize(device)
    return steps / (time.perf_counter() - started)


def simulator_step(collector: Collector) -> Iterator[None]:
    """Steps of the collector's simulator by itself, mjlab's own environment under random actions."""
    raw, shape = collector._simulator._raw, collector.policy.action.shape  # type: ignore[attr-defined]
    actions = [2 * torch.rand(shape, device=collector.policy.action.device) - 1 for _ in range(8)]
    while True:
        for action in actions:
            raw.step(action)
            yield


@contextmanager
def background_learner(agent: str, batch: int, device: torch.device) -> Iterator[Event]:
    """A process that trains on noise while the event is set; it is ready within."""
    context = multiprocessing.get_context("spawn")
    running, ready, ended = context.Event(), context.Event(), context.Event()
    process = context.Process(target=_learn, args=(agent, batch, str(device), running, ready, ended), daemon=True)
    process.start()
    try:
        while not ready.wait(1.0):
            if process.exitcode is not None:
                raise RuntimeError(f"the learner ended with status {process.exitcode} before it was ready")
        yield running
    finally:
        ended.set()
        running.set()
        process.join(60)
        process.kill()


def _learn(agent: str, batch: int, device: str, running: Event, ready: Event, ended: Event) -> None:
    cuda = device.startswith("cuda")
    if cuda:
        torch.cuda.set_device(device)
    else:
        torch.set_num_threads(1)
    config = learner_config(agent, batch, 50, ["optimization.autocast=bfloat16"] if cuda else [])
    shape = LEARNER_SHAPE if cuda else {**LEARNER_SHAPE, "environments": 16, "frames": 16 * 200}
    learner = noise_learner(config, device=torch.device(device), **shape)
    if cuda:
        learner.prepare()
    learner.learn()
    ready.set()
    while not ended.is_set():
        running.wait()
        learner.learn()
        synchronize(torch.device(device))  # stop where the event says so, not where a full queue ends


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    gpus = torch.cuda.device_count()
    first = "cuda:0" if gpus else "cpu"
    parser.add_argument("--task", default="Mjlab-Velocity-Flat-Unitree-Go1")
    parser.add_argument("--environments", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--agent", default="dreamer")
    parser.add_argument("--device", type=torch.device, default=torch.device(first))
    parser.add_argument("--learner-device", type=torch.device, default=torch.device("cuda:1" if gpus > 1 else first))
    parser.add_argument("--blocks", type=int, default=5)
    parser.add_argument("--steps", type=int, default=100, help=f"of a block, a multiple of {CHUNK}")
    parser.add_argument("--batch", type=int, default=50_000)
    parser.add_argument("--json", type=Path, nargs="?", const=Path(), metavar="FILE")
    options = parser.parse_args(arguments)
    for environments in options.environments:
        figures = measure(
            options.task,
            environments,
            options.agent,
            options.device,
            options.learner_device,
            blocks=options.blocks,
            steps=options.steps,
            batch=options.batch,
        )
        table = Table("", "frames/s", "slowest to fastest block", "of bare", title=f"{options.task}, {environments:,}")
        for figure in figures:
            blocks = f"{figure.slowest:,.0f} to {figure.fastest:,.0f}"
            table.add_row(figure.mode, f"{figure.frames_per_s:,.0f}", blocks, f"{figure.share:.3f}")
        Console().print(table)
        given = {key: str(value) for key, value in vars(options).items() if key not in ("json", "environments")}
        save_result(
            options.json, f"collection-{environments}", figures, PACKAGES, {**given, "environments": environments}
        )


if __name__ == "__main__":
    main()
