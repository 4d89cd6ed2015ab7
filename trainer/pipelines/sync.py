"""Simulation and learning in turn, in one process: deterministic under a seed.

Run by the coordinator as `python -m trainer.pipelines.sync`.
"""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass, field
from typing import Any

import torch

from trainer.agents.dreamer_v3 import DreamerV3
from trainer.checkpoint import load_latest, save
from trainer.collection import Collector, Ended, evaluate
from trainer.config import Config
from trainer.errors import ConfigError, Stopped
from trainer.learner import Learner
from trainer.metrics import MetricsLogger
from trainer.randomness import random_state, restore_random_state, seed_everything
from trainer.replay import Replay
from trainer.role import RoleContext, run_role
from trainer.run_dir import Phase, write_atomically
from trainer.simulators import make_simulator

log = logging.getLogger(__name__)

# Streams that must not repeat each other start from different seeds.
COLLECTOR_STREAM, LEARNER_STREAM, EVALUATION_STREAM = 1, 2, 3


@dataclass
class Progress:
    """What has been done so far, over all attempts."""

    frames: int = 0
    seconds: float = 0.0  # spent in the training loop
    random_return: float | None = None
    returns: list[float] = field(default_factory=list)  # of episodes since the last log line
    lengths: list[int] = field(default_factory=list)

    def count(self, ended: Ended, frames: int) -> None:
        self.frames += frames
        self.returns += ended.returns()
        self.lengths += ended.lengths()

    def pop_episodes(self) -> dict[str, float]:
        """Metrics of the episodes since the last call; none where none ended."""
        returns, lengths = self.returns, self.lengths
        self.returns, self.lengths = [], []
        if not returns:
            return {}
        return {
            "episode/return": sum(returns) / len(returns),
            "episode/length": sum(lengths) / len(lengths),
            "episode/count": float(len(returns)),
        }


class SyncPipeline:
    """Builds the parts from the config, and runs them in turn."""

    def __init__(self, context: RoleContext) -> None:
        self._context, self._config = context, Config.of(context.config)
        config = self._config
        check_sizes(config)
        if config.threads:
            torch.set_num_threads(config.threads)
        self._device = choose_device(config.device)
        seed_everything(config.seed)
        self._simulator = make_simulator(config.env, config.seed, self._device)
        self._agent = DreamerV3(config.agent, self._simulator.observation, self._simulator.action).to(self._device)
        self._replay = Replay(
            frames=config.replay_buffer.buffer_size,
            environments=config.env.num_envs,
            observation=self._simulator.observation,
            action=self._simulator.action,
            state=self._agent.initial(1),
            device=self._device if config.replay_buffer.gpu_storage else torch.device("cpu"),
        )
        seed = config.seed * 10  # room for the streams
        self._learner = Learner(self._agent, self._replay, config, seed + LEARNER_STREAM, self._device)
        self._collector = Collector(
            self._simulator, self._agent, seed + COLLECTOR_STREAM, self._device, config.env.reward_scale
        )
        self._progress = Progress()
        self._saved_at = time.monotonic()
        parameters = sum(parameter.numel() for parameter in self._agent.parameters() if parameter.requires_grad)
        log.info(
            "%s on %s: %s environments of %s, agent of %.2f M parameters, replay of %s frames in %.1f MB",
            config.agent.name,
            self._device,
            config.env.num_envs,
            config.env.name,
            parameters / 1e6,
            f"{self._replay.capacity * config.env.num_envs:,}",
            self._replay.nbytes / 1e6,
        )

    def run(self) -> None:
        """Train, evaluate and leave the summary.

        Raises:
            Stopped: The role was asked to stop; a checkpoint was saved.
            NotFinite: Training diverged; the last good checkpoint is kept.
        """
        self._resume()
        metrics = MetricsLogger(self._context.run_dir, self._context.config, self._context.attempt)
        try:
            metrics.truncate(self._learner.step)
            if self._progress.frames == 0 and self._config.eval.episodes:
                self._progress.random_return = self._evaluate(random=True)
                self._collector.reset()
            self._train(metrics)
            trained_return = None
            if self._config.eval.episodes:
                self._save()  # a stop from here on costs the evaluation alone
                trained_return = self._evaluate(random=False)
            self._summarise(trained_return)
        finally:
            metrics.close()
            self._simulator.close()

    def _train(self, metrics: MetricsLogger) -> None:
        config, learner, progress = self._config, self._learner, self._progress
        started = time.monotonic() - progress.seconds
        self._prefill()
        mark = _Mark(time.monotonic(), learner.step, progress.frames)
        batches = config.optimization.optim_steps_per_batch
        while learner.step < config.optimization.total_optim_steps:
            progress.seconds = time.monotonic() - started
            if learner.step % batches == 0:
                self._collect(random=False)
            learner.learn()
            self._beat(Phase.TRAINING)
            if learner.step % config.logger.interval == 0:
                now = _Mark(time.monotonic(), learner.step, progress.frames)
                episodes, rates = progress.pop_episodes(), now.rates_since(mark)
                self._beat(Phase.TRAINING, episodes.get("episode/return"), rates)
                metrics.log(learner.step, progress.frames, {**learner.pop_metrics(), **episodes, **rates})
                mark = now
            self._save_if_due()
        progress.seconds = time.monotonic() - started

    def _prefill(self) -> None:
        """Random actions until learning may start; their episodes say what a random policy is worth."""
        while self._progress.frames < self._config.collector.init_random_frames:
            self._collect(random=True)
            self._save_if_due()
        while self._replay.frames < self._config.collector.init_random_frames:
            self._collect(random=False)  # resumed without the replay

    def _collect(self, *, random: bool) -> None:
        environments = self._config.env.num_envs
        steps = max(1, self._config.collector.frames_per_batch // environments)
        phase = Phase.PREFILL if random else Phase.TRAINING
        chunk = self._collector.collect(steps, random=random, on_step=lambda: self._beat(phase))
        self._replay.extend(chunk.rows, chunk.states)
        self._progress.count(chunk.ended, steps * environments)

    def _evaluate(self, *, random: bool) -> float:
        """Mean return of episodes under the deterministic policy, or under random actions."""

        def on_step() -> None:
            self._beat(Phase.EVALUATING)
            if self._context.should_stop:
                raise Stopped

        seed = self._config.seed * 10 + EVALUATION_STREAM
        episodes = self._config.eval.episodes
        returns = evaluate(self._simulator, self._agent, episodes, seed, self._device, random=random, on_step=on_step)
        return sum(returns) / len(returns)

    def _summarise(self, trained_return: float | None) -> None:
        progress, step = self._progress, self._learner.step
        summary = {
            "task": self._config.env.name,
            "random_return": progress.random_return,
            "trained_return": trained_return,
            "max_return": self._simulator.max_return,
            "frames": progress.frames,
            "fps": progress.frames / progress.seconds if progress.seconds else None,
            "optim_steps": step,
            "steps_per_s": step / progress.seconds if progress.seconds else None,
            "seconds": progress.seconds,
        }
        write_atomically(self._context.run_dir.summary, json.dumps(summary, indent=2))

    def _beat(self, phase: Phase, episode_return: float | None = None, rates: dict[str, float] | None = None) -> None:
        rates = rates or {}
        self._context.beat(
            phase,
            optim_step=self._learner.step,
            frames=self._progress.frames,
            fps=rates.get("throughput/fps"),
            steps_per_s=rates.get("throughput/steps_per_s"),
            episode_return=episode_return,
        )

    def _save_if_due(self) -> None:
        if self._context.should_stop:
            self._save()
            raise Stopped
        if time.monotonic() - self._saved_at >= self._config.checkpoint.interval:
            self._save()

    def _save(self) -> None:
        self._beat(Phase.SAVING)
        parts: dict[str, Any] = {
            "learner": self._learner.state_dict(),
            "collector": self._collector.state_dict(),
            "progress": vars(self._progress),
            "random": random_state(),
        }
        if self._config.checkpoint.replay:
            parts["replay"] = self._replay.state_dict()
        save(self._context.run_dir, self._learner.step, parts, keep=self._config.checkpoint.keep)
        self._saved_at = time.monotonic()

    def _resume(self) -> None:
        checkpoint = load_latest(self._context.run_dir)
        if checkpoint is None:
            return
        parts = checkpoint.parts
        self._learner.load_state_dict(parts["learner"])
        self._collector.load_state_dict(parts["collector"])
        self._progress = Progress(**parts["progress"])
        if "replay" in parts:
            self._replay.load_state_dict(parts["replay"])
        restore_random_state(parts["random"])
        log.info("resuming from step %s, %s frames", checkpoint.step, f"{self._progress.frames:,}")


@dataclass(frozen=True)
class _Mark:
    """A moment of the training, for rates between two."""

    time: float
    step: int
    frames: int

    def rates_since(self, earlier: _Mark) -> dict[str, float]:
        seconds = max(self.time - earlier.time, 1e-9)
        return {
            "throughput/fps": (self.frames - earlier.frames) / seconds,
            "throughput/steps_per_s": (self.step - earlier.step) / seconds,
        }


def check_sizes(config: Config) -> None:
    """Refuse sizes with which the first sequence could never be sampled.

    Raises:
        ConfigError: It says which key to change to what.
    """
    environments, length = config.env.num_envs, config.replay_buffer.batch_length
    needed = (length + 1) * environments
    for key, frames in (
        ("collector.init_random_frames", config.collector.init_random_frames),
        ("replay_buffer.buffer_size", config.replay_buffer.buffer_size),
    ):
        if frames < needed:
            raise ConfigError(
                f"{key}: {frames} frames hold no sequence of batch_length {length} and one row of context in "
                f"{environments} environments; it takes at least ({length} + 1) * {environments} = {needed}"
            )


def choose_device(name: str) -> torch.device:
    """`auto` is the first GPU where there is one."""
    if name == "auto":
        name = "cuda:0" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def main(context: RoleContext) -> None:
    """Entry point of the role."""
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    context.beat(Phase.STARTING)
    SyncPipeline(context).run()


if __name__ == "__main__":
    run_role(main)
