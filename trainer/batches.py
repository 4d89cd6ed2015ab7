"""Where an optimiser step gets its sequences: from a replay beside it on the device, or from one in main memory."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from trainer.replay import Replay, Rows, Sequences
from trainer.world_model.rssm import State


class Batches(Protocol):
    """Sequences for one step after the other."""

    def before_step(self) -> None:
        """What has to be done before a step and cannot be part of it."""
        ...

    def sample(self) -> Sequences:
        """The step's sequences, on its device; part of the step."""
        ...

    def refresh(self, sequences: Sequences, states: State) -> None:
        """Have the step's latents written back; part of the step."""
        ...

    def after_step(self) -> None:
        """What can be done while the device is busy with the step."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, saved: dict[str, Any]) -> None: ...


class DeviceBatches:
    """Of a replay on the step's own device: all of it is part of the step.

    Args:
        replay: To sample from.
        sequences: How many at once.
        length: Rows of each, the context not counted.
        generator: On the same device.
    """

    def __init__(self, replay: Replay, sequences: int, length: int, generator: torch.Generator) -> None:
        self._replay, self._size, self._generator = replay, (sequences, length), generator

    def before_step(self) -> None:
        pass

    def sample(self) -> Sequences:
        return self._replay.sample(*self._size, self._generator)

    def refresh(self, sequences: Sequences, states: State) -> None:
        self._replay.refresh(sequences, states)

    def after_step(self) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}  # the generator is the learner's

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        pass


class HostBatches:
    """Of a replay in main memory, gathered and copied while the device works on the step before.

    A batch is thus one step older than the newest rows; latents are written back one step late.

    Args:
        replay: To sample from.
        sequences: How many at once.
        length: Rows of each, the context not counted.
        seed: Of the sampling.
        device: Of the steps.
    """

    def __init__(self, replay: Replay, sequences: int, length: int, seed: int, device: torch.device) -> None:
        self._replay, self._size = replay, (sequences, length)
        self._generator = torch.Generator().manual_seed(seed)
        self._cuda = device.type == "cuda"
        self._drawn: Sequences | None = None  # for the next step
        self._current = self._draw()  # what the step works on
        self._host = [self._pinned(tensor) for tensor in _tensors(self._current)]
        self._batch = _moved(self._current, device)
        self._latents: State | None = None  # what the step made of it, on the device
        self._returned: State | None = None  # the same in main memory, where it has not been written back
        self._copied = torch.cuda.Event() if self._cuda else None

    def before_step(self) -> None:
        self._wait()  # for the copies in both directions
        if self._returned is not None:
            self._replay.refresh(self._current, self._returned)
        self._current = self._drawn or self._draw()
        for buffer, source, target in zip(self._host, _tensors(self._current), _tensors(self._batch), strict=True):
            buffer.copy_(source)
            target.copy_(buffer, non_blocking=True)

    def sample(self) -> Sequences:
        return self._batch

    def refresh(self, sequences: Sequences, states: State) -> None:
        if self._latents is None:
            self._latents = State(*(torch.empty_like(field) for field in states))
        for mine, new in zip(self._latents, states, strict=True):
            mine.copy_(new)

    def after_step(self) -> None:
        assert self._latents is not None
        if self._returned is None:
            self._returned = State(*(self._pinned(field) for field in self._latents))
        for mine, new in zip(self._returned, self._latents, strict=True):
            mine.copy_(new, non_blocking=True)
        if self._copied is not None:
            self._copied.record()
        self._drawn = self._draw()

    def state_dict(self) -> dict[str, Any]:
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        self._generator.set_state(saved["generator"].cpu())
        self._drawn = self._returned = None

    def _wait(self) -> None:
        if self._copied is not None:
            self._copied.synchronize()

    def _draw(self) -> Sequences:
        return self._replay.sample(*self._size, self._generator)

    def _pinned(self, like: Tensor) -> Tensor:
        return torch.empty(like.shape, dtype=like.dtype, pin_memory=self._cuda)


def _tensors(sequences: Sequences) -> list[Tensor]:
    return [*sequences.rows.tensors(), *sequences.context, sequences.time, sequences.environment]


def _moved(sequences: Sequences, device: torch.device) -> Sequences:
    def moved(tensor: Tensor) -> Tensor:
        return tensor.to(device, copy=True)

    rows: Rows = sequences.rows.map(moved)
    context = State(*(moved(field) for field in sequences.context))
    return Sequences(rows, context, moved(sequences.time), moved(sequences.environment))
