"""What an observation of a run says to the registry."""

from __future__ import annotations

import contextlib
from dataclasses import replace

from orchestrator.backends.base import Observation
from orchestrator.backends.exit_codes import by_exit_code
from orchestrator.records import RunRecord
from orchestrator.states import RunState, next_state
from trainer.run_dir import ExitCode, FailureClass, RunDir


def is_news(record: RunRecord, seen: Observation) -> bool:
    """Whether an observation says anything that the registry does not."""
    if seen.handed_back or (seen.attempt or 0) > record.attempt:
        return True
    new = next_state(record.state, seen.state, cancelling=record.cancelling)
    return new != record.state or (new is RunState.QUEUED and seen.message != record.message)


def told(seen: Observation) -> Observation:
    """What backends call failed with a class of its own is an end that was asked for."""
    if seen.failure_class is not FailureClass.STOPPED:
        return seen
    return replace(seen, state=RunState.STOPPED, failure_class=None)


def left_by(run_dir: RunDir, number: int) -> Observation:
    """How an attempt ended that was followed by another one before anybody asked."""
    failure = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        failure = run_dir.read_failure(number)
    if failure is not None:
        return Observation(RunState.FAILED, failure.failure_class, failure.exit_code, failure.message)
    code = run_dir.read_exit_code(number)
    if code is None:
        message = "ended at once, without a word, and was started again"
        return Observation(RunState.FAILED, FailureClass.NODE_FAILURE, None, message)
    return by_exit_code(code, trained=True)


def how_it_stopped(seen: Observation) -> str:
    """What to say of a run that was told to stop: the backend does not know that, and calls it killed or failed."""
    if seen.exit_code is None:
        return "ended by force: it did not stop in time"
    return "after saving a checkpoint" if seen.exit_code == ExitCode.RESUMABLE else f"exit code {seen.exit_code}"
