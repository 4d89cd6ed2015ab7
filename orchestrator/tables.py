"""What the command line shows of plans and runs: tables and text for people, dictionaries for programs.

Tables are columns without frames, as squeue and docker print them, coloured on a terminal only.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import string
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import zip_longest
from shlex import quote
from typing import TYPE_CHECKING, Any, TextIO

from orchestrator.jobfile.nodes import differences, printable
from orchestrator.references import listed
from orchestrator.states import RunState
from orchestrator.trend import BLOCKS, eta
from trainer.run_dir import RunDir, Status

if TYPE_CHECKING:
    from rich.table import Table as RichTable

    from orchestrator.plan import Plan
    from orchestrator.runs import Attempt, Event, RunRecord
    from orchestrator.snapshot import Snapshot

WIDE = 100_000  # columns where no terminal limits them: a program that reads a table wants whole words
CODES = {"bold": 1, "red": 31, "green": 32, "yellow": 33, "cyan": 36}  # of terminals
SIMPLE = frozenset(BLOCKS + string.printable + "…×–")  # characters that are known to take one column
GAP = 2  # columns between two columns of a table
RUNS_HEADER = (
    *("RUN", "STATE", "WHY", "BACKEND", "ATTEMPT", "STEPS", "TREND", "RETURN", "FRAMES/S", "STEPS/S", "ETA", "AGE"),
    "DIFFERS",
)
EXPENDABLE = ("BACKEND", "AGE", "ATTEMPT", "FRAMES/S", "STEPS/S", "TREND", "STEPS", "DIFFERS")  # of runs
STYLES: Mapping[str, str] = {
    RunState.RUNNING: "cyan",
    RunState.SETTING_UP: "cyan",
    RunState.SUCCEEDED: "green",
    RunState.FAILED: "red",
    RunState.CANCELLED: "yellow",
    RunState.STOPPED: "yellow",
}


@dataclass(frozen=True)
class Table:
    """Cells as text; without `header` the first column is a column of labels.

    Attributes:
        header: Column names, or nothing for pairs of label and value.
        rows: Cells of each row, as many as columns.
        right: Indices of the columns of numbers.
        expendable: Names of columns that a narrow terminal can do without, the first one first.
    """

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    right: frozenset[int] = frozenset()
    expendable: tuple[str, ...] = ()


def show(table: Table, file: TextIO | None = None) -> None:
    """Print a table, to stdout by default; the whole of it where nobody sees how wide it is."""
    file = file or sys.stdout
    if not file.isatty():
        file.writelines(lines_of(table))
        return
    width = shutil.get_terminal_size().columns
    table = fitted(table, width)
    if _is_simple(table, width):
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") in {"dumb", "unknown"}
        file.writelines(lines_of(table, {} if plain else STYLES))
        return
    from rich.console import Console

    console = Console(file=file, highlight=False)
    console.print(drawn(table))


def lines_of(table: Table, styles: Mapping[str, str] | None = None) -> Iterator[str]:
    """The lines of a table, without the half second that rich takes for a thousand.

    Args:
        table: What does not fit a terminal is not cut.
        styles: How cells look on a terminal, by their text; None where a program reads them.
    """
    rows = [row for row in (table.header, *table.rows) if row]
    rows = [tuple(" ".join(cell.split("\n")) for cell in row) for row in rows]
    widths = _widths(rows)
    for number, row in enumerate(rows):
        cells = []
        for index, (cell, width) in enumerate(zip(row, widths, strict=False)):
            space = " " * (width - len(cell))
            style = "bold" if table.header and number == 0 else (styles or {}).get(cell)
            shown = f"\x1b[{CODES[style]}m{cell}\x1b[0m" if styles and style and cell else cell
            cells.append(space + shown if index in table.right else shown + space)
        yield (" " * GAP).join(cells).rstrip() + "\n"


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip_longest(*rows, fillvalue="")]


def _is_simple(table: Table, width: int) -> bool:
    """Whether each row of a table is a line of a terminal, and each character a column of it."""
    rows = [row for row in (table.header, *table.rows) if row]
    wide = (cell for row in rows for cell in row if not cell.isascii() and not set(cell) <= SIMPLE)
    return sum(_widths(rows)) + GAP * (len(rows[0]) - 1) <= width and not any(wide) if rows else True


def fitted(table: Table, width: int) -> Table:
    """The table without its empty columns, and without as many of the expendable ones as `width` columns ask for."""
    columns = [
        index for index, name in enumerate(table.header) if not table.rows or any(row[index] for row in table.rows)
    ]
    widths = [max(len(name), *(len(row[index]) for row in table.rows), 0) for index, name in enumerate(table.header)]
    for name in table.expendable:
        if sum(widths[index] + GAP for index in columns) <= width + GAP:
            break
        columns = [index for index in columns if table.header[index] != name]
    if not table.header:
        return table
    return Table(
        tuple(table.header[index] for index in columns),
        tuple(tuple(row[index] for index in columns) for row in table.rows),
        frozenset(position for position, index in enumerate(columns) if index in table.right),
    )


def drawn(table: Table, *, cut: bool = False) -> RichTable:
    """A table as rich prints it; what does not fit goes on in the next line, or is `cut`."""
    from rich.table import Table as RichTable
    from rich.text import Text

    shape = RichTable(box=None, show_header=bool(table.header), pad_edge=False, padding=(0, GAP, 0, 0))
    columns = table.header or ("",) * max((len(row) for row in table.rows), default=0)
    for index, name in enumerate(columns):
        shape.add_column(
            Text(name),
            justify="right" if index in table.right else "left",
            overflow="ellipsis" if cut else "fold",
            no_wrap=cut,
        )
    for row in table.rows:
        shape.add_row(*(Text(cell, style=STYLES.get(cell, "")) for cell in row))
    return shape


def plan_text(plan: Plan) -> str:
    """A plan for people: what would run, with which code, where, by which commands."""
    from orchestrator.backends.base import JOB_ID
    from orchestrator.spec import train_arguments

    def word(text: str) -> str:
        """A word of a command, as it is typed."""
        return f'"{text}"' if text == JOB_ID else quote(text)

    first = plan.runs[0]
    swept = [key for key in first.differs if plan.is_sweep]
    train = [word for word in train_arguments(first.job) if word.partition("=")[0] not in swept]
    pairs = [
        ("sweep" if plan.is_sweep else "run", plan.plan_id + (f", {len(plan.runs)} runs" if plan.is_sweep else "")),
        ("backend", f"{plan.backend}, profile {plan.profile}"),
        ("image", first.job.image or ""),
        ("after", " ".join(plan.after)),
        ("code", code_text(plan.snapshot)),
        ("train", printable(" ".join(train), WIDE)),
        ("secrets", " ".join(first.job.secrets)),
        ("folder", str(plan.home if plan.is_sweep else first.run_dir)),
        ("files", " ".join(sorted(first.files))),
    ]
    if first.launch is not None:
        pairs += [("command", " ".join(map(word, command))) for command in first.launch.commands]
    lines = [f"{label:<9} {value}" for label, value in pairs if value]
    if plan.is_sweep:
        lines += ["", *(f"{run.run_id}  {differences(run.differs)}" for run in plan.runs)]
    return "\n".join(lines)


def code_text(snapshot: Snapshot) -> str:
    """Which code a plan ships."""
    size = f"{snapshot.digest[:12]}, {len(snapshot.files)} files, {snapshot.size / 1000:,.0f} kB"
    if snapshot.git is None:
        return size
    where = f", commit {snapshot.git.commit[:12] or 'none yet'}"
    return size + where + (" with uncommitted changes" if snapshot.git.dirty else "")


def heartbeat(record: RunRecord) -> Status | None:
    """The last heartbeat of a run, None where there is none that can be read."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        return RunDir(record.run_dir).read_status()
    return None


def run_to_dict(record: RunRecord) -> dict[str, Any]:
    """A run as `runs --json` has it."""
    status = heartbeat(record)
    return {
        **asdict(record),
        "run_dir": str(record.run_dir),
        "differs": dict(record.differs),
        "status": None if status is None else asdict(status),
    }


def history_to_dict(attempts: Sequence[Attempt], events: Sequence[Event]) -> dict[str, Any]:
    """What `status --json` has besides."""
    return {"attempts": [asdict(attempt) for attempt in attempts], "events": [asdict(event) for event in events]}


def runs_table(
    records: Sequence[RunRecord], statuses: Mapping[str, Status | None], now: float, trends: Mapping[str, str]
) -> Table:
    """One line a run, the newest last.

    Args:
        records: The runs.
        statuses: Their heartbeats by run id.
        now: Unix seconds.
        trends: How the return has gone, by run id.
    """
    rows = []
    for record in records:
        status = statuses.get(record.run_id)
        rates = status if record.state is RunState.RUNNING else None  # of one that has ended they say nothing
        rows.append(
            (
                record.run_id,
                str(record.state),
                str(record.failure_class or ""),
                record.backend,
                str(record.attempt or ""),
                f"{status.optim_step:,}/{status.total_optim_steps:,}" if status else "",
                trends.get(record.run_id, ""),
                number(status.episode_return) if status and status.episode_return is not None else "",
                number(rates.fps) if rates else "",
                number(rates.steps_per_s) if rates else "",
                _eta(rates) if rates else "",
                age(now - record.created),
                differences(record.differs),
            )
        )
    return Table(RUNS_HEADER, tuple(rows), frozenset({4, 5, 7, 8, 9, 10, 11}), EXPENDABLE)


def with_disk_use(table: Table, sizes: Sequence[int]) -> Table:
    """The same with a column that says how many bytes each run takes on disk."""
    rows = tuple((*row, f"{size / 1e6:,.1f} MB") for row, size in zip(table.rows, sizes, strict=True))
    return Table((*table.header, "DISK"), rows, table.right | {len(table.header)}, table.expendable)


def with_owners(table: Table, records: Sequence[RunRecord]) -> Table:
    """The same with a column that says whose each run is, where that differs."""
    if len({record.owner for record in records}) < 2:
        return table
    rows = tuple((*row, record.owner) for row, record in zip(table.rows, records, strict=True))
    return Table((*table.header, "OWNER"), rows, table.right, table.expendable)


def _eta(status: Status) -> str:
    seconds = eta(status)
    return "" if seconds is None else age(seconds)


def status_table(
    record: RunRecord, status: Status | None, now: float, trend: str, awaited: Sequence[RunRecord] = ()
) -> Table:
    """Everything about one run, a line a fact.

    Args:
        record: The run.
        status: Its heartbeat.
        now: Unix seconds.
        trend: How its return has gone.
        awaited: The runs that it follows.
    """
    unmet = [one for one in awaited if one.state is not RunState.SUCCEEDED]
    pairs = [
        ("run", record.run_id),
        ("state", str(record.state)),
        ("why", str(record.failure_class or "")),
        ("message", record.message or ""),
        ("owner", record.owner),
        ("after", listed([f"{one.run_id} ({one.state})" for one in unmet])),
        ("backend", f"{record.backend} ({record.profile})"),
        ("attempt", str(record.attempt or "")),
        ("differs", differences(record.differs)),
        ("GPUs", " ".join(record.gpus)),
        ("created", clock(record.created)),
        ("updated", clock(record.updated)),
        ("folder", str(record.run_dir)),
    ]
    if status is not None:
        pairs += [
            ("phase", str(status.phase)),
            ("optimiser steps", f"{status.optim_step:,} of {status.total_optim_steps:,}"),
            ("optimiser steps/s", number(status.steps_per_s)),
            ("frames", f"{status.frames:,}"),
            ("frames/s", number(status.fps)),
            ("episode return", " ".join(filter(None, [number(status.episode_return), trend]))),
            ("time left", _eta(status) if record.state is RunState.RUNNING else ""),
            ("heartbeat", f"{age(now - status.heartbeat)} ago"),
        ]
    return Table((), tuple(pair for pair in pairs if pair[1]))


def summary_table(summaries: Mapping[str, Mapping[str, Any]]) -> Table:
    """What training gave: a line a figure for one run, a line a run for several.

    Args:
        summaries: Content of summary.json by run id.
    """
    figures = {run_id: summary_figures(summary) for run_id, summary in summaries.items()}
    if len(figures) == 1:
        return Table((), tuple(next(iter(figures.values())).items()))
    header = ("RUN", *next(iter(figures.values()), {}))
    rows = tuple((run_id, *values.values()) for run_id, values in figures.items())
    return Table(header, rows, frozenset(range(1, len(header))))


def summary_figures(summary: Mapping[str, Any]) -> dict[str, str]:
    """The figures of a summary.json as text; what it does not say is `-`."""
    best = summary.get("max_return")
    of = "" if best is None else f" of {number(best)}"
    return {
        "return, random policy": number(summary.get("random_return")) + of,
        "return, trained policy": number(summary.get("trained_return")) + of,
        "frames": number(summary.get("frames")),
        "frames/s": number(summary.get("fps")),
        "optimiser steps": number(summary.get("optim_steps")),
        "optimiser steps/s": number(summary.get("steps_per_s")),
        "wall time": age(summary["seconds"]) if "seconds" in summary else "-",
    }


def number(value: float | None) -> str:
    """Three or more digits, no more decimals than say something; `-` for None."""
    if value is None:
        return "-"
    if isinstance(value, int) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.1f}" if abs(value) >= 1 or value == 0 else f"{value:.2g}"


def age(seconds: float) -> str:
    """`12s`, `3m 05s`, `2h 10m`, `4d 3h`."""
    whole = max(0, round(seconds))
    minutes, second = divmod(whole, 60)
    hours, minute = divmod(minutes, 60)
    days, hour = divmod(hours, 24)
    if days:
        return f"{days}d {hour}h"
    if hours:
        return f"{hours}h {minute:02}m"
    return f"{minutes}m {second:02}s" if minutes else f"{second}s"


def clock(when: float) -> str:
    """Local time of `when`, unix seconds."""
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(when))
