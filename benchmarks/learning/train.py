"""Learning curves of our trainer: what it learns, in how many frames and seconds.

    python benchmarks/learning/train.py dmc-cartpole-swingup dmc-walker-walk --seeds 0 1 2 --budget 480
    python benchmarks/learning/train.py mjlab-go1 --budget 480 agent.optimizer.lr=1e-4

Runs that have not come to their end when the budget is spent save themselves, and the same command goes on with them.
Run directories lie below runs/learning, results in benchmarks/results, written anew every few seconds.

Runs of dm_control go side by side in one process, each in a thread and on a CUDA stream of its own: small networks
leave most of a GPU idle, and processes would get it in turns. Runs of mjlab go one after the other.
"""

from __future__ import annotations

import argparse
import os
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script

import torch

from benchmarks.learning.curves import Curve, curve_of
from benchmarks.learning.experiments import EXPERIMENTS
from benchmarks.results import result_path, write_result
from trainer.config import compose
from trainer.errors import Stopped
from trainer.pipelines.sync_loop import SyncPipeline
from trainer.role import RoleConfig, RoleContext
from trainer.run_dir import RunDir

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "mujoco")
FIXED = ("pipeline=sync", "checkpoint.interval=120", "checkpoint.keep=1", "logger.tensorboard=false")
WRITE_SECONDS = 5.0


class TimedContext(RoleContext):
    """A role's context that asks for a stop when the budget is spent."""

    def __init__(self, role: RoleConfig, deadline: float) -> None:
        super().__init__(role)
        self._deadline = deadline

    @property
    def should_stop(self) -> bool:
        return time.monotonic() >= self._deadline


class Run:
    """One seed of one experiment, in this process.

    Args:
        name: Of the experiment.
        seed: Of the run.
        folder: That run directories lie below.
        overrides: Of the trainer's config, on top of the experiment's.
        deadline: Of `time.monotonic()`, at which it is to save and end.
    """

    def __init__(self, name: str, seed: int, folder: Path, overrides: Sequence[str], deadline: float) -> None:
        self.name, self.seed = name, seed
        self.run_dir = RunDir((folder / name / f"seed-{seed}").absolute())
        self.run_dir.root.mkdir(parents=True, exist_ok=True)
        words = [*EXPERIMENTS[name].overrides, *FIXED, *overrides, f"seed={seed}", f"run_dir={self.run_dir.root}"]
        attempt = max(self.run_dir.attempts(), default=0) + 1
        files = {"outcome": str(self.run_dir.root / "outcome.json"), "reserve": str(self.run_dir.root / ".reserve")}
        role = RoleConfig("trainer", compose(words), str(self.run_dir.root), attempt, coordinator=os.getpid(), **files)
        self._context = TimedContext(role, deadline)
        self._pipeline: SyncPipeline | None = None
        self._stream: torch.cuda.Stream | None = None
        self.error: BaseException | None = None

    def build(self, *, own_stream: bool) -> None:
        """Start the simulator, and compile and capture the optimiser step."""
        if own_stream and torch.cuda.is_available():
            # Scratch memory of cuBLAS belongs to the stream of the capture: runs at the same time must not share it.
            torch.cuda.graph.default_capture_stream = torch.cuda.Stream()
            self._stream = torch.cuda.Stream()
        self._pipeline = SyncPipeline(self._context)

    def train(self) -> None:
        """Until it is done or the budget is spent; what goes wrong is kept in `error`."""
        assert self._pipeline is not None
        try:
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                self._pipeline.run()
        except Stopped:
            pass
        except BaseException as error:
            traceback.print_exc()
            self.error = error


def side_by_side(runs: Sequence[Run], folder: Path, out: Path | None) -> None:
    """Train all at once, in threads."""
    for run in runs:
        run.build(own_stream=len(runs) > 1)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    threads = [threading.Thread(target=run.train, name=f"{run.name} {run.seed}") for run in runs]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(WRITE_SECONDS)
        for name in {run.name for run in runs}:
            save(name, folder, out)


def curves(name: str, folder: Path) -> list[Curve]:
    """Of all seeds that have been begun."""
    found = sorted((folder / name).glob("seed-*"), key=lambda path: int(path.name.removeprefix("seed-")))
    return [
        curve_of(RunDir(path), int(path.name.removeprefix("seed-")), EXPERIMENTS[name].repeat)
        for path in found
        if RunDir(path).metrics.exists()
    ]


def save(name: str, folder: Path, out: Path | None) -> None:
    """Write the result file of an experiment."""
    experiment, overrides = EXPERIMENTS[name], folder / name / "overrides"
    settings = {
        "task": experiment.task,
        "action_repeat": experiment.repeat,
        "overrides": [*experiment.overrides, *FIXED, *overrides.read_text(encoding="utf-8").split()],
    }
    path = result_path(f"learning-{name}")
    path = path if out is None else out / path.name
    whole = path.with_suffix(".new")
    write_result(whole, curves(name, folder), (*PACKAGES, experiment.simulator), settings)
    whole.replace(path)


def check_overrides(name: str, folder: Path, overrides: Sequence[str]) -> None:
    """Keep what a run was begun with: a curve is of one setting.

    Raises:
        SystemExit: It was begun with something else.
    """
    file, words = folder / name / "overrides", "\n".join(overrides)
    if file.exists() and file.read_text(encoding="utf-8") != words:
        raise SystemExit(f"{folder / name} was begun with other overrides; name another --folder, or remove it")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(words, encoding="utf-8")


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="+", metavar="EXPERIMENT", help=f"{', '.join(EXPERIMENTS)}; then KEY=VALUE")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--budget", type=float, default=480.0, help="seconds for all of it, saving included")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "learning", help="of the run directories")
    parser.add_argument("--out", type=Path, help="folder of the results")
    options = parser.parse_intermixed_args(arguments)
    names = [word for word in options.names if "=" not in word]
    overrides = [word for word in options.names if "=" in word]
    if unknown := [name for name in names if name not in EXPERIMENTS]:
        raise SystemExit(f"{', '.join(unknown)}: no such experiment; there are {', '.join(EXPERIMENTS)}")
    if torch.cuda.is_available():
        torch._dynamo.config.recompile_limit = 64  # each task has shapes of its own
    deadline = time.monotonic() + options.budget
    runs = []
    for name in names:
        check_overrides(name, options.folder, overrides)
        runs += [Run(name, seed, options.folder, overrides, deadline) for seed in options.seeds]
    runs = [run for run in runs if not run.run_dir.summary.exists()]
    groups = [[run for run in runs if EXPERIMENTS[run.name].together]]
    groups += [[run] for run in runs if not EXPERIMENTS[run.name].together]
    for group in groups:
        if group and time.monotonic() < deadline:
            side_by_side(group, options.folder, options.out)
    for name in names:
        save(name, options.folder, options.out)
        for curve in curves(name, options.folder):
            last = f"{curve.returns[-1]:.1f} at {curve.frames[-1]:,} frames" if curve.returns else "no episode yet"
            ended = f", {curve.trained_return:.1f} without noise" if curve.trained_return is not None else ""
            print(f"{name} seed {curve.seed}: {last}{ended}{'' if curve.finished else ' (not finished)'}")
    if any(run.error for run in runs):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
