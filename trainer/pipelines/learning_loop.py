"""What the learner's process does: take in chunks, train, send weights, and keep the run's books."""

from __future__ import annotations

import gc
import logging
import math
import time
from collections.abc import Callable, Mapping
from typing import Any

from trainer.compilation import load_compiler, rehearse
from trainer.config import Config
from trainer.errors import PeerLost, Stopped
from trainer.exchange import chunks, weights
from trainer.exchange.channel import Channel
from trainer.exchange.chunks import ChunkReader
from trainer.exchange.slots import Filled, Freed, Offer
from trainer.exchange.weights import WeightWriter
from trainer.gpu_use import GpuUse
from trainer.interface import recall_interface
from trainer.metrics import MetricsLogger
from trainer.pipelines import tree
from trainer.pipelines.balance import Balance
from trainer.pipelines.messages import (
    Chunk,
    Evaluate,
    Evaluated,
    Finish,
    Hello,
    Permit,
    Save,
    Saved,
    Start,
    pack_state,
    unpack_state,
)
from trainer.pipelines.parts import (
    choose_devices,
    chunk_steps,
    compiles,
    make_agent,
    make_learner,
    make_replay,
    policy_tensors,
    prepare,
    use_device,
)
from trainer.pipelines.progress import Mark, ProgressSaver, resume, write_summary
from trainer.randomness import seed_everything
from trainer.role import RoleContext
from trainer.run_dir import Phase
from trainer.simulators.base import Space

log = logging.getLogger(__name__)

WAIT_SECONDS = 0.1  # between two looks at whether the role is to stop
COPY_SECONDS = 0.001  # between two looks at a chunk on its way
MESSAGES = 8  # taken in between two optimiser steps
SAVE_SECONDS = 10.0  # that a simulator may take to say what it needs to go on, when the run is stopped


class LearningLoop:
    """Trains on what the simulator collects.

    Args:
        context: Of the role.
        channel: To the simulator.
    """

    def __init__(self, context: RoleContext, channel: Channel) -> None:
        self._context, self._channel, self._config = context, channel, Config.of(context.config)
        config = self._config
        prepare(config)
        self._simulator_device, self._device = choose_devices(config)
        use_device(self._device)
        log.info("%s", self._placement())
        self._phase = Phase.STARTING
        known = None
        if compiles(config, self._device):
            load_compiler()
            known = recall_interface(config.env)
            if known is None:
                rehearse(self._device)
        if known is not None:
            log.info("preparing for what %s showed when it ran last", config.env.name)
            self._build(known.observation, known.action)
        hello = self._expect(Hello)
        self._max_return = hello.max_return
        if known is None or (dict(known.observation), known.action) != (dict(hello.observation), hello.action):
            self._build(hello.observation, hello.action)
        self._weights = self._weight_writer()
        self._chunks: ChunkReader | None = None  # the simulator offers them with its first one
        self._structure: Any = None  # of a chunk's tensors
        frames = chunk_steps(config) * config.env.num_envs
        self._balance = Balance(config.optimization.replay_ratio, config.replay_buffer.batch_size, frames)
        self._learning_since: int | None = None  # frames at the beginning of this attempt's learning
        self._permitted = 0.0
        self._policy_version = 0  # of the weights that the newest chunk was begun with
        self._episode_return: float | None = None  # of an evaluation
        self._saver = ProgressSaver(context.run_dir, config, self._learner, self._replay)
        self._save_asked = self._stopping = False
        self._progress, self._collector = resume(context.run_dir, self._learner, self._replay)

    def _build(self, observation: Mapping[str, Space], action: int) -> None:
        """Make agent, replay and learner, in the place of those for another simulator's spaces if there are any."""
        for name in ("_learner", "_replay", "_agent"):
            self.__dict__.pop(name, None)
        gc.collect()  # they hold each other, and two replays may not fit
        seed_everything(self._config.seed)
        self._agent = make_agent(self._config, observation, action, self._device)
        self._replay = make_replay(self._config, self._agent, observation, action, self._device)
        self._learner = make_learner(self._config, self._agent, self._replay, self._device)

    def run(self) -> None:
        """Train, evaluate and leave the summary.

        Raises:
            Stopped: One of both roles was asked to stop; a checkpoint was saved.
            PeerLost: The simulator is gone; a checkpoint was saved.
            NotFinite: Training diverged; the last good checkpoint is kept.
        """
        config, progress = self._config, self._progress
        metrics = MetricsLogger(self._context.run_dir, self._context.config, self._context.attempt)
        try:
            metrics.truncate(self._learner.step)
            self._publish()
            collector = None if self._collector is None else pack_state(self._collector)
            self._channel.send(Start(progress.frames, collector))
            if progress.frames == 0 and config.eval.episodes:
                progress.random_return = self._evaluate(random=True)
            try:
                with GpuUse([self._device, self._simulator_device]) as gpus:
                    self._train(metrics, gpus)
                self._save_all()
            except PeerLost:
                self._save(None)
                raise
            trained_return = self._evaluate(random=False) if config.eval.episodes else None
            write_summary(self._context.run_dir, config, progress, self._learner.step, trained_return, self._max_return)
            self._channel.send(Finish())
        finally:
            self._channel.close()
            self._context.exits_at_once |= not metrics.close()
            self._saver.wait()

    def _train(self, metrics: MetricsLogger, gpus: GpuUse) -> None:
        config, learner, progress = self._config, self._learner, self._progress
        started = time.monotonic() - progress.seconds
        self._phase = Phase.PREFILL
        mark = Mark(time.monotonic(), learner.step, progress.frames, progress.versions)
        while learner.step < config.optimization.total_optim_steps:
            progress.seconds = time.monotonic() - started
            self._attend()
            self._stop_if_asked()
            if self._saver.due:
                self._ask_to_save()
            if self._learning_since is None and not self._missing():
                self._learning_since, self._phase = progress.frames, Phase.TRAINING
                mark = Mark(time.monotonic(), learner.step, progress.frames, progress.versions)
            self._permit()
            if self._learning_since is None or not self._balance.may_learn():
                self._wait()
                continue
            learner.learn()
            self._balance.trained += self._balance.batch
            self._beat()
            if learner.step % config.pipeline.publish_interval == 0:
                self._publish()
            if learner.step % config.logger.interval == 0:
                now = Mark(time.monotonic(), learner.step, progress.frames, progress.versions)
                self._log(metrics, now.rates_since(mark), gpus.pop())
                mark = now
        progress.seconds = time.monotonic() - started

    def _log(self, metrics: MetricsLogger, rates: dict[str, float], gpus: dict[str, float]) -> None:
        episodes = self._progress.pop_episodes()
        pipeline = {"pipeline/policy_lag": float(self._learner.step - self._policy_version)}
        if self._balance.collected:
            pipeline["pipeline/replay_ratio"] = self._balance.trained / self._balance.collected
        self._beat(episode_return=episodes.get("episode/return"), rates=rates)
        held = {"replay/frames": float(self._replay.frames)}
        figures = {**self._learner.pop_metrics(), **episodes, **rates, **held, **pipeline, **gpus}
        metrics.log(self._learner.step, self._progress.frames, figures)

    def _missing(self) -> int:
        """Frames that are still to be collected before learning may begin, or go on without a replay of before."""
        wanted = self._config.collector.init_random_frames
        held = min(wanted, self._replay.capacity * self._replay.environments)
        return int(max(0, wanted - self._progress.frames, held - self._replay.frames))

    def _permit(self) -> None:
        """Let the simulator go as far as the replay ratio has it."""
        chunk = self._balance.chunk
        if self._learning_since is not None:
            permitted = self._learning_since + self._balance.permitted()
        elif self._balance.ratio is None:
            permitted = math.inf
        else:
            permitted = self._progress.frames + math.ceil(self._missing() / chunk) * chunk
        if permitted > self._permitted:
            self._permitted = permitted
            self._channel.send(Permit(permitted))

    def _publish(self) -> None:
        """Send the weights, unless the simulator still has to take the last ones."""
        if self._weights.version != self._learner.step:
            self._weights.publish(self._learner.step, policy_tensors(self._agent))

    def _evaluate(self, *, random: bool) -> float:
        """Mean return under the deterministic policy, or under random actions."""
        self._phase, self._episode_return = Phase.EVALUATING, None
        step = self._learner.step
        self._publish()
        self._wait_until(lambda: self._weights.version == step, self._publish)
        self._channel.send(Evaluate(step, random))
        self._wait_until(lambda: self._episode_return is not None)
        assert self._episode_return is not None
        return self._episode_return

    def _wait_until(self, condition: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
        while not condition():
            self._wait()
            self._attend()
            meanwhile()
            if self._context.should_stop:
                raise Stopped

    def _wait(self) -> None:
        """Until the simulator says something, or it is time to look at something else."""
        self._beat(waiting=True)
        if self._chunks is not None and self._chunks.pending:
            time.sleep(COPY_SECONDS)
        else:
            self._channel.wait(WAIT_SECONDS)

    def _attend(self) -> None:
        """Take in chunks and messages that have come, in the order in which they were sent.

        The order matters: what the simulator says about how to go on belongs to the chunks before, not to those after.
        Those of a simulator that is faster than this loop wait, so that learning goes on.
        """
        for _ in range(MESSAGES):
            if self._chunks is not None and self._chunks.pending:
                arrived = self._chunks.poll()
                if arrived is None:
                    return
                tensors, chunk = arrived
                self._store(tree.restore(self._structure, tensors), chunk)
            message = self._channel.receive()
            match message:
                case None:
                    return
                case Filled(kind=chunks.KIND) if self._chunks is not None:
                    self._chunks.filled(message)
                case Freed(kind=weights.KIND):
                    self._weights.freed(message)
                case Offer(kind=chunks.KIND):
                    self._chunks, self._structure = ChunkReader(self._channel, message, self._device), message.note
                case Evaluated():
                    self._episode_return = message.episode_return
                case Saved():
                    self._saved(message)
                case _:
                    self._take_in(message)

    def _take_in(self, message: Any) -> None:
        """A message that only other kinds of simulators send."""
        raise TypeError(f"the simulator has sent {message!r}")

    def _weight_writer(self) -> WeightWriter:
        return WeightWriter(self._channel, self._expect(Offer), self._device)

    def _store(self, content: Any, chunk: Chunk, group: int = 0) -> None:
        rows, states = content
        self._replay.extend(rows, states, group)
        self._progress.count(
            chunk.frames, chunk.returns, chunk.lengths, chunk.evaluated, chunk.task, versions=chunk.versions
        )
        self._policy_version = chunk.version
        if self._learning_since is not None:
            self._balance.collected += chunk.frames
        self._beat()

    def _expect(self, kind: type[Any]) -> Any:
        """The next message, while the simulator starts.

        Raises:
            Stopped: This role was asked to stop.
            PeerLost: The simulator is gone.
        """
        while (message := self._channel.receive()) is None:
            self._context.beat(Phase.STARTING, waiting=True)
            self._channel.wait(WAIT_SECONDS)
            if self._context.should_stop:
                raise Stopped
        if not isinstance(message, kind):
            raise TypeError(f"the simulator has sent {message!r} instead of {kind.__name__}")
        return message

    def _beat(
        self, *, waiting: bool = False, episode_return: float | None = None, rates: dict[str, float] | None = None
    ) -> None:
        rates = rates or {}
        self._context.beat(
            self._phase,
            waiting=waiting,
            optim_step=self._learner.step,
            frames=self._progress.frames,
            fps=rates.get("throughput/fps"),
            steps_per_s=rates.get("throughput/steps_per_s"),
            episode_return=episode_return,
        )

    def _save_all(self) -> None:
        """Collect no more and save; a stop from here on costs the evaluation alone."""
        self._channel.send(Permit(0))
        self._ask_to_save()
        while self._save_asked:
            self._wait()
            self._attend()
            self._stop_if_asked()

    def _ask_to_save(self) -> None:
        """Training may go on until the simulator has said what it needs to go on."""
        if not self._save_asked:
            self._save_asked = True
            self._channel.send(Save(last=False))

    def _stop_if_asked(self) -> None:
        """Save, with the simulator's part where it gives that in time.

        Raises:
            Stopped: This role was asked to stop.
        """
        if not self._context.should_stop:
            return
        self._stopping = True
        self._channel.send(Save(last=True))
        give_up_at = time.monotonic() + min(SAVE_SECONDS, self._config.watchdog.grace / 4)
        while time.monotonic() < give_up_at:
            self._wait()
            self._attend()  # ends here, as soon as it has been given
        self._save(None)
        raise Stopped

    def _saved(self, message: Saved) -> None:
        if message.last or not self._stopping:
            goes_on = self._learner.step < self._config.optimization.total_optim_steps
            self._save(unpack_state(message.collector), background=goes_on and not message.last)
        if message.last:
            raise Stopped

    def _save(self, collector: dict[str, Any] | None, *, background: bool = False) -> None:
        phase, self._phase = self._phase, Phase.SAVING
        self._beat()
        self._saver.save(self._progress, collector, background=background)
        self._save_asked, self._phase = False, phase

    def _placement(self) -> str:
        simulator, learner = self._simulator_device, self._device
        if simulator != learner:
            return f"simulator on {simulator}, learner on {learner}"
        hint = ": pipeline=sync collects faster on one GPU" if learner.type == "cuda" else ""
        return f"simulator and learner share {learner}{hint}"
