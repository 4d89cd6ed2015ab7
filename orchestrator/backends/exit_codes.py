"""What an exit code says of an attempt that left no other word: neither SUCCESS nor failure.json."""

from __future__ import annotations

from orchestrator.backends.base import Observation
from orchestrator.states import FailureClass, RunState
from trainer.run_dir import ExitCode


def by_exit_code(
    code: int | None, *, trained: bool, attempt: int | None = None, message: str | None = None
) -> Observation:
    """What became of an attempt, by how its script ended. Zero is no success either.

    Args:
        code: The script's exit code; None where nobody knows it.
        trained: The attempt's trainer gave a sign of life; before that, setting up is to blame.
        attempt: Its number, for the observation.
        message: What to say of a failure, where more is known than the code.
    """
    if code == ExitCode.RESUMABLE:
        saved = "stopped from outside after saving a checkpoint"
        return Observation(RunState.FAILED, FailureClass.PREEMPTED, code, saved, attempt)
    failure_class = FailureClass.CRASH if trained else FailureClass.SETUP
    if message is None:
        message = f"ended with exit code {'unknown' if code is None else code} and without SUCCESS"
    return Observation(RunState.FAILED, failure_class, code, message, attempt)
