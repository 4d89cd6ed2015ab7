"""Chunks of rows on their way from a simulator to a learner, each once and in order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.exchange.blocks import Layout
from trainer.exchange.channel import Channel
from trainer.exchange.slots import SLOTS, Filled, Freed, Offer, Slots
from trainer.exchange.streams import Lane

KIND = "chunks"


@dataclass(frozen=True)
class Content:
    """Note of a filled slot: how many rows there are, and what the sender had to say about them."""

    rows: int
    note: Any


class ChunkWriter:
    """The simulator's end, which owns the slots.

    Args:
        channel: To the learner.
        like: A chunk, for the names, types and shapes `[T, …]` of its tensors.
        rows: Largest T.
        note: Whatever the learner needs to understand the tensors.
    """

    def __init__(self, channel: Channel, like: Mapping[str, Tensor], rows: int, note: Any = None) -> None:
        device = next(iter(like.values())).device
        self.slots = Slots.offer(KIND, Layout.of(like, rows), device, channel, note)
        self._channel = channel
        self._free = [True] * SLOTS
        self._next = 0

    @property
    def free(self) -> bool:
        """Whether there is a slot to write to."""
        return self.slots.other is not None and self._free[self._next]

    def write(self, tensors: Mapping[str, Tensor], note: Any) -> None:
        """Copy a chunk `[T, …]` to the free slot and tell the learner, without waiting for the copy.

        Raises:
            PeerLost: The learner is gone.
        """
        slot, slots = self._next, self.slots
        assert self.free
        assert slots.other is not None
        slots.other[slot].hold()
        rows = 0
        for name, target in slots.tensors(slot).items():
            rows = len(tensors[name])
            target[:rows].copy_(tensors[name])
        slots.own[slot].record()
        self._free[slot] = False
        self._next = (slot + 1) % SLOTS
        self._channel.send(Filled(KIND, slot, Content(rows, note)))

    def freed(self, message: Freed) -> None:
        """The learner has given the slot back."""
        self._free[message.slot] = True


class ChunkReader:
    """The learner's end.

    Args:
        channel: To the simulator.
        offer: Just received.
        device: Where chunks are wanted.
    """

    def __init__(self, channel: Channel, offer: Offer, device: torch.device) -> None:
        self.slots = Slots.accept(offer, channel)
        self._channel = channel
        self._lane = Lane(self.slots.device, device)
        self._bytes = torch.empty(self.slots.layout.nbytes, dtype=torch.uint8, device=device)
        self._tensors = self.slots.layout.views(self._bytes)
        self._waiting: Filled | None = None  # for its writer
        self._copying: Content | None = None

    @property
    def pending(self) -> bool:
        """Whether a chunk was announced that `poll` has not given yet; the next one is to be kept back until then."""
        return self._waiting is not None or self._copying is not None

    def filled(self, message: Filled) -> None:
        """The simulator has filled a slot."""
        assert not self.pending
        self._waiting = message

    def poll(self) -> tuple[Mapping[str, Tensor], Any] | None:
        """The chunk that was announced, once it is here: until then the device is left to its other work.

        Returns:
            The tensors `[T, …]`, which stay as they are until the next call, and the writer's note.

        Raises:
            PeerLost: The simulator is gone.
        """
        if self._waiting is not None:
            slot, slots = self._waiting.slot, self.slots
            assert slots.other is not None
            if not slots.other[slot].reached():
                return None
            self._lane.copy(self._bytes, slots.bytes[slot], before=slots.other[slot], after=slots.own[slot])
            self._copying, self._waiting = self._waiting.note, None
            self._channel.send(Freed(KIND, slot))
        if self._copying is None or not self._lane.idle():
            return None
        content, self._copying = self._copying, None
        self._lane.join()
        return {name: tensor[: content.rows] for name, tensor in self._tensors.items()}, content.note
