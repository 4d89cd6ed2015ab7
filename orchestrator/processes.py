"""Processes of this machine as /proc shows them: who is alive, and who belongs to a run."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

PROC = Path("/proc")
BOOT_ID = PROC / "sys/kernel/random/boot_id"
KILL_TAKES = 10.0  # seconds, at most, to wait for what got KILL


@dataclass(frozen=True)
class Process:
    """One process, told apart from every other that has its number, before and after a restart of the machine.

    Attributes:
        pid: Its number.
        start: Clock ticks between the start of the machine and its own (field 22 of /proc/<pid>/stat).
        boot: The kernel's id of this start of the machine.
        host: Name of the machine: on a shared file system a run of another one looks dead from here.
    """

    pid: int
    start: int
    boot: str
    host: str

    def __str__(self) -> str:
        return f"{self.pid}:{self.start}:{self.boot}:{self.host}"

    @classmethod
    def parse(cls, text: str) -> Process:
        """The process that `str` of it names.

        Raises:
            ValueError: It is no such text.
        """
        pid, start, boot, host = text.strip().split(":", 3)
        return cls(int(pid), int(start), boot, host)

    @classmethod
    def current(cls) -> Process:
        entry = read_entry(os.getpid())
        assert entry is not None, "/proc does not show this process"
        return cls(entry.pid, entry.start, boot_id(), os.uname().nodename)

    @property
    def is_here(self) -> bool:
        """Whether this machine can say anything about it."""
        return self.host == os.uname().nodename

    @property
    def is_of_this_boot(self) -> bool:
        return self.boot == boot_id()

    @property
    def is_alive(self) -> bool:
        """Whether it runs here now; a zombie does not."""
        if not (self.is_here and self.is_of_this_boot):
            return False
        entry = read_entry(self.pid)
        if entry is None:
            return _is_hidden(self.pid)
        return entry.start == self.start and entry.state not in "ZX"


@dataclass(frozen=True)
class Entry:
    """What /proc says of one process."""

    pid: int
    parent: int
    session: int
    state: str  # one letter, as in ps
    start: int
    environment: Mapping[str, str] = field(default_factory=dict)


def boot_id() -> str:
    """The kernel's id of this start of the machine."""
    return BOOT_ID.read_text(encoding="ascii").strip()


def parse_stat(text: str) -> Entry:
    """Content of /proc/<pid>/stat; the command's name in it may hold spaces, brackets and newlines."""
    pid, _, rest = text.partition(" (")
    fields = rest[rest.rindex(")") + 2 :].split()
    return Entry(int(pid), parent=int(fields[1]), session=int(fields[3]), state=fields[0], start=int(fields[19]))


def read_entry(pid: int) -> Entry | None:
    """One process without its environment, None where there is none, or it is hidden."""
    try:
        return parse_stat((PROC / str(pid) / "stat").read_text(encoding="utf-8", errors="replace"))
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return None


def _is_hidden(pid: int) -> bool:
    """Whether there is a process that /proc does not show: with `hidepid` it hides those of other users."""
    try:
        os.kill(pid, 0)
    except PermissionError:
        return True
    except ProcessLookupError:
        return False
    return False  # it ended, and its number was given away, between two looks


def read_table(variables: Sequence[str]) -> list[Entry]:
    """All living processes, each with those of `variables` that its environment holds.

    Processes of other users show no environment, and so belong to nobody's run.
    """
    entries = []
    for folder in PROC.iterdir():
        if not folder.name.isdigit():
            continue
        entry = read_entry(int(folder.name))
        if entry is None or entry.state in "ZX":
            continue
        try:
            raw = (folder / "environ").read_bytes()
        except OSError:
            raw = b""
        environment = dict(_variables(raw, variables))
        entries.append(Entry(entry.pid, entry.parent, entry.session, entry.state, entry.start, environment))
    return entries


def _variables(raw: bytes, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word in raw.split(b"\0"):
        name, _, value = os.fsdecode(word).partition("=")
        if name in names:
            yield name, value


def members(table: Sequence[Entry], marks: Mapping[str, str], leader: Process, *, leader_alive: bool) -> list[Entry]:
    """The processes of one attempt of a run.

    These are the ones whose environment carries all of `marks`, and what shares the leader's session. A session's
    number can come back once all of its processes have ended, so it counts only while the leader lives or one of its
    members carries the marks.

    Args:
        table: All processes of the machine.
        marks: Variables that every process of the attempt inherits.
        leader: The process that the attempt was started as, first of its session.
        leader_alive: Whether it still runs.

    Returns:
        Entries of the attempt, never the calling process or one that it descends from.
    """
    spared = ancestors(table, os.getpid())
    carriers = {
        entry.pid for entry in table if all(entry.environment.get(name) == value for name, value in marks.items())
    }
    session_is_ours = leader_alive or any(entry.session == leader.pid for entry in table if entry.pid in carriers)
    return [
        entry
        for entry in table
        if entry.pid not in spared
        and (entry.pid in carriers or (session_is_ours and entry.session == leader.pid and entry.start >= leader.start))
    ]


def ancestors(table: Iterable[Entry], pid: int) -> frozenset[int]:
    """`pid` and the processes that it descends from."""
    parents = {entry.pid: entry.parent for entry in table}
    line = []
    while pid and pid not in line:
        line.append(pid)
        pid = parents.get(pid, 0)
    return frozenset(line)


def send(entry: Entry, number: signal.Signals) -> None:
    """Signal a process unless it has ended meanwhile, or became another user's through sudo and the like."""
    now = read_entry(entry.pid)
    if now is not None and now.start == entry.start:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(entry.pid, number)


def end(find: Callable[[], Sequence[Entry]], grace: float, *, interval: float = 0.05) -> None:
    """End processes: TERM, and KILL for what is left after `grace` seconds.

    Args:
        find: Looks for them; asked again and again, for they may start others.
        grace: Seconds between the two signals.
        interval: Seconds between two looks.
    """
    deadline = time.monotonic() + grace
    asked: set[tuple[int, int]] = set()
    while found := find():
        late = time.monotonic() >= deadline
        for entry in found:
            if late:
                send(entry, signal.SIGKILL)
            elif (entry.pid, entry.start) not in asked:
                asked.add((entry.pid, entry.start))
                send(entry, signal.SIGTERM)
        if time.monotonic() >= deadline + KILL_TAKES:
            return  # in uninterruptible sleep: the kernel ends it when its disk or device answers
        time.sleep(interval)
