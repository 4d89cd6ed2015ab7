"""Runs of our trainer in this process, one or several at a time, until they are done or a budget is spent."""

from __future__ import annotations

import os
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from pathlib import Path

import torch

from benchmarks.learning.experiments import EXPERIMENTS, FIXED
from trainer.config import compose
from trainer.errors import Stopped
from trainer.pipelines.sync_loop import SyncPipeline
from trainer.role import RoleConfig, RoleContext
from trainer.run_dir import RunDir

WRITE_SECONDS = 5.0
TOGETHER = 8  # PyTorch's pool has 32 CUDA streams, of which each run takes four


class TimedContext(RoleContext):
    """A role's context that asks for a stop when the budget is spent."""

    def __init__(self, role: RoleConfig, deadline: float) -> None:
        super().__init__(role)
        self._deadline = deadline

    @property
    def should_stop(self) -> bool:
        return time.monotonic() >= self._deadline


class Run:
    """One seed of one experiment, in this process.

    Args:
        name: Of the experiment.
        seed: Of the run.
        folder: That run directories lie below.
        overrides: Of the trainer's config, on top of the experiment's.
        deadline: Of `time.monotonic()`, at which it is to save and end.
    """

    def __init__(self, name: str, seed: int, folder: Path, overrides: Sequence[str], deadline: float) -> None:
        self.name, self.seed = name, seed
        self.run_dir = RunDir((folder / name / f"seed-{seed}").absolute())
        self.run_dir.root.mkdir(parents=True, exist_ok=True)
        words = [*EXPERIMENTS[name].overrides, *FIXED, *overrides, f"seed={seed}", f"run_dir={self.run_dir.root}"]
        attempt = max(self.run_dir.attempts(), default=0) + 1
        files = {"outcome": str(self.run_dir.root / "outcome.json"), "reserve": str(self.run_dir.root / ".reserve")}
        role = RoleConfig("trainer", compose(words), str(self.run_dir.root), attempt, coordinator=os.getpid(), **files)
        self._context = TimedContext(role, deadline)
        self._pipeline: SyncPipeline | None = None
        self._stream: torch.cuda.Stream | None = None
        self.error: BaseException | None = None

    def build(self, *, own_stream: bool) -> None:
        """Start the simulator, and compile and capture the optimiser step."""
        if own_stream and torch.cuda.is_available():
            # Scratch memory of cuBLAS belongs to the stream of the capture: runs at the same time must not share it.
            torch.cuda.graph.default_capture_stream = torch.cuda.Stream()
            self._stream = torch.cuda.Stream()
        self._pipeline = SyncPipeline(self._context)

    def train(self) -> None:
        """Until it is done or the budget is spent; what goes wrong is kept in `error`."""
        assert self._pipeline is not None
        try:
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                self._pipeline.run()
        except Stopped:
            pass
        except BaseException as error:
            traceback.print_exc()
            self.error = error


def side_by_side(runs: Sequence[Run], meanwhile: Callable[[], None]) -> None:
    """Train all at once, in threads, and call something every few seconds.

    Raises:
        SystemExit: There are too many for streams of their own.
    """
    if len(runs) > TOGETHER:
        raise SystemExit(f"{len(runs)} runs at a time are too many: {TOGETHER} have CUDA streams of their own")
    if torch.cuda.is_available():
        torch._dynamo.config.recompile_limit = 64  # each task has shapes of its own
    for run in runs:
        run.build(own_stream=len(runs) > 1)
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    threads = [threading.Thread(target=run.train, name=f"{run.name} {run.seed}") for run in runs]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(WRITE_SECONDS)
        meanwhile()
