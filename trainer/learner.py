"""Learning: one optimiser step from a replay, and the state that it carries."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from trainer.agents.dreamer_v3 import DreamerV3
from trainer.config import Config
from trainer.errors import ConfigError, NotFinite
from trainer.optimizer import LaProp, gradient_norm
from trainer.replay import Replay


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

    def __init__(self, agent: DreamerV3, replay: Replay, config: Config, seed: int, device: torch.device) -> None:
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
        self._parameters = [parameter for parameter in agent.parameters() if parameter.requires_grad]
        self._optimizer = LaProp(self._parameters, **vars(config.agent.optimizer))
        self._sums: dict[str, Tensor] = {}
        self._steps = 0

    def learn(self) -> None:
        """One optimiser step: sample, losses, backward, optimiser, slow critic, latents written back."""
        sequences = self._replay.sample(self._sequences, self._length, self._generator)
        noise = self.agent.draw_noise(self._length, self._sequences, self._generator)
        precision = torch.autocast(self._device.type, torch.bfloat16) if self._autocast else contextlib.nullcontext()
        with precision:
            loss = self.agent.loss(sequences, noise)
        for parameter in self._parameters:
            parameter.grad = None
        loss.total.backward()
        norm = gradient_norm(self._parameters)
        self._optimizer.step()
        self.agent.update_slow_critic()
        self._replay.refresh(sequences, loss.departure)
        self.step += 1
        self._steps += 1
        for key, value in {**loss.metrics, "optimizer/gradient_norm": norm}.items():
            self._sums[key] = self._sums[key] + value if key in self._sums else value.clone()

    def pop_metrics(self) -> Mapping[str, float]:
        """Means since the last call.

        Raises:
            NotFinite: See `check_finite`.
        """
        self.check_finite()
        means = {key: (total / self._steps).item() for key, total in self._sums.items()}
        self._sums, self._steps = {}, 0
        return means

    def check_finite(self) -> None:
        """Look at what the last steps summed up: a NaN stays in it, so that no step has to ask the device.

        Raises:
            NotFinite: A loss or a gradient was NaN or infinite since the last `pop_metrics`.
        """
        for key, total in self._sums.items():
            if not torch.isfinite(total):
                raise NotFinite(
                    f"{key} is {total.item()} in one of the {self._steps} optimiser steps up to {self.step}"
                )

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
            "sums": self._sums,
            "summed": self._steps,
        }

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take up where `state_dict` left off."""
        self.agent.load_state_dict(saved["agent"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self.step = saved["step"]
        self._generator.set_state(saved["generator"].cpu())
        self._sums = {key: total.to(self._device) for key, total in saved["sums"].items()}
        self._steps = saved["summed"]
