"""Whether the roles of an attempt go on, judged by their heartbeats. Imports no torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import dataclass

from trainer.outcome import Stop
from trainer.run_dir import FailureClass, Heartbeat, RunDir


@dataclass
class _Watched:
    """One role: its last heartbeat, when it last went on by the watchdog's clock, and whether it has ever worked."""

    seen: float
    heartbeat: Heartbeat | None = None
    worked: bool = False


class Watchdog:
    """Watches the heartbeat of each role by a clock of its own: those of the machine may jump.

    Each role has to go on, so that one which does cannot hide another which hangs; and one of them has to work, so that
    roles which all wait for each other do not pass for alive.

    Args:
        run_dir: Of the run.
        attempt: Number of this start of the run; heartbeats of an earlier start with the same number must be gone.
        roles: Their names.
        start: Seconds from the start to the first work.
        stall: Seconds between two heartbeats.
        now: Monotonic time, as for `overdue`.
    """

    def __init__(
        self, run_dir: RunDir, attempt: int, roles: Sequence[str], *, start: float, stall: float, now: float
    ) -> None:
        self._run_dir, self._attempt, self._start, self._stall = run_dir, attempt, start, stall
        self._roles = {role: _Watched(now) for role in roles}
        self._worked_at: float | None = None
        self._started_at = now

    def overdue(self, now: float, roles: Collection[str]) -> Stop | None:
        """Why `roles`, those that have not given their last word, count as stalled at monotonic time `now`; or None."""
        for role in roles:
            self._look(role, now)
        for role in roles:
            words = self._silence(self._roles[role], now)
            if words:
                return Stop(FailureClass.STALLED, f"role {role}: {words}")
        if roles and self._worked_at is None and now - self._started_at > self._start:
            return Stop(FailureClass.STALLED, f"no work within {self._start:g} s of the start (watchdog.start)")
        if roles and self._worked_at is not None and now - self._worked_at > self._stall:
            words = f"{' and '.join(roles)} have only waited for each other for {self._stall:g} s (watchdog.stall)"
            return Stop(FailureClass.STALLED, words)
        return None

    def _silence(self, role: _Watched, now: float) -> str | None:
        silent = now - role.seen
        if not role.worked and silent > self._start:
            return f"no heartbeat within {self._start:g} s of the start (watchdog.start)"
        if role.worked and silent > self._stall:
            step = role.heartbeat.optim_step if role.heartbeat else 0
            return f"no heartbeat for {self._stall:g} s after optimiser step {step} (watchdog.stall)"
        return None

    def _look(self, name: str, now: float) -> None:
        role, heartbeat = self._roles[name], None
        with suppress(OSError, ValueError, KeyError, TypeError):
            heartbeat = self._run_dir.read_heartbeat(self._attempt, name)
        if heartbeat is None:
            return
        last, role.heartbeat = role.heartbeat, heartbeat
        if heartbeat.alive not in (None, last.alive if last else None):
            role.seen = now
        if heartbeat.worked not in (None, last.worked if last else None):
            role.worked, self._worked_at = True, now
