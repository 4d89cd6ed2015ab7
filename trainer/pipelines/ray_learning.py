"""The learner of `pipeline=ray`: the same as any other's, but for where chunks come from and weights go to."""

from __future__ import annotations

from typing import Any

import torch

from trainer.exchange.blocks import Layout
from trainer.pipelines import tree
from trainer.pipelines.learning_loop import LearningLoop
from trainer.pipelines.parts import policy_tensors
from trainer.pipelines.ray_actor import Collected
from trainer.pipelines.ray_fleet import Fleet
from trainer.role import RoleContext


class RayLearningLoop(LearningLoop):
    """Trains on what a fleet of simulators collects.

    Args:
        context: Of the role.
        fleet: In a channel's place.
    """

    def __init__(self, context: RoleContext, fleet: Fleet) -> None:
        self._fleet = fleet
        super().__init__(context, fleet)

    def _placement(self) -> str:
        return f"{self._fleet}, learner on {self._device}"

    def _weight_writer(self) -> FleetWeights:
        return FleetWeights(self._fleet, policy_tensors(self._agent), self._device)

    def _missing(self) -> int:
        """Until every simulator has given a whole sequence, too."""
        short = len(self._replay) <= self._config.replay_buffer.batch_length
        return max(super()._missing(), self._balance.chunk if short else 0)

    def _take_in(self, message: Any) -> None:
        if not isinstance(message, Collected):
            return super()._take_in(message)
        # Ray's memory is read-only, which tensors cannot be.
        tensors = {name: torch.tensor(array) for name, array in message.arrays.items()}
        return self._store(tree.restore(message.structure, tensors), message.chunk, message.index)


class FleetWeights:
    """The way of weights to a fleet: a copy on the device, one in main memory, one in Ray's object store.

    Args:
        fleet: That they go to.
        tensors: The learner's, for names and shapes.
        device: Where they are.

    Attributes:
        version: Last one published, None before the first.
    """

    def __init__(self, fleet: Fleet, tensors: dict[str, torch.Tensor], device: torch.device) -> None:
        self.version: int | None = None
        self._fleet, self._cuda = fleet, device.type == "cuda"
        layout = Layout.of(tensors)
        self._bytes = torch.zeros(layout.nbytes, dtype=torch.uint8, device=device)
        self._views = layout.views(self._bytes)
        self._host = torch.zeros(layout.nbytes, dtype=torch.uint8, pin_memory=self._cuda)
        self._copied = torch.cuda.Event() if self._cuda else None

    @torch.no_grad()
    def publish(self, version: int, tensors: dict[str, torch.Tensor]) -> bool:
        """Hand the weights over as they are after the current stream's work so far; always true.

        Waits for that work, two optimiser steps at most: what is published next is in the same memory.
        """
        torch._foreach_copy_(list(self._views.values()), [tensors[name] for name in self._views])
        self._host.copy_(self._bytes, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
            self._copied.synchronize()
        self._fleet.publish(version, self._host.numpy())
        self.version = version
        return True
