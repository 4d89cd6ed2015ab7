"""How a role says that it ended, and what the ends of all roles make of the attempt. Pure but for two small files."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

from trainer.errors import disk_full
from trainer.run_dir import ExitCode, Failure, FailureClass, read_json, write_atomically

RESERVE_BYTES = 256 * 1024


class OutcomeKind(StrEnum):
    """How a role's main function ended."""

    DONE = "done"
    STOPPED = "stopped"  # asked to, and everything needed to go on is saved
    PEER_LOST = "peer-lost"  # another role was gone, and this one ended in order
    FAILED = "failed"


@dataclass(frozen=True)
class Outcome:
    """A role's last word: content of attempts/<n>/outcome-<role>.json. Its exit status alone is never believed."""

    kind: OutcomeKind
    failure_class: FailureClass | None = None  # of `failed`
    message: str = ""  # of `failed` and `peer-lost`
    traceback: str = ""

    def write(self, path: Path, reserve: Path) -> None:
        write_with_reserve(path, json.dumps(asdict(self)), reserve)

    @staticmethod
    def read(path: Path) -> Outcome | None:
        """The outcome in `path`, or None where the role has not ended its main function."""
        raw = read_json(path)
        if raw is None:
            return None
        failed = raw["failure_class"]
        kind = OutcomeKind(raw["kind"])
        return Outcome(kind, FailureClass(failed) if failed else None, raw["message"], raw["traceback"])


@dataclass(frozen=True)
class Stop:
    """Why the coordinator asked the roles to stop before they were done."""

    failure_class: FailureClass  # preempted, timeout, stalled or stopped
    message: str


@dataclass(frozen=True)
class RoleEnd:
    """How the process of a role ended.

    Attributes:
        name: Of the role.
        status: Exit status; below zero the negative number of the signal that ended it.
        outcome: The role's own word, None where it gave none.
        ended_by_us: It stopped because the coordinator asked it to, or died of its SIGTERM or SIGKILL without a word.
        memory_kill: The kernel killed a process of this cgroup for memory meanwhile.
    """

    name: str
    status: int
    outcome: Outcome | None
    ended_by_us: bool = False
    memory_kill: bool = False


@dataclass(frozen=True)
class Verdict:
    """What became of the attempt; no failure class means SUCCESS."""

    exit_code: ExitCode
    failure_class: FailureClass | None = None
    message: str = ""
    traceback: str = ""

    def failure(self, attempt: int) -> Failure:
        assert self.failure_class is not None
        return Failure(self.failure_class, self.message, self.traceback, int(self.exit_code), attempt)


def judge(ends: Sequence[RoleEnd], stop: Stop | None) -> Verdict:
    """Decide what the attempt was.

    Args:
        ends: All roles, in the order in which they ended: the first that went wrong is the reason. Those that only
            lost another one count where there is no other reason; those that the coordinator ended because of what
            had become of another one never do.
        stop: Why the coordinator wanted them to end, None where it did not.
    """
    unfinished = [end for end in ends if end.outcome is None or end.outcome.kind is not OutcomeKind.DONE]
    if not unfinished:
        return Verdict(ExitCode.DONE)
    if stop is not None and stop.failure_class is FailureClass.STALLED:
        return Verdict(ExitCode.CRASH, FailureClass.STALLED, stop.message)
    unasked = [end for end in unfinished if stop is not None or not end.ended_by_us]
    reasons = [end for end in unasked if end.outcome is None or end.outcome.kind is not OutcomeKind.PEER_LOST]
    verdicts = [_judge_one(end, stop) for end in reasons or unasked]
    return next((verdict for verdict in verdicts if verdict.exit_code is not ExitCode.RESUMABLE), verdicts[0])


def _judge_one(end: RoleEnd, stop: Stop | None) -> Verdict:
    outcome = end.outcome
    if outcome is not None and outcome.kind is OutcomeKind.FAILED:
        failure_class = outcome.failure_class or FailureClass.CRASH
        code = ExitCode.USAGE if failure_class is FailureClass.SPEC else ExitCode.CRASH
        return Verdict(code, failure_class, outcome.message, outcome.traceback)
    if outcome is not None and outcome.kind is OutcomeKind.PEER_LOST:
        return Verdict(ExitCode.CRASH, FailureClass.CRASH, f"role {end.name}: {outcome.message}")
    if outcome is not None:
        reason = stop or Stop(FailureClass.PREEMPTED, f"role {end.name} was asked to stop")
        return Verdict(ExitCode.RESUMABLE, reason.failure_class, reason.message)
    if stop is not None and end.ended_by_us:
        return Verdict(
            ExitCode.RESUMABLE,
            stop.failure_class,
            f"{stop.message}; role {end.name} was ended by {signal_name(-end.status)} before it saved: "
            "the same command goes on from the last checkpoint",
        )
    if end.status < 0:
        words = f"role {end.name} was ended by {signal_name(-end.status)}"
        if end.memory_kill and end.status == -signal.SIGKILL:
            return Verdict(ExitCode.CRASH, FailureClass.OUT_OF_MEMORY, words + ": the kernel ran out of memory for it")
        return Verdict(ExitCode.CRASH, FailureClass.CRASH, words)
    words = f"role {end.name} ended with status {end.status} without saying how"
    return Verdict(ExitCode.CRASH, FailureClass.CRASH, words)


def signal_name(number: int) -> str:
    """`signal 9 (SIGKILL)`; real-time signals have no name."""
    try:
        return f"signal {number} ({signal.Signals(number).name})"
    except ValueError:
        return f"signal {number}"


def memory_kills(cgroups: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> int:
    """How many processes the kernel has killed for memory in this process's cgroup; 0 where it does not say."""
    with suppress(OSError, ValueError):
        for line in own.read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            if controllers == "":  # version 2
                files = [cgroups / path.lstrip("/") / "memory.events", cgroups / "memory.events"]
            elif "memory" in controllers.split(","):  # version 1
                files = [cgroups / "memory" / path.lstrip("/") / "memory.oom_control"]
                files.append(cgroups / "memory" / "memory.oom_control")  # a container shows its own cgroup as the root
            else:
                continue
            for file in files:
                count = _oom_kill(file)
                if count is not None:
                    return count
    return 0


def _oom_kill(file: Path) -> int | None:
    with suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            key, _, value = line.partition(" ")
            if key == "oom_kill":
                return int(value)
    return None


def make_reserve(path: Path) -> None:
    """Put bytes aside that are given up again for the last words of a run whose disk is full."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        file.write(os.urandom(RESERVE_BYTES))  # zeros would take no room on a compressing file system
        file.flush()
        os.fsync(file.fileno())


def write_with_reserve(path: Path, text: str, reserve: Path) -> None:
    """Write `text` to `path` even on a full disk, in the room that `reserve` has kept.

    Raises:
        OSError: There is no room even so, or another reason.
    """
    try:
        write_atomically(path, text)
    except OSError as error:
        if disk_full(error) is None:
            raise
        reserve.unlink(missing_ok=True)
        write_atomically(path, text)
