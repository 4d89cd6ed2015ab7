"""Read everything that a report needs: the registry, and the folders of the runs."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from orchestrator.errors import LongshoreError
from orchestrator.jobfile.document import plain
from orchestrator.jobfile.yaml12 import parse_file
from orchestrator.report.curves import AXES, METRICS, band, points_for, read_curve
from orchestrator.report.data import Difference, Group, Report, RunEntry, Segment
from orchestrator.runs import Event, RunRecord, RunStore
from orchestrator.states import TERMINAL, RunState
from orchestrator.sweep_files import unpack
from orchestrator.tables import heartbeat
from trainer.run_dir import Failure, RunDir

SEED = "train.seed"
EXCERPT_LINES = 30
TAIL_BYTES = 16_000  # of a log; more than 30 lines of it
MISSING = "–"  # a setting that a run does not have
LONGEST = 60  # characters of a value that is compared by eye
ARTEFACTS = (  # patterns in a run's folder, in the order of the page
    "summary.json",
    "metrics.jsonl",
    "job.yaml",
    "config.yaml",
    "setup-and-run.sh",
    "plan.json",
    "git.json",
    "failure.json",
    "attempts/*/log.txt",
    "checkpoints/latest/manifest.json",
    "videos/**/*.mp4",
    "export/*",
)


def collect(store: RunStore, records: Sequence[RunRecord], title: str, now: float) -> Report:
    """Everything about some runs, as of `now` (unix seconds); what a run has not left yet is left out."""
    unpack(record.run_dir for record in records)
    settings = [_settings(RunDir(record.run_dir).job) for record in records]
    differences = _differences(settings)
    keys = [difference.key for difference in differences]
    points = points_for(len(records))
    runs = tuple(
        _entry(store, record, own, {key: own.get(key, MISSING) for key in keys}, points, now)
        for record, own in zip(records, settings, strict=True)
    )
    return Report(title, now, runs, _groups(runs), differences)


def _entry(
    store: RunStore,
    record: RunRecord,
    settings: Mapping[str, str],
    differs: Mapping[str, str],
    points: int,
    now: float,
) -> RunEntry:
    run_dir = RunDir(record.run_dir)
    events = store.events(record.run_id)
    summary: Mapping[str, Any] = {}
    failure: Failure | None = None
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        summary = run_dir.read_summary() or {}
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        failure = run_dir.read_failure()
    return RunEntry(
        record=record,
        status=heartbeat(record),
        summary=summary,
        failure=failure,
        attempts=store.attempts(record.run_id),
        events=events,
        settings=settings,
        differs=differs,
        curve=read_curve(run_dir.metrics, points),
        segments=_segments(events, now),
        excerpt=_excerpt(run_dir, record, failure),
        artefacts=_artefacts(record.run_dir),
    )


def _settings(job: Path) -> dict[str, str]:
    """Dotted keys of a resolved job file; none where it cannot be read."""
    try:
        node, _ = parse_file(job)
    except (LongshoreError, OSError):
        return {}
    return {} if node is None else dict(_flat(plain(node)))


def _flat(value: Any, prefix: str = "") -> list[tuple[str, str]]:
    if isinstance(value, Mapping) and value:
        return [pair for key, inner in value.items() for pair in _flat(inner, f"{prefix}.{key}" if prefix else key)]
    if value is None or isinstance(value, bool):
        return [(prefix, str(value).lower() if value is not None else "null")]
    text = str(value)
    return [(prefix, text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")]


def _differences(settings: Sequence[Mapping[str, str]]) -> tuple[Difference, ...]:
    """The keys with more than one value, in the order of the files, and who has which."""
    keys = dict.fromkeys(key for own in settings for key in own if key != "name")
    found = []
    for key in keys:
        values: dict[str, list[int]] = {}
        for position, own in enumerate(settings):
            values.setdefault(own.get(key, MISSING), []).append(position)
        if len(values) > 1:
            found.append(Difference(key, {value: tuple(members) for value, members in values.items()}))
    return tuple(found)


def _groups(runs: Sequence[RunEntry]) -> tuple[Group, ...]:
    """Runs that are alike but for their seed, in the order of their first members."""
    together: dict[tuple[tuple[str, str], ...], list[int]] = {}
    for position, run in enumerate(runs):
        alike = tuple((key, value) for key, value in run.settings.items() if key not in {SEED, "name"})
        together.setdefault(alike or (("run", run.run_id),), []).append(position)
    return tuple(
        Group(_label(runs[members[0]]), tuple(members), _bands([runs[member] for member in members]))
        for members in together.values()
    )


def _label(run: RunEntry) -> str:
    words = [f"{short(key)}={value}" for key, value in run.differs.items() if key != SEED]
    return " ".join(words) or run.record.name


def short(key: str) -> str:
    """A setting's key as the command line has it: those of the trainer without `train.`."""
    return key.removeprefix("train.")


def _bands(runs: Sequence[RunEntry]) -> dict[tuple[str, str], Any]:
    if len(runs) < 2:
        return {}
    curves = [run.curve for run in runs]
    made = {(metric, axis): band(curves, metric, axis) for metric in METRICS for axis in AXES}
    return {key: value for key, value in made.items() if value is not None}


def _segments(events: Sequence[Event], now: float) -> tuple[Segment, ...]:
    """The time between events; what has ended takes no time any more."""
    ends = [event.time for event in events[1:]] + [now]
    return tuple(
        Segment(RunState(event.new), event.time, max(event.time, end))
        for event, end in zip(events, ends, strict=True)
        if event.new not in TERMINAL
    )


def _excerpt(run_dir: RunDir, record: RunRecord, failure: Failure | None) -> str:
    """Why a run failed: the end of its traceback, or of its log where it left none."""
    if record.state is not RunState.FAILED:
        return ""
    if failure is not None and failure.traceback.strip():
        return "\n".join(failure.traceback.strip().splitlines()[-EXCERPT_LINES:])
    log = run_dir.log(record.attempt)
    with contextlib.suppress(OSError), log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = file.read().decode("utf-8", errors="replace").splitlines()
        return "\n".join(deque(lines, EXCERPT_LINES))
    return ""


def _artefacts(folder: Path) -> tuple[str, ...]:
    found = [path for pattern in ARTEFACTS for path in sorted(folder.glob(pattern)) if path.is_file()]
    return tuple(str(path.relative_to(folder)) for path in found)
