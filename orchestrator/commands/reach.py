"""Commands that reach to where a run is: `pull` and `exec`."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.completion import RunRef, RunRefs
from orchestrator.errors import BackendError, LongshoreError, UsageError
from orchestrator.surroundings import backend_for, existing_store, profile_files, refresh, resolve, say

if TYPE_CHECKING:
    from orchestrator.backends.base import Place
    from orchestrator.remote.transfer import What
    from orchestrator.runs import RunRecord


def pull(
    refs: RunRefs,
    what: Annotated[
        str, typer.Option(metavar="A,B,...", help="checkpoints (newest and best), latest, logs, metrics or all.")
    ] = "checkpoints,logs,metrics",
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FOLDER", help="Instead of the run's own folder here.")
    ] = None,
) -> int:
    """Bring what runs have written here, going on where an earlier pull broke off; prints their folders."""
    from orchestrator.backends.base import Place
    from orchestrator.hosts import LocalHost
    from orchestrator.remote.transfer import What

    try:
        parts = {What(name) for name in what.split(",")}
    except ValueError as error:
        raise UsageError(f"--what: {error}; there are {', '.join(What)}") from None
    store = existing_store(refs[0])
    refresh(store)
    failed = 0
    for record in resolve(store, refs):
        here = to.absolute() / record.run_id if to else record.run_dir
        place = _place(record)
        if place is None and to is None:
            say(f"{record.run_id}: all that there is lies here")
        else:
            try:
                _bring(record, place or Place(LocalHost(), record.run_dir), here, parts)
            except BackendError as error:
                say(f"error: {record.run_id}: {error}; pulling again goes on from here")
                failed = error.exit_code
                continue
        print(here)
    return failed


def _bring(record: RunRecord, place: Place, here: Path, parts: set[What]) -> None:
    from orchestrator.remote.transfer import pull as bring

    runs = place.host, place.folder.parent, {place.folder.name: here}
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

        columns = (TextColumn("{task.description}", markup=False), BarColumn(bar_width=24), DownloadColumn())
        with Progress(*columns, TransferSpeedColumn(), console=Console(stderr=True), transient=True) as progress:
            bar = progress.add_task(record.run_id, total=None)
            done = bring(*runs, parts, lambda now, all: progress.update(bar, completed=now, total=all))
    else:
        done = bring(*runs, parts)
    known = f", {done.known} were here" if done.known else ""
    say(f"{record.run_id}: {done.files} files, {done.size / 1e6:,.1f} MB{known}")


def _place(record: RunRecord) -> Place | None:
    """Where a run's files are, if not here."""
    from orchestrator.backends.base import FarBackend

    backend = backend_for(record.backend, record.profile)
    return backend.place(record.run_dir) if isinstance(backend, FarBackend) else None


def execute(
    ref: RunRef,
    command: Annotated[list[str], typer.Argument(metavar="-- COMMAND...", help="As it is typed where the run is.")],
) -> int:
    """Run a command where a run is: in its container, on its node, in its folder; its exit code is the command's."""
    from orchestrator.environment import variables_of
    from orchestrator.profile import load_profile
    from orchestrator.spec import load_job
    from orchestrator.states import RunState
    from trainer.run_dir import RUN_DIR_VARIABLE, RunDir

    store = existing_store(ref)
    refresh(store)
    record = store.get(ref)
    if record.handle is None or record.state not in {RunState.SETTING_UP, RunState.RUNNING}:
        raise LongshoreError(f"{record.run_id} is {record.state}; a command needs a run that goes on")
    profile = load_profile(record.profile, record.backend, profile_files())
    variables = variables_of(load_job(RunDir(record.run_dir).job), profile)
    backend = backend_for(record.backend, record.profile)
    if record.backend == "local":
        variables |= {RUN_DIR_VARIABLE: str(record.run_dir)}
        python = Path(profile.python or sys.executable)
        if python.is_absolute():
            variables["PATH"] = f"{python.parent}:{os.environ.get('PATH', os.defpath)}"
    return backend.execute(record.handle, record.run_dir, command, variables)
