"""What simulator and learner tell each other beside chunks and weights. All small, but for what is to be saved."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class Hello:
    """Simulator: it is up, and this is what it shows and takes."""

    observation: Any
    action: int
    max_return: float | None


@dataclass(frozen=True)
class Start:
    """Learner: go on from here.

    Attributes:
        frames: Collected so far.
        collector: `pack_state` of `Collector.state_dict()`; None to begin new episodes.
    """

    frames: int
    collector: bytes | None


@dataclass(frozen=True)
class Permit:
    """Learner: collect until there are this many frames."""

    frames: float


@dataclass(frozen=True)
class Evaluate:
    """Learner: run `eval.episodes` episodes under these weights' deterministic policy, or under random actions.

    Attributes:
        version: Of the weights; they were published before.
        random: Take random actions instead.
    """

    version: int
    random: bool


@dataclass(frozen=True)
class Evaluated:
    """Simulator: mean return of the evaluation."""

    episode_return: float


@dataclass(frozen=True)
class Save:
    """Learner: say what is needed to go on from after the next chunk.

    Attributes:
        last: Collect no more then; the run is being stopped.
    """

    last: bool


@dataclass(frozen=True)
class Saved:
    """Simulator: what is needed to go on from after the last chunk.

    Attributes:
        collector: `pack_state` of `Collector.state_dict()`.
        last: Nothing more is collected: the run is to stop, because one of both was asked to.
    """

    collector: bytes
    last: bool


@dataclass(frozen=True)
class Finish:
    """Learner: all is done."""


@dataclass(frozen=True)
class Chunk:
    """Note of a chunk.

    Attributes:
        frames: Collected in it.
        returns: Of the exploring environments' episodes that ended in it.
        lengths: Of the same episodes.
        evaluated: Returns of the episodes without noise.
        task: What the task reported of itself meanwhile.
        version: Of the weights that it was begun with.
        versions: How many sets of weights came into use since the chunk before was begun.
    """

    frames: int
    returns: list[float]
    lengths: list[int]
    evaluated: list[float]
    task: Mapping[str, list[float]]
    version: int
    versions: int


def pack_state(state: dict[str, Any]) -> bytes:
    """A state as bytes: pickled tensors would travel as files of their own."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def unpack_state(packed: bytes) -> dict[str, Any]:
    """What `pack_state` was given, in main memory."""
    state: dict[str, Any] = torch.load(io.BytesIO(packed), map_location="cpu", weights_only=True)
    return state
