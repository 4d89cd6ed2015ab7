"""The replay: a ring of rows `[capacity, environments, …]` that fixed-shape sequences are sampled from.

A row is one step of all environments: the action taken, the reward, whether the step ended an episode (`is_last`) or
terminated it (`is_terminal`), and the observation *after* any reset; `is_first` where an episode begins with the row.
Simulators that reset themselves never show an episode's last observation, and nothing is put in its place.

Sequences may cross the end of an episode; they never cross the write head.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.world_model.rssm import State


class Rows(NamedTuple):
    """Consecutive rows, `[T, N, …]` each."""

    observation: Tensor  # float32 [T, N, O]
    action: Tensor  # float32 [T, N, A], within [-1, 1]
    reward: Tensor  # float32 [T, N]
    is_first: Tensor  # bool [T, N]
    is_last: Tensor  # bool [T, N]
    is_terminal: Tensor  # bool [T, N]

    def window(self, start: int) -> Rows:
        """Rows `start` and later."""
        return Rows(*(field[start:] for field in self))


class Sequences(NamedTuple):
    """A sampled batch.

    Attributes:
        rows: `[T + 1, B, …]`; the first row is context.
        context: Latent state of the first row as last written, `[B, …]`.
        time: Number of each sequence's first row, counted from the first row ever written, `[B]`.
        environment: Where each sequence comes from, `[B]`.
    """

    rows: Rows
    context: State
    time: Tensor
    environment: Tensor


class Replay:
    """A ring of rows with the latent state that each was last seen in.

    Latents go stale as the world model learns; the learner writes back what it computed, and a sequence starts from the
    latent of the row before it instead of from nothing (DreamerV3's replay context of one step).

    Args:
        frames: Capacity over all environments.
        environments: Number of environments.
        observation: Width of the observation.
        action: Width of the action.
        state: A latent state, `[1, …]`, for its shapes.
        device: Where the ring lies.

    Raises:
        ValueError: There is no room for a single row.
    """

    def __init__(
        self, *, frames: int, environments: int, observation: int, action: int, state: State, device: torch.device
    ) -> None:
        capacity = frames // environments
        if capacity < 1:
            raise ValueError(
                f"replay_buffer.buffer_size of {frames} frames holds no row of {environments} environments"
            )
        self.capacity, self.environments, self.device = capacity, environments, device
        self.written = 0  # rows ever written

        def ring(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.zeros(capacity, environments, *shape, dtype=dtype, device=device)

        flags = (ring(dtype=torch.bool) for _ in range(3))
        self._rows = Rows(ring(observation), ring(action), ring(), *flags)
        self._deter = ring(*state.deter.shape[1:])
        self._stoch = ring(state.stoch.shape[-2], dtype=torch.uint8)  # class of each latent
        self._classes = state.stoch.shape[-1]

    def __len__(self) -> int:
        """Rows held."""
        return min(self.written, self.capacity)

    @property
    def frames(self) -> int:
        """Frames held, over all environments."""
        return len(self) * self.environments

    @property
    def nbytes(self) -> int:
        """Size of the ring in bytes."""
        return sum(ring.nbytes for ring in self._rings())

    def extend(self, rows: Rows, states: State) -> None:
        """Write rows `[T, N, …]` and the latents in which the policy left them, over the oldest ones.

        Raises:
            ValueError: `T` is more than the ring holds.
        """
        length = rows.reward.shape[0]
        if length > self.capacity:
            raise ValueError(
                f"{length} rows do not fit a replay of {self.capacity}: raise replay_buffer.buffer_size "
                "or lower collector.frames_per_batch"
            )
        slots = (torch.arange(length, device=self.device) + self.written) % self.capacity
        values = (*rows, states.deter, states.stoch.argmax(-1))
        for ring, value in zip(self._rings(), values, strict=True):
            ring[slots] = value.to(self.device, ring.dtype)
        self.written += length

    def sample(self, sequences: int, length: int, generator: torch.Generator) -> Sequences:
        """`sequences` runs of `length + 1` consecutive rows, uniform over environments and starts.

        Raises:
            ValueError: Fewer rows were written than one sequence needs.
        """
        starts = len(self) - length
        if starts < 1:
            raise ValueError(f"a sequence of {length} rows and one of context needs more than the {len(self)} written")
        oldest = self.written - len(self)

        def uniform(high: int) -> Tensor:
            return torch.randint(high, (sequences,), generator=generator, device=generator.device).to(self.device)

        time, environment = oldest + uniform(starts), uniform(self.environments)
        slots = (time + torch.arange(length + 1, device=self.device).unsqueeze(-1)) % self.capacity  # [T + 1, B]
        rows = Rows(*(ring[slots, environment] for ring in self._rows))
        first = slots[0]
        stoch = torch.nn.functional.one_hot(self._stoch[first, environment].long(), self._classes).float()
        return Sequences(rows, State(self._deter[first, environment], stoch), time, environment)

    def refresh(self, sequences: Sequences, states: State) -> None:
        """Write back the latents `[T, B, …]` of all rows but the context, where those rows are still there."""
        length = states.deter.shape[0]
        times = sequences.time + torch.arange(1, length + 1, device=self.device).unsqueeze(-1)
        present = times >= self.written - len(self)
        slots, environment = (times % self.capacity)[present], sequences.environment.expand_as(times)[present]
        self._deter[slots, environment] = states.deter.to(self.device)[present]
        self._stoch[slots, environment] = states.stoch.argmax(-1).to(self.device, torch.uint8)[present]

    def state_dict(self) -> dict[str, Any]:
        """The rows held, and the count ever written."""
        return {"written": self.written, "rings": [ring[: len(self)].cpu() for ring in self._rings()]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take up where `state_dict` left off.

        Raises:
            ValueError: It was saved with another capacity or other shapes.
        """
        self.written = saved["written"]
        for ring, rows in zip(self._rings(), saved["rings"], strict=True):
            if rows.shape[1:] != ring.shape[1:] or len(rows) != len(self):
                raise ValueError(
                    f"the checkpoint's replay has rows of {tuple(rows.shape)}, this run's {tuple(ring.shape)}: "
                    "resume with the same env.num_envs and replay_buffer.buffer_size, or with checkpoint.replay=false"
                )
            ring[: len(rows)] = rows.to(ring.device)

    def _rings(self) -> tuple[Tensor, ...]:
        return (*self._rows, self._deter, self._stoch)
