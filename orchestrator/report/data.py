"""What a report holds, as frozen data: made by `collect`, drawn by `page`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from orchestrator.records import Attempt, Event, RunRecord
from orchestrator.states import RunState
from trainer.run_dir import Failure, Status

VIDEOS = 2  # a film and what the world model expected


@dataclass(frozen=True)
class Curve:
    """What a run has logged, thinned: as many values of each metric as there are points.

    Attributes:
        frames: Environment frames at each point.
        seconds: Wall time of training at each point, over all attempts.
        values: Metric -> value at each point, None where it was not logged.
    """

    frames: tuple[float, ...] = ()
    seconds: tuple[float, ...] = ()
    values: Mapping[str, tuple[float | None, ...]] = field(default_factory=dict)

    def along(self, axis: str) -> tuple[float, ...]:
        """The points on `frames` or `seconds`."""
        return self.frames if axis == "frames" else self.seconds


@dataclass(frozen=True)
class Band:
    """Median and quartiles of a metric over runs; all of one length, none where there is nothing to sum up."""

    x: tuple[float, ...]
    low: tuple[float, ...]
    middle: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Segment:
    """A time in one state: unix seconds from `start` to `end`."""

    state: RunState
    start: float
    end: float


@dataclass(frozen=True)
class RunEntry:
    """One run.

    Attributes:
        settings: Dotted key -> value as text, of the resolved job.
        differs: The settings by which it differs from other runs of the report.
        curve: What it logged.
        segments: Its states so far, without gaps.
        excerpt: Last lines of what went wrong, empty where nothing did.
        artefacts: Files that it left, relative to its folder.
    """

    record: RunRecord
    status: Status | None
    summary: Mapping[str, Any]
    failure: Failure | None
    attempts: tuple[Attempt, ...]
    events: tuple[Event, ...]
    settings: Mapping[str, str]
    differs: Mapping[str, str]
    curve: Curve
    segments: tuple[Segment, ...]
    excerpt: str
    artefacts: tuple[str, ...]

    @property
    def run_id(self) -> str:
        return self.record.run_id

    @property
    def folder(self) -> Path:
        return self.record.run_dir

    @property
    def videos(self) -> tuple[str, ...]:
        """Of its artefacts the newest films, which the page shows; their names say after how many frames they began."""
        films = [name for name in self.artefacts if name.endswith(".mp4")]
        return tuple(sorted(films, key=lambda name: ("".join(filter(str.isdigit, Path(name).stem)), name))[-VIDEOS:])

    @property
    def final_return(self) -> float | None:
        """Of the trained policy's evaluation; until there is one, of the last episodes."""
        evaluated = self.summary.get("trained_return")
        if evaluated is not None:
            return float(evaluated)
        known = [value for value in self.curve.values.get("episode/return", ()) if value is not None]
        return known[-1] if known else None

    @property
    def frames(self) -> int:
        return int(self.summary.get("frames") or (self.curve.frames[-1] if self.curve.frames else 0))

    @property
    def seconds(self) -> float:
        """Wall time of training."""
        return float(self.summary.get("seconds") or (self.curve.seconds[-1] if self.curve.seconds else 0.0))

    @property
    def fps(self) -> float | None:
        """Environment frames a second, over the whole training."""
        return self.frames / self.seconds if self.seconds else None

    @property
    def steps_per_s(self) -> float | None:
        """Optimiser steps a second, over the whole training."""
        steps = self.summary.get("optim_steps") or (self.status.optim_step if self.status else 0)
        return steps / self.seconds if self.seconds else None


@dataclass(frozen=True)
class Group:
    """Runs that differ in nothing but their seed.

    Attributes:
        label: What sets them apart from the other groups.
        members: Positions in the report's runs.
        bands: (metric, axis) -> median and quartiles; empty for a single run.
    """

    label: str
    members: tuple[int, ...]
    bands: Mapping[tuple[str, str], Band]


@dataclass(frozen=True)
class Difference:
    """A setting in which runs differ: value as text -> positions of the runs that have it."""

    key: str
    values: Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Report:
    """Everything on the page; `now` in unix seconds."""

    title: str
    now: float
    runs: tuple[RunEntry, ...]
    groups: tuple[Group, ...]
    differences: tuple[Difference, ...]
