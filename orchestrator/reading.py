"""The registry's part that only reads: which runs there are, and what a name on the command line means.

It imports no backend: `runs` and `status` are typed all the time, and have the machine to share with the runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

from orchestrator.errors import UsageError
from orchestrator.predecessors import Standing
from orchestrator.records import RUN_COLUMNS, Attempt, Event, RunRecord, attempt_record, event_record, run_record
from orchestrator.references import listed, match_reference
from orchestrator.registry import ENDED, Registry


class RunReader(Registry):
    """The runs of one folder, as they were when somebody last asked their backends."""

    def list(self, *, active: bool = False) -> tuple[RunRecord, ...]:
        """All runs, or the ones that have not ended, the oldest first."""
        return self._select(f"state NOT IN {ENDED}" if active else "TRUE")

    def resolve(self, reference: str) -> tuple[RunRecord, ...]:
        """The run, or the members of the sweep, that a RUN of the command line means.

        Raises:
            UsageError: It means nothing, or may mean several things.
        """
        with self._explained():
            rows = self._db.execute("SELECT run_id, sweep_id, key FROM runs ORDER BY sequence").fetchall()
        found = match_reference(reference, [(row["run_id"], row["sweep_id"]) for row in rows])
        if len(found) > 1:  # a sweep: of its runs that stand for the same work, the last one
            keys = {row["run_id"]: row["key"] for row in rows}
            found = tuple({keys[run_id]: run_id for run_id in found}.values())
        return self.records(found)

    def get(self, reference: str) -> RunRecord:
        """The one run that a RUN of the command line means.

        Raises:
            UsageError: It means nothing, or several runs.
        """
        records = self.records([reference]) or self.resolve(reference)
        if len(records) > 1:
            names = listed([record.run_id for record in records])
            raise UsageError(f"{reference!r} is a sweep of {len(records)} runs, name one of them: {names}")
        return records[0]

    def records(self, run_ids: Sequence[str], *, active: bool = False) -> tuple[RunRecord, ...]:
        """Runs of these whole ids, or those of them that have not ended, in the order of their submission.

        What is no run is left out.
        """
        where = f" AND state NOT IN {ENDED}" if active else ""
        return self._select(f"run_id IN (SELECT value FROM json_each(?)){where}", json.dumps(run_ids))

    def is_mine(self, record: RunRecord) -> bool:
        """Whether whoever opened the registry may start, resume, cancel and remove a run."""
        return record.owner in {"", self.user}

    def with_handle(self) -> tuple[RunRecord, ...]:
        """Runs that have been started and have not ended: those that a backend knows something of."""
        return self._select(f"handle NOTNULL AND state NOT IN {ENDED}")

    def whole_id(self, reference: str) -> str:
        """Id of the run, or of the sweep, that a RUN of the command line means.

        Raises:
            UsageError: It means nothing, or may mean several things.
        """
        first, *others = self.resolve(reference)
        return first.sweep_id if others and first.sweep_id is not None else first.run_id

    def predecessors(self, names: Sequence[str]) -> tuple[RunRecord, ...]:
        """The runs that `after` names, the oldest first.

        Args:
            names: Whole ids of runs and sweeps; of a sweep's runs that stand for the same work, the last one counts.
        """
        if not names:
            return ()
        meant = "SELECT value FROM json_each(?1)"
        records = self._select(f"run_id IN ({meant}) OR sweep_id IN ({meant})", json.dumps(names))
        return tuple({r.run_id if r.run_id in names else r.key: r for r in records}.values())

    def standing(self, names: Sequence[str]) -> Standing:
        """How the runs that `after` names stand; its argument is that of `predecessors`."""
        return Standing.of(names, self.predecessors(names))

    def attempts(self, run_id: str) -> tuple[Attempt, ...]:
        """Starts of a run, the first one first."""
        with self._explained():
            rows = self._db.execute("SELECT * FROM attempts WHERE run_id = ? ORDER BY number", (run_id,)).fetchall()
        return tuple(attempt_record(row) for row in rows)

    def events(self, run_id: str) -> tuple[Event, ...]:
        """Changes of a run's state, the first one first."""
        with self._explained():
            rows = self._db.execute("SELECT * FROM events WHERE run_id = ? ORDER BY sequence", (run_id,)).fetchall()
        return tuple(event_record(row) for row in rows)

    def _select(self, where: str, *values: str) -> tuple[RunRecord, ...]:
        with self._explained():
            query = f"SELECT {RUN_COLUMNS} FROM runs WHERE {where} ORDER BY sequence"
            return tuple(run_record(row) for row in self._db.execute(query, values))
