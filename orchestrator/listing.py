"""What `runs` and `status` show."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from orchestrator.surroundings import existing_reader, has_runs, home, look, open_reader, say
from orchestrator.tables import (
    heartbeat,
    history_to_dict,
    run_to_dict,
    runs_table,
    show,
    status_table,
    with_disk_use,
    with_owners,
)
from orchestrator.trend import trends

if TYPE_CHECKING:
    from orchestrator.records import RunRecord


def show_all(*, as_json: bool, disk: bool = False) -> int:
    """All runs, the newest last; returns the exit code.

    Args:
        as_json: For programs.
        disk: Add what each takes on disk.
    """
    if not has_runs():
        print("[]") if as_json else say(f"no runs in {home()}")
        return 0
    registry = open_reader()
    code = look(registry)
    _show_runs(registry.list(), as_json, disk)
    return code


def show_standing(run: str, *, as_json: bool) -> int:
    """Where a run, or each run of a sweep, stands; returns the exit code.

    Args:
        run: RUN of the command line.
        as_json: For programs.
    """
    registry = existing_reader(run)
    code = look(registry)
    records = registry.resolve(run)
    if len(records) > 1:
        _show_runs(records, as_json)
    elif as_json:
        [record] = records
        history = history_to_dict(registry.attempts(record.run_id), registry.events(record.run_id))
        print(json.dumps(run_to_dict(record) | history, indent=2))
    else:
        trend = trends(records)[records[0].run_id] if sys.stdout.isatty() else ""
        awaited = registry.predecessors(records[0].after)
        show(status_table(records[0], heartbeat(records[0]), time.time(), trend, awaited))
    return code


def _show_runs(records: Sequence[RunRecord], as_json: bool, disk: bool = False) -> None:
    sizes = []
    if disk:
        from orchestrator.prune import disk_use

        sizes = [disk_use(record.run_dir) for record in records]
    if as_json:
        used = [{"disk": size} for size in sizes] if disk else [{}] * len(records)
        print(json.dumps([run_to_dict(record) | more for record, more in zip(records, used, strict=True)], indent=2))
        return
    statuses = {record.run_id: heartbeat(record) for record in records}
    table = runs_table(records, statuses, time.time(), trends(records) if sys.stdout.isatty() else {})
    table = with_owners(table, records)
    show(with_disk_use(table, sizes) if disk else table)
    if disk:
        say(f"{sum(sizes) / 1e9:,.2f} GB in all")
