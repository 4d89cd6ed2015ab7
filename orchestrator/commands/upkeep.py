"""Commands that keep long runs going, and the disk from filling up: `resume`, `watch` and `prune`."""

from __future__ import annotations

import os
import time
from typing import Annotated

import typer

from orchestrator.completion import RunRef
from orchestrator.errors import LongshoreError, UsageError
from orchestrator.surroundings import backend_for, existing_store, has_runs, open_store, refresh, resolve, say


def resume(
    ref: RunRef,
    settings: Annotated[
        list[str] | None,
        typer.Argument(metavar="[KEY=VALUE]...", help="Trainer settings from now on.", show_default=False),
    ] = None,
    checkpoint: Annotated[
        str | None, typer.Option("--from", metavar="CHECKPOINT", help="One of the run's: step_00001000, best.")
    ] = None,
) -> int:
    """Have a run that has ended go on, from its newest checkpoint; of a sweep, those that failed or were cancelled."""
    from orchestrator.resume import resume as put_back
    from orchestrator.states import RunState
    from orchestrator.watch import start_queued

    store = existing_store(ref)
    refresh(store)
    records = resolve(store, [ref])
    if len(records) > 1:
        records = [record for record in records if record.state in {RunState.FAILED, RunState.CANCELLED}]
        records = [record for record in records if store.is_mine(record)] or records[:1]
        if not records:
            say("no run of it has failed or was cancelled")
    for record in records:
        put_back(store, record, settings or (), checkpoint)
    ids = [record.run_id for record in records]
    errors = start_queued(store, backend_for, os.environ, only=ids)
    for run_id in ids:
        now = store.get(run_id)
        print(f"{run_id} {now.state}" + (f": attempt {now.attempt}" if now.handle else ""))
    if errors:
        raise errors[0]
    return 0


def prune(
    older: Annotated[str | None, typer.Option(metavar="TIME", help="Ended this long ago: 30d, 12h.")] = None,
    state: Annotated[
        list[str] | None, typer.Option(metavar="STATE", help="Ended so: succeeded, failed, cancelled or stopped.")
    ] = None,
    larger: Annotated[str | None, typer.Option(metavar="SIZE", help="At least this large: 500M, 10G.")] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Remove them.")] = False,
) -> int:
    """List runs of yours that could go, the oldest first; --yes removes them, from the disk and from the registry."""
    from orchestrator.jobfile.quantities import duration_seconds, memory_mib
    from orchestrator.prune import candidates, remove
    from orchestrator.states import TERMINAL

    names = [str(known) for known in sorted(TERMINAL)]
    if wrong := [name for name in state or () if name not in names]:
        raise UsageError(f"--state: {wrong[0]!r} is none of {', '.join(names)}")
    if not has_runs():
        return 0
    store = open_store()
    refresh(store)
    try:
        chosen = candidates(
            [record for record in store.list() if store.is_mine(record)],
            time.time(),
            older=duration_seconds(older) if older else 0.0,
            states={known for known in TERMINAL if not state or str(known) in state},
            larger=(memory_mib(larger) << 20) if larger else 0,
        )
    except ValueError as error:
        raise UsageError(f"--older or --larger: {error}") from None
    for candidate in chosen:
        print(f"{candidate.record.run_id} {candidate.record.state} {candidate.size / 1e6:,.1f} MB")
    total = f"{len(chosen)} runs, {sum(candidate.size for candidate in chosen) / 1e9:,.2f} GB"
    if not yes:
        say(f"{total}; --yes removes them")
        return 0
    say(f"{len(remove(store, chosen))} of {total} removed")
    return 0


def watch(
    interval: Annotated[float, typer.Option(metavar="SECONDS", min=1.0, help="Between two looks.")] = 30.0,
    notify: Annotated[
        str | None,
        typer.Option(
            metavar="COMMAND|URL",
            help="Run for each change, with LONGSHORE_RUN_ID, _STATE and _MESSAGE set; or post them there as JSON.",
        ),
    ] = None,
) -> int:
    """Look after all runs until it is interrupted: start, retry, tell. `status` does the same whenever it is called."""
    from orchestrator.notify import tell
    from orchestrator.watch import refresh as ask_backends

    store = open_store()
    say(f"watching {store.home}, every {interval:g} s")
    while True:
        try:
            changes = ask_backends(store, backend_for)
        except LongshoreError as error:  # a cluster that does not answer now will do so later
            say(f"error: {error}")
            changes = ()
        for change in changes:
            print(f"{change.run_id} {change.new}" + (f": {change.message}" if change.message else ""), flush=True)
            if notify is not None:
                tell(notify, change)
        time.sleep(interval)
