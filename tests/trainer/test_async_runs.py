"""Whole runs of the asynchronous pipeline under the coordinator, on the debug simulator."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.conftest import named_memory
from tests.waiting import PATIENCE, eventually, gone
from trainer.checkpoint import load_latest
from trainer.run_dir import FailureClass, Phase, RunDir

ROOT = Path(__file__).parents[2]


class Run:
    """`python -m trainer pipeline=async` in processes of its own, with temporary files of its own."""

    def __init__(self, folder: Path) -> None:
        self.run_dir = RunDir(folder / "run")
        self.stderr = ""
        self._process: subprocess.Popen[str] | None = None
        self._temporary = Path(tempfile.mkdtemp(prefix="t"))  # short: a socket will be in it

    def start(self, *overrides: str) -> None:
        paths = {"PYTHONPATH": str(ROOT), "TMPDIR": str(self._temporary), "LONGSHORE_RUN_DIR": str(self.run_dir.root)}
        self._process = subprocess.Popen(
            [sys.executable, "-m", "trainer", "experiment=debug", "pipeline=async", *overrides],
            env=os.environ | paths,
            stderr=subprocess.PIPE,
            text=True,
        )

    def train_until(self, step: int) -> None:
        """Wait until so many optimiser steps are done."""
        attempt = max(self.run_dir.attempts(), default=0)

        def reached() -> bool:
            assert self._process.poll() is None, self._process.communicate()
            status = self.run_dir.read_status()
            return status is not None and status.attempt >= attempt and status.optim_step >= step

        eventually(reached)

    def role(self, name: str) -> int:
        """Process id of a role of the coordinator."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        modules = {"simulator": b"trainer.pipelines.simulation", "learner": b"trainer.pipelines.learning"}
        (pid,) = (pid for pid in children if modules[name] in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0"))
        return int(pid)

    def signal(self, number: int) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        _, self.stderr = self._process.communicate(timeout=PATIENCE)
        return self._process.returncode

    def left(self) -> list[str]:
        """Temporary files."""
        return os.listdir(self._temporary)

    def close(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        self._temporary.rmdir()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    one = Run(tmp_path)
    yield one
    one.close()


ENDLESS = "optimization.total_optim_steps=1000000"


def test_a_run_that_is_stopped_saves_all_and_goes_on_to_success(run: Run):
    run.start(ENDLESS)
    run.train_until(8)
    assert not named_memory(run.role("simulator")) + named_memory(run.role("learner"))
    run.signal(signal.SIGTERM)
    assert run.wait() == 75
    assert run.run_dir.read_failure().failure_class is FailureClass.PREEMPTED
    checkpoint = load_latest(run.run_dir)
    assert checkpoint.parts["collector"]["simulator"] is not None
    before = checkpoint.parts["progress"]
    assert not run.left()

    total = (checkpoint.step // 4 + 5) * 4
    run.start(f"optimization.total_optim_steps={total}")
    assert run.wait() == 0
    assert run.run_dir.success.exists()
    assert [line["step"] for line in run.run_dir.read_metrics()] == list(range(4, total + 1, 4))
    assert "resuming from step" in run.stderr
    assert "simulator and learner share cpu" in run.stderr
    summary = run.run_dir.read_summary()
    assert summary["optim_steps"] == total
    assert summary["frames"] > before["frames"]
    assert summary["random_return"] == before["random_return"] > 0
    assert summary["trained_return"] > 0
    last = load_latest(run.run_dir)
    assert last.step == total
    assert (last.path / "replay.pt").exists(), "the evaluation waits for it: nothing is compressed"
    status = run.run_dir.read_status()
    assert (status.phase, status.optim_step, status.frames) == (Phase.DONE, total, summary["frames"])
    assert {"loss/total", "episode/return", "throughput/fps", "pipeline/policy_lag", "pipeline/replay_ratio"} <= set(
        list(run.run_dir.read_metrics())[-1]
    )
    assert not run.left()


@pytest.mark.parametrize("victim", ["simulator", "learner"])
def test_a_killed_role_ends_the_run_within_seconds(run: Run, victim: str):
    run.start(ENDLESS, "checkpoint.interval=1")
    run.train_until(20)
    eventually(lambda: (run.run_dir.checkpoints / "latest").exists())
    pids = {name: run.role(name) for name in ("simulator", "learner")}
    os.kill(pids[victim], signal.SIGKILL)
    killed = time.monotonic()
    assert run.wait() == 1
    assert time.monotonic() - killed < 30  # of the grace of 60
    assert all(gone(pid) for pid in pids.values())
    failure = run.run_dir.read_failure()
    assert failure.failure_class is FailureClass.CRASH
    assert failure.message == f"role {victim} was ended by signal 9 (SIGKILL)"
    checkpoint = load_latest(run.run_dir)
    if victim == "simulator":
        assert checkpoint.step == run.run_dir.read_status().optim_step
        assert checkpoint.parts["collector"] is None
    else:
        assert checkpoint.parts["collector"] is not None
    assert not run.left()


def test_torch_is_not_imported_before_the_simulator_may_start():
    """Isaac's AppLauncher must come first."""
    code = "import sys, trainer.pipelines.simulation; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
