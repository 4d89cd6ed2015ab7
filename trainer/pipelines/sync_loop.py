"""What the one process of `pipeline=sync` does: simulate and learn in turn."""

from __future__ import annotations

import time
from typing import Any

from trainer.collection import evaluate
from trainer.config import Config
from trainer.errors import ConfigError, Stopped
from trainer.gpu_use import GpuUse
from trainer.interface import write_interface
from trainer.metrics import MetricsLogger
from trainer.pipelines.parts import (
    EVALUATION_STREAM,
    VIDEO_STREAM,
    choose_device,
    chunk_steps,
    make_agent,
    make_collector,
    make_learner,
    make_replay,
    prepare,
    stream_seed,
)
from trainer.pipelines.progress import Mark, Progress, ProgressSaver, resume, write_summary
from trainer.role import RoleContext
from trainer.run_dir import Phase
from trainer.simulators import make_simulator
from trainer.video import filmed, make_recorder


class SyncPipeline:
    """Builds the parts from the config, and runs them in turn."""

    def __init__(self, context: RoleContext) -> None:
        self._context, self._config = context, Config.of(context.config)
        config = self._config
        prepare(config)
        if config.optimization.replay_ratio is not None:
            raise ConfigError(
                "optimization.replay_ratio: pipeline=async keeps one; with pipeline=sync, set "
                "optimization.optim_steps_per_batch"
            )
        self._device = choose_device(config.device)
        self._simulator = make_simulator(
            config.env, config.seed, self._device, config.collector.num_collectors, filmed(config)
        )
        write_interface(context.run_dir, self._simulator)
        spaces = self._simulator.observation, self._simulator.action
        self._agent = make_agent(config, *spaces, self._device)
        self._replay = make_replay(config, self._agent, *spaces, self._device)
        self._learner = make_learner(config, self._agent, self._replay, self._device)
        self._recorder = make_recorder(
            config, self._simulator, self._agent, context.run_dir.videos, stream_seed(config, VIDEO_STREAM)
        )
        self._collector = make_collector(config, self._simulator, self._agent, self._device, self._recorder)
        self._progress = Progress()
        self._saver = ProgressSaver(context.run_dir, config, self._learner, self._replay)

    def run(self) -> None:
        """Train, evaluate and leave the summary.

        Raises:
            Stopped: The role was asked to stop; a checkpoint was saved.
            NotFinite: Training diverged; the last good checkpoint is kept.
        """
        self._progress, collector = resume(self._context.run_dir, self._learner, self._replay)
        if collector is not None:
            self._collector.load_state_dict(collector)
        metrics = MetricsLogger(self._context.run_dir, self._context.config, self._context.attempt)
        try:
            metrics.truncate(self._learner.step)
            if self._progress.frames == 0 and self._config.eval.episodes:
                self._progress.random_return = self._evaluate(random=True)
                self._collector.reset()
            with GpuUse([self._device]) as gpus:
                self._train(metrics, gpus)
            self._save(background=False)  # a stop from here on costs the evaluation alone
            trained_return = self._evaluate(random=False) if self._config.eval.episodes else None
            write_summary(
                self._context.run_dir,
                self._config,
                self._progress,
                self._learner.step,
                trained_return,
                self._simulator.max_return,
            )
        finally:
            self._context.exits_at_once |= not metrics.close()
            self._saver.wait()
            if self._recorder is not None:
                self._recorder.close()
            self._simulator.close()

    def _train(self, metrics: MetricsLogger, gpus: GpuUse) -> None:
        config, learner, progress = self._config, self._learner, self._progress
        started = time.monotonic() - progress.seconds
        self._prefill()
        mark = Mark(time.monotonic(), learner.step, progress.frames, progress.versions)
        batches = config.optimization.optim_steps_per_batch
        while learner.step < config.optimization.total_optim_steps:
            progress.seconds = time.monotonic() - started
            if learner.step % batches == 0:
                self._collect(random=False)
            learner.learn()
            self._beat(Phase.TRAINING)
            if learner.step % config.logger.interval == 0:
                now = Mark(time.monotonic(), learner.step, progress.frames, progress.versions)
                episodes, rates = progress.pop_episodes(), now.rates_since(mark)
                self._beat(Phase.TRAINING, episodes.get("episode/return"), rates)
                held = {"replay/frames": float(self._replay.frames)}
                figures = {**learner.pop_metrics(), **episodes, **rates, **held, **gpus.pop()}
                metrics.log(learner.step, progress.frames, figures)
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
        steps = chunk_steps(self._config)
        phase = Phase.PREFILL if random else Phase.TRAINING
        chunk = self._collector.collect(steps, random=random, on_step=lambda: self._beat(phase))
        self._replay.extend(chunk.rows, chunk.states)
        frames, ended = steps * self._config.env.num_envs, chunk.ended
        self._progress.count(
            frames,
            ended.returns(),
            ended.lengths(),
            chunk.evaluated.returns(),
            chunk.task,
            versions=0 if random else 1,
        )
        if self._recorder is not None:
            self._recorder.frames = self._progress.frames

    def _evaluate(self, *, random: bool) -> float:
        """Mean return of episodes under the deterministic policy, or under random actions."""

        def on_step() -> None:
            self._beat(Phase.EVALUATING)
            if self._context.should_stop:
                raise Stopped

        seed = stream_seed(self._config, EVALUATION_STREAM)
        episodes = self._config.eval.episodes
        more: dict[str, Any] = {"random": random, "on_step": on_step, "recorder": self._recorder}
        returns = evaluate(self._simulator, self._agent, episodes, seed, self._device, **more)
        return sum(returns) / len(returns)

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
            self._save(background=False)
            raise Stopped
        if self._saver.due:
            self._save(background=True)

    def _save(self, *, background: bool) -> None:
        self._beat(Phase.SAVING)
        self._saver.save(self._progress, self._collector.state_dict(), background=background)
