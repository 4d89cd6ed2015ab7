"""What a role's main function works with. How roles end is tested with the coordinator, in processes of their own."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.trainer.conftest import fill
from trainer.errors import ConfigError, describe, failure_class
from trainer.outcome import Outcome, OutcomeKind, make_reserve
from trainer.role import STOP_SIGNALS, RoleConfig, RoleContext
from trainer.run_dir import FailureClass, Phase, RunDir

ROOT = Path(__file__).parents[2]


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


def role_config(run_dir: RunDir, **changes: object) -> RoleConfig:
    values: dict[str, object] = {
        "role": "trainer",
        "config": {"optimization": {"total_optim_steps": 50}},
        "run_dir": str(run_dir.root),
        "attempt": 3,
        "outcome": str(run_dir.attempt(3) / "outcome-trainer.json"),
        "reserve": str(run_dir.attempt(3) / ".reserve-trainer"),
        "coordinator": os.getpid(),
    }
    return RoleConfig(**(values | changes))


@pytest.fixture
def context(run_dir, clock) -> RoleContext:
    return RoleContext(role_config(run_dir), clock)


@pytest.fixture
def _handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in STOP_SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_beat_says_where_the_training_stands(context, clock):
    context.beat(Phase.TRAINING, optim_step=5, frames=640, fps=10.0, steps_per_s=2.0, episode_return=1.5)
    status = context.run_dir.read_status()
    assert (status.optim_step, status.total_optim_steps, status.frames, status.attempt) == (5, 50, 640, 3)
    assert (status.fps, status.steps_per_s, status.episode_return) == (10.0, 2.0, 1.5)
    assert status.heartbeat == clock.now


def test_beats_within_a_second_are_written_once_and_nothing_is_forgotten(context, clock):
    context.beat(Phase.TRAINING, optim_step=1)
    clock.now += 0.5
    context.beat(Phase.TRAINING, optim_step=2, frames=7)
    assert context.run_dir.read_status().optim_step == 1
    clock.now += 0.5
    context.beat(Phase.TRAINING, optim_step=3)
    status = context.run_dir.read_status()
    assert (status.optim_step, status.frames) == (3, 7)


def test_a_new_phase_is_written_at_once(context):
    context.beat(Phase.PREFILL)
    context.beat(Phase.TRAINING)
    assert context.run_dir.read_status().phase is Phase.TRAINING


def test_a_clock_that_is_set_back_does_not_silence_the_heartbeat(context, clock):
    context.beat(Phase.TRAINING, optim_step=1)
    clock.now -= 3600
    context.beat(Phase.TRAINING, optim_step=2)
    assert context.run_dir.read_status().optim_step == 2


def test_a_full_disk_ends_the_role_rather_than_its_heartbeat_in_silence(small_disk, clock):
    context = RoleContext(role_config(RunDir(small_disk)), clock)
    context.beat(Phase.TRAINING)
    fill(small_disk)
    clock.now += 2
    with pytest.raises(OSError, match="No space left"):
        context.beat(Phase.TRAINING)


@pytest.mark.usefixtures("_handlers")
@pytest.mark.parametrize("number", STOP_SIGNALS)
def test_signals_only_set_a_flag(context, number):
    context.reinstall_signals()
    assert not context.should_stop
    signal.raise_signal(number)
    assert context.should_stop


@pytest.mark.usefixtures("_handlers")
def test_handlers_that_a_library_has_replaced_can_be_put_back(context):
    context.reinstall_signals()
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    context.reinstall_signals()
    signal.raise_signal(signal.SIGTERM)
    assert context.should_stop


@pytest.mark.parametrize(
    ("body", "status", "kind", "failed_as"),
    [
        ("pass", 0, OutcomeKind.DONE, None),
        ("raise Stopped", 75, OutcomeKind.STOPPED, None),
        ("raise ConfigError('env.name: no such task')", 2, OutcomeKind.FAILED, FailureClass.SPEC),
        ("raise NotFinite('loss/total is nan')", 1, OutcomeKind.FAILED, FailureClass.NAN),
        ("sys.exit('closed')", 1, OutcomeKind.FAILED, FailureClass.CRASH),
    ],
)
def test_the_exit_status_and_the_last_word_agree(run_dir, body, status, kind, failed_as):
    file = run_dir.root / "role.json"
    file.parent.mkdir()
    file.write_text(json.dumps(vars(role_config(run_dir))))
    code = (
        "import sys\nfrom trainer.errors import *\nfrom trainer.role import run_role\n"
        f"def main(context):\n    {body}\nrun_role(main)"
    )
    environment = os.environ | {"LONGSHORE_ROLE_CONFIG": str(file)}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False)
    outcome = Outcome.read(run_dir.attempt(3) / "outcome-trainer.json")
    assert done.returncode == status
    assert (outcome.kind, outcome.failure_class) == (kind, failed_as)


def test_a_role_whose_coordinator_is_gone_already_does_not_start(run_dir):
    file = run_dir.root / "role.json"
    file.parent.mkdir()
    file.write_text(json.dumps(vars(role_config(run_dir, coordinator=1))))
    environment = os.environ | {"LONGSHORE_ROLE_CONFIG": str(file)}
    code = "from trainer.role import run_role; run_role(print)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (-signal.SIGKILL, b"")


def test_the_last_word_fits_on_a_full_disk(small_disk):
    reserve, file = small_disk / ".reserve", small_disk / "outcome.json"
    make_reserve(reserve)
    fill(small_disk)
    outcome = Outcome(OutcomeKind.FAILED, FailureClass.CRASH, "disk full", "x" * 16_000)
    outcome.write(file, reserve)
    assert Outcome.read(file) == outcome


def test_a_full_disk_is_named_through_the_errors_that_wrap_it():
    """PyTorch's zip writer raises a RuntimeError of its own on top."""
    wrapper = RuntimeError("unexpected pos 64 vs 0")
    wrapper.__context__ = OSError(errno.ENOSPC, "No space left on device", "/runs/a/replay.pt")
    assert describe(wrapper, Path("/runs/a")) == "disk full: /runs/a/replay.pt: No space left on device"


def test_a_full_disk_without_a_file_name_is_that_of_the_run_directory():
    error = OSError(errno.ENOSPC, "No space left on device")
    assert describe(error, Path("/runs/a")) == "disk full: /runs/a: No space left on device"


def test_pytorch_out_of_memory_is_recognised():
    import torch

    assert failure_class(torch.OutOfMemoryError("CUDA out of memory")) is FailureClass.OUT_OF_MEMORY
    assert failure_class(RuntimeError("shape mismatch")) is FailureClass.CRASH
    assert failure_class(ConfigError("x")) is FailureClass.SPEC
