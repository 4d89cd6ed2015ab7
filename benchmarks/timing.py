"""How long parts of a loop take, on a GPU and on a CPU."""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch


def synchronize(device: torch.device) -> None:
    """Wait for all that was asked of a GPU; a CPU is always done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@dataclass(frozen=True)
class Rate:
    """Steps a second of the blocks that a measurement was cut into."""

    median: float
    slowest: float
    fastest: float
    steps: int


def measure_rate(
    step: Callable[[], object],
    device: torch.device,
    *,
    block: int,
    steps: int | None = None,
    seconds: float | None = None,
) -> Rate:
    """Call `step` for `steps` steps or `seconds` seconds, whichever ends first, timing blocks of `block` steps.

    The device is waited for at the ends of blocks alone, so that the host may run ahead inside of one.
    """
    if steps is None and seconds is None:
        raise ValueError("give steps, seconds or both")
    rates: list[float] = []
    begin = time.perf_counter()
    while (steps is None or len(rates) * block < steps) and (seconds is None or time.perf_counter() - begin < seconds):
        synchronize(device)
        started = time.perf_counter()
        for _ in range(block):
            step()
        synchronize(device)
        rates.append(block / (time.perf_counter() - started))
    return Rate(statistics.median(rates), min(rates), max(rates), len(rates) * block)


class Stopwatch:
    """Times of named parts: between CUDA events on a GPU, by the host's clock elsewhere.

    Events mark when the GPU arrives; a part in which it waits for the host counts that wait.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._parts: dict[str, list[tuple[torch.cuda.Event | float, torch.cuda.Event | float]]] = defaultdict(list)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        begin = self._now()
        yield
        self._parts[name].append((begin, self._now()))

    def clear(self) -> None:
        self._parts.clear()

    def medians(self) -> dict[str, float]:
        """Median milliseconds of every part, in the order of their first appearance."""
        synchronize(self._device)
        return {
            name: statistics.median(_milliseconds(begin, end) for begin, end in laps)
            for name, laps in self._parts.items()
        }

    def _now(self) -> torch.cuda.Event | float:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event


def _milliseconds(begin: torch.cuda.Event | float, end: torch.cuda.Event | float) -> float:
    if isinstance(begin, float) and isinstance(end, float):
        return (end - begin) * 1000.0
    return begin.elapsed_time(end)
