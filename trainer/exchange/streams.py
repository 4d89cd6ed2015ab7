"""Order between the work of two processes on GPUs: fences that say when a process is done, and lanes beside its work.

On the CPU a copy is done when it returns: there fences have always been reached and lanes are nothing.
"""

from __future__ import annotations

from contextlib import ExitStack

import torch
from torch import Tensor


class Fence:
    """A point in one process's work that another process can ask for and wait for.

    Recorded by the process that made it alone.

    Args:
        device: Of the memory that the work touches.
        handle: Of the other process's fence; None for one of this process's own.
    """

    def __init__(self, device: torch.device, handle: bytes | None = None) -> None:
        self._event: torch.cuda.Event | None = None
        if device.type != "cuda":
            return
        if handle is None:
            self._event = torch.cuda.Event(enable_timing=False, interprocess=True)
        else:
            self._event = torch.cuda.Event.from_ipc_handle(device, handle)
        self._device = device

    def handle(self) -> bytes | None:
        """By which the other process opens it; None on the CPU."""
        if self._event is None:
            return None
        with torch.cuda.device(self._device):  # where the event is made, now
            return bytes(self._event.ipc_handle())

    def record(self, stream: torch.cuda.Stream | None = None) -> None:
        """The point is the end of what a stream has been given so far; the device's current one by default."""
        if self._event is not None:
            self._event.record(stream or torch.cuda.current_stream(self._device))

    def reached(self) -> bool:
        """Whether the work up to the point is done; true before anything was recorded."""
        return self._event is None or self._event.query()

    def hold(self, stream: torch.cuda.Stream | None = None) -> None:
        """Have a stream go on only from the point; the device's current one by default. Waits for nothing itself."""
        if self._event is not None:
            self._event.wait(stream or torch.cuda.current_stream(self._device))


class Lane:
    """Copies between a shared block and memory of this process's own, beside whatever else the GPUs do.

    A copy between two GPUs takes a stream on each of them; all that uses the same lane happens in turn.

    Args:
        shared: Device of the block.
        own: Device of this process's memory.
    """

    def __init__(self, shared: torch.device, own: torch.device) -> None:
        devices = {device for device in (shared, own) if device.type == "cuda"}
        streams = {device: torch.cuda.Stream(device) for device in devices}
        self._streams = list(streams.values())
        self._shared, self._own = streams.get(shared), streams.get(own)
        self._own_device = own
        self._blocking = devices != {shared, own}  # main memory is one end of it
        self._done: torch.cuda.Event | None = None

    def copy(self, target: Tensor, source: Tensor, before: Fence, after: Fence) -> None:
        """Copy all bytes, once the current stream's work so far and the other process's are done.

        Args:
            target: Bytes, `[B]`.
            source: Bytes, `[B]`.
            before: Of the other process: when it is done with the block.
            after: Recorded when this process is.
        """
        if self._own is not None:
            current = torch.cuda.current_stream(self._own_device)
            for stream in self._streams:
                stream.wait_stream(current)
        if self._shared is not None:
            # Not on the other GPU's stream: the driver takes another process's event on the event's own GPU alone.
            before.hold(self._shared)
            for stream in self._streams:
                if stream is not self._shared:
                    stream.wait_stream(self._shared)
        with ExitStack() as stack:
            for stream in self._streams:
                stack.enter_context(torch.cuda.stream(stream))
            target.copy_(source, non_blocking=not self._blocking)
        for stream in self._streams:
            for other in self._streams:
                if other is not stream:
                    stream.wait_stream(other)
        after.record(self._shared)
        if self._own is not None:
            self._done = self._own.record_event()

    def idle(self) -> bool:
        """Whether all copies are done."""
        return self._done is None or self._done.query()

    def join(self) -> None:
        """Have the current stream go on only when all copies are done."""
        if self._done is not None:
            self._done.wait(torch.cuda.current_stream(self._own_device))
