"""An attempt and the allocation that it has: what is noted of that on this machine, beside the attempt's log."""

from __future__ import annotations

import json
import time
from collections.abc import Collection, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

from orchestrator.backends.base import Observation
from orchestrator.states import FailureClass, RunState
from orchestrator.sweep_files import sweep_folder
from trainer.run_dir import RunDir, read_json, write_atomically

END = "end.json"  # beside an attempt's log: what became of it, once it has its allocation no more


@dataclass(frozen=True)
class Turn:
    """One attempt in an allocation.

    Attributes:
        handle: `JOB:ATTEMPT`, with `:RUN` behind it for a run of a sweep.
        run_dir: On this machine.
        submission: Name of the submission's folder on the host.
        entries: `RUN.ATTEMPT` of all runs of a sweep that the allocation was given, in order.
    """

    handle: str
    run_dir: Path
    submission: str
    entries: tuple[str, ...] = ()

    @property
    def job_id(self) -> str:
        return self.handle.split(":")[0]

    @property
    def attempt(self) -> int:
        """The one that was begun with; the script may have begun further ones since."""
        return int(self.handle.split(":")[1])

    @property
    def entry(self) -> str:
        return entry_of(self.run_dir.name, self.attempt)

    def note(self) -> None:
        """Write down what finds it again."""
        if self.entries:
            path = _entries_path(self.run_dir.parent, self.submission)
            if not path.exists():
                write_atomically(path, "".join(f"{entry}\n" for entry in self.entries))
        note = {"handle": self.handle, "submission": self.submission}
        write_atomically(self._mark("allocation.json"), json.dumps(note))

    @property
    def has_begun(self) -> bool:
        """Whether it was seen at work, or at its end."""
        return self._mark("begun").exists()

    def note_begun(self) -> None:
        if not self.has_begun:
            write_atomically(self._mark("begun"), "", durable=False)

    def note_end(self, seen: Observation) -> None:
        """It has nothing to do with the allocation any more; what became of it is kept for whoever asks."""
        write_atomically(self._mark(END), json.dumps(asdict(seen)))

    @property
    def end(self) -> Observation | None:
        """What became of it; None while it has its allocation."""
        raw = read_json(self._mark(END))
        if raw is None:
            return None
        failure_class = FailureClass(raw["failure_class"]) if raw["failure_class"] else None
        return Observation(**{**raw, "state": RunState(raw["state"]), "failure_class": failure_class})

    def note_silence(self, reason: str) -> float:
        """No step answers; since when, in unix seconds."""
        mark = self._mark("silent")
        if not mark.exists():
            write_atomically(mark, reason)
        with suppress(FileNotFoundError):  # somebody else has had an answer
            return mark.stat().st_mtime
        return time.time()

    def note_answer(self) -> None:
        self._mark("silent").unlink(missing_ok=True)

    @property
    def pulled(self) -> Path:
        """File that is as old as the last pull."""
        return self._mark("pulled")

    def leaves_some(self, gone: Collection[Turn] = ()) -> bool:
        """Whether the allocation has more to do, `gone` counted as over."""
        entries = {turn.entry for turn in gone}
        return not all(self._is_over(entry) for entry in self.entries if entry not in entries)

    @property
    def is_next(self) -> bool:
        """Whether an allocation in which nothing has begun would have begun with it."""
        if any((self._folder_of(entry) / "begun").exists() for entry in self.entries):
            return False
        return self.entry == next((entry for entry in self.entries if not self._is_over(entry)), self.entry)

    def _mark(self, name: str) -> Path:
        return RunDir(self.run_dir).attempt(self.attempt) / name

    def _folder_of(self, entry: str) -> Path:
        run, _, attempt = entry.rpartition(".")
        return RunDir(self.run_dir.with_name(run)).attempt(int(attempt))

    def _is_over(self, entry: str) -> bool:
        folder = self._folder_of(entry)
        return (folder / END).exists() or not folder.parents[1].exists()  # of a run that was pruned nothing is left


def entry_of(run_id: str, attempt: int) -> str:
    """What an attempt is called among those of its allocation."""
    return f"{run_id}.{attempt}"


def read_turn(run_dir: Path, attempt: int) -> Turn | None:
    """The turn that an attempt was given, None where it had none of its own."""
    note = read_json(RunDir(run_dir).attempt(attempt) / "allocation.json")
    if note is None:
        return None
    submission = str(note.get("submission", entry_of(run_dir.name, attempt)))
    return Turn(str(note["handle"]), run_dir, submission, _entries(_entries_path(run_dir.parent, submission)))


def last_turn(run_dir: Path) -> Turn | None:
    """The last turn of a run."""
    found = (read_turn(run_dir, number) for number in reversed(RunDir(run_dir).attempts()))
    return next((turn for turn in found if turn is not None), None)


def in_turn(turns: Sequence[Turn]) -> list[Turn]:
    """Turns of one allocation in the order in which they come."""
    return sorted(turns, key=lambda turn: turn.entries.index(turn.entry) if turn.entries else 0)


def _entries_path(home: Path, submission: str) -> Path:
    """Where what an allocation was given is noted, once for all of its runs."""
    sweep_id, _, number = submission.rpartition(".")
    return sweep_folder(home, sweep_id) / "allocations" / number


@cache
def _entries(path: Path) -> tuple[str, ...]:
    return tuple(path.read_text(encoding="utf-8").split()) if path.exists() else ()
