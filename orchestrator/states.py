"""Run states, and the pure functions between them."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from trainer.run_dir import FailureClass

__all__ = ["TERMINAL", "FailureClass", "RunState", "may_follow"]


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


TERMINAL = frozenset({RunState.SUCCEEDED, RunState.FAILED, RunState.CANCELLED})
