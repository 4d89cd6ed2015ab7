"""What the trainer asks of a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor


class Space(NamedTuple):
    """One key of the observations: its shape in one environment, and its type."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32


class Step(NamedTuple):
    """What one step of all environments gave."""

    observation: Mapping[str, Tensor]  # after any reset, [N, …] of each key
    reward: Tensor  # float32 [N]
    is_last: Tensor  # an episode ended with this step, bool [N]
    is_terminal: Tensor  # … by termination, not by a time limit, bool [N]


class Simulator(Protocol):
    """N environments that reset themselves.

    Attributes:
        environments: N.
        observation: Keys of the observations: vectors are float32 `[O]`, images uint8 `[H, W, C]`.
        action: Width of the action.
        max_return: Largest possible return of an episode where the task has one that is known, for the summary.
    """

    environments: int
    observation: Mapping[str, Space]
    action: int
    max_return: float | None

    def reset(self) -> Mapping[str, Tensor]:
        """Begin an episode in every environment; returns the observations, `[N, …]` of each key."""
        ...

    def step(self, action: Tensor) -> Step:
        """Apply actions `[N, A]` within [-1, 1]."""
        ...

    def state_dict(self) -> dict[str, Any] | None:
        """All of the simulator's state, or None where it cannot be saved: a resumed run starts new episodes then."""
        ...

    def load_state_dict(self, saved: dict[str, Any]) -> Mapping[str, Tensor]:
        """Go on from `state_dict`; returns the observations of that moment."""
        ...

    def close(self) -> None:
        """Release what the simulator holds."""
        ...
