"""The registry: runs, sweeps, attempts and events in one SQLite file, safe under many submitters at once."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING

from orchestrator.backends.base import Launch, Observation
from orchestrator.claims import ClaimStore
from orchestrator.errors import LongshoreError, UsageError
from orchestrator.launches import launch_text, parse_launch
from orchestrator.observed import how_it_stopped, is_news, left_by, told
from orchestrator.records import RUN_COLUMNS, Attempt, Event, RunRecord, run_record
from orchestrator.states import TERMINAL, RunState, Verdict, judge, may_follow, next_state
from trainer.run_dir import RunDir

if TYPE_CHECKING:
    from orchestrator.plan import Plan, PlannedRun

BEGUN = frozenset({RunState.SETTING_UP, RunState.RUNNING, RunState.SUCCEEDED, RunState.FAILED})  # it waits no more

__all__ = ["Attempt", "Event", "Registered", "RunRecord", "RunStore"]


@dataclass(frozen=True)
class Registered:
    """A planned run and the run of the registry that stands for it, an older one maybe."""

    planned: PlannedRun
    record: RunRecord
    verdict: Verdict


class RunStore(ClaimStore):
    """The runs of one folder; their directories lie in it too."""

    def add_plan(
        self,
        plan: Plan,
        *,
        again: bool = False,
        max_parallel: int | None = None,
        ready: Collection[str] | None = None,
    ) -> tuple[Registered, ...]:
        """Register a plan's runs as `submitting`, in one step: all of them, or none where it fails.

        A run whose key is taken already is not made again; the older one is returned in its place. What a sweep lacks
        that was submitted before joins it: its runs stay one thing, and one limit holds for all of them.

        Args:
            plan: What is going to be submitted.
            again: Make another run where the last one with its key has succeeded.
            max_parallel: How many runs of the sweep may be started at once, None for all.
            ready: Ids of the planned runs whose files are in place; others are not made. None for all.
        """

        def verdict_of(run: PlannedRun) -> Verdict:
            verdict = judge(last[run.key].state if run.key in last else None, again=again)
            late = verdict is Verdict.NEW and ready is not None and run.run_id not in ready
            return Verdict.ACTIVE if late else verdict  # what went on a moment ago has ended since

        with self._transaction():
            last = self.find_by_keys([run.key for run in plan.runs])
            verdicts = [verdict_of(run) for run in plan.runs]
            new = [run for run, verdict in zip(plan.runs, verdicts, strict=True) if verdict is Verdict.NEW]
            if new:
                joined = None if again else self._sweep_of(plan, last.values())
                self._insert(plan, new, joined, max_parallel, self._clock())
            now = self.find_by_keys([run.key for run in plan.runs])
        return tuple(Registered(run, now[run.key], verdict) for run, verdict in zip(plan.runs, verdicts, strict=True))

    def find_by_keys(self, keys: Iterable[str]) -> dict[str, RunRecord]:
        """The last run with each of these submission keys, by key; keys without a run are left out."""
        query = (
            f"SELECT {RUN_COLUMNS} FROM runs WHERE sequence IN "
            "(SELECT max(sequence) FROM runs WHERE key IN (SELECT value FROM json_each(?)) GROUP BY key)"
        )
        with self._explained():
            return {row["key"]: run_record(row) for row in self._db.execute(query, (json.dumps(list(keys)),))}

    def find_by_key(self, key: str) -> RunRecord | None:
        """The last run with a submission key."""
        return self.find_by_keys([key]).get(key)

    def note(self, run_id: str, message: str) -> None:
        """Say why a run stands where it stands."""
        with self._transaction():
            self._db.execute(
                "UPDATE runs SET message = ?, updated = ? WHERE run_id = ?", (message, self._clock(), run_id)
            )

    def started(self, run_id: str, attempt: int, handle: str, *, queues: bool = False) -> RunRecord:
        """A claimed run was started; `cancelling` or a terminal state in the answer says that its end is wanted.

        Args:
            run_id: The run.
            attempt: Its number.
            handle: What its backend knows it by.
            queues: It waits in a queue of its backend's.
        """
        return self.all_started({run_id: handle}, attempt, queues=queues)[0]

    def all_started(self, handles: Mapping[str, str], attempt: int, *, queues: bool) -> tuple[RunRecord, ...]:
        """As `started`, for runs that were started as one; handles by run id."""
        with self._transaction():
            self._add_attempts(handles, attempt)
            self._db.executemany(
                "UPDATE runs SET handle = ?, claim = NULL WHERE run_id = ?",
                [(handle, run_id) for run_id, handle in handles.items()],
            )
            new = RunState.QUEUED if queues else RunState.SETTING_UP
            for run_id in handles:
                if may_follow(self._state(run_id), new):  # its end may be wanted by now
                    self._move(run_id, new)
        return self.records(list(handles))

    def observe(self, observations: Mapping[str, tuple[str, Observation]]) -> tuple[Event, ...]:
        """Take over what backends have seen.

        Args:
            observations: Handle and observation by run id. What was seen of an earlier attempt is passed over.

        Returns:
            The changes.
        """
        known = {record.run_id: record for record in self.records(list(observations), active=True)}
        observations = {run_id: (handle, told(seen)) for run_id, (handle, seen) in observations.items()}
        news = [
            run_id for run_id, (_, seen) in observations.items() if run_id in known and is_news(known[run_id], seen)
        ]
        if not news:
            return ()
        changes: list[Event] = []
        with self._transaction():
            for run_id in news:
                handle, seen = observations[run_id]
                record = self._record(run_id)
                new = next_state(record.state, seen.state, cancelling=record.cancelling)
                if record.handle != handle:
                    continue
                if (seen.attempt or 0) > record.attempt:
                    self._catch_up(record, seen.attempt or 0, handle)
                    record = self._record(run_id)
                if seen.handed_back:
                    changes += self._take_back(record, seen)
                elif new is RunState.FAILED and (delay := self._retry_delay(record, seen)) is not None:
                    changes.append(self._requeue(record, seen, delay))
                elif new != record.state:
                    changes.append(self._move(run_id, new, self._why_in_vain(record, seen)))
                elif new is RunState.QUEUED:  # why it waits changes while it does
                    self._db.execute("UPDATE runs SET message = ? WHERE run_id = ?", (seen.message, run_id))
        return tuple(changes)

    def resume(self, run_id: str, words: Sequence[str]) -> None:
        """Have a run that has ended go on, in another attempt, as soon as there is a slot.

        Args:
            run_id: The run.
            words: Further settings of the trainer, for all attempts to come.

        Raises:
            UsageError: It is somebody else's, has not ended, or another run of the same job is on its way.
        """
        with self._transaction():
            record = self._record(run_id)
            if not self.is_mine(record):
                raise UsageError(f"{run_id} is {record.owner}'s, who alone can resume it")
            if record.state not in TERMINAL:
                raise UsageError(f"{run_id} has not ended: it is {record.state}")
            last = self.find_by_key(record.key)
            if last is not None and last.run_id != run_id and last.state not in TERMINAL:
                raise UsageError(f"{run_id}: {last.run_id} has taken its place, and is {last.state}")
            self._db.execute(
                "UPDATE runs SET handle = NULL, claim = NULL, cancelling = 0, not_before = 0, words = ? "
                "WHERE run_id = ?",
                (json.dumps([*record.words, *words]), run_id),
            )
            self._move(run_id, RunState.REQUEUED, Observation(RunState.REQUEUED, message="resumed by hand"))

    def forget(self, run_id: str) -> bool:
        """Take a run that has ended, and that no other one waits for, out of the registry; whether it was."""
        with self._transaction():
            record = self._record(run_id)
            if record.state not in TERMINAL or self._is_awaited(record):
                return False
            for table in ("attempts", "events", "worths", "runs"):
                self._db.execute(f"DELETE FROM {table} WHERE run_id = ?", (run_id,))
            self._db.execute(
                "DELETE FROM sweeps WHERE sweep_id NOT IN (SELECT sweep_id FROM runs WHERE sweep_id NOTNULL)"
            )
        return True

    def stop_waiting(self, run_id: str, why: str) -> None:
        """End a run that waits, for the rule of its sweep; one that was started meanwhile stays as it is."""
        with self._transaction():
            record = self._record(run_id)
            if record.state is RunState.REQUEUED and record.handle is None:
                self._move(run_id, RunState.STOPPED, Observation(RunState.STOPPED, message=why))

    def end_what_waits_in_vain(self) -> tuple[Event, ...]:
        """Cancel the runs that wait here for others which have ended without success.

        Returns:
            The changes. What waits for one of those is among them.
        """
        waiting = "after != '[]' AND state IN ('queued', 'requeued') AND handle IS NULL AND claim IS NULL"
        if not self._select(waiting):
            return ()
        changes = []
        with self._transaction():
            for record in self._select(waiting):
                if lost := self.standing(record.after).lost:
                    seen = Observation(RunState.CANCELLED, message=f"never started: {lost}")
                    changes.append(self._move(record.run_id, RunState.CANCELLED, seen))
        return tuple(changes)

    def request_cancel(self, run_ids: Iterable[str]) -> tuple[RunRecord, ...]:
        """Note that runs are to end. Those not started yet are `cancelled` at once.

        Returns:
            The runs whose backend has to end them.
        """
        running = []
        with self._transaction():
            for run_id in run_ids:
                record = self._record(run_id)
                if record.state in TERMINAL:
                    continue
                self._db.execute("UPDATE runs SET cancelling = 1 WHERE run_id = ?", (run_id,))
                if record.handle is None:
                    self._move(run_id, RunState.CANCELLED, Observation(RunState.CANCELLED, message="before its start"))
                else:
                    running.append(record)
        return tuple(running)

    def _sweep_of(self, plan: Plan, known: Iterable[RunRecord]) -> str | None:
        """The sweep that an earlier submission of this one has made, the newest where there are several."""
        if not plan.is_sweep:
            return None
        members = sorted((record for record in known if record.sweep_id), key=lambda record: record.created)
        return members[-1].sweep_id if members else None

    def _insert(
        self, plan: Plan, new: Sequence[PlannedRun], joined: str | None, max_parallel: int | None, now: float
    ) -> None:
        """Add runs, to the sweep `joined` where there is one; inside a transaction."""
        sweep_id = joined or (plan.plan_id if plan.is_sweep else None)
        rule = None if plan.stop is None else json.dumps(asdict(plan.stop))
        try:
            if joined is not None:
                self._db.execute(
                    "UPDATE sweeps SET max_parallel = ?, stop = ? WHERE sweep_id = ?", (max_parallel, rule, joined)
                )
            elif sweep_id is not None:
                self._db.execute(
                    "INSERT INTO sweeps (sweep_id, name, max_parallel, created, stop) VALUES (?, ?, ?, ?, ?)",
                    (sweep_id, plan.name, max_parallel, now, rule),
                )
            self._db.executemany(
                "INSERT INTO runs (run_id, name, sweep_id, sweep_index, backend, profile, key, state, run_dir, launch, "
                "differs, created, updated, wanted_gpus, owner, after) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                [
                    (
                        run.run_id,
                        run.name,
                        sweep_id,
                        run.index if sweep_id is not None else None,
                        plan.backend,
                        plan.profile,
                        run.key,
                        RunState.SUBMITTING,
                        str(run.run_dir),
                        launch_text(_startable(run)),
                        json.dumps(dict(run.differs)),
                        now,
                        now,
                        _startable(run).request.gpus,
                        self.user,
                        json.dumps(plan.after),
                    )
                    for run in new
                ],
            )
        except sqlite3.IntegrityError as error:
            raise LongshoreError(f"{plan.plan_id}: this run id is taken; submit again for another ({error})") from error
        self._db.executemany(
            "INSERT INTO events (run_id, time, old, new) VALUES (?, ?, NULL, ?)",
            [(run.run_id, now, RunState.SUBMITTING) for run in new],
        )

    def _add_attempts(self, handles: Mapping[str, str], number: int) -> None:
        """Another attempt of each run begins, and the one before is over; inside a transaction."""
        now = self._clock()
        self._db.executemany(
            "UPDATE attempts SET ended = ? WHERE run_id = ? AND ended IS NULL", [(now, run_id) for run_id in handles]
        )
        self._db.executemany(
            "INSERT INTO attempts (run_id, number, handle, started) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [(run_id, number, handle, now) for run_id, handle in handles.items()],
        )
        self._db.executemany("UPDATE runs SET attempt = ? WHERE run_id = ?", [(number, run_id) for run_id in handles])

    def _catch_up(self, record: RunRecord, attempt: int, handle: str) -> None:
        """Attempts up to the one that is seen now have begun without this side; inside a transaction."""
        for number in range(record.attempt, attempt):
            seen = left_by(RunDir(record.run_dir), number)
            self._end_attempt(record.run_id, seen, seen.message)
            self._add_attempts({record.run_id: handle}, number + 1)

    def _retry_delay(self, record: RunRecord, seen: Observation) -> float | None:
        """Seconds until a failed attempt is followed by another one; None where it is the last. In a transaction.

        Attempts that had not failed, because they were handed back or cancelled, count for nothing.
        """
        text = self._db.execute("SELECT launch FROM runs WHERE run_id = ?", (record.run_id,)).fetchone()["launch"]
        failed = self._db.execute(
            "SELECT count(*) FROM attempts WHERE run_id = ? AND number < ? AND failure_class NOTNULL",
            (record.run_id, record.attempt),
        ).fetchone()[0]
        return parse_launch(text).request.retry.delay(seen.failure_class, failed + 1)

    def _requeue(self, record: RunRecord, seen: Observation, delay: float) -> Event:
        """The next attempt follows after some seconds; inside a transaction."""
        self._end_attempt(record.run_id, seen, seen.message)
        self._let_wait(record.run_id, self._clock() + delay)
        wait = f" in {delay:.0f} s" if delay else ""
        message = f"attempt {record.attempt}: {seen.failure_class}: {seen.message}; another one follows{wait}"
        return self._move(record.run_id, RunState.REQUEUED, Observation(RunState.REQUEUED, message=message))

    def _take_back(self, record: RunRecord, seen: Observation) -> tuple[Event, ...]:
        """A run that had not begun where it was waits again for its start; inside a transaction."""
        if record.cancelling:
            return (self._move(record.run_id, RunState.CANCELLED, replace(seen, state=RunState.CANCELLED)),)
        self._end_attempt(record.run_id, seen, seen.message)
        self._let_wait(record.run_id, 0.0)
        return (self._move(record.run_id, RunState.REQUEUED, seen),)

    def _let_wait(self, run_id: str, not_before: float) -> None:
        """A run may be started by whoever looks, from some time on; inside a transaction."""
        self._db.execute(
            "UPDATE runs SET handle = NULL, claim = NULL, not_before = ? WHERE run_id = ?", (not_before, run_id)
        )

    def _end_attempt(self, run_id: str, seen: Observation, message: str) -> None:
        """What became of the current attempt; inside a transaction."""
        self._db.execute(
            "UPDATE attempts SET ended = ?, failure_class = ?, exit_code = ?, message = ? "
            "WHERE run_id = ? AND number = (SELECT attempt FROM runs WHERE run_id = ?)",
            (self._clock(), seen.failure_class, seen.exit_code, message, run_id, run_id),
        )

    def _is_awaited(self, record: RunRecord) -> bool:
        """Whether a run that has not begun follows this one."""
        query = (
            "SELECT 1 FROM runs, json_each(runs.after) WHERE runs.after != '[]' "
            "AND value IN (?, ?) AND state IN ('submitting', 'queued', 'requeued') LIMIT 1"
        )
        return self._db.execute(query, (record.run_id, record.sweep_id)).fetchone() is not None

    def _why_in_vain(self, record: RunRecord, seen: Observation) -> Observation:
        """What a backend has seen, with the reason where a run never began because of the ones that it follows."""
        if seen.state is not RunState.CANCELLED or record.cancelling or not record.after:
            return seen
        lost = self.standing(record.after).lost
        return replace(seen, message=f"never started: {lost}") if lost else seen

    def _move(self, run_id: str, new: RunState, seen: Observation | None = None) -> Event:
        """One checked step of a run, with its event; inside a transaction."""
        old, now = self._state(run_id), self._clock()
        if not may_follow(old, new):
            raise LongshoreError(f"{run_id}: {new} cannot follow {old}")
        seen = seen or Observation(new)
        # A cancelled run did not fail, whatever its trainer said when it was told to stop.
        failure_class = seen.failure_class if new is RunState.FAILED else None
        message = seen.message if (new, seen.state) != (RunState.CANCELLED, RunState.FAILED) else how_it_stopped(seen)
        self._db.execute(
            "UPDATE runs SET state = ?, failure_class = ?, message = ?, updated = ? WHERE run_id = ?",
            (new, failure_class, message, now, run_id),
        )
        if new in BEGUN:
            self._db.execute("UPDATE runs SET after = '[]' WHERE run_id = ? AND after != '[]'", (run_id,))
        if new in TERMINAL:
            self._end_attempt(run_id, replace(seen, failure_class=failure_class), message)
        self._db.execute(
            "INSERT INTO events (run_id, time, old, new, message) VALUES (?, ?, ?, ?, ?)",
            (run_id, now, old, new, message),
        )
        return Event(run_id, now, old, new, message)

    def _state(self, run_id: str) -> RunState:
        return RunState(self._db.execute("SELECT state FROM runs WHERE run_id = ?", (run_id,)).fetchone()["state"])

    def _record(self, run_id: str) -> RunRecord:
        return self.records([run_id])[0]


def _startable(run: PlannedRun) -> Launch:
    if run.launch is None:
        raise UsageError(f"{run.run_id}: this version cannot start runs on {run.job.backend}")
    return run.launch
