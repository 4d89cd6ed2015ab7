"""What Slurm's commands print, as data. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from orchestrator.errors import BackendError

# %i: JOB, or JOB_TASK with --array. A reason is one word, or free text in parentheses that may hold anything.
SQUEUE = ("squeue", "--me", "--array", "--noheader", "--states=all", "--format=%i|%T|%S|%r")
SACCT = ("sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State,ExitCode")
# Everybody's, as far as one may see them; an array is one line.
QUEUE = ("squeue", "--noheader", "--states=PENDING", "--sort=-p,i", "--format=%i|%P")
IN_TURN = ("Priority", "Resources")  # reasons of what starts when its turn comes
IN_VAIN = "DependencyNeverSatisfied"  # reason of what follows a job that has failed
NO_ACCOUNTING = ("accounting storage is disabled", "slurmdbd")  # what sacct says where a cluster keeps none

_JOB = re.compile(r"[0-9]+(_[0-9]+)?")
_RANGE = re.compile(r"([0-9]+)_\[([0-9,-]+)(?:%[0-9]+)?\]")
_START = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}")


@dataclass(frozen=True)
class Entry:
    """What Slurm says of one job, or of one task of an array.

    Attributes:
        state: In Slurm's own word: PENDING, NODE_FAIL.
        exit_code: Of the batch script; None where Slurm does not say.
        reason: Why it waits, or IN_VAIN where that has ended it; else empty.
        start: When it is expected to start, `2026-11-23T15:30:57`, in the cluster's time; empty where nobody knows.
    """

    state: str
    exit_code: int | None = None
    reason: str = ""
    start: str = ""


def parse_squeue(output: str) -> dict[str, Entry]:
    """Entries of `squeue`, called as SQUEUE says, by job or task.

    Raises:
        BackendError: A line has another shape than the format asked for.
    """
    entries: dict[str, Entry] = {}
    for line in output.splitlines():
        match line.split("|", 3):
            case [job, state, start, reason]:
                told = (state == "PENDING" and reason != "None") or reason == IN_VAIN
                entry = Entry(state, None, reason if told else "", start if _START.fullmatch(start) else "")
                entries |= dict.fromkeys(_jobs(job), entry)
            case _:
                raise BackendError(f"squeue answers something else than was asked for: {line!r}")
    return entries


def parse_sacct(output: str) -> dict[str, Entry]:
    """Entries of `sacct`, called as SACCT says, by job or task.

    Raises:
        BackendError: A line has another shape than the format asked for.
    """
    entries: dict[str, Entry] = {}
    for line in output.splitlines():
        match line.split("|"):
            case [job, state, code] if state:
                exit_code = code.partition(":")[0]
                entry = Entry(state.split()[0].rstrip("+"), int(exit_code) if exit_code.isdigit() else None)
                entries |= dict.fromkeys(_jobs(job), entry)
            case _:
                raise BackendError(f"sacct answers something else than was asked for: {line!r}")
    return entries


def _jobs(text: str) -> Iterator[str]:
    """`7`, `7_3`, and the tasks of an array that wait: `7_[1-3,5%2]`."""
    if _JOB.fullmatch(text):
        yield text
    elif match := _RANGE.fullmatch(text):
        for span in match[2].split(","):
            low, _, high = span.partition("-")
            for task in range(int(low), int(high or low) + 1):
                yield f"{match[1]}_{task}"
    else:
        raise BackendError(f"Slurm names a job in a way that is not known here: {text!r}")


def parse_queue(output: str) -> dict[str, str]:
    """Places in the queue, `3 of 12 in normal`, by job; an array has that of its first line.

    Args:
        output: Of `squeue`, called as QUEUE says.

    Raises:
        BackendError: A line has another shape than the format asked for.
    """
    waiting: dict[str, list[str]] = {}
    for line in output.splitlines():
        job, bar, partition = line.partition("|")
        if not bar:
            raise BackendError(f"squeue answers something else than was asked for: {line!r}")
        waiting.setdefault(partition, []).append(job.partition("_")[0])
    return {
        job: f"{place} of {len(jobs)} in {partition}"
        for partition, jobs in waiting.items()
        for place, job in reversed([*enumerate(jobs, 1)])
    }


def job_numbers(handles: Sequence[str]) -> list[str]:
    """The jobs that tasks belong to, each once."""
    return list(dict.fromkeys(handle.partition("_")[0] for handle in handles))


def waiting_message(entry: Entry, place: str = "") -> str:
    """Why a run waits, in which place, and until when."""
    parts = [f"waits in Slurm's queue: {entry.reason}"] if entry.reason else ["waits in Slurm's queue"]
    if place:
        parts.append(place)
    if entry.start:
        parts.append(f"start expected {entry.start.replace('T', ' ')}")
    return ", ".join(parts)
