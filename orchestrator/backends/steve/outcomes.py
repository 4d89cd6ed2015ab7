"""What became of an attempt: by the files that were brought here, and by what the cluster says of its allocation."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from orchestrator.backends.base import Observation
from orchestrator.backends.exit_codes import by_exit_code
from orchestrator.hosts import Completed
from orchestrator.states import FailureClass, RunState
from trainer.run_dir import ExitCode, RunDir

# What `state` may say of an allocation that is over, in Slurm's words; any other one means that it stands.
ENDED: Mapping[str, FailureClass] = {
    "PREEMPTED": FailureClass.PREEMPTED,
    "TIMEOUT": FailureClass.TIMEOUT,
    "DEADLINE": FailureClass.TIMEOUT,
    "OUT_OF_MEMORY": FailureClass.OUT_OF_MEMORY,
    **dict.fromkeys(
        ("NODE_FAIL", "BOOT_FAIL", "CANCELLED", "COMPLETED", "FAILED", "REVOKED"), FailureClass.NODE_FAILURE
    ),
}


@dataclass(frozen=True)
class End:
    """How an allocation has ended."""

    failure_class: FailureClass
    reason: str


def end_of(done: Completed) -> End | None:
    """How an allocation has ended, by the answer of the profile's `state` command; None while it stands.

    A command that fails says nothing, but for Slurm's way of saying that there is no such job.
    """
    if words := done.stdout.split():
        failure_class = ENDED.get(words[0].rstrip("+"))
        return None if failure_class is None else End(failure_class, f"steve's cluster says {words[0]}")
    if done.exit_code == 0 or "invalid job id" in done.stderr.lower():
        return End(FailureClass.NODE_FAILURE, "steve's cluster does not know it any more")
    return None


def outcome(run_dir: RunDir, first: int, reason: str, *, lost: FailureClass | None = None) -> Observation:
    """What became of an attempt, by the files that were brought here.

    Args:
        run_dir: Here.
        first: Attempt that it began with in its allocation.
        reason: What to say where they say nothing.
        lost: Why the allocation is gone; that, and no failure that was followed by another attempt, is the reason.
    """
    attempt = max([first, *run_dir.attempts()])
    code, failure = run_dir.read_exit_code(attempt), None
    with contextlib.suppress(ValueError, KeyError, TypeError):
        failure = run_dir.read_failure()
    if run_dir.success.exists():
        return Observation(RunState.SUCCEEDED, exit_code=code, attempt=attempt)
    if failure is not None and failure.attempt == attempt:
        return Observation(RunState.FAILED, failure.failure_class, code, failure.message, attempt)
    if lost is not None and code != ExitCode.RESUMABLE:
        return Observation(RunState.FAILED, lost, code, reason, attempt)
    return by_exit_code(code, trained=run_dir.has_trained(attempt), attempt=attempt, message=reason)


def handed_back(reason: str) -> Observation:
    """What became of an attempt that had not begun."""
    return Observation(RunState.REQUEUED, message=f"it had not begun: {reason}", handed_back=True)
