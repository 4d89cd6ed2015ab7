"""Learning: one optimiser step from a replay, and the state that it carries.

On a GPU the whole step, from sampling to writing latents back, is one CUDA graph.
"""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.agents.base import Agent
from trainer.batches import Batches, DeviceBatches, HostBatches
from trainer.capture import CapturedFunction
from trainer.compilation import compile_regions
from trainer.config import Config
from trainer.errors import ConfigError, NotFinite
from trainer.optimizer import gradient_norm
from trainer.replay import Replay

IN_FLIGHT = 2  # steps that the host may be ahead of a GPU by: whatever else is to be done there waits for them


class Learner:
    """Trains an agent on sequences of a replay.

    Args:
        agent: To be trained; already on `device`.
        replay: To sample from, and to write refreshed latents to.
        config: The trainer's config.
        seed: Of sampling and of the losses' noise.
        device: Where the agent is.

    Raises:
        ConfigError: `batch_size` is no multiple of `batch_length`, or `autocast` is unknown.
    """

    def __init__(self, agent: Agent, replay: Replay, config: Config, seed: int, device: torch.device) -> None:
        buffer, name = config.replay_buffer, config.optimization.autocast
        if buffer.batch_size % buffer.batch_length:
            raise ConfigError(
                f"replay_buffer.batch_size: {buffer.batch_size} frames are no whole number of sequences of "
                f"batch_length {buffer.batch_length}"
            )
        if name not in (None, "bfloat16"):
            raise ConfigError(f"optimization.autocast: {name!r} is neither null nor bfloat16")
        self.agent, self.step = agent, 0
        self._replay, self._device, self._autocast = replay, device, name is not None
        self._length, self._sequences = buffer.batch_length, buffer.batch_size // buffer.batch_length
        self._generator = torch.Generator(device).manual_seed(seed)
        size = (self._sequences, self._length)
        self._batches: Batches = (
            DeviceBatches(replay, *size, self._generator)
            if replay.device.type == device.type
            else HostBatches(replay, *size, seed, device)
        )
        self._optimizer = agent.make_optimizer()
        self._names: list[str] = []
        self._sums: Tensor | None = None  # of each name's figure, over the steps since the last log line
        self._steps = 0
        self._captured: CapturedFunction | None = None
        self._in_flight: deque[torch.cuda.Event] = deque()

    def prepare(self, *, compiled: bool = True, captured: bool = True) -> None:
        """Compile the step and, on a GPU, capture it as a CUDA graph; nothing is learnt and nothing is forgotten by it.

        To be called before the first step, and before other work of this process runs on the GPU.

        Args:
            compiled: Compile the agent's regions.
            captured: Capture the step, where the device is a GPU.
        """
        compile_regions(self.agent, compiled)
        if self._device.type == "cuda":
            step = CapturedFunction(self._step, [self._generator])
            step.warm_up(lambda: self._step(refresh=False), keep=self._tensors())
            if self._sums is not None and not self._steps:
                self._sums.zero_()  # the warm-up made them
            if captured:
                step.capture()
                self._captured = step

    def learn(self) -> None:
        """One optimiser step: sample, losses, backward, optimiser, slow critic, latents written back.

        Raises:
            ValueError: Fewer rows were written than one sequence needs.
        """
        if len(self._replay) <= self._length:
            raise ValueError(
                f"a sequence of {self._length} rows and one of context needs more than the {len(self._replay)} written"
            )
        self._batches.before_step()
        if self._captured is None:
            self._step()
        else:
            self._captured.replay()
        self._batches.after_step()
        self._keep_pace()
        self.step += 1
        self._steps += 1

    def _keep_pace(self) -> None:
        """Wait until no more than `IN_FLIGHT` steps are on their way."""
        if self._device.type == "cuda":
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self._device))
            self._in_flight.append(event)
            if len(self._in_flight) > IN_FLIGHT:
                self._in_flight.popleft().synchronize()

    def _tensors(self) -> list[Tensor]:
        """All that a step changes but the replay, which a warm-up leaves alone."""
        sums = [] if self._sums is None else [self._sums]
        return [*self.agent.parameters(), *self.agent.buffers(), *self._optimizer.tensors(), *sums]

    def _step(self, *, refresh: bool = True) -> None:
        sequences = self._batches.sample()
        noise = self.agent.draw_noise(self._length, self._sequences, self._generator)
        with self._precision():
            loss = self.agent.loss(sequences, noise)
        for parameter in self._optimizer.parameters:
            parameter.grad = None
        loss.total.backward()
        figures = {**loss.metrics, "optimizer/gradient_norm": gradient_norm(self._optimizer.parameters)}
        self._optimizer.step()
        self.agent.after_step()
        if refresh:
            self._batches.refresh(sequences, loss.departure)
        values = torch.stack([figure.float() for figure in figures.values()])
        if self._sums is None:
            self._names, self._sums = list(figures), torch.zeros_like(values)
        self._sums += values

    def _precision(self) -> contextlib.AbstractContextManager[Any]:
        if not self._autocast:
            return contextlib.nullcontext()
        # Up to PyTorch 2.7 the cache hands weights that were cast without gradients, as those of the actor are while
        # it imagines, to what is to train them: they would get no gradient.
        return torch.autocast(self._device.type, torch.bfloat16, cache_enabled=False)

    def pop_metrics(self) -> Mapping[str, float]:
        """Means since the last call.

        Raises:
            NotFinite: See `check_finite`.
        """
        self.check_finite()
        if self._sums is None or not self._steps:
            return {}
        means = (self._sums / self._steps).tolist()
        self._sums.zero_()
        self._steps = 0
        return dict(zip(self._names, means, strict=True))

    def check_finite(self) -> None:
        """Look at what the last steps summed up: a NaN stays in it, so that no step has to ask the device.

        Raises:
            NotFinite: A loss or a gradient was NaN or infinite since the last `pop_metrics`.
        """
        if self._sums is None:
            return
        for name, total in zip(self._names, self._sums.tolist(), strict=True):
            if not math.isfinite(total):
                raise NotFinite(f"{name} is {total} in one of the {self._steps} optimiser steps up to {self.step}")

    def state_dict(self) -> dict[str, Any]:
        """Weights, optimiser, step, generator and what the next log line is to sum up.

        Raises:
            NotFinite: See `check_finite`; weights that are spoilt are not for saving.
        """
        self.check_finite()
        return {
            "agent": self.agent.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "step": self.step,
            "generator": self._generator.get_state(),
            "batches": self._batches.state_dict(),
            "names": self._names,
            "sums": self._sums,
            "summed": self._steps,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take up where `state_dict` left off, in place."""
        self.agent.load_state_dict(saved["agent"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        self._generator.set_state(saved["generator"].cpu())
        self._batches.load_state_dict(saved["batches"])
        self._names, self._steps = saved["names"] or self._names, saved["summed"]
        if self._sums is not None:  # a captured step goes on adding to these very sums
            self._sums.zero_()
        if saved["sums"] is not None:
            if self._sums is None:
                self._sums = torch.zeros_like(saved["sums"], device=self._device)
            self._sums.copy_(saved["sums"])
