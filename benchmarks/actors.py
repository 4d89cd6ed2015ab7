"""How frames a second grow with actors of `pipeline=ray`: `python benchmarks/actors.py [--json]`.

Actors of dm_control, each one simulation on a core, collect under the policy as fast as their chunks are taken in;
nothing is learnt meanwhile. Beside them: the same collector in this process without Ray, and TorchRL's RayCollector
around TorchRL's own environment of the same task under random actions, which cost no policy step.
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
from trainer.agents import make_agent
from trainer.collection import Collector
from trainer.config import Config, compose
from trainer.pipelines.messages import Hello, Permit, Start
from trainer.pipelines.parts import chunk_steps, policy_tensors
from trainer.pipelines.ray_actor import Collected
from trainer.pipelines.ray_fleet import Fleet, choose_fleet
from trainer.pipelines.ray_learning import FleetWeights
from trainer.run_dir import RunDir
from trainer.simulators import make_simulator

PACKAGES = ("torch", "torchrl", "ray", "dm_control", "mujoco")
CPU = torch.device("cpu")
DOMAIN, TASK, ENVIRONMENTS, CHUNK = "walker", "walk", 8, 512
WORDS = (
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
    """The collector in this process."""
    simulator = make_simulator(config.env, 0, CPU, 1)
    agent = make_agent(config.agent, simulator.observation, simulator.action).requires_grad_(False)
    collector = Collector(simulator, agent, 0, CPU)
    try:
        while True:
            yield len(collector.collect(chunk_steps(config)).ended.total) * ENVIRONMENTS
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
    tensors = policy_tensors(make_agent(Config.of(config).agent, hello.observation, hello.action))
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
def cluster(cores: int) -> Iterator[None]:
    """Ray on this machine."""
    path = os.pathsep.join([str(Path(__file__).resolve().parents[1]), os.environ.get("PYTHONPATH", "")])
    variables = {"env_vars": {"PYTHONPATH": path, "MUJOCO_GL": "disable", "OMP_NUM_THREADS": "1"}}
    ray.init("local", num_cpus=cores, num_gpus=0, include_dashboard=False, log_to_driver=False, runtime_env=variables)
    try:
        yield
    finally:
        ray.shutdown()


def measure(counts: Sequence[int], seconds: float, collectors: Sequence[int]) -> list[Figure]:
    """One after the other."""
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

    composed = compose(WORDS)
    config = Config.of(composed)
    add("this process, policy", 0, lambda: alone(config))
    with tempfile.TemporaryDirectory(prefix="bench") as folder, cluster(max(*counts, *collectors, 1)):
        for count in counts:
            add("actors, policy", count, lambda count=count: fleet(composed, count, Path(folder)))
        for count in collectors:
            add("RayCollector, random actions", count, lambda count=count: ray_collector(count))
    return figures


def show(figures: Sequence[Figure]) -> None:
    """Print figures as a table."""
    table = Table("", "actors", "frames/s", "of linear", "µs a frame", title=f"{DOMAIN}_{TASK}")
    for figure in figures:
        speeds = f"{figure.frames_per_s:,.0f}", f"{figure.share:.2f}", f"{figure.microseconds:.0f}"
        table.add_row(figure.mode, str(figure.actors or ""), *speeds)
    Console().print(table)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure as the command line says."""
    cores = os.cpu_count() or 1
    powers = [2**power for power in range(cores.bit_length()) if 2**power < cores]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--actors", type=int, nargs="+", default=[*powers, cores])
    parser.add_argument("--collectors", type=int, nargs="*", default=sorted({1, cores}), help="of RayCollector")
    parser.add_argument("--seconds", type=float, default=10.0, help="of each figure")
    parser.add_argument("--json", type=Path, nargs="?", const=Path(), metavar="FILE")
    options = parser.parse_args(arguments)
    figures = measure(options.actors, options.seconds, options.collectors)
    show(figures)
    settings = {"task": f"{DOMAIN}_{TASK}", "environments": ENVIRONMENTS, "chunk": CHUNK, "seconds": options.seconds}
    save_result(options.json, "actors", figures, PACKAGES, settings)


if __name__ == "__main__":
    main()
