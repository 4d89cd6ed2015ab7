"""Weights on their way from a learner to a simulator: versions of them, of which only the newest counts."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from trainer.exchange.blocks import Layout
from trainer.exchange.channel import Channel
from trainer.exchange.slots import SLOTS, Filled, Freed, Offer, Slots
from trainer.exchange.streams import Lane

KIND = "weights"


class WeightWriter:
    """The learner's end.

    Args:
        channel: To the simulator.
        offer: Just received.
        device: Where the learner's weights are.

    Attributes:
        version: Last one published, None before the first.
    """

    def __init__(self, channel: Channel, offer: Offer, device: torch.device) -> None:
        self.slots = Slots.accept(offer, channel)
        self.version: int | None = None
        self._channel = channel
        self._lane = Lane(self.slots.device, device)
        self._bytes = torch.empty(self.slots.layout.nbytes, dtype=torch.uint8, device=device)
        self._tensors = self.slots.layout.views(self._bytes)
        self._free = [True] * SLOTS

    @torch.no_grad()
    def publish(self, version: int, tensors: Mapping[str, Tensor]) -> bool:
        """Send weights on their way, as they are after the current stream's work so far.

        Waits for nothing: where both slots are in use, or the last version is still on its way, nothing is sent.

        Args:
            version: Higher than the last one.
            tensors: By the names of the simulator's.

        Returns:
            Whether they were sent.

        Raises:
            PeerLost: The simulator is gone.
        """
        assert self.version is None or version > self.version
        if True not in self._free or not self._lane.idle():
            return False
        slot, slots = self._free.index(True), self.slots
        assert slots.other is not None
        torch._foreach_copy_(list(self._tensors.values()), [tensors[name] for name in self._tensors])
        self._lane.copy(slots.bytes[slot], self._bytes, before=slots.other[slot], after=slots.own[slot])
        self._free[slot] = False
        self._channel.send(Filled(KIND, slot, version))
        self.version = version
        return True

    def freed(self, message: Freed) -> None:
        """The simulator has given the slot back."""
        self._free[message.slot] = True


class WeightReader:
    """The simulator's end, which owns the slots.

    Args:
        channel: To the learner.
        tensors: The policy's own; written in place, so that a CUDA graph of the policy sees the new ones.

    Attributes:
        version: Last one taken, None before the first.
    """

    def __init__(self, channel: Channel, tensors: Mapping[str, Tensor]) -> None:
        device = next(iter(tensors.values())).device
        self.slots = Slots.offer(KIND, Layout.of(tensors), device, channel)
        self.version: int | None = None
        self._channel, self._targets = channel, list(tensors.values())
        self._published: list[Filled] = []

    def filled(self, message: Filled) -> None:
        """The learner has published a version."""
        self._published.append(message)

    @torch.no_grad()
    def take(self, *, wait: bool = False) -> bool:
        """Use the newest weights that are here; to be called between steps.

        Args:
            wait: Have the current stream wait for those that are on their way, too.

        Returns:
            Whether there were any.

        Raises:
            PeerLost: The learner is gone.
        """
        slots = self.slots
        if not self._published or slots.other is None:
            return False
        here = [wait or slots.other[filled.slot].reached() for filled in reversed(self._published)]
        if True not in here:
            return False
        newest = self._published[-1 - here.index(True)]
        slots.other[newest.slot].hold()
        torch._foreach_copy_(self._targets, list(slots.tensors(newest.slot).values()))
        slots.own[newest.slot].record()
        while self.version != newest.note:  # older ones too
            self.version = self._published[0].note
            self._channel.send(Freed(KIND, self._published.pop(0).slot))
        return True
