"""The plan: everything that submitting a job would do, as frozen data. `plan` prints it, `submit` executes it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import cache, cached_property
from pathlib import Path
from typing import Any

from orchestrator.backends import load_backend
from orchestrator.backends.base import (
    BATCH_SCRIPT,
    BatchRequest,
    ContainerRequest,
    Launch,
    LaunchRequest,
    SweepPlace,
    Upload,
)
from orchestrator.backends.steve.commands import steve_warnings
from orchestrator.environment import host_folders, in_container, is_isaac, script_context, tasks_of, unused_settings
from orchestrator.errors import UsageError
from orchestrator.halving import StopRule
from orchestrator.jobfile.sweep import Sweep
from orchestrator.profile import Profile
from orchestrator.script import ScriptContext, ScriptWriter
from orchestrator.snapshot import Snapshot, snapshot_folder
from orchestrator.spec import JobSpec, JobWriter
from orchestrator.sweep import SweepMember, expand
from orchestrator.sweep_files import sweep_folder
from trainer.run_dir import RunDir


@dataclass(frozen=True)
class PlannedRun:
    """One run that would be submitted.

    Attributes:
        run_id: The plan's id, with the index appended in a sweep.
        name: The job's name, with what differs appended in a sweep.
        index: Place in the sweep, 0 for a single run.
        key: Submission key, hexadecimal: equal keys are the same work.
        job: What it runs; has no sweep.
        run_dir: Absolute.
        files: What is written into the run directory before the start: text by relative path.
        launch: How the backend starts the first attempt; has no commands where this version cannot.
        differs: Trainer settings that the sweep gives to this run.
    """

    run_id: str
    name: str
    index: int
    key: str
    job: JobSpec
    run_dir: Path
    files: Mapping[str, str]
    launch: Launch
    differs: Mapping[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """For programs. Secrets stand in it by name."""
        return {**_summary(self), "job": self.job.model_dump(mode="json"), "script": self.files[_name_of("script")]}


@dataclass(frozen=True)
class Plan:
    """What submitting one job file would do.

    Attributes:
        plan_id: The run's id, or the sweep's.
        name: The job's.
        backend: Who would run it.
        profile: Name of the site's settings.
        home: Folder of all runs, absolute.
        snapshot: The code that ships.
        runs: One, or those of the sweep in order.
        warnings: One line each, for people.
        is_sweep: Whether the job has a sweep, of however few runs.
        max_parallel: How many runs of the sweep may go at once; None where the job does not say.
        stop: Which runs of the sweep are stopped before their end; None for none.
        after: Ids of the runs and sweeps that must succeed before any of these begins.
    """

    plan_id: str
    name: str
    backend: str
    profile: str
    home: Path
    snapshot: Snapshot
    runs: tuple[PlannedRun, ...]
    warnings: tuple[str, ...]
    is_sweep: bool
    max_parallel: int | None = None
    stop: StopRule | None = None
    after: tuple[str, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """For programs. Secrets stand in it by name."""
        return {
            "plan_id": self.plan_id,
            "name": self.name,
            "backend": self.backend,
            "profile": self.profile,
            "home": str(self.home),
            "is_sweep": self.is_sweep,
            "max_parallel": self.max_parallel,
            "stop": None if self.stop is None else asdict(self.stop),
            "after": list(self.after),
            "warnings": list(self.warnings),
            "snapshot": _snapshot_summary(self.snapshot, self.home),
            "git": _git(self.snapshot),
            "runs": [run.to_dict() for run in self.runs],
        }


def new_run_id(name: str, now: datetime, random_hex: str) -> str:
    """`<name>-<yymmdd-HHMMSS>-<random_hex>`."""
    return f"{name}-{now:%y%m%d-%H%M%S}-{random_hex}"


def make_plan(job: JobSpec, *, run_id: str, snapshot: Snapshot, profile: Profile, home: Path, python: str) -> Plan:
    """Plan the runs of a job. Pure: the same arguments give the same plan.

    Args:
        job: With or without a sweep; what it comes `after` named by whole ids.
        run_id: Of the run, or of the sweep: from `new_run_id`.
        snapshot: The code that ships.
        profile: Settings of the site.
        home: Folder of all runs, absolute.
        python: Interpreter of local runs: an absolute path, or a name that PATH knows.

    Raises:
        UsageError: `python` is a relative path, which means another file in the run directory.
        ValueError: `home` is not absolute.
    """
    if not home.is_absolute():
        raise ValueError(f"{home}: the folder of all runs must be an absolute path")
    if job.backend == "local" and "/" in python and not python.startswith("/"):
        raise UsageError(f"{python}: the interpreter of local runs must be an absolute path, or a name that PATH knows")
    try:
        start = load_backend(job.backend, lambda: profile).plan
        warnings: list[str] = []
    except UsageError as error:
        start, warnings = _cannot_start, [str(error)]
    root = _root(job, profile, home)
    if root != home and job.sweep is not None and job.sweep.stop is not None:
        raise UsageError(f"sweep.stop needs run directories that this machine sees, and they are in {root} elsewhere")
    members = expand(job)
    plan = _Planner(run_id, job.sweep, len(members), snapshot, profile, home, root, python, start)
    return Plan(
        plan_id=run_id,
        name=job.name,
        backend=job.backend,
        profile=profile.name,
        home=home,
        snapshot=snapshot,
        runs=tuple(plan.run(member) for member in members),
        warnings=(*snapshot.notes, *unused_settings(job, profile), *steve_warnings(job, profile), *warnings),
        is_sweep=job.sweep is not None,
        max_parallel=None if job.sweep is None else job.sweep.max_parallel,
        stop=None if job.sweep is None or job.sweep.stop is None else job.sweep.stop.rule,
        after=job.after,
    )


@dataclass(frozen=True)
class _Planner:
    """What all runs of a plan share; `root` is the folder of all runs as the backend's host sees it."""

    plan_id: str
    sweep: Sweep | None
    size: int
    snapshot: Snapshot
    profile: Profile
    home: Path
    root: Path
    python: str
    start: Callable[[LaunchRequest], Launch]
    _started: dict[str, Launch] = field(default_factory=dict)
    _jobs: JobWriter = field(default_factory=JobWriter)
    _scripts: ScriptWriter = field(default_factory=ScriptWriter)

    def run(self, member: SweepMember) -> PlannedRun:
        job = member.job
        run_id = f"{self.plan_id}-{member.index:03d}" if self.sweep else self.plan_id
        here, run_dir = self.home / run_id, RunDir(self.root / run_id)
        key = submission_key(job, self.snapshot, self.profile)
        request = LaunchRequest(
            run_id,
            run_dir.root,
            run_dir.script,
            1,
            job.secrets,
            job.resources.time_seconds,
            self._container(job, job.image, key) if job.image and in_container(job, self.profile) else None,
            **(
                self._batch(job, member.index, here, run_dir.root)
                if job.backend in {"slurm", "steve"}
                else {"retry": job.retry.policy, "gpus": job.resources.gpus}
            ),
        )
        launch = self.start(request) if request.place is None else replace(self._array(request), request=request)
        texts: dict[str, Callable[[], str]] = {
            _name_of("job"): lambda: self._jobs.write(job),
            _name_of("script"): lambda: self._scripts.write(self._context(job, run_dir)),
            _name_of("plan"): lambda: f"{_json(_summary(run))[:-3]},{self._shared[1:]}",
            _name_of("git"): lambda: _json(_git(self.snapshot)),
        }
        if (batch_script := launch.batch_script) is not None:
            texts[BATCH_SCRIPT] = lambda: batch_script
        run = PlannedRun(
            run_id=run_id,
            name=member.name,
            index=member.index,
            key=key,
            job=job,
            run_dir=here,
            files=Texts(texts),
            launch=launch,
            differs=member.differs,
        )
        return run

    def _context(self, job: JobSpec, run_dir: RunDir) -> ScriptContext:
        return script_context(
            job,
            self.profile,
            run_id=run_dir.root.name,
            run_dir=run_dir.root,
            snapshot=snapshot_folder(self.snapshot, self.root),
            python=self.python,
        )

    def _batch(self, job: JobSpec, index: int, here: Path, there: Path) -> dict[str, Any]:
        """What a batch system needs besides."""
        if self.sweep is not None and job.backend == "slurm":  # a task of an array takes its files from there
            here, there = (sweep_folder(root, self.plan_id) for root in (self.home, self.root))
        uploads = (
            Upload(here, there),
            Upload(snapshot_folder(self.snapshot, self.home), snapshot_folder(self.snapshot, self.root), complete=True),
        )
        partition = job.resources.partition or self.profile.partition
        resources = job.resources.model_copy(update={"partition": partition})
        request = BatchRequest(resources, job.retry.max, job.retry.on, job.name, job.environment, tasks_of(job))
        place = None
        if self.sweep is not None:
            place = SweepPlace(self.plan_id, index, self.size, self.sweep.max_parallel)
        if job.backend == "steve":
            return {"batch": request, "place": place, "uploads": uploads, "retry": job.retry.policy}
        return {"batch": request, "place": place, "uploads": uploads if self.root != self.home else ()}

    def _container(self, job: JobSpec, image: str, key: str) -> ContainerRequest:
        labels = {"name": job.name, "key": key, "snapshot": self.snapshot.digest, "profile": self.profile.name}
        return ContainerRequest(
            image=image,
            resources=job.resources,
            mounts=(*self.profile.mounts, *job.mounts),
            folders=(str(snapshot_folder(self.snapshot, self.root)), *host_folders(job)),
            cache=self.profile.cache,
            engine=self.profile.engine,
            isaac=is_isaac(job),
            labels={**labels, "sweep": self.plan_id} if self.sweep else labels,
        )

    def _array(self, request: LaunchRequest) -> Launch:
        """What starts the runs of a sweep as one: the same for all of them."""
        if (launch := self._started.get("array")) is None:
            launch = self._started["array"] = self.start(request)
        assert launch.request.batch is not None, "a run of an array has it"
        assert request.batch is not None, "a run of an array has it"
        if launch.request.batch.tasks != request.batch.tasks:
            raise UsageError("sweep: its runs share one batch script, and some of them alone are of several tasks")
        return launch

    @cached_property
    def _shared(self) -> str:
        """What plan.json of a run says of the plan that it was made in: an object, written once for all runs."""
        return _json(
            {
                "sweep_id": self.plan_id if self.sweep else None,
                "profile": self.profile.model_dump(mode="json"),
                "snapshot": _snapshot_summary(self.snapshot, self.home),
            }
        )


def _root(job: JobSpec, profile: Profile, home: Path) -> Path:
    """The folder of all runs as the backend's host, or the container, sees it."""
    if job.backend == "steve":
        return Path(profile.shared or f"{profile.assume.folder}/longshore")
    return Path(profile.shared) if job.backend == "slurm" and profile.shared else home


def submission_key(job: JobSpec, snapshot: Snapshot, profile: Profile) -> str:
    """SHA-256 over what makes a submission: submitting an unfinished key again finishes it.

    The place in a sweep is no part of it: a sweep that has grown submits what is new. Nor is `after`, which says when
    the work begins, and may name other runs the next time that it is read.
    """
    canonical = {
        "job": job.model_dump(mode="json", exclude={"after"}),
        "snapshot": snapshot.digest,
        "profile": profile.model_dump(mode="json"),
    }
    return hashlib.sha256(json.dumps(canonical, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


class Texts(Mapping[str, str]):
    """Texts by name, each made when it is first asked for.

    A job takes milliseconds to write as YAML, and showing the plan of a thousand runs needs none of it.
    """

    def __init__(self, makers: Mapping[str, Callable[[], str]]) -> None:
        self._makers = dict(makers)
        self._made: dict[str, str] = {}

    def __getitem__(self, name: str) -> str:
        if name not in self._made:
            self._made[name] = self._makers[name]()
        return self._made[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._makers)

    def __len__(self) -> int:
        return len(self._makers)


def _cannot_start(request: LaunchRequest) -> Launch:
    return Launch(request, commands=())


@cache
def _name_of(file: str) -> str:
    """Path of one of the run directory's files within it."""
    path: Path = getattr(RunDir(Path()), file)
    return path.as_posix()


def _json(content: Mapping[str, Any]) -> str:
    return json.dumps(content, indent=2) + "\n"


def _summary(run: PlannedRun) -> dict[str, Any]:
    """A run without the texts of its files."""
    launch = run.launch
    return {
        "run_id": run.run_id,
        "name": run.name,
        "index": run.index,
        "differs": dict(run.differs),
        "key": run.key,
        "run_dir": str(run.run_dir),
        "files": sorted(run.files),
        "secrets": list(run.job.secrets),
        "launch": {
            "commands": [list(command) for command in launch.commands],
            "environment": dict(launch.environment),
            "attempt": launch.request.attempt,
            "time_limit": launch.request.time_limit,
            **({} if launch.container is None else {"engine": launch.engine, "container": launch.container}),
        }
        if launch.commands
        else None,
    }


def _snapshot_summary(snapshot: Snapshot, home: Path) -> dict[str, Any]:
    return {
        "digest": snapshot.digest,
        "source": str(snapshot.source),
        "folder": str(snapshot_folder(snapshot, home)),
        "files": len(snapshot.files),
        "bytes": snapshot.size,
    }


def _git(snapshot: Snapshot) -> dict[str, Any]:
    """Content of git.json; null where the code is in no repository."""
    names = ("commit", "branch", "dirty", "diff")
    state = dict.fromkeys(names) if snapshot.git is None else asdict(snapshot.git)
    return {**state, "snapshot": snapshot.digest}
