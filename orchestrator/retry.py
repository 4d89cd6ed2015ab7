"""When an attempt that failed is followed by another one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from trainer.run_dir import FailureClass

LONGEST = 3600.0  # seconds that waiting doubles up to

# After these the same place may serve for the next attempt: setup-and-run.sh starts it there, whoever watches or not.
IN_PLACE = frozenset({FailureClass.STALLED, FailureClass.CRASH, FailureClass.NAN, FailureClass.OUT_OF_MEMORY})


@dataclass(frozen=True)
class RetryPolicy:
    """`retry:` of a job.

    Attributes:
        max: Attempts after the first.
        on: Failure classes that another attempt follows.
        backoff: Seconds before the second attempt, by failure class; twice as long before each further one.
    """

    max: int = 0
    on: tuple[str, ...] = ()
    backoff: Mapping[str, float] = field(default_factory=dict)

    def delay(self, failure_class: FailureClass | None, attempt: int) -> float | None:
        """Seconds to wait before the attempt that follows one; None where none is to follow.

        Args:
            failure_class: How the attempt failed.
            attempt: Its number, from 1.
        """
        if failure_class is None or failure_class not in self.on or attempt > self.max:
            return None
        return min(LONGEST, self.backoff.get(failure_class, 0.0) * 2.0 ** min(attempt - 1, 30))
