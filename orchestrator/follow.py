"""Follow runs to their end: log lines as they come, state changes, a live view on a terminal, the Ctrl-C question."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from orchestrator.states import TERMINAL, RunState
from orchestrator.tables import drawn, fitted, heartbeat, runs_table
from orchestrator.trend import trends
from trainer.run_dir import RunDir

if TYPE_CHECKING:
    from rich.console import Group, RenderableType
    from rich.live import Live

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
    """Where followed runs are shown: log lines on stdout, state changes and a live table on stderr."""

    def __init__(self, runs: int, out: TextIO, err: TextIO) -> None:
        self._many = runs > 1
        self._out = out
        self._err = err
        self._stack = ExitStack()
        self._live: Live | None = None

    def __enter__(self) -> Screen:
        if self._err.isatty():
            self._start_live_view()
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        self._live = None

    def _start_live_view(self) -> None:
        from rich.console import Console
        from rich.live import Live

        console = Console(file=self._err, highlight=False)
        live = Live(console=console, transient=True, redirect_stdout=False, redirect_stderr=False, refresh_per_second=2)
        self._live = self._stack.enter_context(live)

    def log(self, name: str, line: str) -> None:
        """One line of a log; with several runs each line says whose it is."""
        text = f"{name} | {line}" if self._many else line
        if self._live is not None and self._out.isatty():
            # The same terminal: the live view has to move down first, and only its console can do that.
            self._live.console.out(text, end="", highlight=False)
        else:
            self._out.write(text)
            self._out.flush()

    def note(self, text: str) -> None:
        """A diagnostic line."""
        if self._live is not None:
            self._live.console.out(text, highlight=False)
        else:
            print(text, file=self._err, flush=True)

    def show(self, records: Sequence[RunRecord], now: float) -> None:
        """Bring the live view to where the runs stand; `now` in unix seconds."""
        if self._live is not None:
            width, height = self._live.console.size
            self._live.update(live_view(records, now, width, max(1, height // 2)))


def live_view(records: Sequence[RunRecord], now: float, width: int, height: int) -> Group:
    """The runs that go on, as many as fit into `height` lines, and how many there are in which state besides."""
    from rich.console import Group
    from rich.text import Text

    going = [record for record in records if record.state not in TERMINAL]
    # What runs is looked at; what waits can be counted.
    shown = sorted(going, key=lambda record: record.state is RunState.QUEUED)[:height] or list(records)[-1:]
    statuses = {record.run_id: heartbeat(record) for record in shown}
    table = runs_table(shown, statuses, now, trends(shown))
    parts: list[RenderableType] = [drawn(fitted(table, width), cut=True)]
    if others := Counter(str(record.state) for record in records if record not in shown):
        parts.append(Text("and " + ", ".join(f"{count} {state}" for state, count in others.items()), style="dim"))
    return Group(*parts)


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
        screen.show(records, time.time())
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
