"""Memory that two processes share, and where the tensors lie in it.

A block in main memory is a file without a name: nothing of it is in /dev/shm or in any other folder, no limit of a
container's /dev/shm holds for it, and it goes with the last process that has it, however that ends.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from trainer.exchange import cuda
from trainer.exchange.channel import Channel

ALIGNMENT = 256  # bytes, as CUDA aligns what it allocates


@dataclass(frozen=True)
class Field:
    """One tensor within a block."""

    dtype: torch.dtype
    shape: tuple[int, ...]
    offset: int  # bytes
    nbytes: int


@dataclass(frozen=True)
class Layout:
    """Where tensors lie in a block.

    Attributes:
        fields: By name.
        nbytes: Of all of them.
    """

    fields: Mapping[str, Field]
    nbytes: int

    @staticmethod
    def of(tensors: Mapping[str, Tensor], rows: int | None = None) -> Layout:
        """Room for tensors like these.

        Args:
            tensors: For names, types and shapes.
            rows: Length of the first dimension instead of the tensors' own.
        """
        fields: dict[str, Field] = {}
        end = 0
        for name, tensor in tensors.items():
            shape = tuple(tensor.shape) if rows is None else (rows, *tensor.shape[1:])
            nbytes = torch.Size(shape).numel() * tensor.element_size()
            fields[name] = Field(tensor.dtype, shape, end, nbytes)
            end += -(-nbytes // ALIGNMENT) * ALIGNMENT
        return Layout(fields, end)

    def views(self, block: Tensor) -> dict[str, Tensor]:
        """The tensors within a block `[nbytes]` of bytes."""
        return {
            name: block[field.offset : field.offset + field.nbytes].view(field.dtype).view(field.shape)
            for name, field in self.fields.items()
        }


@dataclass(frozen=True)
class BlockHandle:
    """By which another process opens a block.

    Attributes:
        nbytes: Its size.
        device: Where it lies; the number of a GPU is the same in all roles.
        memory: Of a GPU's memory; None where an open file follows the message.
    """

    nbytes: int
    device: torch.device
    memory: bytes | None


@dataclass(frozen=True)
class Block:
    """Bytes `[nbytes]` that this process has made, to be opened by another one."""

    bytes: Tensor
    handle: BlockHandle
    descriptor: int | None

    @staticmethod
    def make(nbytes: int, device: torch.device) -> Block:
        """Allocate on a GPU or in main memory; what is in it is undefined.

        Raises:
            RuntimeError: The GPU has no room, or its memory cannot be shared.
            OSError: Main memory has no room.
        """
        if device.type == "cuda":
            content, memory = cuda.allocate(nbytes, device)
            return Block(content, BlockHandle(nbytes, device, memory), None)
        descriptor = os.memfd_create("longshore", os.MFD_CLOEXEC)
        os.posix_fallocate(descriptor, 0, max(nbytes, 1))  # now, and not as a bus error when it is written
        return Block(_mapped(descriptor, nbytes), BlockHandle(nbytes, device, None), descriptor)

    def hand_over(self, channel: Channel) -> None:
        """To be called right after the message that holds the handle was sent."""
        if self.descriptor is not None:
            channel.send_descriptor(self.descriptor)
            os.close(self.descriptor)


def open_block(handle: BlockHandle, channel: Channel) -> Tensor:
    """The bytes `[nbytes]` of a block that the other role has just handed over.

    Raises:
        RuntimeError: The driver does not let this process see the other one's memory.
    """
    if handle.memory is not None:
        return cuda.open_allocation(handle.memory, handle.nbytes, handle.device)
    descriptor = channel.receive_descriptor()
    try:
        return _mapped(descriptor, handle.nbytes)
    finally:
        os.close(descriptor)


def _mapped(descriptor: int, nbytes: int) -> Tensor:
    return torch.frombuffer(mmap.mmap(descriptor, max(nbytes, 1)), dtype=torch.uint8)[:nbytes]
