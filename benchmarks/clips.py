"""What one clip of a real task takes, beside the collection that it interrupts: seconds of filming for so many steps.

    python benchmarks/clips.py env.name=Mjlab-Velocity-Flat-Unitree-Go1 env.num_envs=4096 video.enabled=true
    python benchmarks/clips.py env.name=Mjlab-Lift-Cube-Yam-Rgb env.from_pixels=true --json

The trainer films as often as a hundredth of the collection's time allows, so that what a clip takes says how often that
is. Overrides are the trainer's. With `--json` the figure is added to those that the result file has of other tasks.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # as a script


from benchmarks.results import result_path, write_result
from benchmarks.timing import synchronize
from trainer.agents import make_agent
from trainer.collection import Collector
from trainer.config import Config, compose
from trainer.pipelines.parts import choose_device, compiles
from trainer.simulators import make_simulator
from trainer.video import SHARE, make_recorder

PACKAGES = ("torch", "mjlab", "mujoco", "imageio-ffmpeg")
STEPS = 10  # of one `collect`


@dataclass(frozen=True)
class Figure:
    """One task.

    Attributes:
        task: Its name.
        filmed: What is: `pixels`, which the agent sees, or `view`, which is drawn for the clip.
        environments: That are stepped, of which a few are filmed.
        steps: Of a clip.
        collecting_s: What these steps take when nothing is filmed.
        first_clip_s: Of filming, in the first clip: libraries are loaded and a renderer is made.
        clip_s: Of filming, in each later clip (mean of two), the world model's own picture of it included.
        every_minutes: Of collection, in which filming that keeps to its share takes one clip.
        files: That were written.
    """

    task: str
    filmed: str
    environments: int
    steps: int
    collecting_s: float
    first_clip_s: float
    clip_s: float
    every_minutes: float
    files: int


def measure(overrides: Sequence[str], folder: Path) -> Figure:
    """Film three clips of a task into a folder.

    Raises:
        SystemExit: The config films nothing.
    """
    config = Config.of(compose(overrides))
    device = choose_device(config.device)
    simulator = make_simulator(config.env, config.seed, device, config.collector.num_collectors)
    agent = make_agent(config.agent, simulator.observation, simulator.action).to(device)
    recorder = make_recorder(config, simulator, agent, folder, seed=0)
    if recorder is None:
        raise SystemExit("video.enabled: nothing is filmed")
    collector = Collector(simulator, agent, 0, device, recorder=recorder)
    if compiles(config, device):
        collector.policy.capture()
    steps = config.video.length

    def collect() -> None:
        for _ in range(steps // STEPS):
            collector.collect(STEPS)
        synchronize(device)

    collector.collect(STEPS)
    collecting = _seconds(collect)
    clips = []
    for number in range(3):
        before, recorder.frames = recorder.spent, number
        recorder.begin("clip")
        collect()
        recorder.end()
        clips.append(recorder.spent - before)
    recorder.close()
    simulator.close()
    clip = statistics.mean(clips[1:])
    return Figure(
        config.env.name,
        "pixels" if config.env.from_pixels else "view",
        simulator.environments,
        steps,
        collecting,
        clips[0],
        clip,
        clip / SHARE / 60,
        len(list(folder.glob("*.mp4"))),
    )


def _seconds(function: Callable[[], None]) -> float:
    begun = time.perf_counter()
    function()
    return time.perf_counter() - begun


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, print and keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="+", help="of the trainer's config")
    parser.add_argument("--json", type=Path, nargs="?", const=Path(), metavar="FILE")
    options = parser.parse_intermixed_args(arguments)
    os.environ.setdefault("MUJOCO_GL", "egl")  # read when MuJoCo is imported
    with tempfile.TemporaryDirectory() as folder:
        figure = measure(options.overrides, Path(folder))
    print(figure)
    if options.json is not None:
        path = options.json if options.json.name else result_path("clips")
        others = json.loads(path.read_text(encoding="utf-8"))["figures"] if path.exists() else []
        kept = [Figure(**other) for other in others if other["task"] != figure.task]
        write_result(path, [*kept, figure], PACKAGES)


if __name__ == "__main__":
    main()
