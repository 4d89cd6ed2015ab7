"""How frames a second grow with actors of `pipeline=ray`.

    python benchmarks/actors.py --json
    python benchmarks/actors.py --gpus --json benchmarks/results/actors-gpus-h200.json

Actors collect under the policy as fast as their chunks are taken in; nothing is learnt meanwhile. They simulate
dm_control, each on a core, or with `--gpus` mjlab, each on a GPU. Beside them: the same collector in this process
without Ray, and for dm_control TorchRL's RayCollector around TorchRL's own environment of the same task under random
actions, which cost no policy step.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script
os.environ["MUJOCO_GL"] = "disable"  # before anything imports MuJoCo, and in all actors

import ray
import torch
from rich.console import Console
from rich.table import Table

from benchmarks.results import save_result
from benchmarks.timing import synchronize
from trainer.config import Config, compose
from trainer.pipelines.messages import Hello, Permit, Start
from trainer.pipelines.parts import choose_device, chunk_steps, make_agent, make_collector, policy_tensors
from trainer.pipelines.ray_actor import Collected
from trainer.pipelines.ray_fleet import Fleet, choose_fleet
from trainer.pipelines.ray_learning import FleetWeights
from trainer.run_dir import RunDir
from trainer.simulators import make_simulator

PACKAGES = ("torch", "torchrl", "ray", "mujoco")
CPU = torch.device("cpu")
DOMAIN, TASK, ENVIRONMENTS, CHUNK = "walker", "walk", 8, 512
ON_CPUS = (
    "pipeline=ray",
    "env.backend=dm_control",
    f"env.name={DOMAIN}_{TASK}",
    f"env.num_envs={ENVIRONMENTS}",
    f"collector.frames_per_batch={CHUNK}",
    "collector.num_collectors=1",
    "eval.fraction=0",
    "device=cpu",
    "threads=1",
)
ON_GPUS = (
    "pipeline=ray",
    "agent=dreamer",
    "env.backend=mjlab",
    "env.name=Mjlab-Velocity-Flat-Unitree-Go1",
    "env.num_envs=4096",
    "collector.frames_per_batch=81920",  # 20 steps of every environment
    "collector.init_random_frames=409600",
    "replay_buffer.batch_size=50000",
    "replay_buffer.batch_length=50",
    "eval.fraction=0",
)


@dataclass(frozen=True)
class Figure:
    """One way of collecting.

    Attributes:
        mode: What collects.
        actors: Processes of Ray's; 0 for none.
        frames_per_s: In all.
        share: Of `actors` times what one does; for a single one 1.
        microseconds: Of one actor's time for a frame.
    """

    mode: str
    actors: int
    frames_per_s: float
    share: float
    microseconds: float


def rate(chunks: Iterator[int], seconds: float) -> float:
    """Frames a second of an endless source, after as many seconds of warming up as make a fifth."""
    begun = time.monotonic()
    while time.monotonic() - begun < seconds / 5:
        next(chunks)
    begun, frames = time.monotonic(), 0
    while time.monotonic() - begun < seconds:
        frames += next(chunks)
    return frames / (time.monotonic() - begun)


def alone(config: Config) -> Iterator[int]:
    """The collector in this process, whose chunks stay where they are."""
    device = choose_device(config.device)
    simulator = make_simulator(config.env, 0, device, 1)
    agent = make_agent(config, simulator.observation, simulator.action, device).requires_grad_(False)
    collector = make_collector(config, simulator, agent, device)
    try:
        while True:
            collector.collect(chunk_steps(config))
            synchronize(device)
            yield chunk_steps(config) * config.env.num_envs
    finally:
        simulator.close()


def fleet(config: dict[str, Any], actors: int, folder: Path) -> Iterator[int]:
    """Our actors."""
    config = {**config, "pipeline": {**config["pipeline"], "actors": actors}}
    choose_fleet(config, ray.cluster_resources(), 0)
    started, up = Fleet(config, RunDir(folder)), 0
    hello = None
    while hello is None or up < actors:  # all of them, before anything is measured
        started.wait(1.0)
        message = started.receive()
        hello = message if isinstance(message, Hello) else hello
        up = sum(turn is not None for turn in started._turns)
    tensors = policy_tensors(make_agent(Config.of(config), hello.observation, hello.action, CPU))
    FleetWeights(started, tensors, CPU).publish(0, tensors)
    started.send(Start(config["collector"]["init_random_frames"], None))
    started.send(Permit(float("inf")))
    try:
        while True:
            message = started.receive()
            if isinstance(message, Collected):
                yield message.chunk.frames
            else:
                started.wait(1.0)
    finally:
        started.close()


def ray_collector(actors: int) -> Iterator[int]:
    """TorchRL's, asynchronous; it starts a cluster connection of its own."""
    from torchrl.collectors.distributed import RayCollector

    collector = RayCollector(
        [make_torchrl_environment] * actors,
        None,
        frames_per_batch=CHUNK,
        total_frames=2**40,
        sync=False,
        remote_configs={"num_cpus": 1, "num_gpus": 0},
    )
    try:
        for batch in collector:
            yield batch.numel()
    finally:
        collector.shutdown(shutdown_ray=False)


def make_torchrl_environment() -> Any:
    """The environments of one actor, in turn in its process, as ours are."""
    from torchrl.envs import DMControlEnv, SerialEnv

    torch.set_num_threads(1)
    return SerialEnv(ENVIRONMENTS, lambda: DMControlEnv(DOMAIN, TASK))


@contextmanager
def cluster(cores: int, gpus: int) -> Iterator[None]:
    """Ray on this machine."""
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    variables = {"env_vars": {"PYTHONPATH": path, "MUJOCO_GL": "disable", "OMP_NUM_THREADS": "1"}}
    ray.init(
        "local", num_cpus=cores, num_gpus=gpus, include_dashboard=False, log_to_driver=False, runtime_env=variables
    )
    try:
        yield
    finally:
        ray.shutdown()


def measure(
    words: Sequence[str], counts: Sequence[int], gpus: int, seconds: float, collectors: Sequence[int]
) -> list[Figure]:
    """One after the other.

    Args:
        words: Overrides of the trainer's config.
        counts: Of our actors.
        gpus: That the actors share.
        seconds: Of each figure.
        collectors: Counts of RayCollector's.
    """
    torch.set_num_threads(1)
    figures: list[Figure] = []

    def add(mode: str, actors: int, source: Callable[[], Iterator[int]]) -> None:
        chunks = source()
        speed = rate(chunks, seconds)
        chunks.close()  # type: ignore[attr-defined]
        first = next((figure for figure in figures if figure.mode == mode), None)
        processes = max(1, actors)
        share = speed / (first.frames_per_s * processes / max(1, first.actors)) if first else 1.0
        figures.append(Figure(mode, actors, speed, share, 1e6 * processes / speed))

    composed = compose(words)
    config = Config.of(composed)
    add("this process, policy", 0, lambda: alone(config))
    with tempfile.TemporaryDirectory(prefix="bench") as folder, cluster(max(*counts, *collectors, 1), gpus):
        for count in counts:
            add("actors, policy", count, lambda count=count: fleet(composed, count, Path(folder)))
        for count in collectors:
            add("RayCollector, random actions", count, lambda count=count: ray_collector(count))
    return figures


def show(figures: Sequence[Figure]) -> None:
    """Print figures as a table."""
    table = Table("", "actors", "frames/s", "of linear", "µs a frame")
    for figure in figures:
        speeds = f"{figure.frames_per_s:,.0f}", f"{figure.share:.2f}", f"{figure.microseconds:.1f}"
        table.add_row(figure.mode, str(figure.actors or ""), *speeds)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    cores = os.cpu_count() or 1
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gpus", action="store_true", help="simulate on them")
    parser.add_argument("--actors", type=int, nargs="+", help="1, 2, 4 … and one for each core or GPU")
    parser.add_argument("--collectors", type=int, nargs="*", help="of RayCollector")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each figure")
    parser.add_argument("--json", type=Path, nargs="?", const=Path(), metavar="FILE")
    options = parser.parse_args(arguments)
    gpus = torch.cuda.device_count() if options.gpus else 0
    words, room, simulator = (ON_GPUS, gpus, "mjlab") if options.gpus else (ON_CPUS, cores, "dm_control")
    if room < 1:
        raise SystemExit("--gpus: there are none")
    counts = options.actors or [*(2**power for power in range(room.bit_length()) if 2**power < room), room]
    collectors = options.collectors if options.collectors is not None else [] if gpus else sorted({1, cores})
    figures = measure(words, counts, gpus, options.seconds, collectors)
    show(figures)
    config = Config.of(compose(words))
    settings = {
        "task": config.env.name,
        "environments": config.env.num_envs,
        "chunk": config.collector.frames_per_batch,
        "seconds": options.seconds,
    }
    save_result(options.json, "actors", figures, (*PACKAGES, simulator), settings)


if __name__ == "__main__":
    main()
