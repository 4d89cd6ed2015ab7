"""The command `report`: a page about runs, as a file or served while they go on."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated
from urllib.parse import quote

import typer

from orchestrator.completion import RunRefs
from orchestrator.errors import UsageError
from orchestrator.surroundings import existing_store, home, open_store, refresh, resolve, say

if TYPE_CHECKING:
    from orchestrator.report.data import Report, RunEntry
    from orchestrator.runs import RunRecord


def report(
    refs: RunRefs,
    output: Annotated[Path | None, typer.Option("--output", "-o", metavar="FILE", help="Where to write it.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Serve it on this machine, always up to date.")] = False,
) -> int:
    """Write a page about runs, and print its path."""
    if live and output is not None:
        raise UsageError("--live serves the page and writes no file: leave --output out")
    store = existing_store(refs[0])
    code = refresh(store)
    records = resolve(store, refs)
    store.close()
    if live:
        _serve(_collector(records))
        return code
    from orchestrator.report.page import render
    from trainer.run_dir import write_atomically

    path = (output or _default_path(records)).absolute()
    write_atomically(path, render(_collector(records)(), _beside(path.parent)), durable=False)
    print(path)
    return code


def _collector(records: Sequence[RunRecord]) -> Callable[[], Report]:
    """Collects a report on these runs as they stand then, in any thread."""
    from orchestrator.report.collect import collect

    def collect_now() -> Report:
        store = open_store()
        try:
            return collect(store, store.records([record.run_id for record in records]), _title(records), time.time())
        finally:
            store.close()

    return collect_now


def _title(records: Sequence[RunRecord]) -> str:
    sweeps = {record.sweep_id or record.run_id for record in records}
    if len(records) == 1:
        return records[0].run_id
    return sweeps.pop() if len(sweeps) == 1 else f"{len(records)} runs"


def _default_path(records: Sequence[RunRecord]) -> Path:
    """In the run's folder; beside the folders of several runs."""
    if len(records) == 1:
        return records[0].run_dir / "report.html"
    return home() / f"report-{records[0].sweep_id or records[0].run_id}.html"


def _beside(folder: Path) -> Callable[[RunEntry, str], str]:
    """Links that hold as long as the page and the runs are moved together."""
    return lambda run, artefact: quote(os.path.relpath(run.folder / artefact, folder))


def _serve(collect: Callable[[], Report]) -> None:
    from orchestrator.report.live import LiveServer
    from orchestrator.report.page import render

    def link(run: RunEntry, artefact: str) -> str:
        return f"files/{quote(run.run_id)}/{quote(artefact)}"

    def page(whole: bool) -> str:
        store = open_store()
        try:
            refresh(store)
        finally:
            store.close()
        return render(collect(), link, live=True, whole=whole)

    def file(run_id: str, artefact: str) -> Path | None:
        linked = {(run.run_id, name): run.folder / name for run in collect().runs for name in run.artefacts}
        return linked.get((run_id, artefact))

    with LiveServer(page, file) as server:
        print(server.address, flush=True)
        say("Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("")
