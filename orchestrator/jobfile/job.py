"""The job file as frozen pydantic models; `orchestrator.spec` reads and writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    BeforeValidator,
    Discriminator,
    Field,
    PrivateAttr,
    StrictInt,
    Tag,
    model_validator,
)

from orchestrator.jobfile.fields import (
    IMAGE_EXAMPLE,
    AnyFlagValue,
    AptPackage,
    Duration,
    Flag,
    GitRef,
    GitUrl,
    Image,
    Memory,
    Name,
    Partition,
    PathText,
    Requirement,
    RunName,
    Variable,
    VariableValue,
    Version,
    is_image_file,
)
from orchestrator.jobfile.model import KeyPath, Model, Mount, wrong
from orchestrator.jobfile.nodes import Mark, differences, shown
from orchestrator.jobfile.quantities import duration_seconds, memory_mib
from orchestrator.jobfile.sweep import AnyTrainValue, Sweep, TrainKey, identities
from orchestrator.retry import RetryPolicy

Backend: TypeAlias = Literal["steve", "slurm", "docker", "local"]
# Every failure class but `spec`: a wrong job file stays wrong.
Retryable: TypeAlias = Literal[
    "setup", "crash", "nan", "out-of-memory", "timeout", "preempted", "node-failure", "stalled", "lost"
]


class Resources(Model):
    """What one run asks the backend for."""

    gpus: StrictInt = Field(1, ge=0, le=1024, description="GPUs of one task; 0 for none")
    cpus: StrictInt | None = Field(None, ge=1, le=4096, description="CPU cores of one task")
    memory: Memory | None = Field(None, description="Main memory, as Slurm writes it: 128G, 500M")
    time: Duration | None = Field(None, description="Time limit, as Slurm writes it: HH:MM:SS, D-HH:MM:SS, minutes")
    partition: Partition | None = Field(None, description="Partition of the cluster")
    ntasks: StrictInt = Field(1, ge=1, le=1024, description="Tasks, each with its own GPUs")
    extra: dict[Flag, AnyFlagValue] = Field(
        default_factory=dict, description="Further flags of the backend's command, without their dashes"
    )

    @property
    def time_seconds(self) -> int | None:
        """The time limit, or None for none."""
        return None if self.time is None else duration_seconds(self.time)

    @property
    def memory_mib(self) -> int | None:
        """The memory, or None where the backend decides."""
        return None if self.memory is None else memory_mib(self.memory)


class GitSource(Model):
    """A package in a git repository, at one ref."""

    git: GitUrl = Field(description="URL of the repository")
    ref: GitRef = Field(description="Tag, branch or commit")


class PathSource(Model):
    """A package in a folder."""

    path: PathText = Field(description="The folder, from the job file's own")


def _source_kind(value: Any) -> str:
    if isinstance(value, PathSource) or (isinstance(value, Mapping) and "path" in value):
        return "<path>"
    return "<git>" if isinstance(value, GitSource | Mapping) else "<version>"


def _package(value: Any) -> Any:
    if isinstance(value, str):
        return {"path": value}
    if not isinstance(value, Mapping | Model):
        raise ValueError(f"{shown(value)} is no package; write a folder, or {{git: URL, ref: REF}}")
    return value


_Git: TypeAlias = Annotated[GitSource, Tag("<git>")]
_Path: TypeAlias = Annotated[PathSource, Tag("<path>")]
PackageSource: TypeAlias = Annotated[Annotated[Version, Tag("<version>")] | _Git | _Path, Discriminator(_source_kind)]
CodeSource: TypeAlias = Annotated[
    Annotated[_Git | _Path, Discriminator(_source_kind)],
    BeforeValidator(_package, json_schema_input_type=str | GitSource | PathSource),
]


class Setup(Model):
    """What is installed before the trainer starts."""

    tensordict: PackageSource = Field("0.14.3", description="A version, {git: URL, ref: REF} or {path: DIR}")
    torchrl: PackageSource = Field("0.14.1", description="A version, {git: URL, ref: REF} or {path: DIR}")
    code: tuple[CodeSource, ...] = Field((), description="Task packages of your own: folders, or {git: URL, ref: REF}")
    pip: tuple[Requirement, ...] = Field((), description="Further Python packages")
    apt: tuple[AptPackage, ...] = Field((), description="Debian packages")
    wheelhouse: PathText | None = Field(None, description="Folder of wheels, for nodes with no network")
    kill: Literal["own", "all"] = Field(
        "own",
        description="Processes ended at the start: what earlier attempts of the run have left, or every Python process",
    )


class Retry(Model):
    """When an attempt that failed is followed by another one."""

    max: StrictInt = Field(0, ge=0, le=1000, description="Attempts after the first")
    on: tuple[Retryable, ...] = Field(
        ("preempted", "timeout", "node-failure", "stalled"), description="Failure classes that are retried"
    )
    backoff: Duration | dict[Retryable, Duration] = Field(
        "30s", description="Before the second attempt, by failure class too; twice as long before each further one"
    )

    @property
    def policy(self) -> RetryPolicy:
        by_class = self.backoff if isinstance(self.backoff, dict) else dict.fromkeys(self.on, self.backoff)
        return RetryPolicy(self.max, self.on, {name: float(duration_seconds(by_class[name])) for name in by_class})


class Watchdog(Model):
    """How long a run may go without a heartbeat; then it is killed, and its failure class is `stalled`."""

    start: Duration = Field("30m", description="Until the first heartbeat")
    stall: Duration = Field("15m", description="Between two heartbeats")

    @property
    def start_seconds(self) -> int:
        return duration_seconds(self.start)

    @property
    def stall_seconds(self) -> int:
        return duration_seconds(self.stall)


@dataclass(frozen=True, eq=False)
class Origin:
    """Where a job was written. It is no part of what the job is: jobs from two files may be equal."""

    secrets: tuple[Mark, ...] = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Origin)

    def __hash__(self) -> int:
        return 0


def _runs(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class JobSpec(Model):
    """One job file, resolved: what to run, where, and with which resources."""

    name: Name = Field(description="First part of the run's id")
    backend: Backend = Field(description="Who runs it: steve, slurm, docker or local")
    profile: Name = Field("default", description="Section of profiles.yaml")
    after: Annotated[
        tuple[RunName, ...], BeforeValidator(_runs, json_schema_input_type=RunName | tuple[RunName, ...])
    ] = Field((), description="Runs that must have succeeded before this one begins: ids, sweeps, prefixes, `last`")
    image: Image | None = Field(None, description="Container image with its tag or digest; not for `local`")
    resources: Resources = Field(default_factory=Resources)
    setup: Setup = Field(default_factory=Setup)
    environment: dict[Variable, VariableValue] = Field(default_factory=dict, description="Environment variables")
    secrets: tuple[Variable, ...] = Field((), description="Variables passed on from the submitter's environment")
    mounts: tuple[Mount, ...] = Field((), description="Folders of the host inside the container")
    train: dict[TrainKey, AnyTrainValue] = Field(
        default_factory=dict,
        description="Trainer settings (Hydra overrides), with dotted keys or nested ones",
        json_schema_extra={"additionalProperties": True},
    )
    retry: Retry = Field(default_factory=Retry)
    watchdog: Watchdog = Field(default_factory=Watchdog)
    sweep: Sweep | None = Field(None, description="Trainer settings that differ between runs")

    _origin: Origin = PrivateAttr(default_factory=Origin)

    @model_validator(mode="after")
    def _check(self) -> JobSpec:
        problems = list(self._problems())
        if problems:
            raise wrong(problems)
        return self

    def _problems(self) -> Iterator[tuple[KeyPath, str]]:
        if self.image is None and self.backend not in {"local", "slurm"}:  # Slurm's nodes may have all that is needed
            yield ("image",), f"is missing; {self.backend} needs one with its tag, like {IMAGE_EXAMPLE}"
        if self.image is not None and is_image_file(self.image) and self.backend not in {"local", "slurm"}:
            yield ("image",), f"is a file, which slurm alone takes; {self.backend} needs a name, like {IMAGE_EXAMPLE}"
        for index, name in enumerate(self.secrets):
            if name in self.environment:
                yield ("secrets", index), f"{name} stands in environment too; a secret's value stands in no file"
            if name in self.secrets[:index]:
                yield ("secrets", index), f"{name} stands twice"
        if self.after and "dependency" in self.resources.extra:
            yield ("after",), "stands in resources.extra.dependency too; name runs here, or jobs of Slurm's there"
        yield from self._repeated_runs()
        if self.sweep is not None and self.sweep.stop is not None and self.backend == "steve":
            yield ("sweep", "stop"), "needs run directories that this machine sees; steve keeps them elsewhere"
        targets = [mount.target for mount in self.mounts]
        for index, target in enumerate(targets):
            if target in targets[:index]:
                yield ("mounts", index, "target"), f"{shown(target)} stands twice; one folder is mounted there"

    def _repeated_runs(self) -> Iterator[tuple[KeyPath, str]]:
        """Rows of `zip` and `list` that come to the same run; a product of axes has none."""
        if self.sweep is None or not (self.sweep.zipped or self.sweep.listed):
            return
        seen: set[tuple[tuple[str, str], ...]] = set()
        for row in self.sweep.combinations():
            run = tuple(sorted(identities(self.train | row).items()))
            if run in seen:
                yield ("sweep",), f"makes a run twice: {differences(row)}; each run is started once"
                return
            seen.add(run)
