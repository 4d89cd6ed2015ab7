"""Metrics: a line of metrics.jsonl a log interval, and the same figures to TensorBoard, W&B and whoever watches.

metrics.jsonl is the record; a resumed run cuts it back to its checkpoint and goes on. TensorBoard and W&B are copies:
what is wrong with them is said once and never ends the training.
"""

from __future__ import annotations

import json
import logging
import math
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.progress import Progress, Reading
from trainer.run_dir import RunDir
from trainer.wandb_run import WandB

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

log = logging.getLogger(__name__)

FPS, STEPS_PER_S, EPISODE_RETURN = "throughput/fps", "throughput/steps_per_s", "episode/return"  # shown as progress


class MetricsLogger:
    """Writes the figures of one attempt.

    Args:
        run_dir: Of the run.
        config: The trainer's resolved config; of it `logger` and `optimization.total_optim_steps`.
        attempt: Number of this start of the run.
        clock: Unix time in seconds.
    """

    def __init__(
        self, run_dir: RunDir, config: Mapping[str, Any], attempt: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._total = int(config["optimization"]["total_optim_steps"])
        self._path = run_dir.metrics
        self._started = clock()
        self._last_return: float | None = None
        self._progress = Progress()
        settings = config["logger"]
        self._tensorboard = TensorBoard(run_dir.root / "tensorboard") if settings["tensorboard"] else None
        self._wandb = WandB(run_dir, config, {"attempt": attempt}) if settings["wandb"]["mode"] != "disabled" else None
        if self._wandb is not None:
            self._wandb.follow_checkpoints()
        self.truncate(None)

    def truncate(self, step: int | None) -> None:
        """Cut metrics.jsonl back to the lines of at most `step`, as a run does that goes on from a checkpoint.

        None cuts off only a last line that a crash has left unfinished. `elapsed` goes on from the last line kept.
        """
        kept, elapsed = 0, 0.0  # bytes, seconds
        for line in self._lines():
            record = _parsed(line)
            if record is None or (step is not None and record["step"] > step):
                os.truncate(self._path, kept)  # in place: steps only rise, and a full disk has no room for a copy
                break
            kept += len(line)
            elapsed = float(record.get("elapsed") or 0.0)
        self._started = self._clock() - elapsed
        if step is not None and self._tensorboard is not None:
            self._tensorboard.purge_after(step)

    def log(self, step: int, frames: int, values: Mapping[str, float]) -> None:
        """Append one line and pass the figures on.

        Args:
            step: Optimiser steps done.
            frames: Environment frames collected.
            values: Name -> number; one that is not finite becomes null in metrics.jsonl, JSON has no NaN.

        Raises:
            OSError: The disk is full.
        """
        now = self._clock()
        figures = {name: float(value) for name, value in values.items()}
        record = {"step": int(step), "frames": int(frames), "time": now, "elapsed": now - self._started}
        line = json.dumps(record | {name: _finite(value) for name, value in figures.items()}, allow_nan=False)
        with self._path.open("a", encoding="utf-8") as file:  # closed, so flushed: a crash loses no line
            file.write(line + "\n")
        if self._tensorboard is not None:
            self._tensorboard.log(step, {"frames": float(frames), **figures})
        if self._wandb is not None:
            self._wandb.log(step, {"frames": float(frames), **figures})
        self._last_return = figures.get(EPISODE_RETURN, self._last_return)
        rates = figures.get(FPS, 0.0), figures.get(STEPS_PER_S, 0.0)
        self._progress.show(Reading(step, self._total, frames, *rates, self._last_return, now - self._started))

    def close(self) -> bool:
        """Flush and end all writers; takes seconds at most, whatever the network does.

        Returns:
            Whether all have ended; else the process has to end at once, without waiting for what is left of them.
        """
        self._progress.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        return self._wandb is None or self._wandb.close()

    def _lines(self) -> list[bytes]:
        return self._path.read_bytes().splitlines(keepends=True) if self._path.exists() else []


class TensorBoard:
    """Event files, opened at the first figure because only then is it known which steps they replace."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._purge_step: int | None = None
        self._writer: SummaryWriter | None = None
        self._broken = False

    def purge_after(self, step: int) -> None:
        """Have TensorBoard leave out what earlier attempts wrote after `step`."""
        self._purge_step = step + 1

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if self._broken:
            return
        try:
            if self._writer is None:
                from torch.utils.tensorboard import SummaryWriter

                self._writer = SummaryWriter(str(self._folder), purge_step=self._purge_step)
            for name, value in values.items():
                self._writer.add_scalar(name, value, step)
            self._writer.flush()
        except Exception as error:
            self._broken = True
            log.warning("TensorBoard is left out from here on: %s: %s", type(error).__name__, error)

    def close(self) -> None:
        if self._writer is not None:
            with suppress(Exception):
                self._writer.close()


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _parsed(line: bytes) -> dict[str, Any] | None:
    """The record in a line, or None for one that a crash has cut short."""
    if not line.endswith(b"\n"):
        return None
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
