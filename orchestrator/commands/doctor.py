"""The command `doctor`: is this machine, or that site, ready for a job?"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from orchestrator.surroundings import home, load, plan_quietly, profile_files

if TYPE_CHECKING:
    from orchestrator.doctor.checks import Check, Examined

STYLES: dict[str, dict[str, Any]] = {
    "OK": {"fg": "green"},
    "warning": {"fg": "yellow"},
    "failure": {"fg": "red"},
    "skipped": {"dim": True},
}


def doctor(
    job: Annotated[Path | None, typer.Argument(metavar="[JOB]", help="A job file.", show_default=False)] = None,
    profile: Annotated[str | None, typer.Option("--profile", metavar="P", help="Of profiles.yaml.")] = None,
    backend: Annotated[
        str | None, typer.Option("--backend", metavar="B", help="steve, slurm, docker or local; by default the job's.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="For programs.")] = False,
) -> int:
    """Check whether a machine or a site is ready, and for a job; 1 where something has failed."""
    from orchestrator.doctor.checks import Outcome, examine
    from orchestrator.doctor.site import site_of
    from orchestrator.errors import UsageError
    from orchestrator.profile import load_profile
    from orchestrator.profile_file import BACKENDS

    if backend is not None and backend not in BACKENDS:
        raise UsageError(f"--backend: {backend!r} is none of {', '.join(BACKENDS)}")
    spec = None
    if job is not None:
        spec = load(job, None, [f"profile={profile}"] if profile else None, backend)
        backend = spec.backend
    name = profile or (spec.profile if spec else "default")
    backend = backend or _likely(name)
    settings = load_profile(name, backend, profile_files())
    site = site_of(backend, settings, home(), spec, plan_quietly(spec) if spec else None)
    examined = examine(site, *_checks())
    if as_json:
        print(json.dumps([_to_dict(one) for one in examined], indent=2))
    else:
        _show(examined, backend, name)
    return 1 if any(one.finding.outcome is Outcome.FAILURE for one in examined) else 0


def _likely(profile: str) -> str:
    """Without a job: the cluster that the profile has settings of, else this machine."""
    from orchestrator.profile import load_profile

    for backend in ("slurm", "steve"):
        settings = load_profile(profile, backend, profile_files())
        if settings.host is not None or settings.commands or settings.partition is not None:
            return backend
    return "local"


def _checks() -> tuple[tuple[Check, ...], tuple[Check, ...]]:
    """Doors, and what is behind them."""
    from orchestrator.doctor import clusters, containers, jobs, machine

    every = (*machine.CHECKS, *containers.CHECKS, *clusters.CHECKS, *jobs.CHECKS)
    return (machine.SSH, containers.ENGINE), every


def _to_dict(one: Examined) -> dict[str, str]:
    found = one.finding
    return {"check": one.name, "outcome": str(found.outcome), "message": found.message, "remedy": found.remedy}


def _show(examined: list[Examined], backend: str, profile: str) -> None:
    """A line for each check, and below what has failed what to do about it."""
    plain = not sys.stdout.isatty()
    width = max(len(one.name) for one in examined)
    print(f"{backend}, profile {profile}")
    for one in examined:
        outcome = str(one.finding.outcome)
        label = f"{outcome:<7}"
        if not plain:
            label = typer.style(label, **STYLES[outcome])
        print(f"{label}  {one.name:<{width}}  {one.finding.message}")
        if one.finding.remedy:
            print(f"{'':{width + 11}}{one.finding.remedy}")
