"""What the trainer asks of a simulator."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Space(NamedTuple):
    """One key of the observations: its shape in one environment, and its type."""

    shape: tuple[int, ...]
    dtype: torch.dtype = torch.float32
    terms: tuple[tuple[str, int], ...] = ()  # names and widths of what a vector is put together from, where known


class Step(NamedTuple):
    """What one step of all environments gave."""

    observation: Mapping[str, Tensor]  # after any reset, [N, …] of each key
    reward: Tensor  # float32 [N]
    is_last: Tensor  # an episode ended with this step, bool [N]
    is_terminal: Tensor  # … by termination, not by a time limit, bool [N]


class Control(NamedTuple):
    """What an agent's actions, within [-1, 1], are to the task; for who takes a policy out of the trainer."""

    period: float  # seconds from one action to the next
    low: tuple[float, ...]  # the task's own action where the agent's is -1, one number an axis
    high: tuple[float, ...]  # … where it is 1; linear in between
    joints: tuple[str, ...] | None  # what each axis moves, None where the task does not tell
    scale: tuple[float, ...] | None = None  # what the task multiplies its own action by, one number an axis …
    offset: tuple[float, ...] | None = None  # … and adds to it; the sum is the joint's target. None where not told


class Simulator(Protocol):
    """N environments that reset themselves.

    Attributes:
        environments: N.
        observation: Keys of the observations: vectors are float32 `[O]`, images uint8 `[H, W, C]`.
        action: Width of the action.
        max_return: Largest possible return of an episode where the task has one that is known, for the summary.
        control: What actions are to the task; None where there is nothing to control outside of the simulator.
    """

    environments: int
    observation: Mapping[str, Space]
    action: int
    max_return: float | None
    control: Control | None

    def reset(self) -> Mapping[str, Tensor]:
        """Begin an episode in every environment; returns the observations, `[N, …]` of each key."""
        ...

    def step(self, action: Tensor) -> Step:
        """Apply actions `[N, A]` within [-1, 1]."""
        ...

    def render(self, environments: int) -> NDArray[np.uint8]:
        """Pictures of the first environments by a camera that nobody acts by, `[K, H, W, 3]`.

        Raises:
            Exception: There is no such camera, or nothing to draw with.
        """
        ...

    def pop_log(self) -> dict[str, list[float]]:
        """What the task has reported of itself since the last call, by name: a number for each report."""
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
