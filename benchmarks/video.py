"""Filming: what it takes of the time of a collection, on one core.

    python benchmarks/video.py [SECONDS] [--json [FILE]]

The debug simulator is collected from by a policy that sees pictures of it, and filmed as `video.enabled` has it.
"""

from __future__ import annotations

import argparse
import resource
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script

import torch

from benchmarks.results import save_result
from tests.trainer.test_metrics_page import ImageSimulator
from trainer.agents import make_agent
from trainer.collection import Collector
from trainer.config import Config, compose
from trainer.video import make_recorder

STEPS = 16  # of a chunk
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Figure:
    """Of one collection; the encoder's share is of one core, beside the collection."""

    seconds: float
    steps: int
    clips: int
    filming_percent: float
    encoder_percent: float


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("seconds", nargs="?", type=float, default=120.0)
    parser.add_argument("--json", nargs="?", type=Path, const=Path(), metavar="FILE")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        figure = measure(arguments.seconds, Path(folder))
    print(figure)
    save_result(arguments.json, "video", [figure], ("torch", "imageio-ffmpeg"))


def measure(seconds: float, folder: Path) -> Figure:
    """Collect for so long."""
    words = ["experiment=debug", "env.num_envs=64", "env.observation_key=pixels"]
    config = Config.of(compose(words))
    simulator = ImageSimulator(config.env, 0, CPU)
    agent = make_agent(config.agent, simulator.observation, simulator.action)
    recorder = make_recorder(config, simulator, agent, folder, 0)
    assert recorder is not None
    collector = Collector(simulator, agent, 0, CPU, evaluating=1, recorder=recorder)
    begun, steps = time.monotonic(), 0
    while (elapsed := time.monotonic() - begun) < seconds:
        collector.collect(STEPS)
        steps += STEPS
        recorder.frames = steps * simulator.environments
    filming = recorder.spent / elapsed
    recorder.close()
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    encoder = (children.ru_utime + children.ru_stime) / elapsed
    return Figure(elapsed, steps, len(list(folder.glob("training-*[0-9].mp4"))), 100 * filming, 100 * encoder)


if __name__ == "__main__":
    main()
