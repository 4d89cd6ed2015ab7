"""The registry's part that is about sweeps which stop some of their runs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence

from orchestrator.halving import StopRule, as_rule
from orchestrator.reading import RunReader
from orchestrator.registry import ENDED
from orchestrator.states import RunState


class SweepStore(RunReader):
    """What the rules of sweeps need to know of their runs."""

    def stop_rules(self) -> dict[str, StopRule]:
        """Rules of the sweeps that have one and go on, by sweep id."""
        query = (
            "SELECT sweep_id, stop FROM sweeps WHERE stop NOTNULL AND sweep_id IN (SELECT sweep_id FROM runs "
            f"WHERE state NOT IN {ENDED})"
        )
        with self._explained():
            return {row["sweep_id"]: as_rule(json.loads(row["stop"])) for row in self._db.execute(query)}

    def worths(self, run_ids: Sequence[str]) -> dict[str, tuple[float, ...]]:
        """What runs were worth at the points of their sweep that they have reached."""
        query = (
            "SELECT run_id, worth FROM worths WHERE run_id IN (SELECT value FROM json_each(?)) ORDER BY run_id, point"
        )
        found: dict[str, tuple[float, ...]] = {}
        with self._explained():
            for row in self._db.execute(query, (json.dumps(run_ids),)):
                found[row["run_id"]] = (*found.get(row["run_id"], ()), row["worth"])
        return found

    def add_worths(self, worths: Mapping[str, Iterable[float]]) -> None:
        """What runs were worth, from the first point on; what is known already, or was noted meanwhile, stays."""
        rows = [(run_id, point, worth) for run_id, found in worths.items() for point, worth in enumerate(found)]
        if rows:
            with self._transaction():
                self._db.executemany("INSERT INTO worths VALUES (?, ?, ?) ON CONFLICT DO NOTHING", rows)

    def ever(self, state: RunState) -> set[str]:
        """Runs that have been in a state."""
        with self._explained():
            return {row["run_id"] for row in self._db.execute("SELECT run_id FROM events WHERE new = ?", (state,))}
