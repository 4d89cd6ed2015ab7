"""The job file as frozen pydantic models; `orchestrator.spec` reads and writes them."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    GetJsonSchemaHandler,
    PrivateAttr,
    StrictInt,
    Tag,
    WithJsonSchema,
    model_serializer,
    model_validator,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from orchestrator.halving import StopRule
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
from orchestrator.jobfile.overrides import TrainValue, key_error, value_error
from orchestrator.jobfile.quantities import duration_seconds, memory_mib
from orchestrator.retry import RetryPolicy

Backend: TypeAlias = Literal["steve", "slurm", "docker", "local"]
# Every failure class but `spec`: a wrong job file stays wrong.
Retryable: TypeAlias = Literal[
    "setup", "crash", "nan", "out-of-memory", "timeout", "preempted", "node-failure", "stalled", "lost"
]

LARGEST_SWEEP = 10_000  # runs


def _train_key(key: Any) -> str:
    error = key_error(key) if isinstance(key, str) else f"{shown(key)} is no key"
    if error:
        raise ValueError(error)
    return str(key)


def _train_value(value: Any) -> TrainValue:
    error = value_error(value)
    if error:
        raise ValueError(error)
    return value  # type: ignore[no-any-return]


def _share(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1:
        raise ValueError(f"{shown(value)} is no share; write a number between 0 and 1")
    return float(value)


def _metric(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", value):
        raise ValueError(f"{shown(value)} is no metric; write a name of metrics.jsonl, like episode/return")
    return value


Share: TypeAlias = Annotated[
    float, BeforeValidator(_share), WithJsonSchema({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1})
]
MetricName: TypeAlias = Annotated[str, BeforeValidator(_metric)]
_TRAIN_VALUE_SCHEMA: JsonSchemaValue = {"type": ["boolean", "number", "string", "null", "array"]}
TrainKey: TypeAlias = Annotated[str, AfterValidator(_train_key)]
AnyTrainValue: TypeAlias = Annotated[Any, AfterValidator(_train_value), WithJsonSchema(_TRAIN_VALUE_SCHEMA)]
Values: TypeAlias = tuple[AnyTrainValue, ...]


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


class Stop(Model):
    """Successive halving: at some points of training only the best runs of the sweep go on."""

    metric: MetricName = Field(description="Name in metrics.jsonl, such as episode/return; more of it is better")
    at: tuple[Share, ...] = Field(min_length=1, description="The points, as shares of all optimiser steps: 0.25, 0.5")
    keep: Share = Field(0.5, description="Share of the runs at each point that goes on")

    @model_validator(mode="after")
    def _check(self) -> Stop:
        if list(self.at) != sorted(set(self.at)):
            raise wrong([(("at",), "must ascend: [0.25, 0.5]")])
        return self

    @property
    def rule(self) -> StopRule:
        return StopRule(self.metric, self.at, self.keep)


class Sweep(Model):
    """Trainer settings that differ between runs: `seed: [0, 1, 2]` makes three.

    The runs are the product of the rows of `list`, the rows of `zip`, and all other settings; the last varies fastest.
    """

    # In the file the axes stand beside the other keys, not under one of their own.
    axes: dict[TrainKey, Values] = Field(default_factory=dict)
    zipped: dict[TrainKey, Values] = Field(default_factory=dict, alias="zip", description="Lists gone through together")
    listed: tuple[dict[TrainKey, AnyTrainValue], ...] = Field((), alias="list", description="Settings of run after run")
    exclude: tuple[dict[TrainKey, AnyTrainValue], ...] = Field((), description="Runs left out: those with these values")
    max_parallel: StrictInt | None = Field(
        None,
        ge=1,
        le=LARGEST_SWEEP,
        description="Runs at a time; by default one locally, one allocation behind steve, else all",
    )
    stop: Stop | None = Field(None, description="Which runs are stopped before their end")

    @classmethod
    def __get_pydantic_json_schema__(cls, core: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The file's own shape: an axis is any further key."""
        schema = handler.resolve_ref_schema(handler(core))
        schema["additionalProperties"] = schema["properties"].pop("axes")["additionalProperties"]
        return schema

    @model_validator(mode="before")
    @classmethod
    def _gather_axes(cls, written: Any) -> Any:
        if not isinstance(written, Mapping):
            return written
        named = {"zip", "list", "exclude", "max_parallel", "stop"}
        gathered = {key: value for key, value in written.items() if key in named and value is not None}
        return {**gathered, "axes": {key: value for key, value in written.items() if key not in named}}

    @model_serializer
    def _spread_axes(self) -> dict[str, Any]:
        spread: dict[str, Any] = {key: list(values) for key, values in self.axes.items()}
        if self.zipped:
            spread["zip"] = {key: list(values) for key, values in self.zipped.items()}
        if self.listed:
            spread["list"] = [dict(row) for row in self.listed]
        if self.exclude:
            spread["exclude"] = [dict(row) for row in self.exclude]
        if self.max_parallel is not None:
            spread["max_parallel"] = self.max_parallel
        if self.stop is not None:
            spread["stop"] = self.stop.model_dump()
        return spread

    @model_validator(mode="after")
    def _check(self) -> Sweep:
        problems = list(self._problems()) or list(self._exclusion_problems())
        if problems:
            raise wrong(problems)
        return self

    def _problems(self) -> Iterator[tuple[KeyPath, str]]:
        if not (self.axes or self.zipped or self.listed):
            yield (), "varies nothing; write KEY: [VALUE, …] with a trainer override as key"
        for path, values in self._columns():
            if not values:
                yield path, "is an empty list; write at least one value"
            twice = None if path[0] == "zip" else _first_repeated(values)
            if twice is not None:
                yield (*path, twice), f"{shown(values[twice])} stands twice; each run is started once"
        lengths = {len(values) for values in self.zipped.values()}
        if len(lengths) > 1:
            yield ("zip",), f"its lists have {' and '.join(map(str, sorted(lengths)))} values; write as many in each"
        yield from self._shared_keys()
        runs = math.prod([len(self.listed) or 1, max(lengths, default=1) or 1, *map(len, self.axes.values())])
        if runs > LARGEST_SWEEP:
            yield (), f"makes {runs:,} runs; {LARGEST_SWEEP:,} are accepted"

    def _columns(self) -> Iterator[tuple[KeyPath, Values]]:
        for key, values in self.axes.items():
            yield (key,), values
        for key, values in self.zipped.items():
            yield ("zip", key), values

    def _shared_keys(self) -> Iterator[tuple[KeyPath, str]]:
        listed = {key for row in self.listed for key in row}
        for key in self.zipped:
            if key in listed:
                yield ("zip", key), "stands in list too; vary a key in one place"
        for key in self.axes:
            if key in listed or key in self.zipped:
                yield (key,), f"stands in {'list' if key in listed else 'zip'} too; vary a key in one place"

    def _exclusion_problems(self) -> Iterator[tuple[KeyPath, str]]:
        if not self.exclude:
            return
        rows = [_identities(row) for row in self._rows()]
        for index, excluded in enumerate(self.exclude):
            if not any(_identities(excluded).items() <= row.items() for row in rows):
                yield ("exclude", index), "matches no run; write KEY: VALUE pairs as they stand in the sweep"
        if not self.combinations():
            yield ("exclude",), "leaves no run"

    def _rows(self) -> list[dict[str, TrainValue]]:
        columns: list[list[dict[str, TrainValue]]] = []
        if self.listed:
            columns.append([dict(row) for row in self.listed])
        if self.zipped:
            columns.append(
                [dict(zip(self.zipped, row, strict=True)) for row in zip(*self.zipped.values(), strict=True)]
            )
        columns += [[{key: value} for value in values] for key, values in self.axes.items()]
        return [{key: row[key] for row in rows for key in row} for rows in itertools.product(*columns)]

    def combinations(self) -> list[dict[str, TrainValue]]:
        """What differs in each run, in the order of the runs."""
        excluded = [_identities(row).items() for row in self.exclude]
        return [row for row in self._rows() if not any(items <= _identities(row).items() for items in excluded)]


def _identities(row: Mapping[str, TrainValue]) -> dict[str, str]:
    """Values by what tells them apart: 1, 1.0, true and '1' are four, though Python calls three of them equal."""
    return {key: repr(value) for key, value in row.items()}


def _first_repeated(values: Values) -> int | None:
    seen: set[str] = set()
    for index, value in enumerate(values):
        if repr(value) in seen:
            return index
        seen.add(repr(value))
    return None


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
            run = tuple(sorted(_identities(self.train | row).items()))
            if run in seen:
                yield ("sweep",), f"makes a run twice: {differences(row)}; each run is started once"
                return
            seen.add(run)
