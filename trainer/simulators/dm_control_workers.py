"""The processes that step dm_control's environments, and the memory that they share with the trainer.

Imports no torch: each process is a fresh interpreter, which would wait seconds for it.
"""

from __future__ import annotations

import ctypes
import math
import multiprocessing
import signal
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from multiprocessing.connection import Connection
from typing import Any

import numpy as np

from trainer.simulators.dm_control_suite import load

PIXELS = "observation.pixels"
CAMERAS: Mapping[str, int] = {"quadruped": 2}  # the one that shows the whole body; all other domains' is the first
JOIN_SECONDS = 5.0


@dataclass(frozen=True)
class Field:
    """One array of the shared block: its shape in one environment, and its type."""

    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class WorkerTask:
    """What one process steps.

    Attributes:
        domain: Of the control suite.
        task: Of the domain.
        seeds: Of each environment.
        first: Row of its first environment in the shared arrays.
        repeat: Environment steps for which an action is held.
        size: Height and width of the pictures; None for none.
    """

    domain: str
    task: str
    seeds: tuple[int, ...]
    first: int
    repeat: int
    size: tuple[int, int] | None


def worker_plan(
    domain: str, task: str, seed: int, environments: int, workers: int, repeat: int, size: tuple[int, int] | None
) -> list[WorkerTask]:
    """Environments dealt out to processes as evenly as possible; an environment's seed does not depend on how many."""
    seeds = [int(number) for number in np.random.SeedSequence(seed).generate_state(environments)]
    starts = [environments * index // workers for index in range(workers + 1)]
    return [WorkerTask(domain, task, tuple(seeds[start:end]), start, repeat, size) for start, end in pairwise(starts)]


class Workers:
    """Processes that obey, one command at a time.

    Args:
        tasks: One a process.
        fields: Of the shared block.

    Attributes:
        arrays: The shared block's arrays, `[N, …]` each.
    """

    def __init__(self, tasks: Sequence[WorkerTask], fields: Mapping[str, Field]) -> None:
        context = multiprocessing.get_context("spawn")  # a fork would inherit CUDA and threads
        environments = sum(len(task.seeds) for task in tasks)
        # Without a name: nothing is left in /dev/shm by a process that was killed.
        block = context.RawArray(ctypes.c_uint8, _arrays(None, fields, environments)[1])
        self.arrays, _ = _arrays(block, fields, environments)
        self._processes, self._connections = [], list[Connection]()
        for task in tasks:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(task, theirs, block, fields, environments), daemon=True)
            process.start()
            theirs.close()
            self._processes.append(process)
            self._connections.append(ours)
        try:
            self._gather()
        except BaseException:
            self.close()
            raise

    def run(self, command: str) -> None:
        """Have all processes `reset` or `step`, and wait for them.

        Raises:
            RuntimeError: One of them failed or is gone.
        """
        for index, connection in enumerate(self._connections):
            try:
                connection.send_bytes(command.encode())
            except OSError:
                raise self._lost(index) from None
        self._gather()

    def close(self) -> None:
        """End the processes."""
        for connection in self._connections:
            connection.close()  # they end when nobody is there
        for process in self._processes:
            process.join(JOIN_SECONDS)
            if process.is_alive():
                process.kill()
                process.join()

    def _gather(self) -> None:
        for index, connection in enumerate(self._connections):
            try:
                answer = connection.recv_bytes()
            except (EOFError, OSError):
                raise self._lost(index) from None
            if answer:
                raise RuntimeError(f"dm_control process {index} failed:\n{answer.decode()}")

    def _lost(self, index: int) -> RuntimeError:
        process = self._processes[index]
        process.join(JOIN_SECONDS)
        return RuntimeError(f"dm_control process {index} is gone, with exit status {process.exitcode}")


def _work(task: WorkerTask, connection: Connection, block: Any, fields: Mapping[str, Field], environments: int) -> None:
    """What a process does: its environments' part of each command, until the trainer hangs up."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # of a terminal: the trainer saves first
    try:
        arrays, _ = _arrays(block, fields, environments)
        members = [
            _Environment(task, seed, {name: array[task.first + index] for name, array in _views(arrays).items()})
            for index, seed in enumerate(task.seeds)
        ]
        connection.send_bytes(b"")
        while True:
            command = connection.recv_bytes().decode()
            for member in members:
                getattr(member, command)()
            connection.send_bytes(b"")
    except (EOFError, ConnectionError):
        pass
    except Exception:
        connection.send_bytes(traceback.format_exc().encode())


class _Environment:
    """One environment and its row of the shared arrays."""

    def __init__(self, task: WorkerTask, seed: int, row: Mapping[str, np.ndarray]) -> None:
        self._env = load(task.domain, task.task, seed)
        self._row, self._task = row, task
        bounds = self._env.action_spec()
        self._low, self._range = bounds.minimum, bounds.maximum - bounds.minimum
        self._camera = CAMERAS.get(task.domain, 0)

    def reset(self) -> None:
        self._show(self._env.reset().observation)

    def step(self) -> None:
        row = self._row
        action = self._low + (row["action"] + 1) / 2 * self._range
        reward = 0.0
        for _ in range(self._task.repeat):
            moment = self._env.step(action)
            reward += moment.reward
            if moment.last():
                break
        row["reward"][:] = reward
        row["is_last"][:] = moment.last()
        row["is_terminal"][:] = moment.last() and moment.discount == 0
        self._show((self._env.reset() if moment.last() else moment).observation)

    def _show(self, observation: Mapping[str, Any]) -> None:
        for name, target in self._row.items():
            if name == PIXELS:
                height, width = self._task.size or (0, 0)
                target[:] = self._env.physics.render(height, width, camera_id=self._camera)
            elif name.startswith("observation."):
                target[:] = observation[name.removeprefix("observation.")]


def _arrays(block: Any, fields: Mapping[str, Field], environments: int) -> tuple[dict[str, np.ndarray], int]:
    """Arrays `[N, …]` in a block, each on a cache line of its own, and the bytes that they take."""
    arrays, offset = {}, 0
    for name, field in fields.items():
        dtype, shape = np.dtype(field.dtype), (environments, *field.shape)
        count = math.prod(shape)
        if block is not None:
            arrays[name] = np.frombuffer(block, dtype, count, offset).reshape(shape)
        offset += -(-count * dtype.itemsize // 64) * 64
    return arrays, offset


def _views(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same arrays, of which a row can be written to where it is one number."""
    return {name: array.reshape(len(array), -1) if array.ndim == 1 else array for name, array in arrays.items()}
