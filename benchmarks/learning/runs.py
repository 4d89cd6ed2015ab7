"""Runs of our trainer, several in this process or one in its own, until they are done or a budget is spent."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import nullcontext, suppress
from pathlib import Path

import torch

from benchmarks.learning.experiments import EXPERIMENTS, FIXED
from benchmarks.pipeline import start, stop
from trainer.config import compose
from trainer.errors import Stopped
from trainer.pipelines.sync_loop import SyncPipeline
from trainer.role import RoleConfig, RoleContext
from trainer.run_dir import ExitCode, RunDir

WRITE_SECONDS = 5.0
TOGETHER = 8  # PyTorch's pool has 32 CUDA streams, of which each run takes four


class Run:
    """One seed of one experiment.

    Args:
        name: Of the experiment.
        seed: Of the run.
        folder: That run directories lie below.
        overrides: Of the trainer's config, on top of the experiment's.
        deadline: Of `time.monotonic()`, at which it is to save and end.
    """

    def __init__(self, name: str, seed: int, folder: Path, overrides: Sequence[str], deadline: float) -> None:
        self.name, self.seed, self.deadline = name, seed, deadline
        self.run_dir = RunDir((folder / name / f"seed-{seed}").absolute())
        self.run_dir.root.mkdir(parents=True, exist_ok=True)
        self.words = [*EXPERIMENTS[name].overrides, *FIXED, *overrides, f"seed={seed}", f"run_dir={self.run_dir.root}"]
        self.config = compose(self.words)
        self.failed = False

    @property
    def here(self) -> bool:
        """Whether it trains in this process; other pipelines start processes of their own."""
        return bool(self.config["pipeline"]["name"] == "sync")


class TimedContext(RoleContext):
    """A role's context that asks for a stop when the budget is spent."""

    def __init__(self, role: RoleConfig, deadline: float) -> None:
        super().__init__(role)
        self._deadline = deadline

    @property
    def should_stop(self) -> bool:
        return time.monotonic() >= self._deadline


class _Thread:
    """A run in a thread of this process."""

    def __init__(self, run: Run, *, own_stream: bool) -> None:
        """Start the simulator, and compile and capture the optimiser step."""
        self._run, self._stream = run, None
        if own_stream and torch.cuda.is_available():
            # Scratch memory of cuBLAS belongs to the stream of the capture: runs at the same time must not share it.
            torch.cuda.graph.default_capture_stream = torch.cuda.Stream()
            self._stream = torch.cuda.Stream()
        root, attempt = run.run_dir.root, max(run.run_dir.attempts(), default=0) + 1
        files = {"outcome": str(root / "outcome.json"), "reserve": str(root / ".reserve")}
        role = RoleConfig("trainer", run.config, str(root), attempt, coordinator=os.getpid(), **files)
        self._pipeline = SyncPipeline(TimedContext(role, run.deadline))
        self.thread = threading.Thread(target=self._train, name=f"{run.name} {run.seed}")

    def _train(self) -> None:
        try:
            with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
                self._pipeline.run()
        except Stopped:
            pass
        except BaseException:
            traceback.print_exc()
            self._run.failed = True


def side_by_side(runs: Sequence[Run], meanwhile: Callable[[], None]) -> None:
    """Train all at once, in threads, and call something every few seconds; what goes wrong is printed.

    Raises:
        SystemExit: There are too many for streams of their own.
    """
    if len(runs) > TOGETHER:
        raise SystemExit(f"{len(runs)} runs at a time are too many: {TOGETHER} have CUDA streams of their own")
    if torch.cuda.is_available():
        torch._dynamo.config.recompile_limit = 64  # each task has shapes of its own
    threads = [_Thread(run, own_stream=len(runs) > 1).thread for run in runs]
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        threads[0].join(WRITE_SECONDS)
        meanwhile()


def apart(run: Run, meanwhile: Callable[[], None]) -> None:
    """Train as `python -m trainer` does, with output.log for what it says; call something every few seconds."""
    log = run.run_dir.root / "output.log"
    with log.open("ab") as output:
        process = start(run.run_dir, run.words, output.fileno())
    try:
        while process.poll() is None and time.monotonic() < run.deadline:
            with suppress(subprocess.TimeoutExpired):
                process.wait(min(WRITE_SECONDS, max(0.0, run.deadline - time.monotonic())))
            meanwhile()
    finally:
        code = stop(process)
    if code not in (ExitCode.DONE, ExitCode.RESUMABLE, -signal.SIGTERM):  # the last: it had not got as far as to save
        print(f"{run.name} seed {run.seed}: exited with {code}, see {log}")
        run.failed = True
