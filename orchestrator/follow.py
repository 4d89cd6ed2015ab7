"""Follow runs to their end: log lines as they come, state changes, a live line on a terminal, the Ctrl-C question."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from orchestrator.states import TERMINAL, RunState
from trainer.run_dir import RunDir, Status

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress, TaskID

    from orchestrator.runs import RunRecord

GRACE = timedelta(minutes=2)  # for a checkpoint, after Ctrl-C and `c`; more than the 90 s that the script itself waits
INTERVAL = 0.5  # seconds between two looks at a run; a local look costs a few file reads


class LogTail:
    """Reads what attempts have written to their logs since the last call, in whole lines."""

    def __init__(self, run_dir: Path, attempt: int | None = None) -> None:
        """Start before the first line.

        Args:
            run_dir: The run's folder; it and the logs may not exist yet.
            attempt: Only this attempt; by default all of them, one after the other.
        """
        self._run_dir = RunDir(run_dir)
        self._only = attempt
        self._offsets: dict[int, int] = {}

    def read(self, *, final: bool = False) -> Iterator[str]:
        """New lines, newline included.

        Args:
            final: Nobody writes any more: a last line without newline is given out too.
        """
        for attempt in self._run_dir.attempts() if self._only is None else [self._only]:
            log = self._run_dir.log(attempt)
            if log.exists():
                yield from self._new_lines(attempt, log, final)

    def _new_lines(self, attempt: int, path: Path, final: bool) -> Iterator[str]:
        with path.open("rb") as log:
            log.seek(self._offsets.get(attempt, 0))
            for line in log:
                if not (final or line.endswith(b"\n")):
                    break  # the rest of it is still to come
                self._offsets[attempt] = self._offsets.get(attempt, 0) + len(line)
                text = line.decode("utf-8", errors="replace")
                yield text if text.endswith("\n") else text + "\n"


class Screen:
    """Where followed runs are shown: log lines on stdout, state changes and one live line on stderr."""

    def __init__(self, runs: int, out: TextIO, err: TextIO) -> None:
        self._many = runs > 1
        self._out = out
        self._err = err
        self._stack = ExitStack()
        self._console: Console | None = None
        self._progress: Progress | None = None
        self._bar: TaskID | None = None

    def __enter__(self) -> Screen:
        if self._err.isatty():
            self._start_live_line()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        self._progress = None

    def _start_live_line(self) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn

        self._console = Console(file=self._err, highlight=False)
        progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[figures]}", markup=False),
            console=self._console,
            transient=True,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._bar = progress.add_task("submitted", total=None, figures="")
        self._progress = self._stack.enter_context(progress)

    def log(self, name: str, line: str) -> None:
        """One line of a log; with several runs each line says whose it is."""
        text = f"{name} | {line}" if self._many else line
        if self._progress is not None and self._out.isatty():
            # The same terminal: the live line has to move down first, and only its console can do that.
            self._progress.console.out(text, end="", highlight=False)
        else:
            self._out.write(text)
            self._out.flush()

    def note(self, text: str) -> None:
        """A diagnostic line."""
        if self._progress is not None:
            self._progress.console.out(text, highlight=False)
        else:
            print(text, file=self._err, flush=True)

    def show(self, records: Sequence[RunRecord]) -> None:
        """Move the live line to where the runs stand."""
        if self._progress is None or self._bar is None:
            return
        if self._many:
            ended = sum(record.state in TERMINAL for record in records)
            self._progress.update(
                self._bar, description="runs", total=len(records), completed=ended, figures=f"{ended}/{len(records)}"
            )
            return
        record = records[0]
        status = RunDir(record.run_dir).read_status() if record.state is RunState.RUNNING else None
        if status is None:
            self._progress.update(self._bar, description=str(record.state), total=None, figures="")
        else:
            self._progress.update(
                self._bar,
                description=str(status.phase),
                total=status.total_optim_steps or None,
                completed=status.optim_step,
                figures=figures(status),
            )


def figures(status: Status) -> str:
    """What the live line says beside the bar."""
    parts = [f"{status.optim_step:,}/{status.total_optim_steps:,} steps", f"{status.frames:,} frames"]
    if status.fps:
        parts.append(f"{status.fps:,.0f} frames/s")
    if status.steps_per_s:
        parts.append(f"{status.steps_per_s:,.1f} steps/s")
    if status.episode_return is not None:
        parts.append(f"return {status.episode_return:.1f}")
    return " · ".join(parts)


def follow_runs(
    observe: Callable[[], Sequence[RunRecord]],
    screen: Screen,
    *,
    logs: bool = True,
    attempt: int | None = None,
    sleep: Callable[[float], None] = time.sleep,
) -> Sequence[RunRecord]:
    """Show runs until all of them have ended.

    Args:
        observe: Asks the backends and returns the runs as they stand, always the same ones in the same order.
        screen: Where to show them.
        logs: Show their log lines too.
        attempt: Only the log of this attempt.
        sleep: Waits for some seconds.

    Returns:
        The runs as they ended.
    """
    tails: dict[str, LogTail] = {}
    known: dict[str, tuple[RunState, int]] = {}
    while True:
        # First the states, then the logs: a run that is seen to have ended has written its last line by then.
        records = observe()
        for record in records:
            ended = record.state in TERMINAL
            if logs:
                tail = tails.setdefault(record.run_id, LogTail(record.run_dir, attempt))
                for line in tail.read(final=ended):
                    screen.log(record.run_id, line)
            if known.get(record.run_id) != (record.state, record.attempt):
                known[record.run_id] = (record.state, record.attempt)
                screen.note(state_line(record))
        screen.show(records)
        if all(record.state in TERMINAL for record in records):
            return records
        sleep(INTERVAL)


def state_line(record: RunRecord) -> str:
    """`quickstart-…: failed (crash): message`."""
    failure = f" ({record.failure_class})" if record.failure_class else ""
    message = f": {record.message}" if record.message and record.state in TERMINAL else ""
    return f"{record.run_id}: {record.state}{failure}{message}"


def cancel_on_interrupt(stdin: TextIO, err: TextIO) -> bool:
    """After Ctrl-C: ask whether the followed runs should be cancelled; every doubt means detach.

    Returns:
        True for cancel. Without a terminal, at the end of input and after a second Ctrl-C it is False.
    """
    if not stdin.isatty():
        return False
    err.write("\nDetach (the run goes on) or cancel it? [D/c] ")
    err.flush()
    answer = ""
    with contextlib.suppress(KeyboardInterrupt):
        answer = stdin.readline()
        if not answer:  # end of input: the cursor still stands behind the question
            err.write("\n")
    return answer.strip().lower() in {"c", "cancel"}
