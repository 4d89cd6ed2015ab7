"""The command line: takes arguments, clock, randomness and environment, and hands them to the rest.

What a command needs is imported inside it: `--help` must not wait for pydantic, nor `runs` for Jinja.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from orchestrator.commands import containers, doctor, export, reach, report, upkeep
from orchestrator.completion import RunRef, RunRefs
from orchestrator.errors import LongshoreError, Problem, SpecError, UsageError
from orchestrator.surroundings import (
    agrees,
    backend_for,
    existing_store,
    fetch_logs,
    load,
    look_at,
    observer,
    open_store,
    plan_of,
    refresh,
    resolve,
    say,
    secrets_of,
    warn_of_missing_secrets,
)

if TYPE_CHECKING:
    from orchestrator.runs import RunRecord, RunStore

ASK_ABOVE = 10  # runs: sbatch asks nothing, but a sweep gone wrong should not fill a cluster by one slip

app = typer.Typer(
    help="Ship Dreamer training into simulator containers, on this machine or a cluster.",
    rich_markup_mode=None,  # plain help: importing rich for it would cost half of the start-up time
    pretty_exceptions_enable=False,
)

JobFile = Annotated[Path, typer.Argument(metavar="JOB", help="A job file.", show_default=False)]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Trainer settings (Hydra overrides).", show_default=False),
]
Sets = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a key of the job.")]
BackendName = Annotated[str | None, typer.Option("--backend", metavar="B", help="steve, slurm, docker or local.")]
Tasks = Annotated[str | None, typer.Option("--tasks", metavar="A,B,...", help="Sweep over these tasks.")]
AsJson = Annotated[bool, typer.Option("--json", help="For programs.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")]


@app.command()
def submit(
    job: JobFile,
    overrides: Overrides = None,
    sets: Sets = None,
    backend: BackendName = None,
    tasks: Tasks = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Show the log until the end.")] = False,
    yes: Yes = False,
    again: Annotated[bool, typer.Option("--again", help="A new run even where the same one is done.")] = False,
) -> int:
    """Start the runs of a job file; prints their ids."""
    spec = load(job, overrides, sets, backend, tasks)
    where = backend_for(spec.backend, spec.profile)
    secrets = secrets_of(spec)
    made = plan_of(spec)
    if len(made.runs) > ASK_ABOVE and not yes and not agrees(f"Submit {len(made.runs)} runs to {made.backend}?"):
        raise LongshoreError("nothing submitted")
    from orchestrator.states import Verdict
    from orchestrator.submit import execute

    store = open_store()
    look_at(store, made.after)
    results = execute(made, store, where, secrets, again=again)
    for result in results:
        print(result.run_id, flush=True)
        if result.message:
            say(result.message)
    if not follow:
        return 0
    going = [result.run_id for result in results if result.verdict is not Verdict.DONE]
    return _follow(store, [result.run_id for result in results], going)


@app.command()
def plan(
    job: JobFile,
    overrides: Overrides = None,
    sets: Sets = None,
    backend: BackendName = None,
    tasks: Tasks = None,
    as_json: AsJson = False,
) -> int:
    """Show what submit would do; changes nothing."""
    spec = load(job, overrides, sets, backend, tasks)
    warn_of_missing_secrets(spec)
    made = plan_of(spec)
    if as_json:
        print(json.dumps(made.to_dict(), indent=2))
    else:
        from orchestrator.tables import plan_text

        print(plan_text(made))
    return 0


@app.command()
def render(
    job: JobFile,
    overrides: Overrides = None,
    sets: Sets = None,
    backend: BackendName = None,
    tasks: Tasks = None,
) -> int:
    """Print the script that would run, and nothing else."""
    made = plan_of(load(job, overrides, sets, backend, tasks))
    if made.is_sweep:
        say(f"this is the script of {made.runs[0].run_id}, the first of {len(made.runs)} runs")
    print(made.runs[0].files["setup-and-run.sh"], end="")
    return 0


@app.command()
def validate(jobs: Annotated[list[Path], typer.Argument(metavar="JOB...", help="Job files.")]) -> int:
    """Check job files; every problem on a line of its own."""
    problems: list[Problem] = []
    for job in jobs:
        try:
            spec = load(job)
        except SpecError as error:
            problems += error.problems
        else:
            count = len(spec.sweep.combinations()) if spec.sweep else 1
            print(f"{job}: {count} {'run' if count == 1 else 'runs'}")
    if problems:
        raise SpecError(problems)
    return 0


@app.command()
def runs(
    as_json: AsJson = False,
    disk: Annotated[
        bool, typer.Option("--disk", help="Add what each takes on disk; looks at all of their files.")
    ] = False,
) -> int:
    """List the runs, the newest last."""
    from orchestrator.listing import show_all

    return show_all(as_json=as_json, disk=disk)


@app.command()
def status(run: RunRef, as_json: AsJson = False) -> int:
    """Show where a run, or each run of a sweep, stands."""
    from orchestrator.listing import show_standing

    return show_standing(run, as_json=as_json)


@app.command()
def logs(
    run: RunRef,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the run has ended.")] = False,
    attempt: Annotated[int | None, typer.Option("--attempt", metavar="N", help="Only this attempt.")] = None,
) -> int:
    """Print what a run, or each run of a sweep, has written."""
    from orchestrator.follow import LogTail, Screen, follow_runs
    from trainer.run_dir import RunDir

    store = existing_store(run)
    records = store.resolve(run)
    fetch_logs(records)
    attempts = {record.run_id: RunDir(record.run_dir).attempts() for record in records}
    if attempt is not None and not any(attempt in numbers for numbers in attempts.values()):
        known = ", ".join(map(str, sorted({number for numbers in attempts.values() for number in numbers})))
        raise UsageError(f"{run} has no attempt {attempt}; attempts: {known or 'none yet'}")
    if follow:
        with Screen(len(records), sys.stdout, sys.stderr) as screen:
            follow_runs(observer(store, list(attempts), screen.note), screen, attempt=attempt)
        return 0
    for record in records:
        whose = f"{record.run_id} | " if len(records) > 1 else ""
        for line in LogTail(record.run_dir, attempt).read(final=True):
            sys.stdout.write(whose + line)
        if not attempts[record.run_id]:
            say(f"{record.run_id}: {record.state}, nothing written yet")
    return 0


@app.command()
def wait(
    refs: RunRefs,
    timeout: Annotated[str | None, typer.Option(metavar="TIME", help="Give up after this long: 30m, 2:00:00.")] = None,
) -> int:
    """Wait until the runs have ended; 0 when all of them succeeded."""
    from orchestrator.follow import state_line
    from orchestrator.waiting import wait as wait_for

    limit = None if timeout is None else _seconds("--timeout", timeout)
    store = existing_store(refs[0])
    run_ids = [record.run_id for record in resolve(store, refs)]
    ended = wait_for(store, backend_for, run_ids, timeout=limit, tell=say)
    for record in ended:
        say(state_line(record))
    return _show_figures(ended)


@app.command()
def cancel(
    refs: RunRefs,
    yes: Yes = False,
    grace: Annotated[str, typer.Option(metavar="TIME", help="Time to save a checkpoint before the end.")] = "2m",
) -> int:
    """Stop runs: they save a checkpoint and end."""
    from orchestrator.states import TERMINAL
    from orchestrator.watch import cancel as end

    limit = timedelta(seconds=_seconds("--grace", grace))
    store = existing_store(refs[0])
    refresh(store)
    records = resolve(store, refs)
    going = [record for record in records if record.state not in TERMINAL]
    going = [record for record in going if store.is_mine(record)] or going
    for record in records:
        if record not in going:
            say(f"{record.run_id}: already {record.state}")
    if len(going) > 1 and not yes and not agrees(f"Cancel {len(going)} runs?"):
        raise LongshoreError("nothing cancelled")
    for record in end(store, backend_for, going, limit):
        print(f"{record.run_id} {record.state}")
    return 0


app.command()(containers.shell)
app.command()(report.report)
app.command()(export.export)
app.command()(doctor.doctor)
app.command()(reach.pull)
app.command(name="exec")(reach.execute)
app.command()(upkeep.resume)
app.command()(upkeep.watch)
app.command()(upkeep.prune)
app.add_typer(containers.image, name="image")


@app.command()
def tasks(
    pattern: Annotated[str | None, typer.Argument(metavar="[PATTERN]", help="Part of a name, or a glob.")] = None,
    as_json: AsJson = False,
) -> int:
    """List the tasks that the simulators know."""
    from fnmatch import fnmatchcase

    from orchestrator.jobfile.tasks import simulators

    known = [task for simulator in simulators().values() for task in simulator.tasks.values()]
    glob = (pattern or "").lower()
    if not set(glob) & set("*?["):
        glob = f"*{glob}*"
    found = [task for task in known if fnmatchcase(task.name.lower(), glob)]
    if not found:
        raise LongshoreError(f"no task matches '{pattern}'; `tasks` alone lists all {len(known)}")
    if as_json:
        print(json.dumps([asdict(task) for task in found], indent=2))
    else:
        from orchestrator.tables import Table, show

        show(Table(("TASK", "SIMULATOR", "OBSERVES"), tuple((t.name, t.simulator, t.kind) for t in found)))
    return 0


@app.command()
def schema() -> int:
    """Print the JSON schema of job files."""
    from orchestrator.spec import job_schema

    print(json.dumps(job_schema(), indent=2))
    return 0


def _follow(store: RunStore, run_ids: Sequence[str], going: Sequence[str]) -> int:
    """Show the runs that are `going` until their end, then how all of them ended."""
    from orchestrator.follow import GRACE, Screen, cancel_on_interrupt, follow_runs
    from orchestrator.watch import cancel as end

    try:
        if going:
            with Screen(len(going), sys.stdout, sys.stderr) as screen:
                follow_runs(observer(store, going, screen.note), screen)
    except KeyboardInterrupt:
        if cancel_on_interrupt(sys.stdin, sys.stderr):
            for record in end(store, backend_for, resolve(store, going), GRACE):
                say(f"{record.run_id}: {record.state}")
        else:
            say(f"detached: the run goes on; `logs -f {going[-1]}` shows it, `cancel {going[-1]}` ends it")
        raise
    return _show_figures(resolve(store, run_ids))


def _show_figures(records: Sequence[RunRecord]) -> int:
    """Print what training gave where runs have succeeded; 1 where one neither has nor was stopped by its sweep."""
    from orchestrator.states import AS_ASKED, RunState
    from orchestrator.tables import show, summary_table
    from trainer.run_dir import RunDir

    succeeded = [record for record in records if record.state is RunState.SUCCEEDED]
    summaries = {record.run_id: RunDir(record.run_dir).read_summary() for record in succeeded}
    if known := {run_id: summary for run_id, summary in summaries.items() if summary is not None}:
        show(summary_table(known))
    return 0 if all(record.state in AS_ASKED for record in records) else 1


def _seconds(option: str, text: str) -> float:
    from orchestrator.jobfile.quantities import duration_seconds

    try:
        return duration_seconds(text)
    except ValueError as error:
        raise UsageError(f"{option}: {error}") from error


def run_command(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code.

    Raises:
        LongshoreError: It failed, or the job file is wrong.
        KeyboardInterrupt: Somebody has interrupted it.
    """
    try:
        return int(app(args=list(arguments), prog_name=Path(sys.argv[0]).name, standalone_mode=False) or 0)
    except typer.TyperException as error:
        say(f"error: {error.format_message()}")
        return error.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
