"""What an actor of `pipeline=ray` does: collect chunks under the weights that come with each call."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from trainer.collection import evaluate
from trainer.config import Config
from trainer.exchange.blocks import Layout
from trainer.interface import write_interface
from trainer.pipelines import tree
from trainer.pipelines.messages import Chunk, Hello
from trainer.pipelines.parts import (
    EVALUATION_STREAM,
    choose_device,
    chunk_steps,
    make_agent,
    make_collector,
    policy_tensors,
    prepare,
    stream_seed,
    use_device,
)
from trainer.pipelines.ray_actor import Collected, Place
from trainer.run_dir import RunDir
from trainer.simulators import make_simulator

SEEDS = 2**31 - 1


class Simulation:
    """A simulator, a policy and a collector.

    Args:
        config: The trainer's. Its seed is made another one for every actor, and for one that takes a lost one's place:
            that would live through the same episodes again.
        place: Of the actor.

    Attributes:
        hello: What the simulator shows and takes.
    """

    def __init__(self, config: Config, place: Place) -> None:
        sequence = np.random.SeedSequence((config.seed, place.index, place.life))
        config.seed = int(sequence.generate_state(1)[0]) % SEEDS
        prepare(config)
        self._config, self._place = config, place
        self._device = choose_device(config.pipeline.simulator_device, "pipeline.simulator_device")
        use_device(self._device)
        self._simulator = make_simulator(config.env, config.seed, self._device, config.collector.num_collectors or 1)
        if place.index == place.life == 0:
            write_interface(RunDir(Path(place.run_dir)), self._simulator)
        spaces = self._simulator.observation, self._simulator.action
        self.hello = Hello(*spaces, self._simulator.max_return)
        self._agent = make_agent(config, *spaces, self._device).requires_grad_(False)
        self._tensors = policy_tensors(self._agent)
        self._layout = Layout.of(self._tensors)
        self._collector = make_collector(config, self._simulator, self._agent, self._device)
        self._version: int | None = None

    def collect(self, *, random: bool, version: int, weights: Any) -> Collected:
        """See `SimulationActor.collect`."""
        versions = int(version != self._version)
        self._take(version, weights)
        steps = chunk_steps(self._config)
        chunk = self._collector.collect(steps, random=random)
        content, ended = (chunk.rows, chunk.states), chunk.ended
        note = Chunk(
            steps * self._config.env.num_envs,
            ended.returns(),
            ended.lengths(),
            chunk.evaluated.returns(),
            chunk.task,
            version,
            versions,
        )
        arrays = {name: tensor.cpu().numpy() for name, tensor in tree.flatten(content).items()}
        return Collected(self._place.index, note, tree.names(content), arrays)

    def evaluate(self, *, random: bool, version: int, weights: Any) -> float:
        """See `SimulationActor.evaluate`."""
        self._take(version, weights)
        seed, episodes = stream_seed(self._config, EVALUATION_STREAM), self._config.eval.episodes
        returns = evaluate(self._simulator, self._agent, episodes, seed, self._device, random=random)
        self._collector.reset()
        return sum(returns) / len(returns)

    @torch.no_grad()
    def _take(self, version: int, weights: Any) -> None:
        """Write the weights in place, where a CUDA graph of the policy finds them."""
        if version != self._version:
            views = self._layout.views(torch.from_numpy(weights.copy()))  # Ray's memory is read-only
            for name, mine in self._tensors.items():
                mine.copy_(views[name])
            self._version = version
