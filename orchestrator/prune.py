"""Remove runs that nobody needs any more: which ones, how large they are, and away with them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from orchestrator.runs import RunRecord, RunStore
from orchestrator.states import TERMINAL, RunState
from orchestrator.sweep_files import discard, plan_of

DOOMED = ".pruned-"  # what a run directory is called while it is being removed


@dataclass(frozen=True)
class Candidate:
    """A run that could go, and the bytes that its folder takes on disk."""

    record: RunRecord
    size: int


def candidates(
    records: Iterable[RunRecord],
    now: float,
    *,
    older: float = 0.0,
    states: Collection[RunState] = TERMINAL,
    larger: int = 0,
) -> list[Candidate]:
    """Runs that have ended and fit, the oldest first.

    Args:
        records: To choose from, the oldest first.
        now: Unix seconds.
        older: Seconds since their end, at least.
        states: In one of which they have ended.
        larger: Bytes on disk, at least.
    """
    ended = (r for r in records if r.state in TERMINAL and r.state in states and now - r.updated >= older)
    found = (Candidate(record, disk_use(record.run_dir)) for record in ended)
    return [candidate for candidate in found if candidate.size >= larger]


def disk_use(folder: Path) -> int:
    """Bytes that a folder takes on disk, each file counted once."""
    seen: set[tuple[int, int]] = set()
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                status = os.lstat(os.path.join(parent, name))
            except OSError:  # gone meanwhile
                continue
            if (status.st_dev, status.st_ino) not in seen:
                seen.add((status.st_dev, status.st_ino))
                total += status.st_blocks * 512
    return total


def remove(store: RunStore, chosen: Iterable[Candidate]) -> list[RunRecord]:
    """Remove runs, from the disk and from the registry; one that has been resumed meanwhile stays.

    Returns:
        Those that are gone.
    """
    gone = []
    for left in store.home.glob(DOOMED + "*"):  # by somebody who was killed
        shutil.rmtree(left, ignore_errors=True)
    for candidate in chosen:
        record = candidate.record
        if not store.forget(record.run_id):
            continue
        if record.run_dir.parent == store.home and record.run_dir.exists():
            doomed = store.home / f"{DOOMED}{record.run_id}"
            record.run_dir.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)
        gone.append(record)
    left_over = {plan_of(record.run_id) for record in store.list()}
    discard(store.home, {plan_of(record.run_id) for record in gone} - left_over)
    return gone
