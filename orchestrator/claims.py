"""The registry's part that is about runs which wait: who starts which of them, and on which GPUs."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import replace

from orchestrator.backends.base import Launch
from orchestrator.gpus import Gpu, Leases, Site
from orchestrator.launches import parse_launch
from orchestrator.predecessors import Standing
from orchestrator.records import RUN_COLUMNS, RunRecord, run_record
from orchestrator.registry import ENDED
from orchestrator.states import RunState
from orchestrator.sweep_store import SweepStore

UNCLEAR = "unclear"  # claim of a run that may have been started


class ClaimStore(SweepStore):
    """Gives each run that may be started to one process."""

    def enqueue(self, run_ids: Iterable[str]) -> None:
        """`submitting` becomes `queued`: they may be started now. Others stay as they are."""
        with self._transaction():
            now = self._clock()
            asked = frozenset(run_ids)
            found = self._db.execute("SELECT run_id FROM runs WHERE state = ?", (RunState.SUBMITTING,))
            moved = [row["run_id"] for row in found if row["run_id"] in asked]
            self._db.executemany(
                "UPDATE runs SET state = ?, message = '', updated = ? WHERE run_id = ?",
                [(RunState.QUEUED, now, run_id) for run_id in moved],
            )
            self._db.executemany(
                "INSERT INTO events (run_id, time, old, new) VALUES (?, ?, ?, ?)",
                [(run_id, now, RunState.SUBMITTING, RunState.QUEUED) for run_id in moved],
            )

    def claim_startable(
        self,
        claimer: str,
        is_gone: Callable[[str], bool],
        gpus: Callable[[RunRecord, Launch], Sequence[Gpu]] = lambda _, __: (),
        only: Collection[str] | None = None,
        follows: Callable[[RunRecord], bool] = lambda _: False,
    ) -> tuple[tuple[RunRecord, Launch], ...]:
        """Take the user's queued runs that may be started now; nobody else is given them while the claimer lives.

        Args:
            claimer: Names the calling process.
            is_gone: Whether a claimer has ended for certain; what it had claimed is given to this one.
            gpus: GPUs that a run may be given, and that no other run of this registry then has; the same for all runs
                of one backend and profile.
            only: Ids of the runs to take from; None for all.
            follows: Whether a run's backend can itself wait for others of the same site.
        """
        waiting = "state IN ('queued', 'requeued') AND handle IS NULL AND not_before <= ? AND owner IN ('', ?)"
        now = (self._clock(), self.user)
        with self._explained():
            if self._db.execute(f"SELECT 1 FROM runs WHERE {waiting} LIMIT 1", now).fetchone() is None:
                return ()
            first = self._db.execute(
                f"SELECT {RUN_COLUMNS}, launch FROM runs WHERE {waiting} AND wanted_gpus > 0 GROUP BY backend, profile",
                now,
            ).fetchall()
        # The driver may take its time; nobody should wait for the registry meanwhile.
        pools = {_site(row): gpus(run_record(row), parse_launch(row["launch"])) for row in first}
        with self._transaction():
            rows = self._db.execute(
                f"SELECT {RUN_COLUMNS}, runs.claim, runs.launch, runs.wanted_gpus, sweeps.max_parallel "
                "FROM runs LEFT JOIN sweeps USING (sweep_id) "
                f"WHERE {waiting} ORDER BY claim IS NULL, sequence",
                now,
            ).fetchall()
            busy = dict(
                self._db.execute(
                    "SELECT sweep_id, count(*) FROM runs WHERE sweep_id IS NOT NULL AND (state IN ('setting-up', "
                    "'running') OR (state IN ('queued', 'requeued') AND (claim IS NOT NULL OR handle IS NOT NULL))) "
                    "GROUP BY sweep_id"
                ).fetchall()
            )
            leases = Leases(pools, self._leased_gpus())
            standings = {"[]": Standing()}  # the runs of a sweep follow the same ones
            taken = []
            for row in rows:
                if only is not None and row["run_id"] not in only:
                    continue
                if (names := row["after"]) not in standings:
                    standings[names] = self.standing(json.loads(names))
                if (handles := _followed(row, standings[names], follows)) is None:
                    continue
                limit, in_use = row["max_parallel"], busy.get(row["sweep_id"], 0)
                if row["claim"] is None:
                    if limit is not None and in_use >= limit:
                        continue
                    if (given := leases.take(_site(row), row["wanted_gpus"])) is None:
                        continue
                    leased = given
                    busy[row["sweep_id"]] = in_use + 1
                elif row["claim"] != claimer and not _is_free(row["claim"], is_gone):
                    continue
                else:
                    leased = tuple(json.loads(row["leased_gpus"]))
                retaken = row["claim"] not in {None, claimer}
                record = replace(run_record(row), gpus=leased, retaken=retaken, follows=handles)
                taken.append((record, parse_launch(row["launch"])))
            self._db.executemany(
                "UPDATE runs SET claim = ?, leased_gpus = ? WHERE run_id = ?",
                [(claimer, json.dumps(record.gpus), record.run_id) for record, _ in taken],
            )
        return tuple(taken)

    def give_up_start(self, run_id: str, message: str, *, unclear: bool = False) -> None:
        """A claimed run could not be started: it goes on waiting.

        Args:
            run_id: The run.
            message: Why.
            unclear: It may have been started all the same, by this try or by an earlier one.
        """
        with self._transaction():
            self._db.execute(
                "UPDATE runs SET claim = ?, message = ?, updated = ? WHERE run_id = ? AND handle IS NULL",
                (UNCLEAR if unclear else None, message, self._clock(), run_id),
            )

    def unclear(self, run_ids: Collection[str], is_gone: Callable[[str], bool]) -> list[str]:
        """Those of some runs whose start was tried by somebody who has not seen its outcome."""
        with self._explained():
            rows = self._db.execute(
                "SELECT run_id, claim FROM runs WHERE claim IS NOT NULL AND handle IS NULL"
            ).fetchall()
        return [row["run_id"] for row in rows if row["run_id"] in run_ids and _is_free(row["claim"], is_gone)]

    def _leased_gpus(self) -> set[str]:
        """GPUs of the runs that are being started or go on: nobody has to give one back."""
        rows = self._db.execute(
            "SELECT leased_gpus FROM runs WHERE leased_gpus != '[]' AND (claim IS NOT NULL OR handle IS NOT NULL) "
            f"AND state NOT IN {ENDED}"
        )
        return {name for row in rows for name in json.loads(row["leased_gpus"])}


def _site(row: sqlite3.Row) -> Site:
    return row["backend"], row["profile"]


def _followed(row: sqlite3.Row, standing: Standing, follows: Callable[[RunRecord], bool]) -> tuple[str, ...] | None:
    """Handles that the backend of a run is to wait for; None where the run has to wait here.

    Args:
        row: The run.
        standing: Of the runs that it follows.
        follows: Whether its backend can wait for others of the same site.
    """
    of_its_site = [record for record in standing.going if (record.backend, record.profile) == _site(row)]
    handles = tuple(record.handle for record in of_its_site if record.handle is not None)
    if row["claim"] is not None:  # it may have been started already, which only its backend knows
        return handles
    here = not handles or follows(run_record(row))
    return handles if here and len(handles) == len(standing.going) and not standing.lost else None


def _is_free(claim: str, is_gone: Callable[[str], bool]) -> bool:
    """Whether a claimed run may be taken over: a backend starts an attempt once, whoever asks and however often."""
    return claim == UNCLEAR or is_gone(claim)
