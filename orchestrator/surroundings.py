"""What the command line takes from its surroundings: home folder, registry, profiles, backends, clock and terminal.

Imports wait inside the functions, as in the command line itself: a command pays only for what it uses.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from orchestrator.backends import load_backend
from orchestrator.errors import BackendError, SpecError, UsageError

if TYPE_CHECKING:
    from orchestrator.backends.base import Backend
    from orchestrator.plan import Plan
    from orchestrator.profile import Profile
    from orchestrator.reading import RunReader
    from orchestrator.records import RunRecord
    from orchestrator.registry import Registry
    from orchestrator.runs import RunStore
    from orchestrator.spec import JobSpec
    from orchestrator.watch import Errors

PLUGINS = "PYDANTIC_DISABLE_PLUGINS"


def load(
    job: Path,
    overrides: list[str] | None = None,
    sets: list[str] | None = None,
    backend: str | None = None,
    tasks: str | None = None,
) -> JobSpec:
    """The job that a file and the arguments of submit, plan or render describe."""
    with _pydantic_plugins_off():
        from orchestrator.spec import load_job

    return load_job(job, overrides=overrides or (), sets=sets or (), backend=backend, tasks=[tasks] if tasks else ())


def secrets_of(job: JobSpec) -> dict[str, str]:
    """Values of the job's secrets.

    Raises:
        SpecError: One is not set.
    """
    from orchestrator.spec import check_secrets

    if problems := check_secrets(job, os.environ):
        raise SpecError(problems)
    return {name: os.environ[name] for name in job.secrets}


def warn_of_missing_secrets(job: JobSpec) -> None:
    """Looking at a job does not need its secrets; submitting it will."""
    from orchestrator.spec import check_secrets

    for problem in check_secrets(job, os.environ):
        say(f"warning: {problem}")


@contextlib.contextmanager
def _pydantic_plugins_off() -> Iterator[None]:
    """Models are built without asking every installed package for plugins, as Typer builds its own: 50 ms a start."""
    before = os.environ.get(PLUGINS)
    os.environ[PLUGINS] = "__all__"
    try:
        yield
    finally:
        del os.environ[PLUGINS]
        if before is not None:
            os.environ[PLUGINS] = before


def plan_of(job: JobSpec) -> Plan:
    """The plan for a new run of `job`; its warnings are said."""
    made = plan_quietly(job)
    for warning in made.warnings:
        say(f"warning: {warning}")
    return made


def plan_quietly(job: JobSpec) -> Plan:
    """The plan for a new run of `job`: clock, randomness, environment and file system enter here."""
    from orchestrator.assets import trainer_folder
    from orchestrator.snapshot import take_snapshot

    with _pydantic_plugins_off():
        from orchestrator.plan import make_plan, new_run_id
        from orchestrator.profile import load_profile

    if job.after:
        store = existing_store(job.after[0])
        job = job.model_copy(update={"after": tuple(dict.fromkeys(map(store.whole_id, job.after)))})
    profile = load_profile(job.profile, job.backend, profile_files())
    return make_plan(
        job,
        run_id=new_run_id(job.name, datetime.now(), os.urandom(2).hex()),
        snapshot=take_snapshot(trainer_folder()),
        profile=profile,
        home=home(),
        python=profile.python or sys.executable,
    )


@cache
def backend_for(name: str, profile: str) -> Backend:
    """The backend of a name at the site of a profile; one for all calls, which share its connections."""

    def settings() -> Profile:
        with _pydantic_plugins_off():
            from orchestrator.profile import load_profile

        return load_profile(profile, name, profile_files())

    return load_backend(name, settings)


def fetch_logs(records: Iterable[RunRecord]) -> None:
    """Bring here what runs have logged elsewhere.

    Raises:
        BackendError: Some cannot be reached; the others were.
    """
    for error in _fetch_logs(records).values():
        raise error


def _fetch_logs(records: Iterable[RunRecord]) -> Errors:
    """Errors by backend and profile."""
    from orchestrator.backends.base import FarBackend

    sites: dict[tuple[str, str], list[Path]] = {}
    for record in records:
        if record.handle is not None:
            sites.setdefault((record.backend, record.profile), []).append(record.run_dir)
    errors: Errors = {}
    for (name, profile), run_dirs in sites.items():
        backend = backend_for(name, profile)
        if isinstance(backend, FarBackend):
            try:
                backend.fetch(run_dirs)
            except BackendError as error:
                errors[name, profile] = error
    return errors


def profile_files() -> tuple[Path, ...]:
    """Where profiles are looked for: the project first, then the user's own."""
    configuration = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    return Path("profiles.yaml"), configuration / "longshore" / "profiles.yaml"


def home() -> Path:
    """Folder of all runs: `$LONGSHORE_HOME`, or `./runs`."""
    return Path(os.environ.get("LONGSHORE_HOME") or "runs").expanduser().absolute()


def has_runs() -> bool:
    """Whether anything was submitted from here yet."""
    from orchestrator.registry import REGISTRY

    return (home() / REGISTRY).exists()


def open_store() -> RunStore:
    """The registry, made where there is none."""
    from orchestrator.runs import RunStore

    store = RunStore(home())
    _warn(store)
    return store


def existing_store(reference: str) -> RunStore:
    """The registry; a question about a run must not make one."""
    _check_runs(reference)
    return open_store()


def open_reader() -> RunReader:
    """The registry, for those who only look at it."""
    from orchestrator.reading import RunReader

    reader = RunReader(home())
    _warn(reader)
    return reader


def existing_reader(reference: str) -> RunReader:
    """The same; a question about a run must not make it."""
    _check_runs(reference)
    return open_reader()


def _check_runs(reference: str) -> None:
    if not has_runs():
        raise UsageError(f"no run is called {reference!r}: there are no runs in {home()}")


def _warn(registry: Registry) -> None:
    for warning in registry.warnings:
        say(f"warning: {warning}")


def resolve(store: RunStore, references: Sequence[str]) -> list[RunRecord]:
    """The runs that the references mean, each once."""
    records = [record for reference in references for record in store.resolve(reference)]
    return list({record.run_id: record for record in records}.values())


def refresh(store: RunStore) -> int:
    """Bring the registry up to date; where a backend does not answer, what is known is still worth showing.

    Returns:
        The exit code that this is worth.
    """
    from orchestrator.watch import refresh as ask_backends

    try:
        ask_backends(store, backend_for)
    except BackendError as error:
        say(f"error: {error}; this is what was known before")
        return error.exit_code
    return 0


def look_at(store: RunStore, names: Sequence[str]) -> None:
    """Learn what became of the runs that others are to follow, each a whole id of a run or a sweep."""
    from orchestrator.states import TERMINAL
    from orchestrator.watch import observe

    going = [record for record in store.predecessors(names) if record.state not in TERMINAL]
    try:
        observe(store, backend_for, going)
    except BackendError as error:
        say(f"warning: {error}; how {', '.join(names)} stands is what was known before")


def look(registry: RunReader) -> int:
    """`refresh`, unless somebody else does nothing else: while thousands of runs come and go, looking stays quick."""
    from orchestrator.keeper import is_kept_up

    if is_kept_up(registry):
        return 0
    from orchestrator.runs import RunStore

    return refresh(RunStore(registry.home))


def observer(store: RunStore, run_ids: Sequence[str], tell: Callable[[str], None]) -> Callable[[], list[RunRecord]]:
    """What `follow_runs` calls for a look at the runs; `tell` gets a line when a backend does not answer."""
    from orchestrator.waiting import Lookout

    lookout = Lookout(store, backend_for, run_ids, tell, fetch=_fetch_logs)

    def observe() -> list[RunRecord]:
        lookout.look()
        return list(store.records(run_ids))

    return observe


def agrees(question: str) -> bool:
    """Ask on a terminal; elsewhere nobody could answer, and like sbatch and scancel the command goes ahead."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return True
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def say(text: str) -> None:
    """A line for people: stdout is for results."""
    print(text, file=sys.stderr, flush=True)
