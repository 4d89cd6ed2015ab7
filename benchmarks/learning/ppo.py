"""Learning curves of rsl_rl's PPO on mjlab's tasks, with mjlab's own settings: what our trainer is seen beside.

    python benchmarks/learning/ppo.py Mjlab-Cartpole-Swingup --frames 12e6
    python benchmarks/learning/ppo.py Mjlab-Velocity-Flat-Unitree-Go1 --frames 50e6 --budget 480

A run that has not come to its end when the budget is spent saves itself, and the same command goes on with it. The
result in benchmarks/results is written anew every few seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # as a script
os.environ["MUJOCO_GL"] = "disable"  # before mjlab imports it

import torch
from mjlab.envs import ManagerBasedRlEnv
from mjlab.rl import MjlabOnPolicyRunner, RslRlVecEnvWrapper
from mjlab.tasks.registry import load_env_cfg, load_rl_cfg, load_runner_cls
from mjlab.utils.torch import configure_torch_backends
from rsl_rl.utils import LogWriter

from benchmarks.learning.curves import Curve
from benchmarks.results import result_path, write_result
from trainer.run_dir import write_atomically

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = ("torch", "mjlab", "mujoco-warp", "rsl-rl-lib")
RETURN = "Train/mean_reward"  # of the last hundred episodes; where one has ended yet
ALWAYS = "Perf/total_fps"  # once an iteration
WRITE_SECONDS = 5.0


class BudgetSpent(Exception):
    """Raised out of the training, to save and end."""


class CurveWriter(LogWriter):
    """Takes rsl_rl's figures instead of TensorBoard: the curve of a run, over all its calls.

    Args:
        log_dir: Folder of the run; holds curve.json beside the newest model.
        seed: Of the run.
        frames_per_iteration: Over all environments.
        deadline: Of `time.monotonic()`, at which the training is to end.
        write: Given the curve every few seconds.
    """

    def __init__(
        self, log_dir: str, seed: int, frames_per_iteration: int, deadline: float, write: Callable[[Curve], None]
    ) -> None:
        self.model, self._file = Path(log_dir, "model.pt"), Path(log_dir, "curve.json")
        self._seed, self._frames, self._deadline, self._write = seed, frames_per_iteration, deadline, write
        saved = json.loads(self._file.read_text(encoding="utf-8")) if self._file.exists() else {}
        self.points: list[tuple[int, float, float]] = [tuple(point) for point in saved.get("points", ())]
        self.iteration: int = saved.get("iteration", 0)
        self._began = self._wrote = time.monotonic()
        self._before: float = saved.get("seconds", 0.0)

    @property
    def seconds(self) -> float:
        """Of training, over all calls."""
        return self._before + time.monotonic() - self._began

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> None:
        if tag == RETURN:
            frames = (global_step + 1) * self._frames
            self.points.append((frames, round(self.seconds, 2), round(float(scalar_value), 3)))
        elif tag == ALWAYS:
            self.iteration = global_step + 1
            if time.monotonic() - self._wrote > WRITE_SECONDS:
                self._write(self.curve(finished=False))
                self._wrote = time.monotonic()
            if time.monotonic() > self._deadline:
                raise BudgetSpent

    def curve(self, *, finished: bool) -> Curve:
        """So far."""
        frames, seconds, returns = zip(*self.points, strict=True) if self.points else ((), (), ())
        return Curve(self._seed, frames, seconds, returns, self.iteration, finished)

    def save(self) -> None:
        """Keep the curve; to be called with the model saved."""
        content = {"seconds": self.seconds, "iteration": self.iteration, "points": self.points}
        write_atomically(self._file, json.dumps(content))


def train(task: str, frames: int, seed: int, budget: float, folder: Path, path: Path, environments: int) -> None:
    """Train until so many frames were collected or the budget is spent.

    Args:
        task: Of mjlab.
        frames: Over all environments.
        seed: Of simulator and training.
        budget: Seconds.
        folder: Of the run.
        path: Of the result.
        environments: At once.
    """
    deadline = time.monotonic() + budget
    device = "cuda:0" if torch.cuda.is_available() else "cpu"
    configure_torch_backends()
    env_cfg, agent_cfg = load_env_cfg(task), load_rl_cfg(task)
    env_cfg.seed = agent_cfg.seed = seed
    env_cfg.scene.num_envs = environments
    settings = {"task": task, "environments": environments, "frames": frames, "agent": asdict(agent_cfg)}
    env = RslRlVecEnvWrapper(ManagerBasedRlEnv(cfg=env_cfg, device=device), clip_actions=agent_cfg.clip_actions)

    def write(curve: Curve) -> None:
        write_result(path, [curve], PACKAGES, settings)

    folder.mkdir(parents=True, exist_ok=True)
    per_iteration = agent_cfg.num_steps_per_env * environments
    writer = CurveWriter(str(folder), seed, per_iteration, deadline, write)
    words = asdict(agent_cfg) | {"logger": {"class_name": lambda log_dir: writer}}
    runner = (load_runner_cls(task) or MjlabOnPolicyRunner)(env, words, str(folder), device)
    if writer.model.exists():
        runner.load(str(writer.model))
    wanted = -(-frames // per_iteration)
    runner.current_learning_iteration = writer.iteration
    with suppress(BudgetSpent):
        runner.learn(wanted - writer.iteration, init_at_random_ep_len=True)
    runner.save(str(writer.model))
    writer.save()
    write(writer.curve(finished=writer.iteration >= wanted))
    for reached, seconds, value in writer.points[:: max(1, len(writer.points) // 10)]:
        print(f"{reached:>12,} frames {seconds:8.1f} s  return {value:.2f}")
    env.close()


def main(arguments: Sequence[str] | None = None) -> None:
    """Train as the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("task")
    parser.add_argument("--frames", type=float, required=True, help="over all environments")
    parser.add_argument("--environments", type=int, default=4096)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=480.0, help="seconds, saving included")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "learning", help="of the run directories")
    parser.add_argument("--out", type=Path, help="folder of the result")
    options = parser.parse_args(arguments)
    folder = options.folder.absolute() / f"ppo-{options.task.lower()}" / f"seed-{options.seed}"
    path = result_path(f"learning-ppo-{options.task.lower()}")
    path = path if options.out is None else options.out / path.name
    train(options.task, int(options.frames), options.seed, options.budget, folder, path, options.environments)


if __name__ == "__main__":
    main()
