"""Two slots of the same layout in a shared block: one process fills the one while the other reads the other.

A slot is filled and freed by messages, which only say that the work was given to the GPU: fences say when it is done.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from trainer.exchange.blocks import Block, BlockHandle, Layout, open_block
from trainer.exchange.channel import Channel
from trainer.exchange.streams import Fence

SLOTS = 2


@dataclass(frozen=True)
class Offer:
    """Message: slots that the sender has made; an open file may follow it.

    Attributes:
        kind: What goes through them.
        layout: Of each slot.
        block: That both slots lie in.
        fences: Of the sender, one a slot.
        note: Whatever the receiver needs to understand the content.
    """

    kind: str
    layout: Layout
    block: BlockHandle
    fences: tuple[bytes | None, ...]
    note: Any


@dataclass(frozen=True)
class Accepted:
    """Message: the slots of an offer are open on the other side too; its fences, one a slot."""

    kind: str
    fences: tuple[bytes | None, ...]


@dataclass(frozen=True)
class Filled:
    """Message: a slot was given content, of which the note says what it is."""

    kind: str
    slot: int
    note: Any


@dataclass(frozen=True)
class Freed:
    """Message: a slot may be filled again, once its reader's fence is reached."""

    kind: str
    slot: int


class Slots:
    """One process's view of the two slots.

    Attributes:
        kind: What goes through them.
        layout: Of each slot.
        device: Of the block.
        bytes: Of each slot, `[layout.nbytes]`.
        own: This process's fence of each slot.
        other: The other process's; None until it has accepted.
    """

    def __init__(self, kind: str, layout: Layout, block: Tensor, device: torch.device) -> None:
        self.kind, self.layout, self.device = kind, layout, device
        self.bytes = [block[slot * layout.nbytes : (slot + 1) * layout.nbytes] for slot in range(SLOTS)]
        self.own = [Fence(device) for _ in range(SLOTS)]
        self.other: list[Fence] | None = None

    @staticmethod
    def offer(kind: str, layout: Layout, device: torch.device, channel: Channel, note: Any = None) -> Slots:
        """Make slots and offer them to the other role, which answers with `Accepted`.

        Raises:
            PeerLost: It is gone.
            RuntimeError: The device has no room, or its memory cannot be shared.
        """
        block = Block.make(SLOTS * layout.nbytes, device)
        slots = Slots(kind, layout, block.bytes, device)
        channel.send(Offer(kind, layout, block.handle, slots._handles(), note))
        block.hand_over(channel)
        return slots

    @staticmethod
    def accept(offer: Offer, channel: Channel) -> Slots:
        """Open what was offered; to be called before anything else is received.

        Raises:
            PeerLost: The other role is gone.
            RuntimeError: Its memory cannot be opened.
        """
        block = open_block(offer.block, channel)
        slots = Slots(offer.kind, offer.layout, block, offer.block.device)
        slots._open_fences(offer.fences)
        channel.send(Accepted(offer.kind, slots._handles()))
        return slots

    def accepted(self, message: Accepted) -> None:
        """Take the other process's fences."""
        self._open_fences(message.fences)

    def tensors(self, slot: int) -> Mapping[str, Tensor]:
        """What lies in a slot."""
        return self.layout.views(self.bytes[slot])

    def _handles(self) -> tuple[bytes | None, ...]:
        return tuple(fence.handle() for fence in self.own)

    def _open_fences(self, handles: tuple[bytes | None, ...]) -> None:
        self.other = [Fence(self.device, handle) for handle in handles]
