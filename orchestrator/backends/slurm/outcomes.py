"""What became of a job: Slurm's word for its end, and what the run directory says. Pure but for reading that."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.backends.base import Observation
from orchestrator.backends.exit_codes import by_exit_code
from orchestrator.backends.slurm.queries import IN_VAIN, Entry
from orchestrator.states import FailureClass, RunState
from trainer.run_dir import Failure, RunDir

STATES: Mapping[str, RunState] = {
    "PENDING": RunState.QUEUED,
    "REQUEUED": RunState.QUEUED,
    "REQUEUE_FED": RunState.QUEUED,
    "REQUEUE_HOLD": RunState.QUEUED,
    "RESV_DEL_HOLD": RunState.QUEUED,
    "SPECIAL_EXIT": RunState.QUEUED,
    "CONFIGURING": RunState.SETTING_UP,
    "RUNNING": RunState.RUNNING,
    "COMPLETING": RunState.RUNNING,
    "RESIZING": RunState.RUNNING,
    "SIGNALING": RunState.RUNNING,
    "STAGE_OUT": RunState.RUNNING,
    "STOPPED": RunState.RUNNING,
    "SUSPENDED": RunState.RUNNING,
    "COMPLETED": RunState.SUCCEEDED,
    "CANCELLED": RunState.CANCELLED,
}  # every other state is a failure
FAILURES: Mapping[str, tuple[FailureClass, str]] = {
    "TIMEOUT": (FailureClass.TIMEOUT, "Slurm ended it at its time limit"),
    "DEADLINE": (FailureClass.TIMEOUT, "Slurm ended it at its deadline"),
    "PREEMPTED": (FailureClass.PREEMPTED, "Slurm took its nodes for another job"),
    "NODE_FAIL": (FailureClass.NODE_FAILURE, "a node of it failed"),
    "BOOT_FAIL": (FailureClass.NODE_FAILURE, "a node of it did not boot"),
    "OUT_OF_MEMORY": (FailureClass.OUT_OF_MEMORY, "it took more memory than resources.memory allows"),
    "REVOKED": (FailureClass.LOST, "another cluster of the federation has taken it over"),
}


@dataclass(frozen=True)
class Markers:
    """What a run directory says of the last attempt in it."""

    attempt: int | None = None
    success: bool = False
    failure: Failure | None = None
    exit_code: int | None = None
    trained: bool = False  # its trainer gave a sign of life


def read_markers(run_dir: RunDir) -> Markers:
    """What a run directory says now."""
    attempts = run_dir.attempts()
    number = attempts[-1] if attempts else None
    failure = None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        failure = run_dir.read_failure()
    return Markers(
        attempt=number,
        success=run_dir.success.exists(),
        failure=failure if failure is not None and failure.attempt == number else None,
        exit_code=None if number is None else run_dir.read_exit_code(number),
        trained=number is not None and run_dir.has_trained(number),
    )


def outcome(entry: Entry | None, markers: Markers) -> Observation:
    """What became of a job that has ended, or that Slurm does not know any more. COMPLETED alone is no success.

    Args:
        entry: None where Slurm does not know it.
        markers: Of its run directory.
    """
    code = markers.exit_code if entry is None or entry.exit_code is None else entry.exit_code
    if markers.success:
        return Observation(RunState.SUCCEEDED, exit_code=code, attempt=markers.attempt)
    if entry is not None and entry.state in FAILURES:
        return Observation(RunState.FAILED, FAILURES[entry.state][0], code, FAILURES[entry.state][1], markers.attempt)
    if entry is not None and STATES.get(entry.state) is RunState.CANCELLED:
        why = "a job that it follows has not succeeded" if entry.reason == IN_VAIN else "cancelled in Slurm"
        return Observation(RunState.CANCELLED, None, code, why, markers.attempt)
    if markers.failure is not None:
        failure = markers.failure
        return Observation(RunState.FAILED, failure.failure_class, code, failure.message, markers.attempt)
    code = code if markers.exit_code is None else markers.exit_code  # the script's own word is the better one
    if code is None and entry is None and markers.attempt is None:  # as a task of an array vanishes
        return Observation(RunState.CANCELLED, message="taken out of Slurm's queue before it started")
    if code is None and entry is None:
        message = "Slurm does not know its job any more, and it left no word"
        return Observation(RunState.FAILED, FailureClass.LOST, None, message, markers.attempt)
    return by_exit_code(code, trained=markers.trained, attempt=markers.attempt)
