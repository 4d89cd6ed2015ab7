"""What the simulator's process does: collect chunks for the learner, with the newest weights that it has sent."""

from __future__ import annotations

from typing import Any

from trainer.collection import evaluate
from trainer.config import Config
from trainer.errors import PeerLost, Stopped
from trainer.exchange import chunks, weights
from trainer.exchange.channel import Channel
from trainer.exchange.chunks import ChunkWriter
from trainer.exchange.slots import Accepted, Filled, Freed
from trainer.exchange.weights import WeightReader
from trainer.interface import remember_interface, write_interface
from trainer.pipelines import tree
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
    EVALUATION_STREAM,
    VIDEO_STREAM,
    choose_devices,
    chunk_steps,
    make_agent,
    make_collector,
    policy_tensors,
    prepare,
    stream_seed,
    use_device,
)
from trainer.role import RoleContext
from trainer.run_dir import Phase
from trainer.simulators import make_simulator
from trainer.video import filmed, make_recorder

WAIT_SECONDS = 0.1  # between two looks at whether the role is to stop


class SimulationLoop:
    """Steps the simulator as long as the learner permits.

    Args:
        context: Of the role.
        channel: To the learner.
    """

    def __init__(self, context: RoleContext, channel: Channel) -> None:
        self._context, self._channel, self._config = context, channel, Config.of(context.config)
        config = self._config
        prepare(config)
        self._device, _ = choose_devices(config)
        use_device(self._device)
        self._simulator = make_simulator(
            config.env, config.seed, self._device, config.collector.num_collectors, filmed(config)
        )
        write_interface(context.run_dir, self._simulator)
        remember_interface(config.env, self._simulator)
        observation, action = self._simulator.observation, self._simulator.action
        channel.send(Hello(observation, action, self._simulator.max_return))
        self._agent = make_agent(config, observation, action, self._device).requires_grad_(False)
        self._weights = WeightReader(channel, policy_tensors(self._agent))
        self._recorder = make_recorder(
            config, self._simulator, self._agent, context.run_dir.videos, stream_seed(config, VIDEO_STREAM)
        )
        self._collector = make_collector(config, self._simulator, self._agent, self._device, self._recorder)
        self._chunks: ChunkWriter | None = None  # made for the first chunk, whose shapes are those of all
        self._steps = chunk_steps(config)
        self._chunk_frames = self._steps * config.env.num_envs
        self._frames = 0
        self._versions = 0  # of weights, taken since the last chunk
        self._permitted = 0.0
        self._start: Start | None = None
        self._evaluate: Evaluate | None = None
        self._save: Save | None = None
        self._finished = False

    def run(self) -> None:
        """Do what the learner asks for until it is done.

        Raises:
            Stopped: One of both roles was asked to stop, and the learner has what it takes to go on.
            PeerLost: The learner is gone.
        """
        try:
            self._begin()
            while not self._finished:
                self._attend()
                if self._context.should_stop or (self._save is not None and self._save.last):
                    self._leave()
                elif self._save is not None:
                    self._save = None
                    self._channel.send(self._saved(last=False))
                elif self._evaluate is not None:
                    self._evaluate_policy(self._evaluate)
                    self._evaluate = None
                elif self._may_collect():
                    self._collect()
                else:
                    self._wait()
        finally:
            if self._recorder is not None:
                self._recorder.close()
            self._simulator.close()

    def _begin(self) -> None:
        """Wait until the learner has said where to go on from."""
        while self._start is None:
            self._wait()
            self._attend()
            if self._context.should_stop:
                raise Stopped
        self._weights.take(wait=True)
        self._frames = self._start.frames
        if self._start.collector is not None:
            self._collector.load_state_dict(unpack_state(self._start.collector))

    def _may_collect(self) -> bool:
        room = self._chunks is None or self._chunks.free
        return room and self._frames + self._chunk_frames <= self._permitted

    def _collect(self) -> None:
        random = self._frames < self._config.collector.init_random_frames
        phase = Phase.PREFILL if random else Phase.TRAINING
        version = self._weights.version
        assert version is not None

        def on_step() -> None:
            self._context.beat(phase, frames=self._frames)
            self._attend()
            self._versions += self._weights.take()

        chunk = self._collector.collect(self._steps, random=random, on_step=on_step)
        self._frames += self._chunk_frames
        if self._recorder is not None:
            self._recorder.frames = self._frames
        content = (chunk.rows, chunk.states)
        tensors = tree.flatten(content)
        if self._chunks is None:
            rows = self._steps + 1  # where episodes begin, a chunk has one row more
            self._chunks = ChunkWriter(self._channel, tensors, rows, tree.names(content))
        while not self._chunks.free:
            self._wait()
            self._attend()
        ended = chunk.ended
        self._chunks.write(
            tensors,
            Chunk(
                self._chunk_frames,
                ended.returns(),
                ended.lengths(),
                chunk.evaluated.returns(),
                chunk.task,
                version,
                self._versions,
            ),
        )
        self._versions = 0

    def _evaluate_policy(self, request: Evaluate) -> None:
        def on_step() -> None:
            self._context.beat(Phase.EVALUATING, frames=self._frames)
            self._attend()
            if self._context.should_stop or self._save is not None:
                raise Stopped

        self._weights.take(wait=True)
        assert self._weights.version == request.version
        seed, episodes = stream_seed(self._config, EVALUATION_STREAM), self._config.eval.episodes
        more: dict[str, Any] = {"random": request.random, "on_step": on_step, "recorder": self._recorder}
        returns = evaluate(self._simulator, self._agent, episodes, seed, self._device, **more)
        self._collector.reset()
        self._channel.send(Evaluated(sum(returns) / len(returns)))

    def _leave(self) -> None:
        """Hand over what is needed to go on, and stay until the learner hangs up: it may still be reading chunks."""
        self._channel.send(self._saved(last=True))
        try:
            while True:
                self._wait()
                self._attend()
        except PeerLost:
            raise Stopped from None

    def _saved(self, *, last: bool) -> Saved:
        return Saved(pack_state(self._collector.state_dict()), last)

    def _wait(self) -> None:
        """Until a message comes, or it is time to look at something else."""
        self._context.beat(self._waiting_phase(), waiting=True, frames=self._frames)
        self._channel.wait(WAIT_SECONDS)

    def _waiting_phase(self) -> Phase:
        if self._start is None:
            return Phase.STARTING
        return Phase.PREFILL if self._frames < self._config.collector.init_random_frames else Phase.TRAINING

    def _attend(self) -> None:
        """Take in all messages that have come."""
        while (message := self._channel.receive()) is not None:
            match message:
                case Filled(kind=weights.KIND):
                    self._weights.filled(message)
                case Freed(kind=chunks.KIND) if self._chunks is not None:
                    self._chunks.freed(message)
                case Accepted(kind=weights.KIND):
                    self._weights.slots.accepted(message)
                case Accepted(kind=chunks.KIND) if self._chunks is not None:
                    self._chunks.slots.accepted(message)
                case Permit():
                    self._permitted = message.frames
                case Start():
                    self._start = message
                case Evaluate():
                    self._evaluate = message
                case Save():
                    self._save = message
                case Finish():
                    self._finished = True
                    return  # the learner hangs up
                case _:
                    raise TypeError(f"the learner has sent {message!r}")
