"""Progress for people: a bar where stderr is a terminal, one line a log interval elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress
    from rich.progress import TaskID


@dataclass(frozen=True)
class Reading:
    """Where the training stands."""

    step: int
    total: int
    frames: int
    fps: float
    steps_per_s: float
    episode_return: float | None
    elapsed: float  # seconds


def line(reading: Reading) -> str:
    """`step 200/1000 · 12,800 frames · 950 fps · 12.3 steps/s · return 31.2 · ETA 0:01:05 after 0:00:16`."""
    done = f"step {reading.step}/{reading.total} · {reading.frames:,} frames"
    return f"{done} · {_figures(reading)} after {_hours(reading.elapsed)}"


def _figures(reading: Reading) -> str:
    parts = [f"{reading.fps:,.0f} fps", f"{reading.steps_per_s:.3g} steps/s"]
    if reading.episode_return is not None:
        parts.append(f"return {reading.episode_return:.4g}")
    return " · ".join([*parts, f"ETA {_eta(reading)}"])


def _eta(reading: Reading) -> str:
    left = max(0, reading.total - reading.step)
    if left and reading.steps_per_s <= 0:
        return "unknown"
    return _hours(left / reading.steps_per_s if left else 0)


def _hours(duration: float) -> str:
    seconds = round(duration)
    return f"{seconds // 3600}:{seconds // 60 % 60:02d}:{seconds % 60:02d}"


class Progress:
    """Shows readings on a stream. A terminal that goes away ends the display, never the training."""

    def __init__(self, stream: TextIO | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._stream = stream or sys.stderr
        self._clock = clock
        self._bar: tuple[RichProgress, TaskID] | None = None
        self._terminal = self._stream.isatty()

    def show(self, reading: Reading) -> None:
        with suppress(OSError, ValueError):
            bar = self._start_bar(reading) if self._terminal else None
            if bar is None:
                self._stream.write(line(reading) + "\n")
                self._stream.flush()
            else:
                display, task = bar
                words = f"{_figures(reading)}, {_hours(reading.elapsed)}"
                display.update(task, completed=reading.step, total=reading.total, words=words)

    def close(self) -> None:
        if self._bar is not None:
            with suppress(OSError, ValueError):
                self._bar[0].stop()
            self._bar = None

    def _start_bar(self, reading: Reading) -> tuple[RichProgress, TaskID] | None:
        if self._bar is None:
            try:
                from rich.console import Console
                from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
                from rich.progress import Progress as RichProgress
            except ImportError:  # Isaac's image has none
                return None
            # As much as fits into 80 characters.
            columns = (BarColumn(bar_width=5), MofNCompleteColumn(), TextColumn("{task.fields[words]}"))
            display = RichProgress(
                *columns, console=Console(file=self._stream), auto_refresh=True, refresh_per_second=2
            )
            task = display.add_task("training", total=reading.total, words="")
            display.start()
            self._bar = (display, task)
        return self._bar
