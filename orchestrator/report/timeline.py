"""Where events and attempts lie on a common time line, in percent of its width."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from orchestrator.report.data import Report, RunEntry
from orchestrator.states import TERMINAL
from orchestrator.tables import age, clock

TICKS = 5
DAY, HOUR = 86_400, 3_600  # seconds
SHORTEST = 0.25  # percent; what is shorter would not be seen


@dataclass(frozen=True)
class Bar:
    """A time in one state; `words` say what and how long."""

    kind: str
    left: float
    width: float
    words: str


@dataclass(frozen=True)
class Mark:
    """A moment: the start of an attempt, or the end of the run."""

    kind: str
    left: float
    words: str


@dataclass(frozen=True)
class Line:
    """One run on the time line."""

    run: RunEntry
    bars: tuple[Bar, ...]
    marks: tuple[Mark, ...]


@dataclass(frozen=True)
class Timeline:
    """All lines, and (percent, words) of the ticks below them."""

    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]


def timeline(report: Report) -> Timeline:
    """Lay the runs of a report on one line of time, from the first submission to the last event."""
    moments = [event.time for run in report.runs for event in run.events]
    moments += [segment.end for run in report.runs for segment in run.segments]
    if not moments:
        return Timeline((), ())
    start, length = min(moments), max(max(moments) - min(moments), 1.0)

    def place(when: float) -> float:
        return round(100 * (when - start) / length, 3)

    lines = tuple(Line(run, _bars(run, place), _marks(run, place)) for run in report.runs)
    ticks = [(100 * index / (TICKS - 1), start + length * index / (TICKS - 1)) for index in range(TICKS)]
    return Timeline(lines, tuple((left, _tick(when, length)) for left, when in ticks))


def _bars(run: RunEntry, place: Callable[[float], float]) -> tuple[Bar, ...]:
    return tuple(
        Bar(
            str(segment.state),
            place(segment.start),
            max(SHORTEST, place(segment.end) - place(segment.start)),
            f"{segment.state}: {age(segment.end - segment.start)}, from {clock(segment.start)}",
        )
        for segment in run.segments
    )


def _marks(run: RunEntry, place: Callable[[float], float]) -> tuple[Mark, ...]:
    starts = [
        Mark("attempt", place(attempt.started), f"attempt {attempt.number}: {clock(attempt.started)}")
        for attempt in run.attempts
    ]
    ends = [
        Mark(str(event.new), place(event.time), f"{event.new}: {clock(event.time)}")
        for event in run.events
        if event.new in TERMINAL
    ]
    return (*starts, *ends)


def _tick(when: float, length: float) -> str:
    """A time of day; the day too where a day does not say it all."""
    words = clock(when)
    return words[5:16] if length > DAY else words[11:] if length < HOUR else words[11:16]
