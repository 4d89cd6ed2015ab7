"""The commands plan, submit, status and wait for notebooks and scripts, and metrics as a pandas frame.

Home folder, profiles and registry are those of the command line when it is called in the same folder.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.errors import LongshoreError
from orchestrator.sharing import for_the_group
from orchestrator.surroundings import (
    backend_for,
    existing_store,
    home,
    load,
    look_at,
    open_store,
    plan_of,
    refresh,
    resolve,
    secrets_of,
)

if TYPE_CHECKING:
    import pandas

    from orchestrator.plan import Plan
    from orchestrator.runs import RunRecord, RunStore

Runs = str | Sequence[str]  # one RUN of the command line, or several: an id, a prefix, a sweep, `last`


def plan(
    job: str | Path, *overrides: str, sets: Sequence[str] = (), backend: str | None = None, tasks: str | None = None
) -> Plan:
    """What `submit` would do with the same arguments; changes nothing.

    Args:
        job: A job file.
        overrides: Settings of the trainer, `seed=1`.
        sets: Keys of the job, `name=second`.
        backend: steve, slurm, docker or local.
        tasks: Names to sweep over, with commas between them.

    Raises:
        LongshoreError: The job is wrong; it says where.
    """
    return plan_of(load(Path(job), list(overrides), list(sets), backend, tasks))


def submit(
    job: str | Path,
    *overrides: str,
    sets: Sequence[str] = (),
    backend: str | None = None,
    tasks: str | None = None,
    again: bool = False,
) -> list[str]:
    """Start the runs of a job file; those that are there already are not started twice.

    Args:
        job: A job file.
        overrides: Settings of the trainer, `seed=1`.
        sets: Keys of the job, `name=second`.
        backend: steve, slurm, docker or local.
        tasks: Names to sweep over, with commas between them.
        again: A new run even where the same one is done.

    Returns:
        Ids of the runs.

    Raises:
        LongshoreError: The job is wrong, or a backend cannot be reached.
    """
    from orchestrator.submit import execute

    spec = load(Path(job), list(overrides), list(sets), backend, tasks)
    secrets = secrets_of(spec)
    with _closing(open_store()) as store, _outside_of_the_kernel():
        where = backend_for(spec.backend, spec.profile)
        made = plan_of(spec)
        look_at(store, made.after)
        return [result.run_id for result in execute(made, store, where, secrets, again=again)]


def wait(runs: Runs, timeout: float | None = None) -> pandas.DataFrame:
    """Wait until runs have ended; returns their `status`.

    Args:
        runs: What a RUN of the command line may be, or several.
        timeout: Seconds to wait at most.

    Raises:
        LongshoreError: There is no such run, the time is over, or a backend cannot be asked.
    """
    from orchestrator.waiting import wait as wait_for

    with _found(runs) as (store, records):
        return _status(wait_for(store, backend_for, [record.run_id for record in records], timeout=timeout))


def status(runs: Runs) -> pandas.DataFrame:
    """Where runs stand: a row a run, by its id.

    Args:
        runs: What a RUN of the command line may be, or several.

    Raises:
        LongshoreError: There is no such run.
    """
    with _found(runs) as (store, records):
        refresh(store)
        return _status(store.records([record.run_id for record in records]))


def metrics(runs: Runs) -> pandas.DataFrame:
    """The figures of docs/metrics.md: a row a line of metrics.jsonl, a column a figure.

    Args:
        runs: What a RUN of the command line may be, or several. The first column is the run's id, and those
            after it are the settings that the runs of a sweep differ in.

    Raises:
        LongshoreError: There is no such run.
    """
    from trainer.run_dir import RunDir

    with _found(runs) as (_, records):
        rows = [
            {"run": record.run_id, **record.differs, **line}
            for record in records
            for line in RunDir(record.run_dir).read_metrics()
        ]
    return _pandas().DataFrame(rows)


def _status(records: Sequence[RunRecord]) -> pandas.DataFrame:
    from orchestrator.tables import heartbeat

    rows = {record.run_id: _row(record, heartbeat(record)) for record in records}
    return _pandas().DataFrame.from_dict(rows, orient="index")


def _row(record: RunRecord, seen: Any) -> Mapping[str, Any]:
    shown = {"state": str(record.state), "why": str(record.failure_class or ""), "attempt": record.attempt}
    figures = ("phase", "optim_step", "total_optim_steps", "frames", "fps", "steps_per_s", "episode_return")
    return {**shown, **record.differs, **{name: getattr(seen, name, None) for name in figures}}


@contextmanager
def _found(runs: Runs) -> Iterator[tuple[RunStore, list[RunRecord]]]:
    _pandas()  # before anything else: who waits for an hour wants to see the answer
    references = [runs] if isinstance(runs, str) else list(runs)
    if not references:
        raise LongshoreError("no runs are named; an id, a prefix of one, a sweep and `last` are runs")
    with _closing(existing_store(references[0])) as store, _outside_of_the_kernel():
        yield store, resolve(store, references)


@contextmanager
def _outside_of_the_kernel() -> Iterator[None]:
    """Runs on this machine, which any look may start, inherit the environment, but have no notebook to draw in."""
    backend = os.environ.pop("MPLBACKEND", None)
    try:
        with for_the_group(home()):
            yield
    finally:
        if backend is not None:
            os.environ["MPLBACKEND"] = backend


@contextmanager
def _closing(store: RunStore) -> Iterator[RunStore]:
    try:
        yield store
    finally:
        store.close()


def _pandas() -> Any:
    try:
        import pandas
    except ImportError as error:
        remedy = "pip install '.[notebook]' in the clone"
        raise LongshoreError(f"pandas is not installed, which tables are made of: {remedy}") from error
    return pandas
