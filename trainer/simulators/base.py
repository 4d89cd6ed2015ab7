"""What the trainer asks of a simulator."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from torch import Tensor


class Step(NamedTuple):
    """What one step of all environments gave."""

    observation: Tensor  # after any reset, float32 [N, O]
    reward: Tensor  # float32 [N]
    is_last: Tensor  # an episode ended with this step, bool [N]
    is_terminal: Tensor  # … by termination, not by a time limit, bool [N]


class Simulator(Protocol):
    """N environments that reset themselves.

    Attributes:
        environments: N.
        observation: Width of the observation.
        action: Width of the action.
        max_return: Largest possible return of an episode where the task has one that is known, for the summary.
    """

    environments: int
    observation: int
    action: int
    max_return: float | None

    def reset(self) -> Tensor:
        """Begin an episode in every environment; returns the observations `[N, O]`."""
        ...

    def step(self, action: Tensor) -> Step:
        """Apply actions `[N, A]` within [-1, 1]."""
        ...

    def state_dict(self) -> dict[str, Any] | None:
        """All of the simulator's state, or None where it cannot be saved: a resumed run starts new episodes then."""
        ...

    def load_state_dict(self, saved: dict[str, Any]) -> Tensor:
        """Go on from `state_dict`; returns the observations `[N, O]` of that moment."""
        ...

    def close(self) -> None:
        """Release what the simulator holds."""
        ...
