"""Run states, and the pure functions between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum, StrEnum, auto

from trainer.run_dir import FailureClass

__all__ = [
    "AS_ASKED",
    "MAY_FOLLOW",
    "TERMINAL",
    "FailureClass",
    "RunState",
    "Verdict",
    "judge",
    "may_follow",
    "next_state",
]


class RunState(StrEnum):
    """Where a run stands; `requeued` lies between two attempts of it."""

    PLANNED = "planned"
    SUBMITTING = "submitting"
    QUEUED = "queued"
    SETTING_UP = "setting-up"
    RUNNING = "running"
    REQUEUED = "requeued"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    STOPPED = "stopped"  # by the rule of its sweep, having saved itself


TERMINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED, RunState.STOPPED})
AS_ASKED = frozenset({RunState.SUCCEEDED, RunState.STOPPED})

# A run is looked at now and then, so a short one may pass several states between two looks.
MAY_FOLLOW: Mapping[RunState, frozenset[RunState]] = {
    RunState.PLANNED: frozenset({RunState.SUBMITTING, RunState.CANCELLED}),
    RunState.SUBMITTING: frozenset({RunState.QUEUED, RunState.CANCELLED}),
    RunState.QUEUED: frozenset({RunState.SETTING_UP, RunState.RUNNING, RunState.REQUEUED}) | TERMINAL,
    RunState.SETTING_UP: frozenset({RunState.RUNNING, RunState.REQUEUED}) | TERMINAL,
    RunState.RUNNING: frozenset({RunState.REQUEUED}) | TERMINAL,
    RunState.REQUEUED: frozenset({RunState.QUEUED, RunState.SETTING_UP, RunState.RUNNING}) | TERMINAL,
    # Resumed by hand.
    RunState.SUCCEEDED: frozenset({RunState.REQUEUED}),
    RunState.FAILED: frozenset({RunState.REQUEUED}),
    RunState.CANCELLED: frozenset({RunState.REQUEUED}),
    RunState.STOPPED: frozenset({RunState.REQUEUED}),
}


def may_follow(old: RunState, new: RunState) -> bool:
    """Whether a run may go from `old` to `new`; staying is no step."""
    return new in MAY_FOLLOW[old]


def next_state(old: RunState, observed: RunState, *, cancelling: bool = False) -> RunState:
    """Where a run stands after its backend was asked.

    Args:
        old: Where it stood.
        observed: What the backend says of its current attempt.
        cancelling: Its user asked for its end. Success that came first stays success; every other end is theirs.

    Returns:
        The new state; `old` where the observation says nothing new or comes too late.
    """
    if cancelling and observed is RunState.FAILED:
        observed = RunState.CANCELLED
    if old in {RunState.SETTING_UP, RunState.RUNNING} and observed is RunState.QUEUED:
        observed = RunState.REQUEUED  # the backend itself has put it back into its queue
    if old in TERMINAL:  # only its user can have it go on
        return old
    return observed if may_follow(old, observed) else old


class Verdict(Enum):
    """What submitting a job means, given what became of its last submission."""

    NEW = auto()  # make a run
    FINISH = auto()  # its submission was cut short: finish it under its own run id
    ACTIVE = auto()  # it waits or runs already
    DONE = auto()  # it has succeeded already, or was stopped by its sweep


def judge(last: RunState | None, *, again: bool = False) -> Verdict:
    """What submitting a job means.

    Args:
        last: State of the last run with the same submission key, None where there is none.
        again: The user wants another run although the last one succeeded.
    """
    match last:
        case None | RunState.FAILED | RunState.CANCELLED:
            return Verdict.NEW
        case RunState.PLANNED | RunState.SUBMITTING:
            return Verdict.FINISH
        case RunState.SUCCEEDED | RunState.STOPPED:
            return Verdict.NEW if again else Verdict.DONE
        case RunState.QUEUED | RunState.SETTING_UP | RunState.RUNNING | RunState.REQUEUED:
            return Verdict.ACTIVE
