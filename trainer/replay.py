"""The replay: a ring of rows `[capacity, environments, …]` that fixed-shape sequences are sampled from.

A row is one step of all environments: the action taken, the reward, whether the step ended an episode (`is_last`) or
terminated it (`is_terminal`), and the observation *after* any reset; `is_first` where an episode begins with the row.
Simulators that reset themselves never show an episode's last observation, and nothing is put in its place.

Sequences may cross the end of an episode; they never cross the write head.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from trainer.simulators.base import Space
from trainer.world_model.latents import Latent
from trainer.world_model.rssm import State


class Rows(NamedTuple):
    """Consecutive rows, `[T, N, …]` each."""

    observation: Mapping[str, Tensor]  # [T, N, …] of each key
    action: Tensor  # float32 [T, N, A], within [-1, 1]
    reward: Tensor  # float32 [T, N]
    is_first: Tensor  # bool [T, N]
    is_last: Tensor  # bool [T, N]
    is_terminal: Tensor  # bool [T, N]

    def window(self, start: int) -> Rows:
        """Rows `start` and later."""
        return self.map(lambda field: field[start:])

    def map(self, function: Callable[[Tensor], Tensor]) -> Rows:
        """Rows of what the function makes of each tensor."""
        observation = {key: function(value) for key, value in self.observation.items()}
        return Rows(observation, *(function(field) for field in self[1:]))

    def tensors(self) -> list[Tensor]:
        """All tensors, the observation's by key."""
        return [*(self.observation[key] for key in sorted(self.observation)), *self[1:]]


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

    Sampling asks the device nothing, so that it can be part of a CUDA graph.

    Args:
        frames: Capacity over all environments.
        environments: Number of environments.
        groups: How many simulators they belong to, as many to each and in this order; each group is written on its own.
        observation: Keys of the observations; they are kept in their own types.
        action: Width of the action.
        latent: Kind of latents.
        deter: Width of the recurrent state.
        device: Where the ring lies.

    Raises:
        ValueError: There is no room for a single row.
        torch.OutOfMemoryError: The device has less free memory; it says how many frames would fit.
    """

    def __init__(
        self,
        *,
        frames: int,
        environments: int,
        groups: int = 1,
        observation: Mapping[str, Space],
        action: int,
        latent: Latent,
        deter: int,
        device: torch.device,
    ) -> None:
        capacity = frames // environments
        if capacity < 1:
            raise ValueError(
                f"replay_buffer.buffer_size of {frames} frames holds no row of {environments} environments"
            )
        self.capacity, self.environments, self.device = capacity, environments, device
        self.written = [0] * groups  # rows ever written
        self._latent = latent
        self._written = torch.zeros(environments, dtype=torch.int64, device=device)  # the same, for the device

        def ring(shape: tuple[int, ...] = (), dtype: torch.dtype = torch.float32) -> Tensor:
            return torch.empty(capacity, environments, *shape, dtype=dtype, device="meta")

        observations = {key: ring(space.shape, space.dtype) for key, space in observation.items()}
        flags = (ring(dtype=torch.bool) for _ in range(3))
        self._rows = Rows(observations, ring((action,)), ring(), *flags)
        width, dtype = latent.stored
        self._deter, self._stoch = ring((deter,)), ring((width,), dtype)  # the latter as `latent.pack` gives it
        self._check_room()
        self._rows = self._rows.map(self._allocate)
        self._deter, self._stoch = self._allocate(self._deter), self._allocate(self._stoch)

    def __len__(self) -> int:
        """Rows held of every environment."""
        return min(min(self.written), self.capacity)

    @property
    def frames(self) -> int:
        """Frames held, over all environments."""
        width = self.environments // len(self.written)
        return sum(min(written, self.capacity) for written in self.written) * width

    @property
    def nbytes(self) -> int:
        """Size of the ring in bytes."""
        return sum(ring.nbytes for ring in self._rings())

    @property
    def image_bytes(self) -> int:
        """The part of it that holds images, `[H, W, C]` of each frame."""
        return sum(ring.nbytes for ring in self._rows.observation.values() if ring.dim() == 5)

    def extend(self, rows: Rows, states: State, group: int = 0) -> None:
        """Write rows `[T, N, …]` of a group and the latents in which the policy left them, over its oldest ones.

        Raises:
            ValueError: `T` is more than the ring holds.
        """
        length = rows.reward.shape[0]
        if length > self.capacity:
            raise ValueError(
                f"{length} rows do not fit a replay of {self.capacity}: raise replay_buffer.buffer_size "
                "or lower collector.frames_per_batch"
            )
        first, columns = self.written[group] % self.capacity, self._columns(group)
        before_the_end = min(length, self.capacity - first)
        values = (*rows.tensors(), states.deter, self._latent.pack(states.stoch))
        for ring, value in zip(self._rings(), values, strict=True):
            ring[first : first + before_the_end, columns].copy_(value[:before_the_end], non_blocking=True)
            ring[: length - before_the_end, columns].copy_(value[before_the_end:], non_blocking=True)
        self._count(group, self.written[group] + length)

    def sample(self, sequences: int, length: int, generator: torch.Generator) -> Sequences:
        """`sequences` runs of `length + 1` consecutive rows, uniform over environments and starts.

        What comes back means nothing before `length + 1` rows were written.
        """

        def uniform() -> Tensor:
            share = torch.rand(sequences, dtype=torch.float64, generator=generator, device=generator.device)
            return share.to(self.device)

        share, environment = uniform(), (uniform() * self.environments).long()
        written = self._written[environment]
        held = written.clamp_max(self.capacity)
        time = written - held + (share * (held - length).clamp_min(1)).long()
        slots = (time + torch.arange(length + 1, device=self.device).unsqueeze(-1)) % self.capacity  # [T + 1, B]
        rows = self._rows.map(lambda ring: ring[slots, environment])
        first = slots[0]
        stoch = self._latent.unpack(self._stoch[first, environment])
        return Sequences(rows, State(self._deter[first, environment], stoch), time, environment)

    def refresh(self, sequences: Sequences, states: State) -> None:
        """Write back the latents `[T, B, …]` of all rows but the context, where those rows are still there."""
        length = states.deter.shape[0]
        times = sequences.time + torch.arange(1, length + 1, device=self.device).unsqueeze(-1)
        environment = sequences.environment.expand_as(times)
        slots = times % self.capacity
        present = (times >= self._written[environment] - self.capacity).unsqueeze(-1)
        for ring, values in ((self._deter, states.deter), (self._stoch, self._latent.pack(states.stoch))):
            kept = ring[slots, environment]
            ring[slots, environment] = torch.where(present, values.to(self.device, ring.dtype), kept)

    def state_dict(self) -> dict[str, Any]:
        """The rows held, as views of the ring, and the counts ever written: whoever keeps them copies them."""
        return {"written": list(self.written), "rings": [ring[: self._held()] for ring in self._rings()]}

    def load_state_dict(self, saved: dict[str, Any]) -> None:
        """Take up where `state_dict` left off.

        Raises:
            ValueError: It was saved with another capacity or other shapes.
        """
        counts = saved["written"]
        for group, written in enumerate(counts[: len(self.written)]):
            self._count(group, written)
        for ring, rows in zip(self._rings(), saved["rings"], strict=True):
            if len(counts) != len(self.written) or rows.shape[1:] != ring.shape[1:] or len(rows) != self._held():
                raise ValueError(
                    f"the checkpoint's replay has rows of {tuple(rows.shape)}, this run's {tuple(ring.shape)}: "
                    "resume with the same env.num_envs, pipeline.actors and replay_buffer.buffer_size, or with "
                    "checkpoint.replay=false"
                )
            ring[: len(rows)] = rows.to(ring.device)

    def _check_room(self) -> None:
        free, needed = free_memory(self.device), self.nbytes
        if needed > free:
            frame = needed // (self.capacity * self.environments)
            raise torch.OutOfMemoryError(
                f"replay_buffer.buffer_size: out of memory, {self.capacity * self.environments:,} frames of {frame:,} "
                f"bytes are {needed / 1e9:.1f} GB, and {self.device} has {free / 1e9:.1f} GB free: at most "
                f"{int(0.9 * free / frame):,} frames would fit"
                + (", or more with replay_buffer.gpu_storage=false" if self.device.type == "cuda" else "")
            )

    def _allocate(self, shaped: Tensor) -> Tensor:
        # Pinned: what is in main memory while a GPU learns is copied to it all the time.
        pinned = self.device.type == "cpu" and torch.cuda.is_available()
        return torch.zeros(shaped.shape, dtype=shaped.dtype, device=self.device, pin_memory=pinned)

    def _columns(self, group: int) -> slice:
        """Its environments."""
        width = self.environments // len(self.written)
        return slice(group * width, (group + 1) * width)

    def _held(self) -> int:
        """Rows of the ring that anything was written to."""
        return min(max(self.written), self.capacity)

    def _count(self, group: int, written: int) -> None:
        self.written[group] = written
        self._written[self._columns(group)].fill_(written)

    def _rings(self) -> tuple[Tensor, ...]:
        return (*self._rows.tensors(), self._deter, self._stoch)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated there."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    meminfo = dict(line.split(":", 1) for line in Path("/proc/meminfo").read_text().splitlines())
    return int(meminfo["MemAvailable"].split()[0]) * 1024
