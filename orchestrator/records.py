"""What the registry holds: its tables, and the rows of them as data."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from orchestrator.states import FailureClass, RunState

VERSION = 7  # of the schema, kept in PRAGMA user_version

# The one active run of a submission key: what `active` lists is every state but the terminal ones.
SCHEMA = """
CREATE TABLE sweeps (
    sweep_id TEXT PRIMARY KEY, name TEXT NOT NULL, max_parallel INTEGER, created REAL NOT NULL, stop TEXT
);
CREATE TABLE worths (
    run_id TEXT NOT NULL REFERENCES runs (run_id), point INTEGER NOT NULL, worth REAL NOT NULL,
    PRIMARY KEY (run_id, point)
);
CREATE TABLE runs (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    sweep_id TEXT REFERENCES sweeps, sweep_index INTEGER, backend TEXT NOT NULL, profile TEXT NOT NULL,
    key TEXT NOT NULL, state TEXT NOT NULL, failure_class TEXT, message TEXT NOT NULL DEFAULT '',
    run_dir TEXT NOT NULL, attempt INTEGER NOT NULL DEFAULT 0, handle TEXT, claim TEXT,
    cancelling INTEGER NOT NULL DEFAULT 0, launch TEXT NOT NULL, differs TEXT NOT NULL,
    created REAL NOT NULL, updated REAL NOT NULL, not_before REAL NOT NULL DEFAULT 0, words TEXT NOT NULL DEFAULT '[]',
    wanted_gpus INTEGER NOT NULL DEFAULT 0, leased_gpus TEXT NOT NULL DEFAULT '[]', owner TEXT NOT NULL DEFAULT '',
    after TEXT NOT NULL DEFAULT '[]'
);
CREATE UNIQUE INDEX active_key ON runs (key)
    WHERE state IN ('planned', 'submitting', 'queued', 'setting-up', 'running', 'requeued');
CREATE INDEX runs_by_key ON runs (key, sequence);
CREATE INDEX runs_by_state ON runs (state);
CREATE INDEX runs_by_sweep ON runs (sweep_id);
CREATE TABLE attempts (
    run_id TEXT NOT NULL REFERENCES runs (run_id), number INTEGER NOT NULL, handle TEXT NOT NULL,
    started REAL NOT NULL, ended REAL, failure_class TEXT, exit_code INTEGER, message TEXT NOT NULL DEFAULT '',
    PRIMARY KEY (run_id, number)
);
CREATE TABLE events (
    sequence INTEGER PRIMARY KEY AUTOINCREMENT, run_id TEXT NOT NULL REFERENCES runs (run_id), time REAL NOT NULL,
    old TEXT, new TEXT NOT NULL, message TEXT NOT NULL DEFAULT ''
);
CREATE INDEX events_by_run ON events (run_id, sequence);
"""

# What a query selects, before anything else, for `run_record`.
RUN_COLUMNS = (
    "runs.run_id, runs.name, runs.sweep_id, runs.sweep_index, runs.backend, runs.profile, runs.key, runs.run_dir, "
    "runs.state, runs.failure_class, runs.message, runs.attempt, runs.handle, runs.created, runs.updated, "
    "runs.differs, runs.cancelling, runs.words, runs.leased_gpus, runs.owner, runs.after"
)

# From each version to the next.
MIGRATIONS = {
    1: "ALTER TABLE runs ADD COLUMN not_before REAL NOT NULL DEFAULT 0;\n"
    "ALTER TABLE runs ADD COLUMN words TEXT NOT NULL DEFAULT '[]';\n",
    2: "ALTER TABLE runs ADD COLUMN wanted_gpus INTEGER NOT NULL DEFAULT 0;\n"
    "ALTER TABLE runs ADD COLUMN leased_gpus TEXT NOT NULL DEFAULT '[]';\n",
    # Files have come before the registration ever since; a submission that had been cut short is made anew.
    3: "UPDATE runs SET state = 'cancelled', message = 'its submission was cut short' WHERE state = 'submitting';\n"
    "DROP TABLE IF EXISTS pending_files;\n",
    4: "ALTER TABLE sweeps ADD COLUMN stop TEXT;\n"
    "CREATE TABLE worths (run_id TEXT NOT NULL REFERENCES runs (run_id), point INTEGER NOT NULL, worth REAL NOT NULL, "
    "PRIMARY KEY (run_id, point));\n",
    5: "ALTER TABLE runs ADD COLUMN owner TEXT NOT NULL DEFAULT '';\n",
    6: "ALTER TABLE runs ADD COLUMN after TEXT NOT NULL DEFAULT '[]';\n",
}


@dataclass(frozen=True)
class RunRecord:
    """One run as the registry knows it.

    Attributes:
        index: Its number in its sweep, None outside of one.
        key: Submission key, SHA-256 in hexadecimal.
        message: Why it stands where it stands, where there is something to say.
        attempt: The current or last one, 0 before the first.
        handle: What its backend knows the attempt by, None before it is started.
        created: Unix seconds, like `updated`, the time of the last change.
        differs: What sets it apart from the other members of its sweep.
        cancelling: Its user asked for its end.
        words: Further settings of the trainer, for the attempts to come.
        owner: Whoever submitted it, and alone starts, resumes and cancels it; empty where an older version did.
        gpus: Names of the GPUs that it has, or had, to itself; none where its backend gives them out.
        after: Ids of the runs and sweeps that must succeed before it begins; nothing once it has begun.
        retaken: Whoever had claimed its start before has not seen what came of it.
        follows: Handles of the attempts that its backend is to wait for before it begins.
    """

    run_id: str
    name: str
    sweep_id: str | None
    index: int | None
    backend: str
    profile: str
    key: str
    state: RunState
    failure_class: FailureClass | None
    message: str
    run_dir: Path
    attempt: int
    handle: str | None
    created: float
    updated: float
    differs: Mapping[str, Any]
    cancelling: bool
    words: tuple[str, ...]
    gpus: tuple[str, ...]
    owner: str
    after: tuple[str, ...] = ()
    retaken: bool = False
    follows: tuple[str, ...] = ()


@dataclass(frozen=True)
class Attempt:
    """One start of a run; times in unix seconds."""

    number: int
    handle: str
    started: float
    ended: float | None
    failure_class: FailureClass | None
    exit_code: int | None
    message: str


@dataclass(frozen=True)
class Event:
    """One change of a run's state; `time` in unix seconds, `old` None where the run was made."""

    run_id: str
    time: float
    old: RunState | None
    new: RunState
    message: str


def run_record(row: sqlite3.Row) -> RunRecord:
    """A row that begins with RUN_COLUMNS. It is read by place: by name it would take twice as long."""
    run_id, name, sweep_id, index, backend, profile, key, run_dir = row[:8]
    state, failure_class, message, attempt, handle, created, updated = row[8:15]
    differs, cancelling, words, gpus, owner, after = row[15:21]
    return RunRecord(
        run_id=run_id,
        name=name,
        sweep_id=sweep_id,
        index=index,
        backend=backend,
        profile=profile,
        key=key,
        state=RunState(state),
        failure_class=FailureClass(failure_class) if failure_class else None,
        message=message,
        run_dir=Path(run_dir),
        attempt=attempt,
        handle=handle,
        created=created,
        updated=updated,
        differs=json.loads(differs),
        cancelling=bool(cancelling),
        words=_words(words),
        gpus=_words(gpus),
        owner=owner,
        after=_words(after),
    )


def _words(text: str) -> tuple[str, ...]:
    """A JSON list of words, empty in nearly all of many rows."""
    return () if text == "[]" else tuple(json.loads(text))


def attempt_record(row: sqlite3.Row) -> Attempt:
    """A row of `attempts`."""
    failure_class = FailureClass(row["failure_class"]) if row["failure_class"] else None
    return Attempt(
        number=row["number"],
        handle=row["handle"],
        started=row["started"],
        ended=row["ended"],
        failure_class=failure_class,
        exit_code=row["exit_code"],
        message=row["message"],
    )


def event_record(row: sqlite3.Row) -> Event:
    """A row of `events`."""
    old = RunState(row["old"]) if row["old"] else None
    return Event(row["run_id"], row["time"], old, RunState(row["new"]), row["message"])
